"""Tasks of vectors: the splits, the sizes and the draws of image tasks, and every algorithm on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import vectors
from commands import run, succeed
from kills import what_must_be_equal
from problems import ALGORITHMS, image_task
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.capabilities import images_in_batch
from metalearn_cli.algorithms.features import Centre
from metalearn_cli.algorithms.fine_tune import FineTune
from metalearn_cli.algorithms.logistic import Logistic
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.pmf import PMF
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.config.assemble import require_parts
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.linear import Linear
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Spec, Split
from metalearn_cli.tasks.features import Features
from metalearn_cli.tasks.likelihood import Categorical

pytestmark = pytest.mark.usefixtures("cache")
CPU = torch.device("cpu")
X, WORDS = vectors(120, 15, 6)  # eight of each class, in the order c00, c01, ..., c14, c00, ...


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "vectors.npz")


def write(path: Path, **columns: Any) -> Path:
    np.savez(path, x=X.numpy(), y=np.asarray(WORDS), **{name: np.asarray(value) for name, value in columns.items()})
    return path


def features(file: Path, **keys: Any) -> Features:
    task: Features = image_task(Features, root=str(file), **{"query": 3} | keys)
    return task


def refusal(file: Path, split: Split = "test", **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        features(file, **keys).check_split(split)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("variable", [False, True])
def test_a_task_has_vectors_of_its_classes_each_once(tmp_path: Path, dtype: Any, variable: bool) -> None:
    np.savez(tmp_path / "a.npz", x=X.numpy().astype(dtype), y=np.asarray(WORDS))
    task = features(tmp_path / "a.npz", shot=2, variable=variable)
    assert task.spec == Spec((6,), 5, 5, Categorical(), padded=variable, base=5)
    row = {tuple(vector.tolist()): number for number, vector in enumerate(X.numpy().astype(dtype).astype(np.float32))}
    for split in task.splits:
        draw = task.draw(4, split, generator(0))
        batch = task.gather(draw, CPU)
        assert batch.support_x.dtype == torch.float32
        for number in range(4):
            one = batch.task(number)
            rows = [row[tuple(x.tolist())] for x in torch.cat([one.support_x[0], one.query_x[0]])]
            labels = torch.cat([one.support_y[0], one.query_y[0]]).tolist()
            assert len(set(rows)) == len(rows)
            classes = {label: WORDS[place] for place, label in zip(rows, labels, strict=True)}
            assert all(WORDS[place] == classes[label] for place, label in zip(rows, labels, strict=True))
            assert {*classes.values()} <= {*task.class_names(split)}
            if number == 0:
                assert task.label_names(draw) == tuple(classes[label] for label in range(len(classes)))


def test_class_batches_are_all_training_classes(file: Path) -> None:
    task = features(file)
    batch = task.gather(task.draw_classes(3, 50, generator(0)), CPU)
    assert batch.support_x.shape == (3, 0, 6)
    names = task.class_names("train")
    for x, label in zip(batch.query_x.flatten(0, 1), batch.query_y.flatten().tolist(), strict=True):
        (place,) = (x == X).all(1).nonzero().flatten().tolist()
        assert WORDS[place] == names[label]


def test_splits_are_by_shares_by_the_file_or_by_lists(file: Path, tmp_path: Path) -> None:
    task = features(file)
    parts = [frozenset(task.class_names(split)) for split in task.splits]
    assert frozenset().union(*parts) == {*WORDS}
    assert sum(map(len, parts)) == 15
    assert parts != [frozenset(features(file, split_seed=1).class_names(split)) for split in task.splits]
    assert task.identities("test") == {f"{file}/{name}" for name in task.class_names("test")}
    told = {f"c{number:02}": "test" if number < 6 else "train" for number in range(15)}
    told_file = write(tmp_path / "told.npz", split=[told[word] for word in WORDS])
    by_file = features(told_file)
    assert by_file.splits == ("train", "test")
    assert by_file.class_names("test") == [f"c{number:02}" for number in range(6)]
    assert "task.split_seed=1 is for a split at random, and here the split is as the file says" in refusal(
        told_file, split_seed=1
    )
    for split, names in (("train", "c00\nc01\nc02\nc03\nc04\n"), ("test", "c05\nc06\nc07\nc08\nc09\n")):
        (tmp_path / f"{split}.txt").write_text(names)
    listed = features(told_file, split_lists=str(tmp_path))
    assert listed.class_names("test") == [f"c{number:02}" for number in range(5, 10)]
    assert "in no list, and left out (5): c10, c11, c12" in " ".join(listed.notes())
    wrong = write(tmp_path / "wrong.npz", split=["train" if word < "c05" else "tset" for word in WORDS])
    assert "puts class c05 into 'tset': train, val or test is expected" in refusal(wrong)
    assert "puts no class into test" in refusal(write(wrong, split=["train"] * 120))


def test_groups_are_the_files(tmp_path: Path) -> None:
    group = [int(word[1:]) % 2 for word in WORDS]
    task = features(write(tmp_path / "a.npz", group=group), way=2, within_group=True)
    draw = task.draw(20, "train", generator(0))
    classes = torch.searchsorted(task.images.start, draw["support_image"], right=True) - 1
    assert (classes % 2 == classes[:, :1] % 2).all()
    assert "needs classes in groups" in refusal(write(tmp_path / "b.npz"), way=2, within_group=True)


def test_what_cannot_be_drawn_is_a_sentence(file: Path, tmp_path: Path) -> None:
    assert (
        "has 8 vectors, and task.shot=6 with task.query=3 asks for 9: give task.query=2, or more vectors "
        "(5 of 5 classes have too few)"
    ) in refusal(file, shot=6)
    assert (
        "task.way=6 is more than the 5 classes of the test split (5 train, 5 val, 5 test, by split_seed=0): give "
        in (refusal(file, way=6))
    )
    assert "leaves no class" in refusal(file, min_images=9)
    assert "change images, and task=features has vectors" in refusal(file, augment=("crop",))
    fewer = [place for place in range(120) if place not in (0, 15)]
    np.savez(tmp_path / "few.npz", x=X[fewer].numpy(), y=np.asarray(WORDS)[fewer])
    notes = features(tmp_path / "few.npz", min_images=8, way=2).notes()
    assert "task.min_images=8 leaves out (1): c00" in " ".join(notes)


# Without tuning what is below the head, and without changed copies of images.
ALL = [
    *(algo for algo in ALGORITHMS if not isinstance(algo, Matching | Logistic | PMF)),
    Matching(fce=True),
    Logistic(),
]
ALL += [Pretrain(images=8), FineTune(images=8, passes=2), ProtoNet(centre=Centre.base), ProtoNet()]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda algorithm: type(algorithm).__name__)
def test_every_algorithm_learns_on_vectors_under_a_linear_head(file: Path, algorithm: Algorithm) -> None:
    """The classes are far apart: what adapts is above chance, and what compares makes no mistake."""
    task = features(file, query=2, unlabelled=1)
    net = Linear(task.spec, bias=True)
    learner = Learner(algorithm, net, Optimizer(), torch.Generator().manual_seed(0))
    for step in range(2):
        images = images_in_batch(algorithm, task.spec)
        draw = task.draw_classes(2, images, generator(step)) if images else task.draw(2, "train", generator(step))
        if learner.meta.params or learner.meta.buffers:
            assert learner.step(task.gather(draw, CPU), step).isfinite().all()
    batch = task.gather(task.draw(20, "test", generator(1)), CPU)
    accuracy = learner.evaluate(batch, [BatchNorm.running])[BatchNorm.running].metric[:, -1].mean()
    assert accuracy == 1 if algorithm.is_metric else accuracy > 0.1


def test_prototypes_of_vectors_are_their_means(file: Path) -> None:
    task = features(file, shot=2, query=2)
    batch = task.gather(task.draw(3, "test", generator(0)), CPU)
    learner = Learner(ProtoNet(), Linear(task.spec), Optimizer(), torch.Generator())
    out = learner.adapt(batch.support)(batch.query_x, BatchNorm.running)
    for number in range(3):
        one = batch.task(number)
        means = [one.support_x[0, one.support_y[0] == label].mean(0) for label in range(5)]
        expected = -torch.stack([(one.query_x[0] - mean).square().sum(1) for mean in means], 1)
        torch.testing.assert_close(out[number], expected)


def test_nothing_to_learn_needs_no_steps(file: Path, tmp_path: Path) -> None:
    words = ["algo=protonet", "task=features", f"task.root={file}", "task.query=2"]
    with pytest.raises(UserError, match="algo=protonet with model=identity has nothing to learn: give steps=0"):
        require_parts(load_job(words))
    require_parts(load_job([*words, "algo.metric=cosine"]))
    with pytest.raises(UserError, match=r"algo\.test_steps=2 fine-tunes the network, and this one has no parameters"):
        require_parts(load_job([*words[1:], "algo=matching", "algo.test_steps=2", "steps=0"]))
    done = succeed(tmp_path, "train", *words, "steps=0", "test_episodes=20", "name=run")
    assert "120 vectors of 6 numbers, in the file; 15 classes, 5 train, 5 val, 5 test, by split_seed=0" in done.err
    for command in (["eval", "run=outputs/run", "test_episodes=10"], ["report", "outputs/run"]):
        succeed(tmp_path, *command)
    assert "100.00" in done.out


def test_a_run_goes_on_with_the_same_bits_and_not_with_other_vectors(file: Path, tmp_path: Path) -> None:
    words = ["train", "algo=maml", "task=features", f"task.root={file}", "task.query=2", "tasks_per_step=2"]
    words += ["name=run", "eval_every=0", "select=last", "test_episodes=4", "save_every=2"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    succeed(straight, *words, "steps=4")
    succeed(stopped, *words, "steps=2")
    succeed(stopped, *words, "steps=4")
    assert _weights(straight).keys() == _weights(stopped).keys()
    assert all(torch.equal(value, _weights(stopped)[name]) for name, value in _weights(straight).items())
    assert what_must_be_equal(straight)["results.json"]
    np.savez(file, x=X.numpy() + 1, y=np.asarray(WORDS))
    assert run(stopped, *words, "steps=6").code == 1


def _weights(home: Path) -> dict[str, Tensor]:
    from metalearn_cli.run_folder.proof import load_tested

    return load_tested(home / "outputs" / "run")[0].tensors
