"""metalearn predict on points: curves, and a user's own tables."""

import json
import shutil
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
from metalearn_cli.trained import predict  # noqa: F401 - the forks need not import it anew
from metalearn_cli.training.eval_job import load_eval_job

SMALL = ["steps=20", "eval_every=0", "select=last", "test_episodes=4", "threads=1", "name=one", "algo.test_steps=3"]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("curves")
    done = run(home, "train", "algo=maml", "task=sinusoid", *SMALL)
    assert done.code == 0, done.err
    return home / "outputs/one"


def table_run(home: Path, rows_of: list[str], *more: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "table.csv").write_text("\n".join(["task,set,mass,speed,price", *rows_of]) + "\n")
    keys = ["algo=maml", "task=table", f"task.root={home}/table.csv", "task.target=price", "test_episodes=1"]
    done = run(home, "train", *keys, *[key for key in SMALL if "episodes" not in key], *more)
    assert done.code == 0, done.err
    return home / "outputs/one"


def lines(price: object) -> list[str]:
    """15 tasks of 4 support and 2 query points, far from 0 and large."""
    found = []
    for task in range(15):
        for point in range(6):
            mass, speed = 1000 + 10 * point + task, 0.001 * ((point * 7 + task) % 5)
            cell = price(task, point, mass, speed)  # type: ignore[operator]
            found.append(f"t{task},{'query' if point > 3 else 'support'},{mass},{speed},{cell}")
    return found


def test_a_curve_is_predicted_as_the_learner_does(tmp_path: Path, curves: Path) -> None:
    x = [-2.0, 0.5, 3.25]
    (tmp_path / "s.csv").write_text("y,x\n1.5,-2\n0,0.5\n-1.25,3.25\n")
    (tmp_path / "q.csv").write_text("x\n-1\n4.5\n")
    done = run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert done.code == 0, done.err
    found = rows(tmp_path / "p.csv")
    assert [list(row) for row in found] == [["x", "y", "outside_training"]] * 2
    assert "outside" not in done.err
    assert [row["x"] for row in found] == ["-1.0", "4.5"]
    _, job = load_eval_job([f"run={curves}"])
    learner = new_learner(job)
    learner.load_state_dict(load_tested(curves)[0].tensors)
    support = Support(torch.tensor(x).view(1, 3, 1), torch.tensor([1.5, 0, -1.25]).view(1, 3, 1), torch.zeros(1).long())
    expected = learner.adapt(support)(torch.tensor([-1.0, 4.5]).view(1, 2, 1), BatchNorm.inductive)[0, :, 0]
    assert [float(row["y"]) for row in found] == pytest.approx(expected.tolist(), rel=1e-4)
    assert run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=q.csv").out.split()[:2] == ["x", "y"]


def test_a_table_is_predicted_in_its_own_units_by_its_own_columns(tmp_path: Path) -> None:
    model = table_run(
        tmp_path / "home", lines(lambda task, point, mass, speed: 5e6 + 1e5 * task + 1000 * (mass - 1000))
    )
    (tmp_path / "s.csv").write_text("note,speed,mass,price\na,0.001,1010,5410000\nb,0.002,1020,5420000\n")
    (tmp_path / "q.csv").write_text("mass,speed\n1015,0.001\n")
    (tmp_path / "plain.csv").write_text("x1,x2\n1015,0.001\n")
    found = {}
    for query in ("q", "plain"):
        done = run(tmp_path, "predict", f"run={model}", "support=s.csv", f"query={query}.csv", f"out={query}.json")
        assert done.code == 0, done.err
        (found[query],) = json.loads((tmp_path / f"{query}.json").read_text())
    assert list(found["q"]) == ["mass", "speed", "price", "outside_training"]
    assert list(found["plain"]) == ["x1", "x2", "price", "outside_training"]
    assert found["q"]["price"] == found["plain"]["price"]
    assert 5e6 < found["q"]["price"] < 7e6
    _, job = load_eval_job([f"run={model}"])
    scale = job.task.columns
    assert scale is not None
    assert scale.x_scale is not None
    assert scale.y_scale is not None
    learner = new_learner(job)
    learner.load_state_dict(load_tested(model)[0].tensors)
    mean, deviation = (
        torch.tensor(part, dtype=torch.float64) for part in (scale.x_scale.mean, scale.x_scale.deviation)
    )
    x = (torch.tensor([[1010, 0.001], [1020, 0.002], [1015, 0.001]], dtype=torch.float64) - mean) / deviation
    y = (
        torch.tensor([[5410000.0], [5420000.0]], dtype=torch.float64) - scale.y_scale.mean[0]
    ) / scale.y_scale.deviation[0]
    support = Support(x[None, :2].float(), y[None].float(), torch.zeros(1).long())
    out = learner.adapt(support)(x[None, 2:].float(), BatchNorm.inductive).item()
    assert found["q"]["price"] == pytest.approx(out * scale.y_scale.deviation[0] + scale.y_scale.mean[0], rel=1e-4)
    (tmp_path / "home/table.csv").unlink()  # what is needed of it stands in the run's folder
    again = run(tmp_path, "predict", f"run={model}", "support=s.csv", "query=q.csv", "out=again.json")
    assert again.code == 0, again.err
    assert (tmp_path / "again.json").read_text() == (tmp_path / "q.json").read_text()
    assert run(tmp_path, "export", f"run={model}", "out=model").code == 0
    exported = metalearn_cli.load(tmp_path / "model").adapt([[1010, 0.001], [1020, 0.002]], [5410000, 5420000])
    assert exported([[1015, 0.001]]).item() == pytest.approx(found["q"]["price"], rel=1e-5)


def test_what_lies_outside_of_the_trainings_inputs_is_said_and_has_a_column(tmp_path: Path, curves: Path) -> None:
    (tmp_path / "s.csv").write_text("x,y\n-2,1.5\n5,0\n")
    (tmp_path / "q.csv").write_text("x\n-5\n100\n1\n-5.01\n")
    done = run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert done.code == 0, done.err
    assert [row["outside_training"] for row in rows(tmp_path / "p.csv")] == ["false", "true", "false", "true"]
    sentence = (
        "2 of 4 points in query lie outside of the inputs of the training, first row 2 with x=100, where those were"
    )
    assert done.err.count(sentence) == done.err.count("outside") == 1
    assert "from -5 to 5: what is predicted from there is a guess" in done.err
    (tmp_path / "s.csv").write_text("x,y\n-2,1.5\n9,0\n")
    done = run(tmp_path, "predict", f"run={curves}", "support=s.csv", "query=s.csv", "out=p.json")
    assert "1 of 2 points in support lie outside" in done.err
    assert [row["outside_training"] for row in json.loads((tmp_path / "p.json").read_text())] == [False, True]
    assert metalearn_cli.load(curves).outside([-2, 9]).tolist() == [False, True]


def test_the_range_of_a_table_is_that_of_its_training_tasks(tmp_path: Path) -> None:
    """In the table's own units, and each feature has its own."""
    model = table_run(tmp_path / "home", lines(lambda task, point, mass, speed: mass), "task.split_seed=3")
    known = json.loads((model / "task.json").read_text())["columns"]["x_range"]
    _, job = load_eval_job([f"run={model}"])
    trained = [int(name[1:]) for name in [job.task.known.names[n] for n in job.task.known.members["train"].tolist()]]  # type: ignore[attr-defined]
    assert known == {"low": [1000 + min(trained), 0], "high": [1050 + max(trained), 0.004]}
    (tmp_path / "s.csv").write_text("mass,speed,price\n1020,0.001,1\n1030,0.002,2\n")
    (tmp_path / "q.csv").write_text(f"speed,mass\n0.004,1020\n0.0041,1020\n0.001,{1051 + max(trained)}\n")
    done = run(tmp_path, "predict", f"run={model}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert done.code == 0, done.err
    assert [row["outside_training"] for row in rows(tmp_path / "p.csv")] == ["false", "true", "true"]
    assert "first row 2 with speed=0.0041, where those were from 0 to 0.004" in done.err


def test_where_the_range_is_not_known_that_is_said_and_there_is_no_column(tmp_path: Path, curves: Path) -> None:
    """As in a run of a version before."""
    model = Path(shutil.copytree(curves, tmp_path / "old"))
    content = json.loads((model / "task.json").read_text())
    del content["columns"]["x_range"]
    rewrite(model / "task.json", content)
    (tmp_path / "s.csv").write_text("x,y\n-2,1.5\n100,0\n")
    done = run(tmp_path, "predict", f"run={model}", "support=s.csv", "query=s.csv", "out=p.csv")
    assert done.code == 0, done.err
    assert list(rows(tmp_path / "p.csv")[0]) == ["x", "y"]
    assert "whether a query lies outside of the inputs of the training is not known" in done.err
    with pytest.raises(UserError, match="nothing is known of the range of the inputs"):
        metalearn_cli.load(model).outside([1.0])


def test_a_tables_classes_keep_their_labels(tmp_path: Path) -> None:
    """2 before 10, as the training had them."""
    table = lines(lambda task, point, mass, speed: (2, 10, 30)[point % 3])
    model = table_run(tmp_path / "home", table, "task.loss=classes")
    (tmp_path / "s.csv").write_text("mass,speed,price\n1010,0.001,10\n1020,0.002,2\n")
    (tmp_path / "q.csv").write_text("mass,speed\n1015,0.001\n")
    done = run(tmp_path, "predict", f"run={model}", "support=s.csv", "query=q.csv", "out=p.csv")
    assert done.code == 0, done.err
    (row,) = rows(tmp_path / "p.csv")
    assert list(row) == ["row", "label", "p_2", "p_10", "p_30", "outside_training"]
    assert row["outside_training"] == "false"
    assert sum(float(row[name]) for name in ("p_2", "p_10", "p_30")) == pytest.approx(1, abs=1e-4)
    (tmp_path / "s.csv").write_text("mass,speed,price\n1010,0.001,11\n1020,0.002,2\n")
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


def test_a_folder_is_no_table(tmp_path: Path, curves: Path) -> None:
    done = run(tmp_path, "predict", f"run={curves}", f"support={tmp_path}", f"query={tmp_path}")
    assert "must be a table, a file whose name ends in .csv" in done.err
    done = run(tmp_path, "predict", f"run={curves}", "support=no.csv", "query=no.csv")
    assert "support=no.csv cannot be read (No such file or directory)" in done.err
    assert "pattern" not in done.err
    done = run(tmp_path, "predict", f"run={curves}", "support=*.csv", "query=*.csv")
    assert "support=*.csv cannot be read (No such file or directory); a pattern stands for pictures, and" in done.err
