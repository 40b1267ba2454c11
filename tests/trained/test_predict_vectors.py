"""metalearn predict on files of vectors, and a model of vectors outside of its run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import vectors
from commands import refuse, succeed
from tiny_runs import rows

import metalearn_cli

X, WORDS = vectors(160, 20, 6)
SUPPORT, QUERY = [0, 1, 2, 20, 21, 22], [40, 41, 42, 59]  # the last is of another class


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has learned nothing, and files of a support and a query."""
    home = tmp_path_factory.mktemp("home")
    np.savez(home / "all.npz", x=X.numpy(), y=np.asarray(WORDS))
    np.savez(home / "support.npz", x=X[SUPPORT].numpy(), y=np.asarray(WORDS)[SUPPORT])
    np.savez(home / "query.npz", x=X[QUERY].numpy())
    keys = ["algo=protonet", "task=features", "task.root=all.npz", "task.query=2", "task.way=4"]
    succeed(home, "train", *keys, "steps=0", "test_episodes=4", "name=run")
    return home


FILES = ["support=support.npz", "query=query.npz", "out=p.csv"]


def test_queries_get_the_class_of_their_prototype_and_a_stranger_is_unlike_all(home: Path) -> None:
    done = succeed(home, "predict", "run=outputs/run", *FILES)
    assert "flag `unlike`: by" in done.err
    predicted = rows(home / "p.csv")
    assert [row["row"] for row in predicted] == ["1", "2", "3", "4"]
    assert [row["label"] for row in predicted[:3]] == ["c00", "c01", "c02"]
    adapted = metalearn_cli.load(str(home / "outputs/run")).adapt(X[SUPPORT].numpy(), np.asarray(WORDS)[SUPPORT])
    chances = adapted(X[QUERY].numpy())
    assert adapted.classes == ["c00", "c01", "c02"]
    assert [float(row["p_c00"]) for row in predicted] == pytest.approx(chances[:, 0].tolist(), rel=1e-5, abs=1e-9)
    flags = [row["unlike"] == "true" for row in predicted]
    assert flags == adapted.unlike(X[QUERY]).tolist()
    assert (flags[0], flags[3]) == (False, True)


def test_an_export_needs_no_vectors_of_the_run(home: Path, tmp_path: Path) -> None:
    succeed(home, "predict", "run=outputs/run", *FILES)
    succeed(home, "export", "run=outputs/run", f"out={tmp_path}/model")
    expected = (home / "p.csv").read_text()
    for name in ("support.npz", "query.npz"):
        (tmp_path / name).write_bytes((home / name).read_bytes())
    succeed(tmp_path, "predict", "run=model", *FILES)
    assert (tmp_path / "p.csv").read_text() == expected
    out = metalearn_cli.load(str(tmp_path / "model")).adapt(X[SUPPORT], [4, 5, 6, 4, 5, 6])(X[QUERY])
    assert out.argmax(1)[:3].tolist() == [0, 1, 2]


def test_a_mistake_is_a_sentence(home: Path) -> None:
    np.savez(home / "short.npz", x=X[SUPPORT, :4].numpy(), y=np.asarray(WORDS)[SUPPORT])
    np.savez(home / "nan.npz", x=torch.where(X[20] == X, torch.nan, X)[SUPPORT].numpy(), y=np.asarray(WORDS)[SUPPORT])
    words = {
        "support=query.npz": "query.npz tells no classes",
        "support=photos": "support=photos must be a file of vectors, whose name ends in .npz, .safetensors, .parquet",
        "support=short.npz": "short.npz has vectors of 4 numbers, and the run was trained on 6",
        "support=nan.npz": "x holds numbers that are not finite",
        "query=none.npz": "query=none.npz cannot be read (No such file or directory)",
    }
    for word, sentence in words.items():
        others = [other for other in FILES if other.partition("=")[0] != word.partition("=")[0]]
        assert sentence in refuse(home, "predict", "run=outputs/run", *others, word)


def test_a_run_is_tested_on_another_file_but_not_on_classes_that_it_has_learned(home: Path) -> None:
    np.savez(home / "other.npz", x=X.flip(0).numpy(), y=np.asarray(WORDS)[::-1])
    done = succeed(home, "eval", "run=outputs/run", "task=features", "task.root=other.npz", "task.query=2")
    assert "accuracy" in done.out
    keys = ["task.query=2", "task.split_seed=1"]
    assert "were trained on by" in refuse(home, "eval", "run=outputs/run", "task=features", "task.root=all.npz", *keys)
