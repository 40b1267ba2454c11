"""`metalearn bench`, on tiny problems: what it counts, prints and leaves alone. What it measures is never asserted."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from commands import run
from problems import images, points

from metalearn_cli.commands.completion import completions
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Draw
from metalearn_cli.tasks.sinusoid import Sinusoid
from metalearn_cli.tuning import bench

TINY = ["model.hidden=[8]", "algo.test_steps=1", "threads=1"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BUDGET", 1e-9)
    monkeypatch.setattr(bench, "TURN", 1e-9)
    monkeypatch.setattr(bench, "PRODUCT_SIZE", {"cpu": 16, "cuda": 16})


def test_it_measures_what_train_would_do_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, log = Sinusoid.draw, tmp_path / "draws"

    def draw_and_record(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
        with open(log, "a") as file:
            file.write(f"{which} {tasks} {rng.initial_seed()}\n")
        return draw(self, tasks, which, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(Sinusoid, "draw", draw_and_record)
    here = tmp_path / "here"
    done = run(here, "bench", *TINY, "seed=3", "tasks_per_step=2", "name=one")
    assert done.code == 0, done.err
    names = [line.split("  ")[0] for line in done.out.splitlines()]
    parts = ["draw", "gather", "step", "episode of a test"]
    assert names == ["tasks per second", "of the peak", "memory", "", "part", *parts]
    assert "of 16x16 fp32 at " in done.out
    assert re.search(r"^draw +\S+ +\d+\.\d%$", done.out, re.MULTILINE)
    assert "maml on sinusoid, cpu, fp32, 1 CPU thread(s)" in done.err
    assert {path.name for path in here.iterdir()} == {"out", "err"}
    draws = [line.split() for line in log.read_text().splitlines()]
    rounds = [f"{generator(3, 'train', step).initial_seed()}" for step in (0, *range(2, 2 + bench.LEAST))]
    assert [seed for which, _, seed in draws if which == "train"] == rounds
    assert {tasks for which, tasks, _ in draws if which == "train"} == {"2"}


@pytest.mark.usefixtures("packed_omniglot")
def test_a_network_with_batch_norm_is_timed_as_in_a_validation_and_as_in_a_test(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "algo=protonet", "model.filters=2", "task.query=1", "threads=1", "tasks_per_step=1")
    assert done.code == 0, done.err
    found = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert found["episode of a validation"].endswith("4 timed in running")
    assert found["episode of a test"].endswith("4 timed in running, transductive, inductive")


def work(job: Job, batch: Batch) -> float:
    return bench.count_flop(new_learner(job), batch) / 2


@pytest.mark.parametrize("order", [1, 2])
def test_the_work_of_maml_is_that_of_the_formula(order: int) -> None:
    """Multiplications by hand: a forward is one unit, its backward two, the backward of both six more; of the first
    layer's nobody needs what concerns the gradient of its input."""
    tasks, way, query, filters = 3, 4, 2, 5
    spec, batch = images(tasks, way, 1, query)
    same = ["task=omniglot", f"task.way={way}", f"algo.first_order={order == 1}", "algo.inner_steps=2"]
    job = load_job([*same, "model=conv4", f"model.filters={filters}", "task.query=2"])
    job = job._replace(net=type(job.net)(spec, filters))  # type: ignore[call-arg]
    first = 16 * 16 * 9 * filters
    rest = (8 * 8 + 4 * 4 + 2 * 2) * 9 * filters**2 + filters * way
    support = 9 * rest + 4 * first if order == 2 else 3 * rest + 2 * first
    expected = tasks * way * (2 * support + query * (3 * rest + 2 * first))
    assert work(job, batch) == expected


def test_every_piece_of_a_step_is_counted() -> None:
    """Chunks of the meta-batch, and the updates that an optimizer makes from one."""
    _, batch = points(tasks=5)
    same = ["algo=learned_optimizer", "task=sinusoid", "model.hidden=[7]", "algo.unroll=2"]
    one, three = (load_job([*same, f"algo.horizon={horizon}"]) for horizon in (2, 6))
    assert work(three, batch) == 3 * work(one, batch)
    cut = one._replace(run=dataclasses.replace(one.run, tasks_per_chunk=2))
    assert work(cut, batch) == work(one, batch)


def test_the_work_of_products_is_counted_as_well() -> None:
    spec, batch = points(tasks=3, shot=5, query=4)
    job = load_job(["task=sinusoid", "model.hidden=[7]", "algo.first_order=true"])
    assert job.net.spec == spec
    assert work(job, batch) == 3 * (5 * (2 * 7 + 3 * 7) + 4 * (2 * 7 + 3 * 7))


def test_unknown_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "begin_peak", lambda device: None)
    done = run(tmp_path, "bench", *TINY)
    assert done.code == 0, done.err
    assert re.search(r"^memory +unknown on this system", done.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("algo.inner_lrr=1", 1, "did you mean algo.inner_lr?"),
        ("device=cuda:7", 1, "torch sees"),
        ("seed=0,1", 1, "seed"),
        ("-m seed=0,1", 2, "bench does not know -m; see metalearn bench --help"),
        ("--cfg job", 2, "bench does not know --cfg"),
        ("task=omniglot task.root=/nowhere", 1, "Omniglot is not in /nowhere"),
        ("algo.inner_lr=1e30", 1, "is not finite, so that there is nothing to measure: try a lower algo.inner_lr"),
    ],
)
def test_a_mistake_gets_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: int, sentence: str
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    refused = run(tmp_path, "bench", *words.split())
    assert (refused.code, refused.out) == (code, "")
    *said, last = refused.err.splitlines()
    assert bool(said) is ("is not finite" in sentence)  # a mistake is found before anything begins
    assert last.startswith("metalearn: ")
    assert sentence in last
    assert "Traceback" not in refused.err
    assert not (tmp_path / "outputs").exists()


def test_its_words_are_completed() -> None:
    assert completions(["bench", "tasks_p"]) == ["tasks_per_chunk=", "tasks_per_step="]
    assert completions(["bench", "-"]) == ["--help "]
