"""A run in stages ends with the same bits wherever it is killed, and everything else takes it for one run."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from commands import refuse, start, start_ranks, succeed, wait, wait_ranks
from kills import send_at, what_must_be_equal

from metalearn_cli.config.conf_folder import list_choices
from metalearn_cli.config.job import load_job
from metalearn_cli.config.stages import stage_jobs
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.read import read_run, stage_seconds
from metalearn_cli.run_folder.series import training_seconds
from metalearn_cli.tasks.base import Split

RUN = ["task=sinusoid", "algo=maml", "model.hidden=[6]", "model.batch_norm=true", "algo.test_steps=1", "threads=1"]
RUN += ["steps=6", "save_every=2", "log_every=1", "eval_every=3", "eval_episodes=4", "test_episodes=8"]
STAGES = "stages=[{algo:pretrain,steps:6,optimizer:sgd,optimizer.lr:0.01},{algo.first_order:true,steps:3}]"
COMMAND = ["train", *RUN, STAGES, "tasks_per_step=2", "name=run"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    done = succeed(folder, *COMMAND)
    assert "starting from outputs/run/stage0, step " in done.err
    assert "starting from outputs/run/stage1, step " in done.err
    return folder


def bits(folder: Path) -> dict[str, bytes]:
    """The checkpoints, metrics and episodes of the stages."""
    files = [path for stage in ("stage0", "stage1") for path in (folder / "outputs/run" / stage).rglob("*")]
    names = re.compile(r"step-.*|metrics\.jsonl|episodes\.npz")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if names.fullmatch(path.name)}


def test_killed_in_a_stage_at_the_border_and_in_the_run_it_ends_with_the_same_bits(
    tmp_path: Path, straight: Path
) -> None:
    moments: list[tuple[tuple[Split, int], signal.Signals]] = [
        (("train", 4), signal.SIGINT),  # in the first stage
        (("test", 1), signal.SIGKILL),  # in its test
        (("train", 4), signal.SIGKILL),  # after the three of the second stage: before the first step of the run
        (("train", 4), signal.SIGKILL),  # in the run
    ]
    said = []
    for at, number in moments:
        with pytest.MonkeyPatch.context() as patch:
            send_at(patch, at, number)
            (tmp_path / "err").unlink(missing_ok=True)
            done = wait(tmp_path, start(tmp_path, *COMMAND))
        assert done.code == (-number if number == signal.SIGKILL else 128 + number), done.err
        said.append(done.err)
    assert re.search(r"stopped; saved step 4 of stage0; continue with: metalearn train .* name=run\n", said[0])
    assert "outputs/run/stage0 is already finished" in (tmp_path / "outputs/run/stage0/train.log").read_text()
    assert bits(tmp_path) == bits(straight)
    shutil.rmtree(tmp_path / "outputs/run/stage0")  # a checkpoint of the run holds everything
    assert "stage" not in succeed(tmp_path, *COMMAND).err
    assert what_must_be_equal(tmp_path) == what_must_be_equal(straight)


def test_it_is_one_run_for_every_command(straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(straight)
    report = succeed(straight, "report", "outputs")
    assert "2 runs" not in report.out
    assert "stage" not in report.out
    whole = read_run(Path("outputs/run"))
    stages = [training_seconds(read_run(Path(f"outputs/run/stage{number}")).timing) or 0 for number in (0, 1)]
    assert sum(stages) == pytest.approx(stage_seconds(whole.folder))
    assert min(stages) > 0
    evaluated = succeed(straight, "eval", "run=outputs/run", "test_episodes=4")
    assert "results are in outputs/run/eval/" in evaluated.out
    assert load_config(Path("outputs/run/stage1/config.yaml"))["init"] == "outputs/run/stage0"
    assert load_config(Path("outputs/run/config.yaml"))["init"] is None
    changed = ["stages=[{algo:pretrain,steps:7}]", "steps=9", "tasks_per_step=3"]
    assert "holds a run of another configuration (stages: " in refuse(straight, *COMMAND, *changed)


def test_a_stage_has_the_runs_keys_but_for_its_own() -> None:
    stages = "stages=[{algo:pretrain,steps:7,optimizer.lr:0.5},{optimizer:sgd,algo.inner_lr:0.5,model.hidden:[7]}]"
    given = [*RUN, "optimizer.schedule=cosine", "init=outputs/other", "expect=mse<=9", stages, "eval_every=2"]
    job = load_job(given)
    first, second = stage_jobs(job)
    assert (first.choices["algo"], first.run.steps, first.optimizer.lr) == ("pretrain", 7, 0.5)
    assert (first.optimizer.schedule_steps, second.optimizer.schedule.name) == (7, "constant")
    assert (second.algo, second.net) == (
        load_job([*RUN, "algo.inner_lr=0.5"]).algo,
        load_job([*RUN, "model.hidden=[7]"]).net,
    )
    assert (first.run.init, second.run.init) == ("outputs/other", None)
    assert (first.net, first.run.eval_every, first.run.expect) == (job.net, 2, None)
    (quick,) = stage_jobs(load_job([*RUN[:-6], "debug=quick", "stages=[{algo:pretrain,steps:70,seed:3}]"]))
    assert (quick.run.steps, quick.run.seed) == (20, 3)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("[{algo:pretrian}]", r"stages\[0\]: algo=pretrian is none of the choices: did you mean pretrain\?"),
        ("[{steps:1},{algo.inner_lrr:1}]", r"stages\[1\]: algo.inner_lrr is not a key of MAML: did you mean"),
        ("[{stepz:1}]", r"stages\[0\]: stepz is not a key of Run: did you mean steps\?"),
        ("[{step.s:1}]", r"stages\[0\]: there is no key step.s"),
        ("[{steps:-1}]", r"stages\[0\]: steps=-1 must be a whole number, 0 or above"),
        ("[{name:x}]", r"stages\[0\]: name is for the whole run: give it beside stages"),
        ("[1]", r"stages=\[1\] must be a list, e\.g\. \[\{steps:1000\}\]"),
        ("[{algo:{1:2}}]", r"stages\[0\]: algo\.1 is not a key of MAML"),
    ],
)
def test_a_mistake_in_a_stage_is_told_with_its_number(stages: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stage_jobs(load_job([*RUN, f"stages={stages}"]))


def test_what_does_not_fit_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    fits_not = "stages[0]: algo=protonet compares classes"
    assert fits_not in refuse(tmp_path, *COMMAND, "stages=[{algo:protonet}]")
    other = ["stages=[{algo:learned_optimizer,algo.test_steps:2}]", "model.batch_norm=false"]
    assert "stages[0] has nothing for this model" in refuse(tmp_path, *COMMAND, *other)
    wrong = "stages[0]: algo=pretrian is none"
    assert wrong in refuse(tmp_path, "train", "-m", *RUN, "stages=[{algo:pretrian}]", "seed=0,1")
    assert wrong in refuse(tmp_path, *COMMAND, "stages=[{algo:pretrian}]", "--cfg", "job")
    assert "- algo: pretrain" in succeed(tmp_path, *COMMAND, "--cfg", "job").out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.nightly
def test_a_failure_in_a_stage_names_it_and_seeds_of_a_sweep_are_one_configuration(tmp_path: Path) -> None:
    diverging = "stages=[{algo:pretrain,optimizer:sgd,optimizer.lr:1e30}]"
    assert "metalearn: stages[0]: the " in refuse(tmp_path, *COMMAND, diverging, "name=bad")
    assert "stages[0]: the " in succeed(tmp_path, "report", "outputs/bad").err
    succeed(tmp_path, "train", "-m", *RUN, "stages=[{algo:pretrain,steps:2}]", "seed=0,1", "name=sweep")
    assert (tmp_path / "outputs/sweep/seed=1/stage0/results.json").exists()
    assert "mean over 2 seeds" in succeed(tmp_path, "report", "outputs/sweep").out


@pytest.mark.nightly
def test_two_ranks_train_the_stages_together(tmp_path: Path) -> None:
    codes, said = wait_ranks(tmp_path, start_ranks(tmp_path, 2, *COMMAND))
    assert codes == [0, 0], said
    environment = json.loads((tmp_path / "outputs/run/environment.json").read_text())
    assert (environment["ranks"], environment["origin"]["init"]) == (2, "outputs/run/stage1")


STAGED = [name for name in list_choices("experiment") if load_job([f"experiment={name}"]).run.stages]


@pytest.mark.parametrize("preset", STAGED)
def test_every_preset_with_stages_parses(preset: str) -> None:
    job = load_job([f"experiment={preset}", "debug=quick"])
    assert [stage.run.steps for stage in stage_jobs(job)] == [20] * len(job.run.stages)


@pytest.mark.usefixtures("packed_images")
def test_a_preset_with_a_stage_runs(tmp_path: Path) -> None:
    tiny = ["debug=quick", "steps=2", "eval_every=0", "select=last", "test_episodes=4", "model.widths=[2,2,2,2]"]
    done = succeed(tmp_path, "train", "experiment=meta_baseline/cifar_fs_5w5s", *tiny, "threads=1", "name=run")
    assert "drawn: scale; not needed: head.bias, head.weight" in done.err


def test_a_file_where_a_folder_would_stand_is_a_sentence(tmp_path: Path, straight: Path) -> None:
    run = shutil.copytree(straight, tmp_path, dirs_exist_ok=True) / "outputs" / "run"
    for folder in (run / "checkpoints", run / "stage0"):
        shutil.rmtree(folder)
    (run / "results.json").unlink()
    (run / "stage0").write_text("")
    (tmp_path / "outputs/one").write_text("")
    said = refuse(tmp_path, *COMMAND)
    assert "stages[0]: outputs/run/stage0 is a file, and the run's folder would stand there: move it away" in said
    assert "outputs/one is a file, and the run's folder" in refuse(tmp_path, "train", *RUN, "name=one")
