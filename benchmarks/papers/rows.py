"""The rows of the papers' tables: which preset trains each, how it is tested, and what was published."""

from typing import NamedTuple


class Cell(NamedTuple):
    """One published figure. Accuracies in percent."""

    label: str  # of the test
    published: str
    test: str = ""  # what `metalearn eval` is given; empty: the test of the training run itself
    step: int | None = None  # inner steps; None: as many as at test
    mode: str | None = None  # of batch norm; None: the headline's


class Row(NamedTuple):
    table: str
    name: str
    command: str  # what `metalearn train` is given, besides seed and name
    cells: tuple[Cell, ...]
    source: str
    seeds: tuple[int, ...] = (0, 1, 2)
    length: str = "full length"  # or what makes it a short run


MAML_2 = "MAML, sinusoids, 5-shot (its Table 2)"
META_SGD_1 = "Meta-SGD, sinusoids with frequency (its Table 1), one inner step"
FINN = "Finn et al. 2017, arXiv 1703.03400, Table 2"
LI = "Li et al. 2017, arXiv 1707.09835, Table 1, as quoted by others; [M]: from memory, not verified"

# Published, by training shots: tests with 5, 10 and 20 shots.
FREQUENCY = {
    ("maml", 5): ("1.13 +- 0.18", "0.85 +- 0.14", "0.71 +- 0.12"),
    ("meta_sgd", 5): ("0.90 +- 0.16", "0.63 +- 0.12", "0.50 +- 0.10"),
    ("maml", 10): ("1.17 +- 0.16 [M]", "0.77 +- 0.11 [M]", "0.56 +- 0.08"),
    ("meta_sgd", 10): ("0.88 +- 0.14 [M]", "0.53 +- 0.09 [M]", "0.35 +- 0.06"),
    ("maml", 20): ("1.29 +- 0.20 [M]", "0.76 +- 0.12 [M]", "0.48 +- 0.08"),
    ("meta_sgd", 20): ("1.01 +- 0.17 [M]", "0.54 +- 0.08 [M]", "0.31 +- 0.05"),
}


def _steps(*published: str) -> tuple[Cell, ...]:
    return tuple(
        Cell(f"{step} step{'s' * (step > 1)}", figure, step=step)
        for step, figure in zip((1, 5, 10), published, strict=True)
    )


def _frequency(algo: str, shot: int) -> Row:
    cells = tuple(
        Cell(f"{test}-shot test", figure, test="" if test == shot else f"task.shot={test}")
        for test, figure in zip((5, 10, 20), FREQUENCY[algo, shot], strict=True)
    )
    name = f"{algo}/sinusoid_frequency_{shot}s"
    return Row(META_SGD_1, name, f"experiment={name} threads=1", cells, LI)


ROWS = (
    Row(MAML_2, "maml/sinusoid", "experiment=maml/sinusoid threads=1", _steps("0.67", "0.38", "0.35"), FINN),
    Row(MAML_2, "pretrain/sinusoid", "experiment=pretrain/sinusoid threads=1", _steps("2.41", "2.23", "2.19"), FINN),
    *(_frequency(algo, shot) for shot in (5, 10, 20) for algo in ("maml", "meta_sgd")),
)
