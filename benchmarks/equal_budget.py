"""Every method at an equal budget of CPU time for training, pre-training included: the tables of docs/equal_budget.md.

    python benchmarks/equal_budget.py time                    # what ten minutes are, in steps: equal_budget.json
    python benchmarks/equal_budget.py run MINUTES [SET-SHOT]  # what is not there yet, e.g. of cifar_fs-5
    python benchmarks/equal_budget.py table MINUTES           # what there is, by `metalearn compare`

A cell is a method on CIFAR-FS or Omniglot (Conv4, 5-way, 1- or 5-shot) with one seed. `time` was run once, on one
machine, and its steps are committed: `run` trains as many anywhere, so that a slower machine takes longer and gets the
same figures. With MINUTES=10, all cells are about 30 hours of one core, and a tenth of it with MINUTES=1; `run` goes on
where it stopped, seed 0 on CIFAR-FS first. Needs METALEARN_DATA with cifar-fs/ and omniglot/. Validations (five of 100
episodes) and the test (600 episodes) come on top. Runs go to outputs/equal/.
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pretrained import metalearn, table

OUT = Path("outputs/equal")
STEPS = Path(__file__).parent / "equal_budget.json"
SETS = {"cifar_fs": ["task=cifar_fs", "task.augment=[crop,flip]"], "omniglot": ["task=omniglot"]}
SEEDS = {"cifar_fs": (0, 1, 2), "omniglot": (0,)}
COMMON = ["task.way=5", "task.query=15", "model=conv4", "threads=1", "test_episodes=600", "eval_episodes=100"]
COMMON += ["other_batch_norm=[]"]
CLASSES = ["algo=pretrain", "algo.images=64", "tasks_per_step=1", "optimizer=sgd", "optimizer.lr=0.05"]
CLASSES += ["optimizer.momentum=0.9", "optimizer.weight_decay=5e-4", "optimizer.schedule=cosine"]
COSINE = ["optimizer.schedule=cosine"]
WIDE = ["tasks_per_step=1", "task.train_way=20", *COSINE]
FOUR = ["tasks_per_step=4", *COSINE]
AS_MAML = ["algo=maml", "algo.inner_steps=5", "algo.test_steps=10", "algo.inner_loss=way_times_mean"]
AS_MAML += ["optimizer.clip_value=10", *FOUR]
SLOWLY = ["batch_norm=running", "optimizer.lr=1e-4"]


class Method(NamedTuple):
    words: list[str]
    classes: float = 0.0  # the share of the budget in which all training classes are told apart first
    is_transductive: bool = False  # the head sees all queries of a task at once


# The settings are those of each method's preset for miniImageNet or CIFAR-FS as far as this network and budget allow.
METHODS = {
    "ProtoNet": Method(["algo=protonet", *WIDE]),
    "R2-D2": Method(["algo=r2d2", *WIDE, "task.train_query=7"]),
    "MAML, first order": Method([*AS_MAML, "algo.first_order=true"]),
    "pre-training, nearest mean": Method(["algo=protonet", "algo.normalise=l2"], 1),
    "pre-training, logistic regression": Method(["algo=logistic"], 1),
    "pre-training, ridge regression": Method(["algo=ridge", "algo.normalise=l2"], 1),
    "Baseline": Method(["algo=fine_tune"], 1),
    "Baseline++": Method(["algo=fine_tune", "algo.head=cosine"], 1),
    "LaplacianShot": Method(["algo=laplacian_shot"], 1, is_transductive=True),
    "TIM-ADM": Method(["algo=tim", "algo.solver=adm", "algo.iterations=150"], 1, is_transductive=True),
    "Meta-Baseline": Method(["algo=protonet", "algo.metric=cosine", "tasks_per_step=4", *SLOWLY], 0.5),
    "FEAT": Method(["algo=feat", "algo.contrast_temperature=32", *SLOWLY], 0.5),
    "LEO": Method(["algo=leo", "tasks_per_step=4", *SLOWLY, "optimizer.rates=['leo:*:1','*:0']"], 0.5),
    "DeepEMD": Method(["algo=deep_emd", *SLOWLY], 0.5),
    "Proto-MAML": Method(["algo=proto_maml", "algo.first_order=true", "tasks_per_step=1", *SLOWLY], 0.5),
    "MetaOptNet": Method(["algo=metaoptnet", "task.train_query=6", *COSINE]),
    "LR-D2": Method(["algo=lr_d2", "algo.penalty=50", "algo.newton_steps=5", "algo.scale=10", *FOUR]),
    "Matching Networks": Method(["algo=matching", "algo.temperature=10", *WIDE]),
    "Relation Network": Method(["algo=relation", *FOUR]),
    "TPN": Method(["algo=tpn", *FOUR], is_transductive=True),
    "MAML": Method(AS_MAML),
    "MAML++": Method(["algo=maml_plus_plus", "algo.inner_lr=0.01", "tasks_per_step=2", *COSINE]),
    "ANIL": Method([*AS_MAML, "algo.adapted=head"]),
    "BOIL": Method([*AS_MAML, "algo.adapted=body"]),
    "Meta-SGD": Method(["algo=meta_sgd", *FOUR]),
    "Meta-Curvature": Method(["algo=meta_curvature", *FOUR]),
    "CAVIA": Method(["algo=cavia", "model.context=100", "algo.inner_steps=2", "algo.test_steps=2", *FOUR]),
    "iMAML": Method(["algo=imaml", "algo.variant=code", "optimizer.eps=1e-3", *FOUR]),
    "Reptile": Method(["algo=reptile", "task.train_shot=15", "task.train_query=5", "tasks_per_step=5"]),
    "Meta-LSTM": Method(["algo=meta_lstm"]),
}


class Cell(NamedTuple):
    of: str  # the set
    shot: int
    method: str
    seed: int = 0

    @property
    def name(self) -> str:
        word = "".join(letter if letter.isalnum() else "_" for letter in self.method)
        return f"equal/{MINUTES:g}/{self.of}-{self.shot}/{word}-s{self.seed}"

    @property
    def is_done(self) -> bool:
        return Path("outputs", self.name, "results.json").exists()

    def command(self, words: list[str]) -> list[str]:
        return [*SETS[self.of], *COMMON, f"task.shot={self.shot}", f"seed={self.seed}", *words]


def cells() -> list[Cell]:
    """All cells, the first seed on CIFAR-FS first."""
    product = itertools.product((0, 1, 2), SETS, (5, 1), METHODS)
    return [Cell(of, shot, method, seed) for seed, of, shot, method in product if seed in SEEDS[of]]


def seconds_of_step(words: list[str]) -> float:
    """CPU seconds of one training step, the mean over a second of them, after two that are not counted."""
    from metalearn_cli.config.assemble import new_learner
    from metalearn_cli.config.job import load_job
    from metalearn_cli.system.console import Console
    from metalearn_cli.tuning.prepare import prepare

    job = prepare(load_job([*words, "steps=1000"]), None, Console(is_silent=True))
    learner, began, number = new_learner(job), 0.0, 0
    while number < 4 or time.process_time() - began < 1:
        if number == 2:
            began = time.process_time()
        learner.step(job.task.gather(job.training_draw(number), learner.device), number)
        number += 1
    return (time.process_time() - began) / (number - 2)


def time_steps() -> None:
    """Write how many steps of each method are ten minutes here, for those that are not in the file."""
    keys = {"classes": CLASSES} | {name: method.words for name, method in METHODS.items() if method.classes < 1}
    steps: dict[str, int] = json.loads(STEPS.read_text()) if STEPS.exists() else {}
    for of, shot in itertools.product(SETS, (5, 1)):
        for name, words in keys.items():
            key = f"{of} {shot}-shot {name}"
            if key not in steps:
                took = seconds_of_step(Cell(of, shot, name).command(words))
                steps[key] = int(float(f"{600 / took:.2g}"))
                print(f"{key}: {took * 1e3:.1f} ms a step", flush=True)
                STEPS.write_text(json.dumps(steps, indent=1) + "\n")


def train(cell: Cell, steps: dict[str, int]) -> None:
    """Train and test a cell, of which an earlier command may have done a part."""
    method = METHODS[cell.method]
    start = []
    if method.classes:
        base = cell._replace(method=f"classes {method.classes:g}", shot=5)
        if not base.is_done:
            number = round(steps[f"{cell.of} 5-shot classes"] * method.classes * MINUTES / 10)
            length = [f"steps={number}", f"eval_every={number // 5}", "save_every=500"]
            metalearn("train", *base.command(CLASSES), *length, f"name={base.name}")
        start = [f"init=outputs/{base.name}"]
    length = ["steps=0", "eval_every=0", "select=last", "batch_norm=running"]
    if method.classes < 1:
        number = round(steps[f"{cell.of} {cell.shot}-shot {cell.method}"] * (1 - method.classes) * MINUTES / 10)
        length = [f"steps={number}", f"eval_every={max(1, number // 5)}", "save_every=100"]
    metalearn("train", *cell.command(method.words), *start, *length, f"name={cell.name}")


def run(which: str) -> None:
    """Train and test the cells whose set and shot are asked for; "" takes all. It goes on where it stopped."""
    steps = json.loads(STEPS.read_text())
    for cell in cells():
        if which in (f"{cell.of}-{cell.shot}", "") and not cell.is_done:
            train(cell, steps)


def tables() -> None:
    """Print a table of each set, shot and seed that has two methods or more, the one of the best mean first."""
    for (of, shot), seed in itertools.product(itertools.product(SETS, (5, 1)), (0, 1, 2)):
        done = [cell for cell in cells() if (cell.of, cell.shot, cell.seed) == (of, shot, seed) and cell.is_done]
        results = {cell: json.loads(Path("outputs", cell.name, "results.json").read_text()) for cell in done}
        done.sort(key=lambda cell: -results[cell]["mean"])
        if len(done) > 1:
            metalearn("compare", *(f"outputs/{cell.name}" for cell in done), f"out={OUT / 'compare.json'}")
            differences = [None, *json.loads((OUT / "compare.json").read_text())["differences"]]
            rows = [["method", "accuracy", "batch norm", "head sees all queries", "minus the first", "p (Holm)"]]
            for cell, difference in zip(done, differences, strict=True):
                accuracy = [f"{100 * results[cell][key]:.1f}" for key in ("mean", "ci95")]
                row = [cell.method, " ± ".join(accuracy), results[cell]["batch_norm"]]
                row.append("yes" if METHODS[cell.method].is_transductive else "no")
                mean, low, high = (
                    (100 * difference["episodes"][key] for key in ("mean", "low", "high")) if difference else (0, 0, 0)
                )
                row += (
                    [f"{mean:.1f} ({low:.1f} to {high:.1f})", f"{difference['p_holm']:.2g}"] if difference else ["", ""]
                )
                rows.append(row)
            table(f"{of}, 5-way {shot}-shot, seed {seed}: {len(done)} of {len(METHODS)} methods", rows)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("time", "run", "table"):
        sys.exit(__doc__)
    MINUTES = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    match sys.argv[1]:
        case "time":
            time_steps()
        case "run":
            run(sys.argv[3] if len(sys.argv) > 3 else "")
        case _:
            tables()
