"""The rows of the papers' tables: which preset trains each, how it is tested, and what was published."""

from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One published figure. Accuracies in percent."""

    label: str  # of the test
    published: str
    test: str = ""  # what `metalearn eval` is given; empty: the test of the training run itself
    step: int | None = None  # inner steps; None: as many as at test
    mode: str | None = None  # of batch norm, where the published figure has another than the headline


class Row(NamedTuple):
    table: str
    name: str
    command: str  # what `metalearn train` is given, besides seed and name
    cells: tuple[Cell, ...]
    source: str
    seeds: tuple[int, ...] = (0, 1, 2)
    length: str = "full length"  # or what makes it a short run
    is_whole: bool = False  # the length of the run that is compared with, though not the paper's


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


OMNIGLOT = "Omniglot, metric learners at the length of a reproduction"
OMNIGLOT_MAML = "Omniglot, MAML: short runs"
OMNIGLOT_HALF_HOUR = "Omniglot, half an hour each: short runs"
CIFAR = "CIFAR-FS, Conv4, half an hour each: short runs"
SNELL = "Snell et al. 2017, arXiv 1703.05175, Table 1 (authors' code, by three users: 98.4 / 99.6 / 94.9 / 98.6)"
VINYALS = "Vinyals et al. 2016, arXiv 1606.04080, Table 1; Euclidean: the reproduction oscarknagg/few-shot"
FINN_1 = "Finn et al. 2017, arXiv 1703.03400, Table 1; first order as printed in Nichol et al. 2018, arXiv 1803.02999"
NICHOL = "Nichol et al. 2018, arXiv 1803.02999v3, as quoted by others"
R2D2 = "Bertinetto et al. 2019, as quoted in arXiv 1904.03758"
BOTH = "other_batch_norm=[transductive,inductive,running]"


def _protonet(shot: int, *published: str, variant: str = "", keys: str = "") -> Row:
    cells = tuple(
        Cell(f"{way}-way {shot}-shot", figure, test="" if way == 5 else "task.way=20")
        for way, figure in zip((5, 20), published, strict=True)
    )
    preset = f"protonet/omniglot_5w{shot}s"
    command = f"experiment={preset} {keys}{BOTH} threads=1"
    return Row(OMNIGLOT, preset + variant, command, cells, SNELL, seeds=(0,), length="4,000 episodes", is_whole=True)


def _short(table: str, name: str, keys: str, published: str, source: str, length: str, **more: Any) -> Row:
    """A row that is tested as it was trained, 5-way 1-shot."""
    cells = (Cell("5-way 1-shot", published), *more.pop("cells", ()))
    return Row(table, name, f"{keys} threads=1", cells, source, length=length, **more)


ROWS = (
    *(
        Row(MAML_2, f"{algo}/{preset}", f"experiment={algo}/{preset} threads=1", _steps(*figures), FINN)
        for preset in ("sinusoid", "sinusoid_code_start")
        for algo, figures in (("maml", ("0.67", "0.38", "0.35")), ("pretrain", ("2.41", "2.23", "2.19")))
    ),
    *(_frequency(algo, shot) for shot in (5, 10, 20) for algo in ("maml", "meta_sgd")),
    _protonet(1, "98.8", "96.0"),
    _protonet(1, "98.8", "96.0", variant="_lanczos", keys="task.resample=lanczos "),
    _protonet(5, "99.7", "98.9"),
    *(
        _short(
            OMNIGLOT,
            f"matching/{preset}",
            f"experiment=matching/{preset} {BOTH}",
            published,
            VINYALS,
            "10,000 episodes",
            seeds=(0,),
            is_whole=True,
        )
        for preset, published in (("omniglot_euclidean", "98.3"), ("omniglot_5w1s", "98.1"))
    ),
    _short(
        OMNIGLOT_MAML,
        "maml/omniglot_quick",
        f"experiment=maml/omniglot_quick {BOTH}",
        "98.7 +- 0.4",
        FINN_1,
        "2,500 of 60,000 iterations",
        seeds=(0,),
    ),
    _short(
        OMNIGLOT_MAML,
        "maml/omniglot_quick_first_order",
        f"experiment=maml/omniglot_quick algo.first_order=true {BOTH}",
        "98.3 +- 0.5",
        FINN_1,
        "2,500 of 60,000 iterations",
    ),
    *(
        _short(
            OMNIGLOT_MAML,
            f"maml/omniglot_mlp_5w1s{variant}",
            f"experiment=maml/omniglot_mlp_5w1s {keys}steps=5000 {BOTH}",
            "89.7 +- 1.1",
            FINN_1,
            "5,000 of 60,000 iterations",
        )
        for variant, keys in (("", ""), ("_mean_loss", "algo.inner_loss=mean "))
    ),
    _short(
        OMNIGLOT_MAML,
        "maml/omniglot_5w1s",
        f"experiment=maml/omniglot_5w1s steps=2500 {BOTH}",
        "98.7 +- 0.4",
        FINN_1,
        "2,500 of 60,000 iterations",
        seeds=(0,),
    ),
    _short(
        OMNIGLOT_HALF_HOUR,
        "reptile/omniglot_5w1s",
        "experiment=reptile/omniglot_5w1s task.split=random1100 steps=16000 eval_every=2000 eval_episodes=100 "
        "test_episodes=2000 other_batch_norm=[transductive,inductive]",
        "95.39",
        NICHOL,
        "16,000 of 100,000 iterations",
        seeds=(0,),
        cells=(Cell("5-way 1-shot, transductive", "97.68", mode="transductive"),),
    ),
    _short(
        OMNIGLOT_HALF_HOUR,
        "meta_sgd/omniglot_5w1s",
        f"experiment=meta_sgd/omniglot_5w1s task.split=random1100 steps=2000 eval_every=200 eval_episodes=200 {BOTH}",
        "99.53 +- 0.26",
        "Li et al. 2017, arXiv 1707.09835, as quoted by others",
        "2,000 of 60,000 iterations",
        seeds=(0,),
    ),
    _short(
        OMNIGLOT_HALF_HOUR,
        "meta_lstm/omniglot_quick",
        "experiment=meta_lstm/omniglot_quick steps=4000 eval_every=400 other_batch_norm=[transductive,inductive]",
        "none",
        "the paper of Meta-LSTM has no Omniglot",
        "4,000 of the 75,000 episodes that its miniImageNet row takes",
        seeds=(0,),
    ),
    _short(
        CIFAR,
        "protonet/cifar_fs_5w1s",
        f"experiment=protonet/cifar_fs_5w1s steps=5000 eval_every=500 {BOTH}",
        "55.5 +- 0.7",
        R2D2,
        "5,000 episodes",
        seeds=(0,),
    ),
    _short(
        CIFAR,
        "maml/cifar_fs_5w1s_first_order",
        f"experiment=maml/cifar_fs_5w1s algo.first_order=true task.query=15 steps=10000 {BOTH}",
        "58.9 +- 1.9",
        R2D2 + " (second order)",
        "10,000 of 60,000 iterations",
        seeds=(0,),
    ),
    _short(
        CIFAR,
        "matching/cifar_fs_5w1s",
        "experiment=matching/mini_imagenet_5w1s task=cifar_fs optimizer.lr=0.001 algo.temperature=10 "
        f"algo.vote=softmax steps=20000 eval_every=1000 {BOTH}",
        "none",
        "none with Conv4 on CIFAR-FS is known here",
        "20,000 episodes",
        seeds=(0,),
    ),
)
