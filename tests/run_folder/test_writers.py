import json
from pathlib import Path
from typing import Any

from commands import run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from metalearn_cli.run_folder import series, writers

TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick", "steps=5", "eval_every=0", "select=last"]


def hparams(folder: Path) -> tuple[dict[str, Any], list[str], dict[str, float]]:
    """What TensorBoard's table of runs has of this one: its settings, the names of its metrics, and their values."""
    events = EventAccumulator(str(folder)).Reload()
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(data)
        for tag, data in events.PluginTagToContent("hparams").items()
    }
    start = content["_hparams_/session_start_info"].session_start_info
    settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
    metrics = [info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos]
    return settings, metrics, {name: events.Scalars(name)[-1].value for name in metrics}


def test_a_sweep_fills_tensorboards_table_of_runs(tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", "algo.inner_lr=0.01,0.1", "algo.adapted=all,head", "name=sweep"]
    assert run(tmp_path, "train", *TINY, *sweep).code == 0
    folders = list((tmp_path / "outputs/sweep").glob("*/"))
    assert len(folders) == 8
    for folder in folders:
        settings, metrics, values = hparams(folder)
        results = json.loads((folder / "results.json").read_text())
        swept = f"algo.adapted={settings['algo.adapted']},algo.inner_lr={settings['algo.inner_lr']}"
        assert f"{swept},seed={settings['seed']:g}" == folder.name
        assert settings["debug"] == "quick"
        assert settings["model.hidden"] == "[8]"
        assert "name" not in settings
        assert metrics == ["test/mse"]
        assert abs(values["test/mse"] - results["mean"]) < 1e-6 * results["mean"]
        # It is one run in TensorBoard, not two.
        assert [path for path in folder.iterdir() if path.is_dir()] == [folder / "checkpoints"]


def test_the_lines_of_a_validation_that_is_made_again_go_whatever_they_hold(tmp_path: Path) -> None:
    """A loss that was not finite is left out, and may be all that there is."""
    path = tmp_path / "metrics.jsonl"
    train = [{"step": step, "train/loss": 1.0, "train/lr": 0.1} for step in (5, 10)]
    partly, before = {"step": 10, "val/mse_step0": 2.0}, {"step": 5, "val/mse_step0": 3.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in (train[0], before, train[1], partly, {"step": 10})))
    writers._open_after_cut(path, 10, to_validate=True).close()
    assert list(series.read_lines(path)) == [train[0], before, train[1]]
