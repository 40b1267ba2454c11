"""metalearn predict on points: curves, and a user's own tables."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import run
from folders import rewrite
from tiny_runs import rows

import metalearn_cli
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.proof import load_tested
from metalearn_cli.tasks.base import Support
from metalearn_cli.trained.python_inputs import scaled, unscaled
from metalearn_cli.training.eval_job import load_eval_job

SMALL = ["steps=20", "eval_every=0", "select=last", "test_episodes=4", "threads=1", "name=one", "algo.test_steps=3"]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("curves")
    done = run(home, "train", "algo=maml", "task=sinusoid", *SMALL)
    assert done.code == 0, done.err
    return home / "outputs/one"


def table_run(home: Path, price: Callable[[int, float], object], *more: str) -> Path:
    """15 tasks of 4 support and 2 query points, far from 0 and large; a price for each point's number and mass."""
    lines = ["task,set,mass,speed,price"]
    for task, point in itertools.product(range(15), range(6)):
        mass, speed = 1000 + 10 * point + task, 0.001 * ((point * 7 + task) % 5)
        lines.append(f"t{task},{'query' if point > 3 else 'support'},{mass},{speed},{price(point, mass)}")
    home.mkdir()
    (home / "table.csv").write_text("\n".join(lines) + "\n")
    keys = ["algo=maml", "task=table", f"task.root={home}/table.csv", "task.target=price", *SMALL, "test_episodes=1"]
    done = run(home, "train", *keys, *more)
    assert done.code == 0, done.err
    return home / "outputs/one"


def predicted(folder: Path, model: Path, support: str, query: str) -> tuple[list[dict[str, str]], str]:
    """The rows that are predicted with these lines, and what is said."""
    (folder / "s.csv").write_text(support)
    (folder / "q.csv").write_text(query)
    done = run(folder, "predict", f"run={model}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert done.code == 0, done.err
    return rows(folder / "p.csv"), done.err


def by_the_learner(model: Path, x: list[list[float]], y: list[float], query: list[list[float]]) -> list[float]:
    """What the run's own learner makes of it, in the units of the data."""
    _, job = load_eval_job([f"run={model}"])
    learner = new_learner(job)
    learner.load_state_dict(load_tested(model)[0].tensors)
    columns = job.task.columns
    support_x, query_x = (scaled(torch.tensor(part).double(), columns and columns.x_scale) for part in (x, query))
    support_y = scaled(torch.tensor(y).double()[:, None], columns and columns.y_scale)
    support = Support(support_x[None].float(), support_y[None].float(), torch.zeros(1).long())
    out = learner.adapt(support)(query_x[None].float(), BatchNorm.inductive)[0]
    values: list[float] = unscaled(out, columns and columns.y_scale)[:, 0].tolist()
    return values


def test_a_curve_is_predicted_as_the_learner_does(tmp_path: Path, curves: Path) -> None:
    result, err = predicted(tmp_path, curves, "y,x\n1.5,-2\n0,0.5\n-1.25,3.25\n", "x\n-1\n4.5\n")
    assert [list(row) for row in result] == [["x", "y", "outside_training"]] * 2
    assert "outside" not in err
    assert [row["x"] for row in result] == ["-1.0", "4.5"]
    expected = by_the_learner(curves, [[-2], [0.5], [3.25]], [1.5, 0, -1.25], [[-1.0], [4.5]])
    assert [float(row["y"]) for row in result] == pytest.approx(expected, rel=1e-4)
    assert run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=q.csv").out.split()[:2] == ["x", "y"]


def test_a_table_is_predicted_in_its_own_units_by_its_own_columns(tmp_path: Path) -> None:
    model = table_run(tmp_path / "home", lambda point, mass: 5e6 + 1e5 * (mass % 10) + 1000 * (mass - 1000))
    support = "note,speed,mass,price\na,0.001,1010,5410000\nb,0.002,1020,5420000\n"
    (plain,), _ = predicted(tmp_path, model, support, "x1,x2\n1015,0.001\n")
    (result,), _ = predicted(tmp_path, model, support, "mass,speed\n1015,0.001\n")
    assert list(result) == ["mass", "speed", "price", "outside_training"]
    assert list(plain) == ["x1", "x2", "price", "outside_training"]
    assert list(result.values()) == list(plain.values())
    x, y = [[1010, 0.001], [1020, 0.002]], [5410000.0, 5420000.0]
    assert 5e6 < float(result["price"]) < 7e6
    assert [float(result["price"])] == pytest.approx(by_the_learner(model, x, y, [[1015, 0.001]]), rel=1e-4)
    (tmp_path / "home/table.csv").unlink()  # what is needed of it stands in the run's folder
    assert predicted(tmp_path, model, support, "mass,speed\n1015,0.001\n")[0] == [result]
    assert run(tmp_path, "export", f"run={model}", "out=model").code == 0
    exported = metalearn_cli.load(tmp_path / "model").adapt(x, y)
    assert exported([[1015, 0.001]]).item() == pytest.approx(float(result["price"]), rel=1e-5)


def test_a_gaussian_tells_the_deviation_of_each_value_in_its_unit(tmp_path: Path) -> None:
    """A table's values are far from 0 and large, and a deviation scales with them, without their mean."""
    model = table_run(tmp_path / "home", lambda point, mass: 5e6 + 1e5 * (mass % 10), "task.likelihood=gaussian")
    support = "speed,mass,price\n0.001,1010,5410000\n0.002,1020,5420000\n"
    (result,), _ = predicted(tmp_path, model, support, "mass,speed\n1015,0.001\n")
    told = ["price", "price_deviation", "price_low", "price_high"]
    assert list(result) == ["mass", "speed", *told, "outside_training"]
    assert run(tmp_path, "export", f"run={model}", "out=model").code == 0
    adapted = metalearn_cli.load(tmp_path / "model").adapt([[1010, 0.001], [1020, 0.002]], [5410000.0, 5420000.0])
    mean, raw = adapted.outputs([[1015, 0.001]])[0].double().tolist()
    scale = adapted.model.examples.columns.y_scale
    expected = mean * scale.deviation[0] + scale.mean[0], (0.1 + 0.9 * math.log1p(math.exp(raw))) * scale.deviation[0]
    expected += tuple(expected[0] + sign * 1.6448536 * expected[1] for sign in (-1, 1))  # 90% of a normal distribution
    assert [float(result[name]) for name in told] == pytest.approx(expected, rel=1e-5)
    assert adapted([[1015, 0.001]]).item() == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_intervals_hold_about_as_many_new_values_as_they_say(tmp_path: Path, seed: int) -> None:
    """Of 2,000 points of 100 new lines with noise, by a short training on 90 others: within 10 percentage points."""
    rng = torch.Generator().manual_seed(seed)

    def line(points: int) -> tuple[torch.Tensor, torch.Tensor]:
        slope, shift = torch.randn(2, generator=rng, dtype=torch.float64)
        x = 2 * torch.rand(points, 1, generator=rng, dtype=torch.float64) - 1
        return x, slope * x + shift + 0.2 * torch.randn(points, 1, generator=rng, dtype=torch.float64)

    known = [(task, *point) for task in range(150) for point in torch.cat(line(20), 1).tolist()]
    (tmp_path / "lines.csv").write_text("task,x,y\n" + "".join(f"{task},{x},{y}\n" for task, x, y in known))
    keys = ["algo=cnp", "algo.width=32", "task=table", "task.root=lines.csv", "task.shot=10", "task.query=10"]
    keys += ["task.likelihood=gaussian", "tasks_per_step=16", "optimizer.lr=0.003", f"seed={seed}", "threads=1"]
    done = run(tmp_path, "train", *keys, "steps=300", "eval_every=0", "select=last", "name=one")
    assert done.code == 0, done.err
    model, inside = metalearn_cli.load(tmp_path / "outputs/one"), []
    for _ in range(100):
        x, y = line(30)
        adapted = model.adapt(x[:10], y[:10])
        low, high = adapted.interval(adapted.outputs(x[10:]))
        inside.append(((low <= y[10:]) & (y[10:] <= high)).double().mean())
    assert torch.stack(inside).mean().item() == pytest.approx(0.9, abs=0.1)


def test_what_lies_outside_of_the_trainings_inputs_is_said_and_has_a_column(tmp_path: Path, curves: Path) -> None:
    result, err = predicted(tmp_path, curves, "x,y\n-2,1.5\n5,0\n", "x\n-5\n100\n1\n-5.01\n")
    assert [row["outside_training"] for row in result] == ["false", "true", "false", "true"]
    sentence = "2 of 4 points in query lie outside of the inputs of the training, first row 2 with x=100, where those w"
    assert err.count(sentence) == err.count("outside") == 1
    assert "from -5 to 5: what is predicted from there is a guess" in err
    assert "1 of 2 points in support lie outside" in predicted(tmp_path, curves, "x,y\n-2,1.5\n9,0\n", "x\n1\n")[1]
    run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=s.csv", "out=p.json")
    assert [row["outside_training"] for row in json.loads((tmp_path / "p.json").read_text())] == [False, True]
    assert metalearn_cli.load(curves).outside([-2, 9]).tolist() == [False, True]


def test_the_range_of_a_table_is_that_of_its_training_tasks(tmp_path: Path) -> None:
    """The range is in the table's units, and each feature has its own."""
    model = table_run(tmp_path / "home", lambda point, mass: mass, "task.split_seed=3")
    known = json.loads((model / "task.json").read_text())["columns"]["x_range"]
    _, job = load_eval_job([f"run={model}"])
    trained = [int(name[1:]) for name in [job.task.known.names[n] for n in job.task.known.members["train"].tolist()]]  # type: ignore[attr-defined]
    assert known == {"low": [1000 + min(trained), 0], "high": [1050 + max(trained), 0.004]}
    support = "mass,speed,price\n1020,0.001,1\n1030,0.002,2\n"
    query = f"speed,mass\n0.004,1020\n0.0041,1020\n0.001,{1051 + max(trained)}\n"
    result, err = predicted(tmp_path, model, support, query)
    assert [row["outside_training"] for row in result] == ["false", "true", "true"]
    assert "first row 2 with speed=0.0041, where those were from 0 to 0.004" in err


def test_where_the_range_is_not_known_that_is_said_and_there_is_no_column(tmp_path: Path, curves: Path) -> None:
    """The run is like one of an earlier version."""
    model = Path(shutil.copytree(curves, tmp_path / "old"))
    content = json.loads((model / "task.json").read_text())
    del content["columns"]["x_range"]
    rewrite(model / "task.json", content)
    result, err = predicted(tmp_path, model, "x,y\n-2,1.5\n100,0\n", "x\n-2\n")
    assert list(result[0]) == ["x", "y"]
    assert "whether a query lies outside of the inputs of the training is not known" in err
    with pytest.raises(UserError, match="nothing is known of the range of the inputs"):
        metalearn_cli.load(model).outside([1.0])


def test_a_tables_classes_keep_their_labels(tmp_path: Path) -> None:
    """2 before 10, as the training had them."""
    model = table_run(tmp_path / "home", lambda point, mass: (2, 10, 30)[point % 3], "task.loss=classes")
    support, query = "mass,speed,price\n1010,0.001,10\n1020,0.002,2\n", "mass,speed\n1015,0.001\n"
    (row,), _ = predicted(tmp_path, model, support, query)
    assert list(row) == ["row", "label", "p_2", "p_10", "p_30", "outside_training"]
    assert row["outside_training"] == "false"
    assert sum(float(row[name]) for name in ("p_2", "p_10", "p_30")) == pytest.approx(1, abs=1e-4)
    (tmp_path / "s.csv").write_text(support.replace(",10\n", ",11\n"))
    done = run(tmp_path, "predict", f"run={model}", "support=s.csv", "query=q.csv")
    assert "y has the label 11, and the training had 2, 10, 30" in done.err


@pytest.mark.parametrize(
    ("support", "query", "sentence"),
    [
        ("x,z\n1,2\n", "x\n1\n", "s.csv has no column y: y expected, and x, z found"),
        ("x,y\n1,2\n", "z\n1\n", "q.csv has no column x: x expected, and z found"),
        ("x,y\n1,2\n2,\n", "x\n1\n", "s.csv line 3 has nothing in column y"),
        ("x,y\n1,2\n2,nan\n", "x\n1\n", "s.csv line 3 holds nan in column y, which is not a finite number: give every"),
        ("x,y\n1,2\n", "x\n1\nabc\n", "q.csv line 3 holds abc in column x, which is not a finite number: correct it"),
        ("x,y\n1,2\n", "x\n1\ninf\n", "q.csv line 3 holds inf in column x"),
        ("x,y\n1,2\n", "x\n1,2\n", "q.csv line 2 needs as many cells as line 1 has names, 1, and has 2"),
        ("x,y\n", "x\n1\n", "s.csv holds no points"),
    ],
)
def test_every_mistake_in_a_table_is_named_with_its_line(
    support: str, query: str, sentence: str, tmp_path: Path, curves: Path
) -> None:
    (tmp_path / "s.csv").write_text(support)
    (tmp_path / "q.csv").write_text(query)
    done = run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err
    assert not (tmp_path / "p.csv").exists()


def test_a_folder_is_not_a_table(tmp_path: Path, curves: Path) -> None:
    for place, sentence in (
        (str(tmp_path), "must be a table, a file whose name ends in .csv"),
        ("no.csv", "support=no.csv cannot be read (No such file or directory)\n"),
        ("*.csv", "support=*.csv cannot be read (No such file or directory); a pattern stands for pictures, and"),
    ):
        assert sentence in run(tmp_path, "predict", f"run={curves}", f"support={place}", f"query={place}").err
