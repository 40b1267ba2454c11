"""Promise P10: the runs of every version that was released can be tested and prolonged by this one.

tests/golden/runs/make.py makes them. `RUN` is the folder of one, VERSION/NAME.
"""

import json
from pathlib import Path

import pytest
import yaml
from commands import Finished, run
from networks import tiny
from places import GOLDEN, MAML, take

from metalearn_cli.config import conf_folder
from metalearn_cli.config.job import key_defaults, load_job
from metalearn_cli.tasks.embedded import embedded_images
from metalearn_cli.tasks.resized import ResizedImages
from metalearn_cli.version import __version__

RUNS = sorted(path.parent for path in GOLDEN.glob("*/*/config.yaml"))


def go_on(folder: Path, golden: Path, *more: str) -> Finished:
    return run(folder, "train", *(golden / "overrides.txt").read_text().splitlines(), *more)


def means(results: Path) -> list[float]:
    content = json.loads(results.read_text())
    steps, modes = content["per_step"], content["other_batch_norm"]
    return [row["mean"] for row in [*steps, *modes.values()]]


def test_there_is_one_of_this_version() -> None:
    assert __version__ in {path.parent.name for path in RUNS}


@pytest.mark.parametrize("golden", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.row("P10")
def test_a_run_of_each_release_is_tested_and_prolonged(tmp_path: Path, golden: Path) -> None:
    folder = take(golden, tmp_path)
    done = run(tmp_path, "eval", "run=outputs/run")
    assert done.code == 0, done.err
    (evaluated,) = folder.glob("eval/*/results.json")
    assert means(evaluated) == pytest.approx(means(golden / "results.json"), rel=1e-5)
    assert "already finished" in go_on(tmp_path, golden).err
    done = go_on(tmp_path, golden, f"steps={json.loads((golden / 'continued.json').read_text())['steps']}")
    assert done.code == 0, done.err
    if golden.parent.name == "0.1.0":
        modes = "[transductive,inductive,running,one_query]"  # the default of that version
        assert f"going on with other_batch_norm={modes}" in done.err
    assert "continuing after step 20" in done.err
    assert means(folder / "results.json") == pytest.approx(means(golden / "continued.json"), rel=1e-5)
    before = (golden / "metrics.jsonl").read_text()
    assert (folder / "metrics.jsonl").read_text().startswith(before)


@pytest.mark.usefixtures("packed_images")
def test_images_in_another_form_have_the_defaults_of_their_own_task() -> None:
    """As a frozen network takes them, or an evaluation on images of another size."""
    job = load_job(["task=omniglot", "task.resample=nearest", "task.rotations=none"])
    for shown in (ResizedImages(job.task, (3, 16, 16)), embedded_images(job.task, tiny())):
        assert key_defaults(job._replace(task=shown)) == key_defaults(job)


@pytest.mark.row("P10")
def test_keys_that_a_run_lacks_are_at_their_defaults(tmp_path: Path) -> None:
    """It is as if every key except those that were set came after that release."""
    folder = take(MAML, tmp_path)
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    overrides = (MAML / "overrides.txt").read_text().splitlines()
    defaults = key_defaults(load_job(overrides))
    for group in ("", *conf_folder.GROUPS):
        node = content[group] if group else content
        for key in [key for key, value in node.items() if defaults.get(f"{group}.{key}".lstrip("."), node) == value]:
            del node[key]
    assert len(content) <= 15
    assert "other_batch_norm" in content  # whose default was another one
    path.write_text(yaml.safe_dump(content))
    done = run(tmp_path, "eval", "run=outputs/run")
    assert done.code == 0, done.err
    (evaluated,) = folder.glob("eval/*/results.json")
    assert means(evaluated) == pytest.approx(means(MAML / "results.json"), rel=1e-5)
    refused = go_on(tmp_path, MAML, "steps=25", "algo.first_order=true", "seed=3")
    assert "another configuration (algo.first_order: False -> True, seed: 0 -> 3)" in refused.err
    assert go_on(tmp_path, MAML, "steps=25").code == 0
    assert means(folder / "results.json") == pytest.approx(means(MAML / "continued.json"), rel=1e-5)


@pytest.mark.row("P10")
def test_keys_that_there_are_no_longer_are_a_sentence(tmp_path: Path) -> None:
    folder = take(MAML, tmp_path)
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["algo"]["warp"], content["colour"] = 0.5, "red"
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, "metalearn": "0.0.9"}))
    for refused in (run(tmp_path, "eval", "run=outputs/run"), go_on(tmp_path, MAML, "steps=25")):
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1, refused.err
        assert (
            "outputs/run was started by metalearn 0.0.9 with algo.warp=0.5, colour=red, which metalearn " in refused.err
        )
    # A key of another algorithm is not gone: the algorithm is another one.
    refused = go_on(tmp_path, MAML, "algo=reptile")
    assert "algo.inner_lr: 0.01 -> " in refused.err
