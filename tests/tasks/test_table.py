"""A user's own tasks: what each kind of file holds, how it is divided, and the sentence for whatever is odd."""

import json
import os
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from places import ROOT, TABLE

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.config.job import load_job
from metalearn_cli.datasets.table_file import read_columns
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import draw_block
from metalearn_cli.learning.evaluate import baselines, evaluate
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import from_list
from metalearn_cli.tasks.base import Batch, Split, TaskDistribution
from metalearn_cli.tasks.table import Loss, Standardise, Table
from metalearn_cli.trained.file_inputs import labelled_images
from metalearn_cli.tuning import bench

CPU = torch.device("cpu")
Arrays = list[tuple[np.ndarray[Any, Any], ...]]


def ragged(tasks: int = 12, features: int = 2, classes: int = 0) -> Arrays:
    """Tasks of 2 to 6 support and 1 to 5 query points."""
    rng = np.random.default_rng(0)
    found: Arrays = []
    for task in range(tasks):
        parts: list[np.ndarray[Any, Any]] = []
        for size in (2 + task % 5, 1 + task % 4):
            size += classes  # at least one of each class
            x = rng.normal(size=(size, features)) * 3 + 1
            parts += [x, np.arange(size) % classes if classes else x.sum(1, keepdims=True) + task]
        found.append(tuple(parts))
    return found


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
    number = task.task_count(split)
    assert number is not None
    return task.gather(task.draw_numbers(torch.arange(number), split, torch.Generator()), CPU)


def names_of(task: Table, split: Split) -> list[str]:
    """Of the tasks of a split, in their order."""
    return [task._tasks.names[number] for number in task._tasks.members[split].tolist()]


def plain(path: Path, **keys: Any) -> Table:
    return Table(str(path), standardise=Standardise.false, **keys)


def same(found: TaskDistribution, expected: TaskDistribution) -> None:
    for split in ("train", "val", "test"):
        a, b = whole(found, split).tensors(), whole(expected, split).tensors()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert found.spec == expected.spec


def test_a_csv_an_npz_a_parquet_file_and_a_list_hold_the_same_tasks(tmp_path: Path) -> None:
    tasks, names = ragged(), [f"t{number}" for number in range(12)]
    listed = from_list(tasks, names=names)
    from_csv = plain(write_csv(tmp_path / "tasks.csv", tasks))
    same(from_csv, listed)
    assert from_csv.fingerprint == listed.fingerprint
    keys = ("x_train", "y_train", "x_val", "y_val")
    arrays = {
        f"{key}_{number}": part for number, task in enumerate(tasks) for key, part in zip(keys, task, strict=True)
    }
    np.savez(tmp_path / "tasks.npz", task=np.asarray(names), **arrays)
    same(plain(tmp_path / "tasks.npz"), listed)
    tensors = [tuple(torch.tensor(part, requires_grad=True) for part in task) for task in tasks]
    same(from_list(tensors, names=names), listed)


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
        found = plain(tmp_path / f"{name}.parquet", split_seed=4)
        assert found.spec == plain(tmp_path / "tasks.csv").spec
        if name != "numbers":  # other names are split otherwise
            same(found, plain(tmp_path / "tasks.csv", split_seed=4))
    parquet.write_table(read.append_column("__index_level_0__", read["y"]), tmp_path / "index.parquet")
    with pytest.raises(UserError, match="a column without a name, like an index"):
        plain(tmp_path / "index.parquet").spec  # noqa: B018


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
        alone, (support_x, support_y, query_x, query_y) = batch.task(t), tasks[t]
        expected = (support_x, support_y, query_x, query_y)
        found = (alone.support_x, alone.support_y, alone.query_x, alone.query_y)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a[0], torch.from_numpy(b).float())
        for x, mask in ((batch.support_x, batch.support_mask), (batch.query_x, batch.query_mask)):
            assert (x[t][~mask[t]] == torch.from_numpy(support_x[0]).float()).all()


def test_each_test_task_is_tested_once_and_a_training_batch_has_different_tasks() -> None:
    task = from_list(ragged(30, classes=0), split=["train"] * 20 + ["test"] * 10)
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
        baselines(task, "test", 11, 0, CPU)


def test_points_that_are_not_divided_are_divided_at_random(tmp_path: Path) -> None:
    tasks = [(np.concatenate(task[::2]), np.concatenate(task[1::2])) for task in ragged(20)]
    arrays = {
        f"{key}_{number}": part for number, task in enumerate(tasks) for key, part in zip("xy", task, strict=True)
    }
    np.savez(tmp_path / "tasks.npz", **arrays)
    task = plain(tmp_path / "tasks.npz", shot=2)
    assert task.spec.padded  # the query is the rest
    orders = set()
    for step in range(5):
        draw = task.draw(12, "train", generator(0, step))
        batch = task.gather(draw, CPU)
        assert batch.support_x.shape[1] == 2
        for t in range(12):
            alone = batch.task(t)
            x = torch.cat([alone.support_x, alone.query_x], 1)[0]
            numbers = [
                n
                for n, other in enumerate(tasks)
                if len(other[0]) == len(x)
                and set(map(tuple, x.tolist())) == {tuple(row) for row in torch.from_numpy(other[0]).float().tolist()}
            ]
            assert len(numbers) == 1  # all points of one task, each once
            orders.add((numbers[0], *draw["support_point"][t].tolist()))
    assert len(orders) > 30  # anew in each draw
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
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y,fold", *rows]))
    lists = {word: [f"t{n}" for n in range(4) if words[n] == word] for word in set(words)}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    by_column = plain(tmp_path / "a.csv", split_column="fold")
    by_file = plain(tmp_path / "a.csv", split_file=str(tmp_path / "split.json"), features=("x",))
    same(by_column, by_file)
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
    assert whole(
        from_list(constant, split=["train"] * 3 + ["test"] * 2, standardise=True), "test"
    ).query_y.tolist() == [
        [[0.0]],
        [[0.0]],
    ]


def test_labels_are_numbered_over_the_whole_table(tmp_path: Path) -> None:
    rows = [
        f"t{n},{part},{n}.{i},{label}"
        for n in range(6)
        for part in ("support", "query")
        for i, label in enumerate(("10", "9", "100") if n % 2 else ("9", "10", "10"))
    ]
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y", *rows]))
    task = plain(tmp_path / "a.csv", loss=Loss.classes)
    assert (task.spec.kind, task.spec.outputs, task.spec.complete) == ("classes", 3, False)
    for t, name in enumerate(names_of(task, "train")):
        expected = [1, 0, 2] if int(name[1]) % 2 else [0, 1, 1]  # by size, not by the alphabet
        assert whole(task, "train").support_y[t].tolist() == expected
    words = from_list(
        [(x, np.asarray(["b", "a"]), x, np.asarray(["a", "b"])) for x in np.random.rand(6, 2, 1)], classes=True
    )
    assert whole(words, "test").support_y[0].tolist() == [1, 0]
    assert words.spec.complete
    assert baselines(words, "test", 1, 0, CPU) == {}


REGRESSION: list[Algorithm] = [
    MAML(inner_lr=0.1, inner_steps=2, test_steps=2),
    MetaSGD(test_steps=2),
    MetaLSTM(inner_steps=2, test_steps=2),
    Reptile(inner_steps=3, inner_batch=None, test_batch=None, test_steps=2),
    LearnedOptimizer((4,), batch_size=None, unroll=2, horizon=6, test_steps=3),
    HandOptimizer(rates=(0.001, 0.01), batch_size=None, horizon=4, test_steps=3),
    Pretrain(test_steps=2),
]


@pytest.mark.parametrize(
    ("algorithm", "classes"),
    [*((algorithm, 0) for algorithm in REGRESSION), (MAML(), 3), (ProtoNet(), 3), (Matching(), 3)],
)
def test_tasks_of_different_sizes_are_those_that_a_loop_takes(algorithm: Algorithm, classes: int) -> None:
    """In float64: one padded batch, and its tasks one by one without padding."""
    task = from_list(ragged(8, classes=classes), split=["train"] * 6 + ["test"] * 2, classes=bool(classes))
    batch = whole(task, "train").to(torch.float64)
    assert batch.support_mask is not None
    net = MLP(task.spec, hidden=(7,))
    learner = Learner(algorithm, net, Optimizer(), generator(0), dtype=torch.float64)
    found = learner.evaluate(batch, [BatchNorm.transductive])[BatchNorm.transductive]
    updates = [algorithm.meta_gradient(net, _with_grad(learner), batch.task(t), 0) for t in range(6)]
    together = algorithm.meta_gradient(net, _with_grad(learner), batch, 0)
    for t in range(6):
        alone = learner.evaluate(batch.task(t), [BatchNorm.transductive])[BatchNorm.transductive]
        torch.testing.assert_close(found.loss[t], alone.loss[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(together.loss[t], updates[t].loss[0], rtol=1e-10, atol=1e-10)
    for name, gradient in together.gradient.items():
        mean = torch.stack([update.gradient[name] for update in updates]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-10, atol=1e-10)


def _with_grad(learner: Learner) -> Any:
    params = {name: value.clone().requires_grad_() for name, value in learner.meta.params.items()}
    return learner.meta._replace(params=params)


def test_the_constant_is_the_mean_of_each_real_support_set() -> None:
    tasks = ragged()
    task = from_list(tasks, split=["train"] * 8 + ["test"] * 4)
    expected = [float(((task[3] - task[1].mean()) ** 2).mean()) for task in tasks[8:]]
    found = baselines(task, "test", 4, 0, CPU)
    assert set(found) == {"constant"}
    assert found["constant"].tolist() == pytest.approx(expected, rel=1e-5)


def test_it_is_learned_from_python() -> None:
    task = from_list(ragged(20), standardise=True)
    learner = Learner(MAML(inner_lr=0.1), MLP(task.spec), Optimizer(lr=0.01), generator(0))
    number = task.task_count("test")

    def error() -> float:
        scores = evaluate(learner, task, "test", number, 0, [BatchNorm.transductive], lambda done: None).scores
        return scores[BatchNorm.transductive].metric[:, -1].mean().item()

    before = error()
    for step in range(200):
        learner.step(task.gather(task.draw(4, "train", generator(0, "train", step)), CPU), step)
    assert error() < 0.5 * before


def test_the_pages_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "own_tables.md").read_text()
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    found: dict[str, Any] = {}
    exec(example, found)
    assert "mse of each test task" in capsys.readouterr().out
    metric = found["scores"].metric
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


def test_parquet_wants_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.parquet is read by pyarrow.*pip install 'metalearn-cli\[table\]'"):
        plain(tmp_path / "a.parquet").spec  # noqa: B018


def test_a_parquet_file_that_is_none_or_lacks_a_number_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        plain(path).spec  # noqa: B018
    columns = {"task": [1, 1, 2, 2], "set": ["support", "query"] * 2, "x": [1.0, None, 2.0, 3.0], "y": [1, 2, 3, 4]}
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(UserError, match=r"a\.parquet row 2 has nothing in column x"):
        plain(path).spec  # noqa: B018


def test_a_class_that_a_support_lacks_is_nothing_to_compare_with(tmp_path: Path) -> None:
    rows = [f"t{n},{part},{n},{label}" for n in range(6) for part, label in (("support", n % 2), ("query", 0))]
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y", *rows]))
    keys = ["task=table", f"task.root={tmp_path / 'a.csv'}", "task.loss=classes", "model=mlp", *SHORT[1:]]
    for algo in ("protonet", "matching"):
        refused = run(tmp_path, "train", f"algo={algo}", *keys)
        assert f"algo={algo} wants each class in the support of every task" in refused.err
    done = run(tmp_path, "train", "algo=maml", *keys, "test_episodes=1", "eval_episodes=1", "name=one")
    assert done.code == 0, done.err


HEAD = "task,set,x,y"
GOOD = [f"t{n},{part},{n}.{i},{n}" for n in range(5) for part in ("support", "query") for i in range(2)]

# The lines of a CSV, keys, and the sentence.
BAD: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "empty": ([], {}, "a.csv holds no points"),
    "only names": ([HEAD], {}, "a.csv holds no points"),
    "a number missing": ([HEAD, *GOOD[:3], "t0,query,,1"], {}, "a.csv line 5 has nothing in column x"),
    "no number": ([HEAD, *GOOD[:3], "t0,query,red,1"], {}, "a.csv line 5 holds red in column x, where a finite number"),
    "no finite number": ([HEAD, *GOOD[:3], "t0,query,inf,1"], {}, "line 5 holds inf in column x"),
    "two cells that are no numbers": (
        [HEAD, *GOOD[:3], "t0,query,red,1", "t1,query,,1"],
        {},
        "line 5 holds red in column x, where a finite number is wanted (the first of 2 such cells)",
    ),
    "a name missing": ([HEAD, *GOOD, ",query,1,1"], {}, "line 22 has nothing in column task (task.task_column)"),
    "too few cells": ([HEAD, GOOD[0], "t0,query,1"], {}, "a.csv line 3 has 3 cells, and line 1 4 names"),
    "another set": ([HEAD, GOOD[0], "t0,holdout,1,1"], {}, "line 3 has holdout in column set: support or query"),
    "two columns of a name": (["task,set,x,x", *GOOD], {}, "has two columns 'x'"),
    "an index": (
        [f",{HEAD}", *(f"{i},{row}" for i, row in enumerate(GOOD))],
        {},
        "a column without a name, like an index",
    ),
    "no column of tasks": (["tsk,set,x,y", *GOOD], {}, "has no column task (task.task_column): did you mean tsk?"),
    "no target": ([HEAD, *GOOD], {"target": ("y", "z")}, "has no column z (task.target)"),
    "no feature": (
        ["task,set,y", *(row.replace(",", ",", 1).rsplit(",", 1)[0] for row in GOOD)],
        {},
        "features are wanted",
    ),
    "an unknown feature": ([HEAD, *GOOD], {"features": ("x", "z")}, "has no column z (task.features)"),
    "a target as feature": ([HEAD, *GOOD], {"features": ("x", "y")}, "task.features names y, which is no feature"),
    "no support": ([HEAD, *GOOD, "t9,query,1,1"], {}, "task t9 has no support point"),
    "no query": ([HEAD, *GOOD, "t9,support,1,1"], {}, "task t9 has no query point"),
    "not divided": (
        ["task,x,y", *(row.replace("support,", "").replace("query,", "") for row in GOOD)],
        {},
        "task.shot=5",
    ),
    "divided twice": ([HEAD, *GOOD], {"shot": 2}, "task.shot=2 divides points at random, and those of"),
    "too few points": (
        ["task,x,y", *(row.replace("support,", "").replace("query,", "") for row in GOOD)],
        {"shot": 4},
        "task t0 has 4 points, and task.shot=4 with a query of one wants 5",
    ),
    "one task": ([HEAD, *GOOD[:4]], {}, "holds one task, t0: two are wanted at least"),
    "too few tasks": ([HEAD, *GOOD], {"test_share": 0.05}, "task.test_share=0.05 of the 5 tasks of"),
    "no training task": ([HEAD, *GOOD], {"val_share": 0.5, "test_share": 0.5}, "leave none of the 5 tasks"),
    "a share beyond 1": ([HEAD, *GOOD], {"val_share": 20.0}, "task.val_share=20.0 must be a share"),
    "the same points twice": (
        [HEAD, *GOOD, *(row.replace("t0", "t9") for row in GOOD[:4])],
        {"val_share": 0.0, "test_share": 0.5, "split_seed": 1},
        "have the same points: remove one, or put both into one split",
    ),
    "two splits of a task": (
        [f"{HEAD},fold", *(f"{row},train" for row in GOOD[:19]), f"{GOOD[19]},test"],
        {"split_column": "fold"},
        "line 21 puts task t4 into test, and",
    ),
    "another split": (
        [f"{HEAD},fold", *(f"{row},holdout" for row in GOOD)],
        {"split_column": "fold"},
        "puts task t0 into 'holdout': train, val or test is wanted",
    ),
    "no test task": (
        [f"{HEAD},fold", *(f"{row},train" for row in GOOD)],
        {"split_column": "fold"},
        "no task into test",
    ),
    "one class": ([HEAD, *(f"{row[:-1]}1" for row in GOOD)], {"loss": Loss.classes}, "points of class 1 only"),
    "no such split file": (
        [HEAD, *GOOD],
        {"split_file": "nowhere.json"},
        "task.split_file=nowhere.json cannot be read",
    ),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.row("C9")
def test_an_odd_table_gets_its_sentence(tmp_path: Path, what: str) -> None:
    lines, keys, sentence = BAD[what]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(UserError) as refused:
        plain(tmp_path / "a.csv", **keys).spec  # noqa: B018
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_good_table_is_good(tmp_path: Path) -> None:
    """What the odd ones are made of, so that each is refused for its own oddity."""
    (tmp_path / "a.csv").write_text("\ufeff" + "\r\n".join([HEAD, "", *GOOD, ""]))
    assert plain(tmp_path / "a.csv").spec.input_shape == (1,)


SPLIT_FILES = {
    "[1]": "three lists of tasks are wanted",
    "{": "cannot be read as JSON",
    '{"train": ["t0", "t9"]}': "lists task t9 in train, and there is none of this name",
    '{"train": ["t0"], "test": ["t0"]}': "lists task t0 in train and in test",
    '{"train": ["t0"], "test": ["t1"]}': "lists 3 of the tasks nowhere, e.g. t2",
    '{"train": ["t0", "t1", "t2", "t3"], "tset": ["t4"]}': "puts task t4 into 'tset'",
}


@pytest.mark.parametrize("content", SPLIT_FILES)
@pytest.mark.row("C5")
def test_an_odd_split_file_gets_its_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text("\n".join([HEAD, *GOOD]))
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError) as refused:
        plain(tmp_path / "a.csv", split_file=str(tmp_path / "split.json")).spec  # noqa: B018
    assert SPLIT_FILES[content] in str(refused.value)


ONES = np.ones((4, 3, 2))
ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "has neither x nor x_0"),
    "an array missing": ({"x_train": ONES, "y_train": ONES[..., 0], "x_val": ONES}, "has neither y_val nor y_val_0"),
    "other shapes": (
        {"x": ONES[0], "y": ONES[..., 0]},
        "x is of shape [3, 2], and [tasks, points, features] is wanted",
    ),
    "other tasks": ({"x": ONES, "y": ONES[:3, :, 0]}, "x of 4, y of 3 tasks"),
    "other points": ({"x": ONES, "y": ONES[:, :2, 0]}, "task 0 has 3 points in x and 2 in y"),
    "a hole": (
        {"x_0": ONES[0], "x_2": ONES[0], "y_0": ONES[0, :, 0]},
        "has x_2 and no x_1: number the tasks from 0 on",
    ),
    "other features": (
        {"x_0": ONES[0], "x_1": ONES[0, :, :1], "y_0": ONES[0, :, 0], "y_1": ONES[0, :, 0]},
        "task 1 has 1 numbers for each point in x, and task 0 has 2",
    ),
    "not finite": ({"x": ONES * np.nan, "y": ONES[..., 0]}, "x of task 0 is not finite at point 0"),
    "texts": ({"x": ONES.astype(str), "y": ONES[..., 0]}, "x of task 0 is str"),
    "objects": (
        {"x": np.asarray([[1], [1, 2]], dtype=object), "y": ONES[..., 0]},
        "array x cannot be read (Object arrays",
    ),
    "two tasks of a name": (
        {"x": ONES, "y": ONES[..., 0], "task": np.asarray(["a", "b", "a", "c"])},
        "has two tasks a",
    ),
    "too few names": ({"x": ONES, "y": ONES[..., 0], "task": np.asarray(["a"])}, "task is of shape [1]"),
}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.row("C9")
def test_odd_arrays_get_their_sentence(tmp_path: Path, what: str) -> None:
    arrays, sentence = ARRAYS[what]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as refused:
        plain(tmp_path / "a.npz", shot=1).spec  # noqa: B018
    assert sentence in str(refused.value)


def test_files_that_are_none_get_their_sentence(tmp_path: Path) -> None:
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
        "c.npz": "is no .npz as numpy.savez writes it",
        "d.csv": "is no text in UTF-8",
        "e.csv": "cannot be read (it is not a plain file)",
        "f.npz": "is no .npz as numpy.savez writes it",
    }
    for name, sentence in sentences.items():
        with pytest.raises(UserError) as refused:
            plain(tmp_path / name).spec  # noqa: B018
        assert sentence in str(refused.value)
    for target in ((), 3, ("y", 3)):
        with pytest.raises(UserError, match=r"task\.target=.* must be the name of a column, or a list of them"):
            Table("a.csv", target=target)
    with pytest.raises(UserError, match=r"task\.loss=classes wants one"):
        Table("a.csv", target=("y", "z"), loss=Loss.classes)
    with pytest.raises(UserError, match="give one of them"):
        Table("a.csv", split_column="fold", split_file="split.json")
    with pytest.raises(UserError, match=r"task\.features is of a table with columns"):
        plain(tmp_path / "b.npz", features=("x",)).spec  # noqa: B018


LISTS: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: from_list([]), "the list of tasks holds no tasks"),
    "three arrays": (
        lambda: from_list([([1.0], [1.0], [2.0])]),
        "number 0 has 3 arrays: x_train, y_train, x_val, y_val",
    ),
    "no query": (lambda: from_list([([1.0], [1.0], [], [])] * 5), "the list of tasks: task 0 has no query point"),
    "labels that are numbers": (
        lambda: from_list([([1.0], [0.5], [1.0], [0.5])] * 2, classes=True),
        "y of task 0 is float64 of shape [1], and one label for each point, a whole number or a text, is wanted",
    ),
    "too large": (
        lambda: from_list([([1e39], [n], [2.0], [3.0]) for n in range(5)]),
        "beyond 3.4e38, where float32 ends",
    ),
    "twice": (lambda: from_list([([1.0], [1.0], [2.0], [3.0])] * 5), "have the same points"),
    "too few names": (
        lambda: from_list([([n], [1.0], [2.0], [3.0]) for n in range(5)], names=["a"]),
        "has 5 tasks and 1 in names: one for each is wanted",
    ),
    "a split of its own": (
        lambda: from_list([([n], [1.0], [2.0], [3.0]) for n in range(2)], split=["train", "tst"]),
        "split puts task 1 into 'tst'",
    ),
}


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.row("C9")
def test_an_odd_list_gets_its_sentence(what: str) -> None:
    make, sentence = LISTS[what]
    with pytest.raises(UserError) as refused:
        make()
    assert sentence in str(refused.value)


def test_a_column_or_several_are_the_target(tmp_path: Path) -> None:
    keys = ["task=table", f"task.root={TABLE}"]
    assert load_job([*keys, "task.target=x", "task.features=[y]"]).task.spec.outputs == 1
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["task,set,x,y,z", *(f"{row},7" for row in GOOD)]))
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
    one, other = (from_list(some, split=split, classes=True) for some in (named, longer))
    assert one.identities("train") == other.identities("train")


def test_other_shots_are_no_other_data(tmp_path: Path) -> None:
    rows = [f"t{task},{task + i / 7},{i}" for task in range(8) for i in range(9)]
    (tmp_path / "a.csv").write_text("\n".join(["task,x,y", *rows]))
    assert plain(tmp_path / "a.csv", shot=3).fingerprint == plain(tmp_path / "a.csv", shot=5).fingerprint


@pytest.mark.row("C9")
def test_a_constant_column_stays_what_it_is() -> None:
    """In floating point the deviation of ten times 0.1 is not 0."""
    rng = np.random.default_rng(0)
    tasks = [[np.c_[rng.normal(size=10), np.full(10, 0.1)], rng.normal(size=10)] * 2 for _ in range(5)]
    tasks[4][2] = np.c_[rng.normal(size=10), np.full(10, 0.2)]
    scaled = from_list(tasks, split=["train"] * 4 + ["test"], standardise=True)
    assert whole(scaled, "test").query_x[..., 1].abs().max() < 1


@pytest.mark.parametrize("cell", ["1_000", "3.2e", "2026-11-24"])
@pytest.mark.row("C9")
def test_numbers_are_not_guessed(tmp_path: Path, cell: str) -> None:
    rows = [f"t{task},{part},{i},{i}" for task in range(6) for part in ("support", "query") for i in range(3)]
    rows[4] = rows[4].rpartition(",")[0] + f",{cell}"
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y", *rows]))
    with pytest.raises(UserError, match=rf"holds {cell} in column y, where a finite number is wanted"):
        _ = plain(tmp_path / "a.csv").spec


@pytest.mark.row("C9")
def test_real_numbers_are_no_labels(tmp_path: Path) -> None:
    rows = [
        f"t{task},{part},{task + i / 7},{i}.5" for task in range(6) for part in ("support", "query") for i in range(3)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y", *rows]))
    with pytest.raises(UserError, match=r"has 0\.5 for a class: labels are whole numbers or texts"):
        _ = plain(tmp_path / "a.csv", loss=Loss.classes).spec


SHEET = "task;x;y\na;0,5;-1,25\na;1e-3;2\n"


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("text", [SHEET, SHEET.replace(",", "."), SHEET.replace(",", ".").replace(";", "\t")])
def test_a_table_of_a_spreadsheet_with_semicolons(tmp_path: Path, text: str, start: str) -> None:
    """As spreadsheets write it where a half is 0,5; and where the separator was chosen by hand."""
    path = tmp_path / "table.csv"
    path.write_text(start + text, encoding="utf-8")
    found = read_columns(path)
    assert list(found.cells) == ["task", "x", "y"]
    assert found.texts("task") == ["a", "a"]
    assert found.numbers("x").tolist() == [0.5, 0.001]
    assert found.numbers("y").tolist() == [-1.25, 2.0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x;y\n1,5;1\n1.5;2\n", "line 3 holds 1.5 in column x, and line 2 1,5: write all numbers with a point, or all"),
        ("x;y\n1.000,5;1\n2;2\n", "line 2 holds 1.000,5 in column x, and line 2 1.000,5: write all numbers with a"),
        ("x;y\n1,000,000;1\n", "in column x, where a finite number is wanted"),
        ("x\ty\n1,000\t1\n", "line 2 holds 1,000 in column x, which may be thousands or have a decimal comma: write"),
        ('x,y\n"1,5",1\n', "line 2 holds 1,5 in column x, where a finite number is wanted"),
        ("x;y\n1;2;3\n", "line 2 has 3 cells, and line 1 2 names"),
        ("x|y\n1|2\n", "has no column x"),
    ],
)
def test_commas_and_points_that_could_be_either_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_columns(path).numbers("x")
    assert sentence in str(refused.value)


def cells(tmp_path: Path, text: str) -> dict[str, list[str]]:
    """What a file holds, by column."""
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    return {name: list(column) for name, column in read_columns(path).cells.items()}


SEPARATED: dict[str, tuple[str, dict[str, list[str]]]] = {
    "a comma inside of quotes in every row": ('x;"a,b";y\n1;"2,3";4\n', {"x": ["1"], "a,b": ["2,3"], "y": ["4"]}),
    "a comma inside of quotes": ('task;"x, in m";y\na;1;2\n', {"task": ["a"], "x, in m": ["1"], "y": ["2"]}),
    "a comma inside of the first quotes": ('"x, in m";y\n1;2\n', {"x, in m": ["1"], "y": ["2"]}),
    "a semicolon inside of quotes": ('task,"x; y"\na,1\n', {"task": ["a"], "x; y": ["1"]}),
    "quotes inside of quotes": ('"a ""b"", c";d\n1;2\n', {'a "b", c': ["1"], "d": ["2"]}),
    "a line break inside of quotes": ('"a\n(m, s)";d\n1;2\n', {"a (m, s)": ["1"], "d": ["2"]}),
    "an inch": ('width 5",x;y\n1,2\n', {'width 5"': ["1"], "x;y": ["2"]}),
    "commas of names and decimal commas": (
        "x, in m;y, in s\n1,5;2,5\n3;4\n",
        {"x, in m": ["1,5", "3"], "y, in s": ["2,5", "4"]},
    ),
    "a semicolon in a name": ("f(x; y),z\n1,2\n", {"f(x; y)": ["1"], "z": ["2"]}),
    "tabs beside commas": ("x, in m\ty\n1\t2\n", {"x, in m": ["1"], "y": ["2"]}),
    "said by Excel": ("sep=;\nx,1;y\n1;2\n", {"x,1": ["1"], "y": ["2"]}),
    "said by Excel, quoted": ('"sep=|"\r\nx,1|y\r\n1|2\r\n', {"x,1": ["1"], "y": ["2"]}),
    "said by Excel to be a tab": ("\ufeffSEP=\t\nx,1\ty\n1\t2\n", {"x,1": ["1"], "y": ["2"]}),
    "remarks": ("# made by hand; in m, s\n#\n\nx,y\n1,2\n", {"x": ["1"], "y": ["2"]}),
    "a remark is a name below": ("x,y\n#1,2\n", {"x": ["#1"], "y": ["2"]}),
    "empty lines": ("\n\nx;y\n\n1;2\n;\n  \n3;4\n", {"x": ["1", "3"], "y": ["2", "4"]}),
    "empty columns": ("x;y;;\n1;2;;\n", {"x": ["1"], "y": ["2"]}),
    "lines of an old Mac": ("x;y\r1;2\r", {"x": ["1"], "y": ["2"]}),
    "one column": ("path\na.png\n", {"path": ["a.png"]}),
}


@pytest.mark.parametrize("what", SEPARATED)
def test_what_parts_the_cells_is_found(tmp_path: Path, what: str) -> None:
    text, wanted = SEPARATED[what]
    assert cells(tmp_path, text) == wanted


ODD_TEXT: dict[str, tuple[str, str]] = {
    "either": ("a,b;c\n1,2;3\n", "as many cells in every row whether they are parted by ',' or by ';': put a line"),
    "neither": ("a,b;c\n1,2;3\n1;2;3;4\n", "line 3 has 1 cell, and line 1 2 names"),
    "lines of the file": ('# a\nsep=;\n\nx;y\n1;2\n\n"3\n4";5\n6;7;8\n', "line 9 has 3 cells, and line 4 2 names"),
    "a remark below": ("x,y\n1,2\n# the end\n", "line 3 has 1 cell, and line 1 2 names; a line with # at its start is"),
    "a quote that stays open": ('x,y\n1,2\n3,"4\n5,6\n', "line 3 is no CSV: unexpected end of data"),
    "names alone": ("x;y\n;\n", "holds no points"),
    "names alone that could be parted twice": ("x;y,z\n", "holds no points"),
    "nothing": ("", "holds no points"),
    "separators alone": ("\t,\n;,\n", "holds no points"),
    "a name twice": ("x,x\n1,2\n", "has two columns 'x': give each a name of its own"),
    "a column without a name": ("x;\n1;2\n", "has a column without a name"),
    "a line of two": ('x,y\n"1\n",2\n3\n', "line 4 has 1 cell, and line 1 2 names"),
}


@pytest.mark.parametrize("what", ODD_TEXT)
@pytest.mark.row("C9")
def test_an_odd_text_gets_its_sentence(tmp_path: Path, what: str) -> None:
    text, sentence = ODD_TEXT[what]
    with pytest.raises(UserError) as refused:
        cells(tmp_path, text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("separator", "cell", "number"), [("\t", "0,5", 0.5), (";", "1,000", 1.0), ("\t", "-12,25", -12.25)]
)
def test_a_decimal_comma_stands_where_the_cells_end_elsewhere(
    tmp_path: Path, separator: str, cell: str, number: float
) -> None:
    (tmp_path / "a.csv").write_text(f"x{separator}y\n{cell}{separator}1\n1,000{separator}2\n")
    assert read_columns(tmp_path / "a.csv").numbers("x").tolist() == [number, 1.0]


NO_NUMBER: dict[str, tuple[str, str]] = {
    "nan": ("x,y\n1,2\n2,nan\n3,NaN\n", "line 3 holds nan in column y (the first of 2 such cells), which is no finite"),
    "NA": ("x,y\n1,NA\n", "line 2 holds NA in column y, which is no finite number: give every point one there"),
    "infinite": ("x,y\n1,-inf\n", "line 2 holds -inf in column y, which is no finite number"),
    "too large": ("x,y\n1,1e400\n", "line 2 holds 1e400 in column y, which is no finite number"),
    "a word": ("x,y\n1,cat\n", "line 2 holds cat in column y, where a finite number is wanted: mend it; task.loss="),
    "in quotes over two lines": ('x,y\n"1",2\n1,"a\nb"\n', "line 3 holds a b in column y, where a finite number"),
    "thousands of a Swiss": ("x,y\n1,1'000\n", "line 2 holds 1'000 in column y, where a finite number is wanted"),
}


@pytest.mark.parametrize("what", NO_NUMBER)
@pytest.mark.row("C9")
def test_only_a_word_is_told_that_it_could_be_a_class(tmp_path: Path, what: str) -> None:
    text, sentence = NO_NUMBER[what]
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as refused:
        read_columns(tmp_path / "a.csv").numbers("y", "target")
    assert sentence in str(refused.value)
    assert ("task.loss=classes" in str(refused.value)) == (
        what in ("a word", "in quotes over two lines", "thousands of a Swiss")
    )


@pytest.mark.row("C9")
def test_a_hole_in_a_column_of_classes_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,3\n2,nan\n3,4\n")
    with pytest.raises(
        UserError, match="line 3 holds nan in column y, where the others have numbers: give every point"
    ):
        read_columns(tmp_path / "a.csv").labels("y")
    (tmp_path / "a.csv").write_text("x,y\n1,NA\n2,DE\n")  # Namibia
    assert read_columns(tmp_path / "a.csv").labels("y").tolist() == ["NA", "DE"]


def test_one_long_text_takes_no_room_in_every_row(tmp_path: Path) -> None:
    """In an array of texts each has as much room as the longest: 800 MB here, 7.45 GiB of 20,000 rows."""
    rows = [f"t{n // 20},{('support', 'query')[n % 2]},{n},{n % 3}" for n in range(2000)]
    rows[7] = rows[7][:-1] + "w" * 100_000
    (tmp_path / "a.csv").write_text("\n".join(["task,set,x,y", *rows]))
    points = [[np.ones(1), ["w" * 100_000, *"ab" * 1000], np.ones(1), ["b"]]]
    tracemalloc.start()
    try:
        labels = plain(tmp_path / "a.csv", loss=Loss.classes).columns
        assert labels is not None
        assert len(labels.labels) == 4
        with pytest.raises(UserError, match=r"line 9 holds w{60}\.\.\. \(100000 characters\) in column y"):
            _ = plain(tmp_path / "a.csv").spec
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
        parts = zip(("x_train", "y_train", "x_val", "y_val"), zip(*tasks, strict=True), strict=True)
        np.savez(tmp_path / "b.npz", **{key: np.stack(part) for key, part in parts})
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
        with pytest.raises(UserError, match=r"is (no|not a) plain file"):
            _ = plain(tmp_path / name).spec


def test_a_list_of_pictures_with_semicolons(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "labels.csv").write_text("path;label\na.png;cat, or not\n")
    found = labelled_images(str(tmp_path / "labels.csv"))
    assert (found.paths, found.labels) == ([tmp_path / "a.png"], ["cat, or not"])
