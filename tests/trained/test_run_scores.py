"""From Python, the episodes and the scores are those of the run's own test."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from cases import nightly
from commands import run
from tiny_runs import train
from torch import Tensor

import metalearn_cli
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.records import sealed
from metalearn_cli.trained.model import Model
from metalearn_cli.trained.run_scores import Episode

TABLE = Path(__file__).parents[1] / "helpers" / "table.csv"
SHORT = ["steps=2", "tasks_per_step=2", "test_episodes=4", "eval_episodes=3", "eval_every=1", "threads=1", "name=one"]


def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def score(model: Model, episode: Episode) -> tuple[float, float]:
    """The accuracy and the loss of a task, by hand."""
    adapted = model.adapt(episode.support_x, episode.support_y, episode.unlabelled_x)
    assert isinstance(episode.query_y, Tensor)
    assert adapted.classes == list(range(len(episode.names)))
    out = adapted.outputs(episode.query_x)
    loss = torch.nn.functional.cross_entropy(out.double(), episode.query_y).item()
    return (out.argmax(1) == episode.query_y).double().mean().item(), loss


CASES = [(algo, variable) for algo in ("protonet", "maml", "ridge") for variable in ("false", "true")]


@pytest.mark.parametrize(("algo", "variable"), [*CASES, *nightly([("soft_kmeans", "false")])])
def test_accuracy_by_hand_is_the_one_of_the_test(tmp_path: Path, photos: Path, algo: str, variable: str) -> None:
    folder = train(tmp_path, algo, photos, f"task.variable={variable}", "task.min_way=2", "test_episodes=6")
    mode = results(folder)["batch_norm"]
    model = metalearn_cli.load(folder, batch_norm=mode)
    accuracy, loss = zip(*(score(model, episode) for episode in model.episodes("test")), strict=True)
    assert len(accuracy) == 6
    with np.load(folder / "episodes.npz") as kept:
        np.testing.assert_allclose(accuracy, kept["metric"][:, -1], atol=1e-6)
        np.testing.assert_allclose(loss, kept["loss"][:, -1], rtol=1e-4)
    assert np.mean(accuracy) == pytest.approx(results(folder)["mean"])


def test_an_episode_is_pictures_with_the_names_of_their_classes(tmp_path: Path, photos: Path) -> None:
    folder = train(tmp_path, "protonet", photos)
    model = metalearn_cli.load(folder)
    episode = next(model.episodes())
    assert isinstance(episode.support_y, Tensor)
    names = [episode.names[label] for label in episode.support_y.tolist()]
    for picture, name in zip(episode.support_x, names, strict=True):
        same = [path for path in (photos / name).iterdir() if torch.equal(model.read(path)[0], picture)]
        assert len(same) == 1


@pytest.mark.parametrize("loss", ["values", "classes"])
def test_points_come_in_the_units_of_the_table(tmp_path: Path, loss: str) -> None:
    text = TABLE.read_text()
    if loss == "classes":
        head, *rows = text.splitlines()
        text = "\n".join([head, *(f"{row.rpartition(',')[0]},{5 + number % 2}" for number, row in enumerate(rows))])
    (tmp_path / "table.csv").write_text(text)
    keys = ["algo=maml", "task=table", f"task.root={tmp_path}/table.csv", f"task.loss={loss}"]
    done = run(tmp_path, "train", *keys, "algo.test_steps=2", *SHORT, "eval_every=0", "select=last")
    assert done.code == 0, done.err
    model, scores = metalearn_cli.load(tmp_path / "outputs/one"), []
    for episode in model.episodes():
        predicted = model.adapt(episode.support_x, episode.support_y)(episode.query_x)
        if loss == "classes":
            assert {*episode.query_y} <= {"5", "6"} == {*episode.names}  # type: ignore[misc]
            scores.append(np.mean([episode.names[int(row.argmax())] for row in predicted] == np.array(episode.query_y)))
        else:
            assert isinstance(episode.query_y, Tensor)
            columns = model.examples.columns
            assert columns is not None
            scale = columns.y_scale.deviation if columns.y_scale else (1.0,)
            scores.append(((predicted - episode.query_y) / torch.tensor(scale)).square().mean().item())
    assert np.mean(scores) == pytest.approx(results(tmp_path / "outputs/one")["mean"], rel=1e-4)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    done = run(home, "train", "algo=maml", "task=sinusoid", "model.hidden=[8]", "algo.test_steps=3", *SHORT)
    assert done.code == 0, done.err
    return home / "outputs" / "one"


def test_the_inner_curve_is_that_of_the_results(curves: Path) -> None:
    curve, content = metalearn_cli.load(curves).inner_curve(), results(curves)
    assert curve.metric == "mse"
    assert curve.mean.tolist() == [row["mean"] for row in content["per_step"]]
    assert curve.ci95.tolist() == [row["ci95"] for row in content["per_step"]]
    with np.load(curves / "episodes.npz") as kept:
        loss = kept["loss"].astype(float)
    np.testing.assert_allclose(curve.loss, loss.mean(0))
    np.testing.assert_allclose(curve.loss_ci95, 1.96 * loss.std(0) / 4**0.5)


def test_validations_have_episodes_too(curves: Path) -> None:
    model = metalearn_cli.load(curves)
    mse = [
        (model.adapt(task.support_x, task.support_y)(task.query_x) - task.query_y).square().mean().item()  # type: ignore[operator]
        for task in model.episodes("val")
    ]
    lines = [json.loads(line) for line in (curves / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["val/mse"] for line in lines if "val/mse" in line}
    assert np.mean(mse) == pytest.approx(validated[results(curves)["step"]], rel=1e-4)
    with pytest.raises(UserError, match=r"^episodes\('train'\): .* has episodes of the splits test and val$"):
        model.episodes("train")


def test_a_run_that_has_not_tested_says_so(curves: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(curves, tmp_path / "run")
    (folder / "results.json").unlink()
    model = metalearn_cli.load(folder)
    for call in (model.episodes, model.inner_curve):
        with pytest.raises(UserError, match="run is not finished: nothing was tested yet"):
            call()


def test_other_episodes_than_those_of_the_test_are_refused(curves: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(curves, tmp_path / "run")
    content = results(folder) | {"episodes_sha256": "0" * 64}
    content.pop("content_sha256")
    (folder / "results.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(UserError, match="had other episodes than this version draws"):
        metalearn_cli.load(folder).episodes()


def test_data_that_have_changed_are_refused(tmp_path: Path, photos: Path) -> None:
    own = shutil.copytree(photos, tmp_path / "own")
    folder = train(tmp_path, "protonet", own)
    next(own.rglob("*.png")).unlink()
    with pytest.raises(UserError, match=r"the data of .* have changed"):
        metalearn_cli.load(folder).episodes()


def test_a_run_begins_with_a_file_of_the_state(tmp_path: Path, photos: Path) -> None:
    model = metalearn_cli.load(train(tmp_path, "protonet", photos))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "state.safetensors")
    second = train(tmp_path, "protonet", photos, "init=state.safetensors", "steps=0", name="two")
    again = metalearn_cli.load(second).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
