"""A user's own tasks: what each kind of file holds, how it is divided, and the sentence for each mistake in it."""

import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from places import ROOT, TABLE

from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.baselines import baselines
from metalearn_cli.learning.draws import EpisodeRange, draw_block
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import from_list
from metalearn_cli.tasks.base import Batch, Split, TaskDistribution
from metalearn_cli.tasks.table import Loss, Standardise, Table
from metalearn_cli.tuning import bench

CPU = torch.device("cpu")
PARTS = ("x_train", "y_train", "x_val", "y_val")
Arrays = list[tuple[np.ndarray[Any, Any], ...]]

HEAD = "task,set,x,y"
GOOD = [f"t{n},{part},{n}.{i},{n}" for n in range(5) for part in ("support", "query") for i in range(2)]
WITHOUT_SETS = [row.replace("support,", "").replace("query,", "") for row in GOOD]
IN_FOLDS, FOLD = [f"{HEAD},fold", *(f"{row},train" for row in GOOD)], {"split_column": "fold"}


def ragged(tasks: int = 12, features: int = 2) -> Arrays:
    """Tasks of 2 to 6 support and 1 to 5 query points."""
    rng = np.random.default_rng(0)
    arrays: Arrays = []
    for task in range(tasks):
        parts: list[np.ndarray[Any, Any]] = []
        for size in (2 + task % 5, 1 + task % 4):
            x = rng.normal(size=(size, features)) * 3 + 1
            parts += [x, x.sum(1, keepdims=True) + task]
        arrays.append(tuple(parts))
    return arrays


def write_csv(path: Path, tasks: Arrays, header: str = "task,set,x1,x2,y") -> Path:
    rows = [
        f"t{number},{name}," + ",".join(repr(float(value)) for value in (*x, *np.atleast_1d(y)))
        for number, task in enumerate(tasks)
        for name, xs, ys in (("query", *task[2:]), ("support", *task[:2]))  # in another order than they are kept
        for x, y in zip(xs, ys, strict=True)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def whole(task: TaskDistribution, split: Split) -> Batch:
    """All tasks of a split."""
    number = task.task_count(split) or 0
    return task.gather(task.draw_numbers(torch.arange(number), split, torch.Generator()), CPU)


def names_of(task: Table, split: Split) -> list[str]:
    """The names of a split's tasks, in their order."""
    return [task.known.names[number] for number in task.known.members[split].tolist()]


def plain(path: Path, **keys: Any) -> Table:
    return Table(str(path), standardise=Standardise.false, **keys)


def write_rows(folder: Path, *lines: str) -> Path:
    (folder / "a.csv").write_text("\n".join(lines))
    return folder / "a.csv"


def numbered(keys: tuple[str, ...], tasks: Any) -> dict[str, Any]:
    """The arrays of an .npz of tasks of different sizes."""
    return {f"{key}_{number}": part for number, task in enumerate(tasks) for key, part in zip(keys, task, strict=True)}


def refusal(path: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as refused:
        _ = plain(path, **keys).spec
    assert "\n" not in str(refused.value)
    return str(refused.value)


def check_same(first: TaskDistribution, second: TaskDistribution) -> None:
    for split in ("train", "val", "test"):
        a, b = whole(first, split).tensors(), whole(second, split).tensors()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.spec == second.spec


def test_a_csv_an_npz_a_parquet_file_and_a_list_hold_the_same_tasks(tmp_path: Path) -> None:
    tasks, names = ragged(), [f"t{number}" for number in range(12)]
    listed = from_list(tasks, names=names)
    from_csv = plain(write_csv(tmp_path / "tasks.csv", tasks))
    check_same(from_csv, listed)
    assert from_csv.fingerprint == listed.fingerprint
    np.savez(tmp_path / "tasks.npz", task=np.asarray(names), **numbered(PARTS, tasks))
    check_same(plain(tmp_path / "tasks.npz"), listed)
    tensors = [tuple(torch.tensor(part, requires_grad=True) for part in task) for task in tasks]
    check_same(from_list(tensors, names=names), listed)


def test_a_parquet_file_holds_what_a_csv_holds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    read = csv.read_csv(write_csv(tmp_path / "tasks.csv", ragged()))
    for name, table in (
        ("plain", read),
        ("numbers", read.set_column(0, "task", pyarrow.array([int(text[1:]) for text in read["task"].to_pylist()]))),
        ("categories", read.set_column(0, "task", read["task"].dictionary_encode())),
    ):
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        of_parquet = plain(tmp_path / f"{name}.parquet", split_seed=4)
        assert of_parquet.spec == plain(tmp_path / "tasks.csv").spec
        if name != "numbers":  # other names are split otherwise
            check_same(of_parquet, plain(tmp_path / "tasks.csv", split_seed=4))


def test_tasks_of_one_size_are_one_array_of_an_npz_and_have_no_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 7, 3)), rng.normal(size=(10, 7))
    np.savez(tmp_path / "tasks.npz", x_train=x[:, :4], y_train=y[:, :4], x_val=x[:, 4:], y_val=y[:, 4:])
    task = plain(tmp_path / "tasks.npz", split_seed=3)
    assert not task.spec.padded
    assert task.spec.input_shape == (3,)
    for split in ("train", "val", "test"):
        batch = whole(task, split)
        assert set(batch.tensors()) == {"support_x", "support_y", "query_x", "query_y", "key"}
        for t, name in enumerate(names_of(task, split)):
            number = int(name)
            torch.testing.assert_close(batch.support_x[t].double(), torch.from_numpy(x[number, :4]))
            torch.testing.assert_close(batch.query_y[t, :, 0].double(), torch.from_numpy(y[number, 4:]))


def test_padding_repeats_the_first_point_and_masks_tell() -> None:
    tasks = ragged()
    task = from_list(tasks, split=["train"] * 9 + ["val", "test", "test"])
    assert task.spec.padded
    batch = whole(task, "train")
    assert batch.support_mask is not None
    assert batch.query_mask is not None
    for t in range(9):
        alone = batch.task(t)
        for a, b in zip((alone.support_x, alone.support_y, alone.query_x, alone.query_y), tasks[t], strict=True):
            assert torch.equal(a[0], torch.from_numpy(b).float())
        for x, mask in ((batch.support_x, batch.support_mask), (batch.query_x, batch.query_mask)):
            assert (x[t][~mask[t]] == torch.from_numpy(tasks[t][0][0]).float()).all()


def test_each_test_task_is_tested_once_and_a_training_batch_has_different_tasks() -> None:
    task = from_list(ragged(30), split=["train"] * 20 + ["test"] * 10)
    assert task.splits == ("train", "test")
    draws = [draw_block(task, "test", 0, 0), draw_block(task, "test", 7, 0)]
    assert draws[0]["support_point"].shape[0] == 10
    assert torch.equal(draws[0]["support_point"], draws[1]["support_point"])
    assert not torch.equal(draws[0]["key"], draws[1]["key"])
    firsts = task.draw(20, "train", generator(0))["support_point"][:, 0].tolist()
    assert len(set(firsts)) == 20
    firsts = task.draw(50, "train", generator(0))["support_point"][:, 0].tolist()
    assert sorted(map(firsts.count, set(firsts))) == [2] * 10 + [3] * 10
    with pytest.raises(ValueError, match="11 episodes asked of 10 test tasks"):
        baselines(task, EpisodeRange("test", 11, 0), CPU)


def test_points_that_are_not_divided_are_divided_at_random(tmp_path: Path) -> None:
    tasks = [(np.concatenate(task[::2]), np.concatenate(task[1::2])) for task in ragged(20)]
    np.savez(tmp_path / "tasks.npz", **numbered(("x", "y"), tasks))
    task = plain(tmp_path / "tasks.npz", shot=2)
    assert task.spec.padded  # the query is the rest
    known = [sorted(torch.from_numpy(x).float().tolist()) for x, _ in tasks]
    orders = set()
    for step in range(5):
        draw = task.draw(12, "train", generator(0, step))
        batch = task.gather(draw, CPU)
        assert batch.support_x.shape[1] == 2
        for t in range(12):
            alone = batch.task(t)
            x = sorted(torch.cat([alone.support_x, alone.query_x], 1)[0].tolist())
            assert known.count(x) == 1  # all points of one task, each once
            orders.add((known.index(x), *draw["support_point"][t].tolist()))
    assert len(orders) > 30  # differently in each draw
    episodes = [draw_block(task, "test", seed, 0)["query_point"] for seed in (0, 0, 1)]
    assert torch.equal(episodes[0], episodes[1])
    assert not torch.equal(episodes[0], episodes[2])
    fixed = plain(tmp_path / "tasks.npz", shot=1, query=2)
    assert not fixed.spec.padded
    assert whole(fixed, "test").query_y.shape[1] == 2


def test_the_split_is_a_function_of_its_seed_and_the_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ragged(20))
    rows = path.read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    names = [
        {split: set(names_of(task, split)) for split in task.splits}
        for task in (plain(path), plain(tmp_path / "b.csv"), plain(path, split_seed=1))
    ]
    assert names[0] == names[1] != names[2]
    assert {split: len(members) for split, members in names[0].items()} == {"train": 12, "val": 4, "test": 4}
    assert set.union(*names[0].values()) == {f"t{number}" for number in range(20)}
    assert plain(path, val_share=0.0).splits == ("train", "test")


def test_a_column_or_a_file_may_say_the_split(tmp_path: Path) -> None:
    words = ["train", "val", "test", "train"]
    rows = [f"t{n},{part},{n}{i},{n},{words[n]}" for n in range(4) for i, part in enumerate(("support", "query"))]
    path = write_rows(tmp_path, "task,set,x,y,fold", *rows)
    lists = {word: [f"t{n}" for n in range(4) if words[n] == word] for word in set(words)}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    by_column = plain(path, split_column="fold")
    by_file = plain(path, split_file=str(tmp_path / "split.json"), features=("x",))
    check_same(by_column, by_file)
    assert whole(by_column, "train").support_x.flatten().tolist() == [0.0, 30.0]
    assert whole(by_column, "val").query_x.flatten().tolist() == [11.0]


def test_standardise_takes_the_training_tasks_alone() -> None:
    tasks = ragged()
    words = ["train"] * 8 + ["test"] * 4
    scaled, raw = from_list(tasks, split=words, standardise=True), from_list(tasks, split=words)
    x = np.concatenate([part for task in tasks[:8] for part in task[::2]])
    y = np.concatenate([part for task in tasks[:8] for part in task[1::2]])
    for split in ("train", "test"):
        a, b = whole(scaled, split), whole(raw, split)
        torch.testing.assert_close(a.query_x, (b.query_x - torch.tensor(x.mean(0))).div(torch.tensor(x.std(0))).float())
        torch.testing.assert_close(a.query_y, (b.query_y - torch.tensor(y.mean(0))).div(torch.tensor(y.std(0))).float())
    assert scaled.fingerprint != raw.fingerprint
    constant = [(np.ones((2, 1)), np.ones(2), np.ones((1, 1)) * task, np.ones(1)) for task in range(5)]
    task = from_list(constant, split=["train"] * 3 + ["test"] * 2, standardise=True)
    assert whole(task, "test").query_y.flatten().tolist() == [0.0, 0.0]


def test_labels_are_numbered_over_the_whole_table(tmp_path: Path) -> None:
    rows = [
        f"t{n},{part},{n}.{i},{label}"
        for n in range(6)
        for part in ("support", "query")
        for i, label in enumerate(("10", "9", "100") if n % 2 else ("9", "10", "10"))
    ]
    task = plain(write_rows(tmp_path, HEAD, *rows), loss=Loss.classes)
    assert (task.spec.kind, task.spec.outputs, task.spec.complete) == ("classes", 3, False)
    for t, name in enumerate(names_of(task, "train")):
        expected = [1, 0, 2] if int(name[1]) % 2 else [0, 1, 1]  # by size, not by the alphabet
        assert whole(task, "train").support_y[t].tolist() == expected
    words = from_list(
        [(x, np.asarray(["b", "a"]), x, np.asarray(["a", "b"])) for x in np.random.rand(6, 2, 1)], classes=True
    )
    assert whole(words, "test").support_y[0].tolist() == [1, 0]
    assert words.spec.complete
    assert baselines(words, EpisodeRange("test", 1, 0), CPU) == {}


def test_the_constant_is_the_mean_of_each_real_support_set() -> None:
    tasks = ragged()
    task = from_list(tasks, split=["train"] * 8 + ["test"] * 4)
    expected = [float(((task[3] - task[1].mean()) ** 2).mean()) for task in tasks[8:]]
    errors = baselines(task, EpisodeRange("test", 4, 0), CPU)
    assert set(errors) == {"constant"}
    assert errors["constant"].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_pages_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "own_tables.md").read_text()
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    names: dict[str, Any] = {}
    exec(example, names)
    assert "mse of each test task" in capsys.readouterr().out
    metric = names["scores"].metric
    assert metric.shape[0] == 4
    assert metric[:, -1].mean() < 0.2 * metric[:, 0].mean()


SHORT = [f"task.root={TABLE}", "debug=quick", "steps=4", "eval_every=2", "threads=1", "tasks_per_step=3"]


@pytest.mark.parametrize("algo", ["maml", "reptile", "meta_sgd", "pretrain"])
@pytest.mark.parametrize("sizes", ["one", "ragged"])
def test_a_run_trains_validates_and_tests_each_task_once(tmp_path: Path, algo: str, sizes: str) -> None:
    path = TABLE if sizes == "one" else write_csv(tmp_path / "tasks.csv", ragged(20, features=1), "task,set,x,y")
    whole_support = ["algo.inner_batch=null", "algo.test_batch=null"] if algo == "reptile" else []
    arguments = [f"algo={algo}", "task=table", *SHORT, f"task.root={path}", *whole_support, "name=one"]
    done = run(tmp_path, "train", *arguments)
    assert done.code == 0, done.err
    assert "test_episodes=4, not 16: there are no more test tasks, and each is scored once" in done.err
    assert "eval_episodes=4, not 8: there are no more validation tasks" in done.err
    results = json.loads((tmp_path / "outputs/one/results.json").read_text())
    assert results["episodes"] == 4
    assert set(results["baselines"]) == {"constant"}
    assert results["baselines"]["constant"].keys() == {"mean", "ci95", "median"}
    assert f"constant: {results['baselines']['constant']['mean']:.4g} +- " in done.out
    assert (tmp_path / "outputs/one/test.png").exists()  # of one feature
    done = run(tmp_path, "eval", "run=outputs/one", "test_episodes=3")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "outputs/one/eval").iterdir()
    again = json.loads((folder / "results.json").read_text())
    assert again["episodes"] == 3
    assert "constant" in again["baselines"]


def test_more_episodes_than_tasks_are_refused_and_so_are_tasks_that_were_trained_on(tmp_path: Path) -> None:
    for key, word in (("test_episodes", "test"), ("eval_episodes", "validation")):
        refused = run(tmp_path, "train", "task=table", *SHORT, f"{key}=5")
        assert refused.code == 1
        assert f"{key}=5 is more than the 4 {word} tasks that there are" in refused.err
    assert run(tmp_path, "train", "task=table", *SHORT, "name=one").code == 0
    refused = run(tmp_path, "eval", "run=outputs/one", "task.split_seed=1")
    assert refused.code == 1
    assert "tasks of this test were trained on by outputs/one, e.g. the task with the points" in refused.err
    refused = run(tmp_path, "train", "task=table", *SHORT, "task.val_share=0", "name=two")
    assert "task=table has no validation tasks with this split, by which select=best would choose" in refused.err


def test_bench_times_no_more_episodes_than_there_are_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BUDGET", 1e-9)
    monkeypatch.setattr(bench, "TURN", 1e-9)
    monkeypatch.setattr(bench, "PRODUCT_SIZE", {"cpu": 16, "cuda": 16})
    done = run(tmp_path, "bench", "task=table", *SHORT, "task.test_share=0.1")
    assert done.code == 0, done.err
    assert "2 timed" in done.out


def test_a_class_that_a_support_lacks_is_nothing_to_compare_with(tmp_path: Path) -> None:
    rows = [f"t{n},{part},{n},{label}" for n in range(6) for part, label in (("support", n % 2), ("query", 0))]
    keys = [
        "task=table",
        f"task.root={write_rows(tmp_path, HEAD, *rows)}",
        "task.loss=classes",
        "model=mlp",
        *SHORT[1:],
    ]
    for algo in ("protonet", "matching"):
        refused = run(tmp_path, "train", f"algo={algo}", *keys)
        assert f"algo={algo} needs each class in the support of every task" in refused.err
    done = run(tmp_path, "train", "algo=maml", *keys, "test_episodes=1", "eval_episodes=1", "name=one")
    assert done.code == 0, done.err


# The lines of a CSV, keys, and the sentence.
BAD: list[tuple[list[str], dict[str, Any], str]] = [
    ([HEAD, *GOOD, ",query,1,1"], {}, "line 22 has nothing in column task (task.task_column)"),
    ([HEAD, GOOD[0], "t0,holdout,1,1"], {}, "line 3 has holdout in column set: support or query, or train or val, is"),
    (["tsk,set,x,y", *GOOD], {}, "has no column task (task.task_column): did you mean tsk?"),
    ([HEAD, *GOOD], {"target": ("y", "z")}, "has no column z (task.target)"),
    (["task,set,y", *(row.rsplit(",", 1)[0] for row in GOOD)], {}, "only the columns task, set, y: it needs features"),
    ([HEAD, *GOOD], {"features": ("x", "z")}, "has no column z (task.features)"),
    ([HEAD, *GOOD], {"features": ("x", "y")}, "task.features names y, which is not a feature"),
    ([HEAD, *GOOD, "t9,query,1,1"], {}, "task t9 has no support point"),
    ([HEAD, *GOOD, "t9,support,1,1"], {}, "task t9 has no query point"),
    (["task,x,y", *WITHOUT_SETS], {}, "task.shot=5"),
    ([HEAD, *GOOD], {"shot": 2}, "task.shot=2 divides points, and those of"),
    (["task,x,y", *WITHOUT_SETS], {"shot": 0}, "task.shot=0 must be a whole number, 1 or above"),
    (["task,x,y", *WITHOUT_SETS], {"shot": 4}, "task t0 has 4 points, and task.shot=4 with a query of one needs 5"),
    ([HEAD, *GOOD[:4]], {}, "holds one task, t0: at least two are needed"),
    ([HEAD, *GOOD], {"test_share": 0.05}, "task.test_share=0.05 of the 5 tasks of"),
    ([HEAD, *GOOD], {"val_share": 0.5, "test_share": 0.5}, "leave none of the 5 tasks"),
    ([HEAD, *GOOD], {"val_share": 20.0}, "task.val_share=20.0 must be a share"),
    (
        [HEAD, *GOOD, *(row.replace("t0", "t9") for row in GOOD[:4])],
        {"val_share": 0.0, "test_share": 0.5, "split_seed": 1},
        "have the same points: remove one, or put both into one split",
    ),
    ([*IN_FOLDS[:-1], f"{GOOD[19]},test"], FOLD, "line 21 puts task t4 into test, and"),
    ([row.replace("train", "holdout") for row in IN_FOLDS], FOLD, "puts task t0 into 'holdout': train, val or test is"),
    (IN_FOLDS, FOLD, "no task into test"),
    ([HEAD, *(f"{row[:-1]}1" for row in GOOD)], {"loss": Loss.classes}, "points of class 1 only"),
    (
        [HEAD, *(f"{row[:-1]}{row[1]}.5" for row in GOOD)],
        {"loss": Loss.classes},
        "has 0.5 for a class: labels are whole numbers or texts",
    ),
    ([HEAD, *GOOD], {"split_file": "nowhere.json"}, "task.split_file=nowhere.json cannot be read"),
]


@pytest.mark.parametrize(("lines", "keys", "sentence"), BAD)
@pytest.mark.row("C9")
def test_each_mistake_in_a_table_gets_its_sentence(
    tmp_path: Path, lines: list[str], keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(write_rows(tmp_path, *lines), **keys)


def test_the_good_table_is_good(tmp_path: Path) -> None:
    """The bad ones are made of it, so that each is refused for its own mistake."""
    assert plain(write_rows(tmp_path, HEAD, *GOOD)).spec.input_shape == (1,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1]", "three lists of tasks are expected"),
        ("{", "cannot be read as JSON"),
        ('{"train": ["t0", "t9"]}', "lists task t9 in train, and there is none of this name"),
        ('{"train": ["t0"], "test": ["t0"]}', "lists task t0 in train and in test"),
        ('{"train": ["t0"], "test": ["t1"]}', "lists 3 of the tasks nowhere, e.g. t2"),
        ('{"train": ["t0", "t1", "t2", "t3"], "tset": ["t4"]}', "puts task t4 into 'tset'"),
    ],
)
@pytest.mark.row("C5")
def test_each_mistake_in_a_split_file_gets_its_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "split.json").write_text(content)
    assert sentence in refusal(write_rows(tmp_path, HEAD, *GOOD), split_file=str(tmp_path / "split.json"))


ONES = np.ones((4, 3, 2))
ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({}, "has neither x nor x_0"),
    ({"x_train": ONES, "y_train": ONES[..., 0], "x_val": ONES}, "has neither y_val nor y_val_0"),
    ({"x": ONES[0], "y": ONES[..., 0]}, "x is of shape [3, 2], and [tasks, points, features] is expected"),
    ({"x": ONES, "y": ONES[:3, :, 0]}, "x of 4, y of 3 tasks"),
    ({"x": ONES, "y": ONES[:, :2, 0]}, "task 0 has 3 points in x and 2 in y"),
    ({"x_0": ONES[0], "x_2": ONES[0], "y_0": ONES[0, :, 0]}, "has x_2 and no x_1: number the tasks from 0 on"),
    (
        {"x_0": ONES[0], "x_1": ONES[0, :, :1], "y_0": ONES[0, :, 0], "y_1": ONES[0, :, 0]},
        "task 1 has 1 numbers for each point in x, and task 0 has 2",
    ),
    ({"x": ONES * np.nan, "y": ONES[..., 0]}, "x of task 0 is not finite at point 0"),
    ({"x": ONES.astype(str), "y": ONES[..., 0]}, "x of task 0 is str"),
    ({"x": np.asarray([[1], [1, 2]], dtype=object), "y": ONES[..., 0]}, "array x cannot be read (Object arrays"),
    ({"x": ONES, "y": ONES[..., 0], "task": np.asarray(["a", "b", "a", "c"])}, "has two tasks a"),
    ({"x": ONES, "y": ONES[..., 0], "task": np.asarray(["a"])}, "task is of shape [1]"),
]


@pytest.mark.parametrize(("arrays", "sentence"), ARRAYS)
@pytest.mark.row("C9")
def test_each_mistake_in_arrays_gets_its_sentence(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert sentence in refusal(tmp_path / "a.npz", shot=1)


def test_what_is_not_a_table_gets_its_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "b", ONES)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"no archive")
    (tmp_path / "d.csv").write_bytes(b"task,set,x,y\n\xff\xfe,support,1,1\n")
    (tmp_path / "e.csv").mkdir()
    (tmp_path / "f.npz").write_bytes(b"")
    sentences = {
        "a.txt": "must be a file whose name ends in .csv, .tsv, .parquet or .npz",
        "a.csv": "a.csv cannot be read (No such file or directory)",
        "b.npz": "holds one array without a name",
        "c.npz": "is not an .npz as numpy.savez writes it",
        "d.csv": "is not text in UTF-8",
        "e.csv": "cannot be read (it is not a plain file)",
        "f.npz": "is not an .npz as numpy.savez writes it",
    }
    for name, sentence in sentences.items():
        assert sentence in refusal(tmp_path / name)
    assert "task.features is for a table with columns" in refusal(tmp_path / "b.npz", features=("x",))
    for target in ((), 3, ("y", 3)):
        assert "must be the name of a column, or a list of them" in refusal(Path("a.csv"), target=target)
    assert "task.loss=classes needs one" in refusal(Path("a.csv"), target=("y", "z"), loss=Loss.classes)
    assert "both say which tasks are tested" in refusal(Path("a.csv"), split_column="fold", split_file="split.json")


def listed(*task: Any, tasks: int = 5, **keys: Any) -> Callable[[], Any]:
    """A list of tasks that are alike; `range` in a task is its number."""
    return lambda: from_list([[[n] if part is range else part for part in task] for n in range(tasks)], **keys)


LISTS: list[tuple[Callable[[], Any], str]] = [
    (listed(tasks=0), "the list of tasks holds no tasks"),
    (listed([1.0], [1.0], [2.0]), "number 0 has 3 arrays: x_train, y_train, x_val, y_val"),
    (listed([1.0], [1.0], [], []), "the list of tasks: task 0 has no query point"),
    (
        listed([1.0], [0.5], [1.0], [0.5], classes=True),
        "y of task 0 is float64 of shape [1], and one label for each point, a whole number or a text, is expected",
    ),
    (listed([1e39], range, [2.0], [3.0]), "beyond 3.4e38, where float32 ends"),
    (listed([1.0], [1.0], [2.0], [3.0]), "have the same points"),
    (listed(range, [1.0], [2.0], [3.0], names=["a"]), "has 5 tasks and 1 in names: it needs one for each"),
    (listed(range, [1.0], [2.0], [3.0], tasks=2, split=["train", "tst"]), "split puts task 1 into 'tst'"),
]


@pytest.mark.parametrize(("make", "sentence"), LISTS)
@pytest.mark.row("C9")
def test_each_mistake_in_a_list_gets_its_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        make()
    assert sentence in str(refused.value)


def test_a_column_or_several_are_the_target(tmp_path: Path) -> None:
    keys = ["task=table", f"task.root={TABLE}"]
    assert load_job([*keys, "task.target=x", "task.features=[y]"]).task.spec.outputs == 1
    path = write_rows(tmp_path, "task,set,x,y,z", *(f"{row},7" for row in GOOD))
    job = load_job(["task=table", f"task.root={path}", "task.target=[y,z]"])
    assert job.task.spec.outputs == 2
    assert job.config["task"]["target"] == ["y", "z"]


def test_a_task_is_known_by_its_points_whatever_it_is_called_and_however_they_stand() -> None:
    rng = np.random.default_rng(0)
    tasks = [
        [rng.normal(size=(4, 2)), rng.normal(size=4), rng.normal(size=(3, 2)), rng.normal(size=3)] for _ in range(5)
    ]
    split = ["train"] * 3 + ["test"] * 2
    first = from_list(tasks, split=split, names=list("abcde"))
    again = from_list([[part[::-1] for part in task] for task in tasks], split=split, names=list("vwxyz"))
    assert first.identities("train") == again.identities("train")
    assert not first.identities("train") & first.identities("test")
    labels = [["cat", "dog", "cat", "dog"], ["cat", "dog", "cat"]]
    named = [[x, labels[0], q, labels[1]] for x, _, q, _ in tasks]
    longer = [*named[:4], [named[4][0], ["horse", "dog", "cat", "cat"], named[4][2], labels[1]]]
    short_labels, long_labels = (from_list(texts, split=split, classes=True) for texts in (named, longer))
    assert short_labels.identities("train") == long_labels.identities("train")


def test_other_shots_are_the_same_data(tmp_path: Path) -> None:
    rows = [f"t{task},{task + i / 7},{i}" for task in range(8) for i in range(9)]
    path = write_rows(tmp_path, "task,x,y", *rows)
    assert plain(path, shot=3).fingerprint == plain(path, shot=5).fingerprint


@pytest.mark.row("C9")
def test_a_constant_column_stays_what_it_is() -> None:
    """In floating point, the deviation of ten times 0.1 is not 0."""
    rng = np.random.default_rng(0)
    tasks = [[np.c_[rng.normal(size=10), np.full(10, 0.1)], rng.normal(size=10)] * 2 for _ in range(5)]
    tasks[4][2] = np.c_[rng.normal(size=10), np.full(10, 0.2)]
    scaled = from_list(tasks, split=["train"] * 4 + ["test"], standardise=True)
    assert whole(scaled, "test").query_x[..., 1].abs().max() < 1


def test_one_long_text_takes_no_room_in_every_row(tmp_path: Path) -> None:
    """In an array of texts each has as much room as the longest: 800 MB here, 7.45 GiB of 20,000 rows."""
    rows = [f"t{n // 20},{('support', 'query')[n % 2]},{n},{n % 3}" for n in range(2000)]
    rows[7] = rows[7][:-1] + "w" * 100_000
    path = write_rows(tmp_path, HEAD, *rows)
    points = [[np.ones(1), ["w" * 100_000, *"ab" * 1000], np.ones(1), ["b"]]]
    tracemalloc.start()
    try:
        assert len(plain(path, loss=Loss.classes).columns.labels) == 4
        assert f"line 9 holds {'w' * 60}... (100000 characters) in column y" in refusal(path)
        with pytest.raises(UserError, match="has 1 points in x and 2001 in y"):
            from_list(points, classes=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("name", ["A.CSV", "a.tsv", "A.PARQUET", "A.Npz"])
def test_the_suffix_of_a_table_is_in_any_case(tmp_path: Path, name: str) -> None:
    tasks = [[np.asarray([[n + 0.5], [n]]), np.asarray([1.0, n]), np.ones((1, 1)), np.ones(1)] for n in range(5)]
    if name.lower().endswith("npz"):
        np.savez(tmp_path / "b.npz", **numbered(PARTS, tasks))
        (tmp_path / "b.npz").rename(tmp_path / name)
    elif name.lower().endswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        column = {"task": list("aabbccddee"), "x": np.arange(10.0), "y": np.arange(10.0)}
        parquet.write_table(pyarrow.table(column), tmp_path / name)
    else:
        mark = "\t" if name.endswith("tsv") else ","
        lines = [mark.join(("task", "x", "y")), *(mark.join((f"t{n // 2}", str(n), str(n))) for n in range(10))]
        (tmp_path / name).write_text("\n".join(lines))
    assert plain(tmp_path / name, shot=None if name.endswith("z") else 1).spec.input_shape == (1,)


@pytest.mark.row("C9")
def test_a_table_that_never_ends_is_not_read(tmp_path: Path) -> None:
    for name in ("a.csv", "a.npz"):
        os.mkfifo(tmp_path / name)
        assert "it is not a plain file" in refusal(tmp_path / name)
