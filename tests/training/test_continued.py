"""A run that was begun under other defaults, or under another content of its preset, goes on as it began."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run

from metalearn_cli.config import conf_folder, overrides
from metalearn_cli.config import job as config
from metalearn_cli.run_folder.config_file import load_config

SHORT = ["steps=4", "save_every=2", "eval_every=2", "eval_episodes=4", "test_episodes=8", "threads=1", "name=run"]
SHORT += ["model.hidden=[4]", "algo.test_steps=1"]


def before(folder: Path, *changes: tuple[str, str, str]) -> Callable[[], None]:
    """Install the conf/ of an earlier version: each change is a file, a line of it, and the line that stood there."""
    conf = folder / "conf"
    shutil.copytree(conf_folder.conf_dir(), conf)
    for name, line, other in changes:
        text = (conf / name).read_text()
        assert f"\n{line}" in text, f"{line} in {name}"
        (conf / name).write_text(text.replace(f"\n{line}", f"\n{other}"))

    def install() -> None:
        for module in (conf_folder, config, overrides):
            module.conf_dir = lambda: conf

    return install


def saved(folder: Path) -> dict[str, object]:
    return conf_folder.flatten(load_config(folder / "outputs/run/config.yaml"))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run whose preset drew its first weights otherwise, and whose test had other modes and another rate of Adam."""
    then = before(
        tmp_path,
        ("experiment/maml/sinusoid.yaml", "  hidden: [40, 40]", "  hidden: [40, 40]\n  init_std: 0.5"),
        ("config.yaml", "other_batch_norm: [transductive, inductive, running]", "other_batch_norm: [inductive]"),
        ("optimizer/adam.yaml", "weight_decay: 0.0", "weight_decay: 0.25"),
    )
    done = run(tmp_path, "train", "experiment=maml/sinusoid", *SHORT, first=then)
    assert done.code == 0, done.err
    assert "going on with" not in done.err
    return tmp_path


def test_a_run_goes_on_with_the_preset_and_the_defaults_that_it_began_with(begun: Path, tmp_path: Path) -> None:
    as_it_was = saved(begun)
    assert (as_it_was["model.init_std"], as_it_was["optimizer.weight_decay"]) == (0.5, 0.25)
    same = run(begun, "train", "experiment=maml/sinusoid", *SHORT)
    assert same.code == 0, same.err
    said = (
        "going on with model.init_std=0.5, optimizer.weight_decay=0.25, other_batch_norm=[inductive], as this run began"
    )
    assert said in same.err
    assert "is already finished, 4 steps" in same.err
    longer = [*SHORT[1:], "steps=6"]
    assert run(begun, "train", "experiment=maml/sinusoid", *longer).code == 0
    assert saved(begun) == {**as_it_was, "steps": 6}
    # The same bits as of a run that had them in its command.
    (tmp_path / "given").mkdir()
    keys = ["model.init_std=0.5", "optimizer.weight_decay=0.25", "other_batch_norm=[inductive]"]
    assert run(tmp_path / "given", "train", "experiment=maml/sinusoid", *keys, *longer).code == 0
    one, other = (folder / "outputs/run/checkpoints" for folder in (begun, tmp_path / "given"))
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def test_a_key_that_was_given_then_and_is_not_now_is_refused_with_both_values(begun: Path) -> None:
    refused = run(
        begun, "train", "experiment=maml/sinusoid", *(key for key in SHORT if not key.startswith("model.hidden"))
    )
    assert refused.code == 1
    assert "(model.hidden: [4] -> [40, 40])" in refused.err
    refused = run(begun, "train", "experiment=maml/sinusoid", *SHORT, "model.init_std=0.01")
    assert "(model.init_std: 0.5 -> 0.01)" in refused.err
    assert saved(begun)["model.init_std"] == 0.5


def test_another_choice_takes_nothing_of_the_folder(begun: Path) -> None:
    refused = run(begun, "train", "experiment=maml/sinusoid", "optimizer=adamw", *SHORT)
    assert refused.code == 1
    assert "going on with" not in refused.err
    assert "optimizer.method: adam -> adamw" in refused.err
    assert "model.init_std: 0.5 -> None" in refused.err


def test_a_folder_does_not_say_what_only_the_command_may(tmp_path: Path) -> None:
    """Classes, paths, whether to trust: as if a default had been another one."""
    assert run(tmp_path, "train", "task=sinusoid", *SHORT).code == 0
    path = tmp_path / "outputs/run/config.yaml"
    text = path.read_text()
    for line, other, refusal in (
        ("trust: false", "trust: true", None),
        ("device: auto", "device: cuda", None),
        ("noise: 0.0", "noise: ${oc.env:HOME}", "has a reference, which no run writes"),
        ("_target_: metalearn_cli.nets.mlp.MLP", "_target_: evil.Net", "model._target_ is evil.Net where "),
    ):
        assert line in text
        path.write_text(text.replace(line, other))
        done = run(tmp_path, "train", "task=sinusoid", *SHORT)
        assert "going on with" not in done.err
        assert done.code == (refusal is not None), done.err
        assert (refusal or "already finished") in done.err


def test_keys_of_the_test_may_change_and_the_run_is_tested_again(tmp_path: Path) -> None:
    assert run(tmp_path, "train", "task=sinusoid", *SHORT).code == 0
    checkpoints = {path.name for path in (tmp_path / "outputs/run/checkpoints").iterdir()}
    other = [key for key in SHORT if not key.startswith("test_episodes")]
    done = run(tmp_path, "train", "task=sinusoid", *other, "test_episodes=12", "select=last")
    assert done.code == 0, done.err
    assert "outputs/run is tested again, with select=last (it was best), test_episodes=12 (it was 8)" in done.err
    results = json.loads((tmp_path / "outputs/run/results.json").read_text())
    assert (results["episodes"], results["select"], results["step"]) == (12, "last", 4)
    assert {path.name for path in (tmp_path / "outputs/run/checkpoints").iterdir()} == checkpoints
    again = run(tmp_path, "train", "task=sinusoid", *other, "test_episodes=12", "select=last")
    assert "already finished" in again.err
    # A command without the test's keys is refused where an earlier one gave them.
    refused = run(tmp_path, "train", "task=sinusoid", *other)
    assert "select: last -> best, test_episodes: 12 -> 600" in refused.err


def test_a_validation_has_them_too(tmp_path: Path) -> None:
    assert run(tmp_path, "train", "task=sinusoid", *SHORT).code == 0
    for key, change in (("episodes_seed=1", "episodes_seed: 0 -> 1"), ("batch_norm=running", "batch_norm: None -> ")):
        assert change in run(tmp_path, "train", "task=sinusoid", *SHORT, key).err


def test_the_length_of_an_annealed_run_is_that_of_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    then = before(tmp_path / "old", ("config.yaml", "steps: 1000", "steps: 4"))
    keys = ["algo=reptile", *SHORT[1:], "optimizer.schedule=linear"]
    assert run(tmp_path, "train", *keys, first=then).code == 0
    done = run(tmp_path, "train", *keys)
    assert done.code == 0, done.err
    assert "going on with optimizer.schedule_steps=4, steps=4, as this run began" in done.err
    assert "already finished, 4 steps" in done.err
    refused = run(tmp_path, "train", *keys, "steps=8")
    assert "the linear schedule of outputs/run ends at step 4: give optimizer.schedule_steps=4" in refused.err
    assert run(tmp_path, "train", *keys, "steps=8", "optimizer.schedule_steps=4").code == 0
