"""What a whole run measures: which variants race on which workload and for how long, and the sweeps of the scaling."""

from dataclasses import replace
from typing import NamedTuple

from benchmarks.speed.workloads import WORKLOADS, Workload

BOUND = 1e-8  # relative error of a float64 meta-gradient, above which a variant is wrong and is not timed
LOOSE = {"qpth": 1e-3}  # its solver stops where its residual falls no more: 8e-5 on W6-S
PEERS = ["learn2learn", "higher", "torchopt", "parallel-metalearn", "torch.func"]
CHUNKS = ["ours/1", "ours/2", "ours/4", "ours/8"]
LEAN = "ours/1+remat"  # a task at a time, inner steps computed again in the backward pass
OTHERS = ["parallel-metalearn/sequential", "torch.func/BatchNorm2d"]  # without vmap; silently wrong at second order
ALL = ["sgemm", *PEERS, *OTHERS, "nn.Module", "qpth", "jax", "jax/im2col", "jax-meta", "ours", "ours/compile"]
ALL += [*CHUNKS, LEAN, "ours/cuda_graph"]


class Lineup(NamedTuple):
    seconds: int  # of a whole run that are spent on it
    variants: list[str]  # the likely fastest peer first: what is far slower does not race


# Who is not here was far slower in a like workload: with images parallel-metalearn and torch.func take up to six times
# the fastest peer's time (and 10 GB), JAX ten to forty times.
LINEUPS = {
    "W1": Lineup(90, ["sgemm", *PEERS, "jax", "jax-meta", "ours", "ours/compile", *CHUNKS]),
    "W2": Lineup(260, ["sgemm", *PEERS, *OTHERS, "jax/im2col", "ours", *CHUNKS]),
    "W2b": Lineup(260, ["sgemm", *PEERS[:3], *CHUNKS, LEAN]),
    "W3": Lineup(350, ["sgemm", *PEERS, *OTHERS, "jax/im2col", "jax", "jax-meta", "ours", *CHUNKS[:2], LEAN]),
    "W3-FO": Lineup(120, ["sgemm", *PEERS, "ours", *CHUNKS[:2]]),
    "W3-5": Lineup(200, ["sgemm", *PEERS[:3], "ours", *CHUNKS[:2], LEAN]),
    "W4": Lineup(60, ["sgemm", "nn.Module", "ours"]),
    "W5-R": Lineup(60, ["sgemm", "nn.Module", "ours", *CHUNKS[:2]]),
    "W5-L": Lineup(60, ["sgemm", "nn.Module", "ours"]),
    "W6-R": Lineup(25, ["nn.Module", "ours", "ours/1"]),
    "W6-S": Lineup(25, ["qpth", "ours", "ours/1"]),
    "W7-A": Lineup(25, ["nn.Module", "learn2learn", "ours", "ours/1"]),
    "W7-M": Lineup(25, ["nn.Module", "ours", "ours/1"]),
    "W7-P": Lineup(25, ["nn.Module", "ours", "ours/1"]),
}


class Sweep(NamedTuple):
    title: str
    axis: str
    variants: list[str]
    points: dict[int, Workload]
    seconds: int  # of a whole run, for each point


MLP = next(w for w in WORKLOADS if w.name == "W1")
CONV = Workload("conv", "MAML, Omniglot 5-way 1-shot, 5 queries, Conv4-32", 8, 5, 1, 5, 1, 0.4, 28, 1, 32)
TASKS, STEPS = (1, 4, 16, 64, 256), (1, 2, 5, 10, 20)
MLP_VARIANTS = ["learn2learn", "torchopt", "parallel-metalearn", "jax", "ours", "ours/compile"]
CONV_VARIANTS = ["learn2learn", "torchopt", "parallel-metalearn", "ours", "ours/8"]


def _points(base: Workload, key: str, values: tuple[int, ...]) -> dict[int, Workload]:
    return {value: replace(base, **{key: value}) for value in values}  # type: ignore[arg-type]


# Many inner steps want a smaller rate, so that no loss runs away.
MLP_SLOW, CONV_SLOW = replace(MLP, inner_lr=0.001), replace(CONV, inner_lr=0.01)
SWEEPS = {
    "tasks-mlp": Sweep("sinusoid MLP, 1 step", "tasks", MLP_VARIANTS, _points(MLP, "tasks", TASKS), 15),
    "steps-mlp": Sweep("sinusoid MLP, 25 tasks", "inner steps", MLP_VARIANTS, _points(MLP_SLOW, "steps", STEPS), 25),
    "width-mlp": Sweep(
        "sinusoid MLP, 25 tasks, 1 step",
        "width",
        MLP_VARIANTS,
        _points(MLP_SLOW, "width", (40, 128, 256, 512, 1024)),
        15,
    ),
    "tasks-conv": Sweep("Conv4-32, 1 step", "tasks", CONV_VARIANTS, _points(CONV, "tasks", TASKS), 50),
    "steps-conv": Sweep("Conv4-32, 8 tasks", "inner steps", CONV_VARIANTS, _points(CONV_SLOW, "steps", STEPS), 40),
    "way-conv": Sweep("Conv4-32, 8 tasks, 1 step", "way", CONV_VARIANTS, _points(CONV_SLOW, "way", (5, 10, 20)), 30),
}


class Goal(NamedTuple):
    peer: float  # times the best torch peer, the allocator equal
    jax: float | None = None  # times the best JAX
    sgemm: float | None = None  # share of the machine's matrix product
    as_users: float | None = None  # ours tuned to theirs default


GOALS = {
    "W1": Goal(10, jax=1.2),
    "W2": Goal(2.1, sgemm=0.88),
    "W2b": Goal(2.1, sgemm=0.88),
    "W3": Goal(2.5, sgemm=0.7),
    "W3-FO": Goal(1.9, sgemm=0.7),
    "W3-5": Goal(2.5, sgemm=0.7),
    "W4": Goal(1.9, as_users=3.5),
    "W5-R": Goal(2.0),
    "W5-L": Goal(2.0),
    **dict.fromkeys(("W6-R", "W6-S", "W7-A", "W7-M", "W7-P"), Goal(1.0)),
}

ABSENT = {
    "betty-ml": "0.2 needs Python below 3.11, where pip finds 0.1.1 only",
    "torchmeta": "1.8.0 pins torch below 1.10",
    "learn2learn's and the others' ProtoNet, Reptile, Meta-LSTM": "W4 and W5 race against the loop over nn.Module that "
    "their users write: learn2learn has nothing faster, and Meta-LSTM is in none of them",
}
