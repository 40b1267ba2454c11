"""Sweeps whose values Optuna chooses, `-m sweep=optuna`: skipped where it is not installed."""

import importlib.metadata
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch._inductor  # noqa: F401 - which the commands import: once here, and not in every process
from commands import Finished, run, start, wait
from folders import write_lines
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from places import TABLE

from metalearn_cli.cli import main
from metalearn_cli.config.job import load_job
from metalearn_cli.config.overrides import quote
from metalearn_cli.errors import Pruned, UserError
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.unfinished import Outcome, read_outcome
from metalearn_cli.sweep import sweep, sweep_job
from metalearn_cli.training.run import train_run

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from metalearn_cli.sweep import search, search_plan, search_study  # noqa: E402
from metalearn_cli.sweep.sweep_job import Pruning  # noqa: E402

TINY = ["model.hidden=[8]", "algo.test_steps=2", "debug=quick", "steps=6", "eval_every=2", "threads=1"]
RATES = "algo.inner_lr=tag(log,interval(0.001,1))"
SEARCH = ["train", "-m", "sweep=optuna", *TINY, RATES, "algo.inner_steps=int(interval(1,3))", "name=s"]
# Two at a time; TPE from the third trial on, so that it matters what is known when; and the median prunes.
KEYS = ["hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.n_startup_trials=2"]
KEYS += ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2"]


def trials(folder: Path) -> list[Any]:
    storage = search_study.open_storage(folder / "outputs" / "s")
    return optuna.load_study(study_name=search_study.NAME, storage=storage).trials


def values(folder: Path) -> list[tuple[TrialState, dict[str, Any], float | None, dict[int, float]]]:
    return [(trial.state, trial.params, trial.value, trial.intermediate_values) for trial in trials(folder)]


def test_a_search_over_paths(tmp_path: Path) -> None:
    for name in ("a.csv", "it's [b].csv"):
        shutil.copy(TABLE, tmp_path / name)
    keys = ["sweep=optuna", "task=table", "algo=maml", *TINY, "task.root=a.csv,it's [b].csv", "name=s"]
    done = run(tmp_path, "train", "-m", *keys, "hydra.sweeper.n_trials=6")
    assert done.code == 0, done.err
    assert {trial.params["task.root"] for trial in trials(tmp_path)} == {"a.csv", "it's [b].csv"}
    folders = {path.parent.name for path in (tmp_path / "outputs/s").glob("*/results.json")}
    assert folders == {"task.root=a.csv", "task.root=it's [b].csv"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A search that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, *SEARCH, *KEYS)


def test_a_search_runs_trials_by_validation_and_names_the_best(whole: tuple[Path, Finished]) -> None:
    folder, done = whole
    assert done.code == 0, done.err
    studied = trials(folder)
    assert {trial.state for trial in studied} == {TrialState.COMPLETE, TrialState.PRUNED}
    complete = [trial for trial in studied if trial.state == TrialState.COMPLETE]
    for trial in complete:
        job = search.trial_folder(folder / "outputs" / "s", trial)
        assert trial.value == sweep_job.best_validation(job) == min(trial.intermediate_values.values())
        assert list(trial.intermediate_values) == [2, 4, 6]
        assert f"inner_lr: {trial.params['algo.inner_lr']}\n" in (job / "config.yaml").read_text()
    best = min(complete, key=lambda trial: trial.value)
    assert f"best by validation: trial {best.number}, val mse" in done.out
    assert done.out.splitlines()[-2].endswith(search.values_of(best))
    rows = [line.split()[:2] for line in done.out.splitlines()[:6]]
    assert rows == [[str(trial.number), search.values_of(trial)] for trial in studied]
    assert f"6 of 6 trials, the best of them trial {best.number}, val mse" in done.err


def test_the_same_command_repeats_no_trial_and_more_trials_go_on(whole: tuple[Path, Finished]) -> None:
    folder, done = whole
    same = run(folder, *SEARCH, *KEYS)
    assert (same.code, same.out) == (0, done.out)
    assert "metalearn: algo.inner_lr=" not in same.err
    more = run(folder, *SEARCH, *KEYS, "hydra.sweeper.n_trials=7")
    assert more.code == 0, more.err
    assert more.err.count("metalearn: algo.inner_lr=") == 1
    assert [more.out.splitlines()[k].split()[0] for k in range(7)] == list("0123456")


@pytest.mark.parametrize(("where", "name"), [(search, "suggest"), (Pruning, "verdict"), (search, "tell_study")])
def test_a_killed_search_goes_on_to_the_same_trials(
    where: Any, name: str, whole: tuple[Path, Finished], tmp_path: Path
) -> None:
    real, calls = getattr(where, name), []

    def die_at_the_fourth_call(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    pid = start(tmp_path, *SEARCH, *KEYS, first=lambda: setattr(where, name, die_at_the_fourth_call))
    assert wait(tmp_path, pid).code == -signal.SIGKILL
    path = tmp_path / "outputs" / "s" / sweep_job.STUDY_FILE
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"half a li')  # and in the middle of a write
    path.with_name(f"{sweep_job.STUDY_FILE}.lock").symlink_to(path)
    done = run(tmp_path, *SEARCH, *KEYS)
    assert done.code == 0, done.err
    assert done.out == whole[1].out
    assert values(tmp_path) == values(whole[0])[:6]


def test_a_pruned_trial_says_so_and_its_run_can_go_on(whole: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, done = whole
    outcomes = [json.loads(path.read_text()) for path in folder.glob("outputs/s/*/outcome.json")]
    pruned = [outcome for outcome in outcomes if outcome["pruned"] and outcome["values"] in done.out]
    assert pruned
    for outcome in pruned:
        assert outcome["failed"] is None
        assert outcome["pruned"] in done.out
        trial = folder / "outputs" / "s" / outcome["values"]
        assert not (trial / "results.json").exists()
        assert f"is {outcome['pruned']}" in (trial / "train.log").read_text()
        assert list(trial.glob(f"checkpoints/step-{int(outcome['pruned'].split()[3]):08}-*"))
    shutil.copytree(trial, tmp_path / "outputs" / "s" / trial.name)
    overrides = [text for text in (trial / "overrides.txt").read_text().splitlines() if "sweep=" not in text]
    continued = run(tmp_path, "train", *overrides)
    assert continued.code == 0, continued.err
    assert f"continuing after step {outcome['pruned'].split()[3]}" in continued.err


class FromStepFour:
    """A pruner."""

    def prune(self, study: Any, trial: Any) -> bool:
        return bool(trial.last_step >= 4)


def test_what_is_pruned_is_saved_and_stays_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [*TINY, "optimizer=sgd", "optimizer.lr=0", "save_every=100", "name=s"]  # no validation is better
    for _ in range(2):  # the second life is of one that was killed before its end was recorded
        with pytest.raises(Pruned, match="pruned at step 4 by FromStepFour"):
            train_run(load_job(overrides), overrides, gives_up=Pruning("mse", FromStepFour(), []).verdict)
        saved = sorted(path.name[:13] for path in (tmp_path / "outputs/s/checkpoints").iterdir())
        assert saved == ["step-00000002", "step-00000004"]


def test_the_outcome_of_a_killed_life_is_none(tmp_path: Path) -> None:
    """Some jobs of a batch that a signal has stopped are not started again."""

    class Idle:
        def launch(self, overrides: Any, initial_job_idx: int) -> list[Any]:
            return []

    study = optuna.create_study()
    study.ask({"seed": IntDistribution(0, 0)})
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "outcome.json").write_text('{"failed": "it did not come to its end"}')
    idle: Any = Idle()
    search.launch(idle, [], study, study.trials, tmp_path)
    assert read_outcome(tmp_path / "seed=0") is None


def test_the_verdict_is_that_of_the_pruner_on_the_validations_so_far(tmp_path: Path) -> None:
    def finished(value: float) -> Any:
        return optuna.trial.create_trial(value=value, intermediate_values={2: value, 4: value})

    def write(*results: float, name: str = "accuracy") -> None:
        lines = [{"step": 2 * k, f"val/{name}": result} for k, result in enumerate(results, 1)]
        write_lines(tmp_path / "metrics.jsonl", lines)

    pruner, earlier = optuna.pruners.MedianPruner(n_startup_trials=3), [finished(x) for x in (0.4, 0.5, 0.6)]
    pruning = Pruning("accuracy", pruner, earlier)
    assert pruning.verdict(tmp_path) is None  # no validation yet
    write(0.51)
    assert pruning.verdict(tmp_path) is None
    write(0.49)
    assert pruning.verdict(tmp_path) == (
        "pruned at step 2 by MedianPruner, with 0.49 as its best validation accuracy beside 3 finished trials"
    )
    write(0.2, name="accuracy_step0")
    assert "at step 2 by MedianPruner, with no finite validation accuracy beside" in str(pruning.verdict(tmp_path))
    write(0.51, 0.1)
    assert pruning.verdict(tmp_path) is None  # its best counts
    write(0.51, name="mse")
    assert Pruning("mse", pruner, earlier).verdict(tmp_path) is not None  # and an error is better lower
    negative = [finished(x) for x in (-0.4, -0.5, -0.6)]
    for value, is_pruned in ((-0.49, False), (-0.51, True)):
        write(value, name="log_likelihood")
        assert (Pruning("log_likelihood", pruner, negative).verdict(tmp_path) is not None) == is_pruned


def test_trials_that_diverge_are_told_and_listed_and_the_others_go_on(tmp_path: Path) -> None:
    keys = ["optimizer=sgd", "optimizer.lr=choice(0.1,1e+30)", "seed=range(0,3)"]
    done = run(tmp_path, "train", "-m", "sweep=random", *TINY, *keys, "hydra.sweeper.n_trials=8", "name=s")
    assert done.code == 0, done.err
    assert "  diverged: the " in done.out
    studied = trials(tmp_path)
    for trial in studied:
        is_bad = trial.params["optimizer.lr"] == "1e+30"
        assert trial.state == (TrialState.PRUNED if is_bad else TrialState.COMPLETE)
        assert trial.user_attrs.get("failed", "").startswith("the " if is_bad else "")
        assert (trial.intermediate_values == {}) == is_bad
    rows = done.out.splitlines()[:8]
    assert ["diverged: the " in row for row in rows] == [trial.state == TrialState.PRUNED for trial in studied]
    # Eight of six combinations: what comes again is not trained again.
    trained = [line for line in done.err.splitlines() if line.startswith("metalearn: optimizer.lr=")]
    assert len(trained) == len(set(trained)) == len({search.values_of(trial) for trial in studied}) < 8


def test_a_failure_of_another_kind_is_told_as_one(whole: tuple[Path, Finished]) -> None:
    folder, _ = whole
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    outcome = Outcome(failed="there is not enough memory", diverged=False)
    search.tell_study(study, storage, "mse", study.ask(), outcome, folder)
    assert (study.trials[0].state, study.trials[0].user_attrs) == (TrialState.FAIL, {"failed": outcome.failed})


def test_where_a_trial_fails_the_search_waits_until_that_is_mended(tmp_path: Path) -> None:
    real = sweep_job.train_run

    def fail(job: Any, *arguments: Any, **more: Any) -> Any:
        if (tmp_path / "outputs/s").exists() and len(list((tmp_path / "outputs/s").glob("*/results.json"))) == 2:
            raise OSError(5, "Input/output error")
        return real(job, *arguments, **more)

    command = [*SEARCH, *KEYS, "hydra.sweeper.n_trials=5"]
    failed = wait(tmp_path, start(tmp_path, *command, first=lambda: setattr(sweep_job, "train_run", fail)))
    assert failed.code == 1, failed.err
    assert failed.out.count("  failed: OSError: [Errno 5] Input/output error\n") == 2
    assert "the search stops, since trial 2 and 3 failed: mend that, and the same command goes" in failed.err
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING] * 2
    done = run(tmp_path, *command)
    assert done.code == 0, done.err
    assert {trial.state for trial in trials(tmp_path)} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_values_that_do_not_fit_together_are_told_as_failed(tmp_path: Path) -> None:
    keys = ["optimizer=choice(sgd,adam)", "optimizer.momentum=choice(0,0.9)", "expect=mse<=1000"]
    done = run(tmp_path, "train", "-m", "sweep=random", *TINY, *keys, "hydra.sweeper.n_trials=6", "name=s")
    assert done.code == 1, done.err
    for trial in trials(tmp_path):
        clash = trial.params == {"optimizer": "adam", "optimizer.momentum": "0.9"}
        assert trial.state == (TrialState.FAIL if clash else TrialState.COMPLETE)
    assert "  failed: optimizer.momentum=0.9 belongs to optimizer=sgd, not adam\n" in done.out


def test_a_damaged_study_is_one_sentence(whole: tuple[Path, Finished], tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "s"
    folder.mkdir(parents=True)
    lines = (whole[0] / "outputs" / "s" / sweep_job.STUDY_FILE).read_text().splitlines(keepends=True)
    (folder / sweep_job.STUDY_FILE).write_text("".join([*lines[:3], "{damaged\n", *lines[3:]]))
    refused = run(tmp_path, *SEARCH, *KEYS)
    assert refused.code == 1
    assert "outputs/s/optuna.log has a damaged line (JSONDecodeError" in refused.err
    assert "Traceback" not in refused.err


def test_a_search_that_fails_before_it_has_a_study_says_why(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no study")

    failed = wait(tmp_path, start(tmp_path, *SEARCH, first=lambda: setattr(search, "open_study", fail)))
    assert failed.code == 1
    assert "the jobs could not all be run (RuntimeError: no study)" in failed.err
    assert "Traceback" not in failed.err


@pytest.mark.skipif(
    all(part.metadata["Name"] != "hydra-joblib-launcher" for part in importlib.metadata.distributions()),
    reason="joblib's launcher is not installed",
)
def test_a_batch_is_launched_together(whole: tuple[Path, Finished], tmp_path: Path) -> None:
    done = run(tmp_path, *SEARCH, *KEYS, "hydra/launcher=joblib", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert values(tmp_path) == values(whole[0])[:2]


def test_ctrl_c_leaves_the_trial_as_it_is_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [*SEARCH, "hydra.sweeper.n_trials=2", "steps=300", "save_every=10", "eval_every=300"]
    pid = start(tmp_path, *command)
    while not list((tmp_path / "outputs").glob("s/*/checkpoints/step-*.safetensors")):
        time.sleep(0.02)
    os.kill(pid, signal.SIGINT)
    done = wait(tmp_path, pid)
    assert done.code == 130, done.err
    assert "the same command with the same name continues the sweep" in done.err
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.RUNNING]
    again = run(tmp_path, *command)
    assert again.code == 0, again.err
    assert again.err.count("continuing after step") == 1
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 2


def space(text: str) -> Any:
    return search_plan.distribution(OverridesParser.create().parse_override(quote(text)))


def test_hydras_grammar_is_the_search_space() -> None:
    assert space("a=0.1,0.2") == CategoricalDistribution(["0.1", "0.2"])
    assert space("a=choice([40,40],[64,64])") == CategoricalDistribution(["[40,40]", "[64,64]"])
    assert space("a=shuffle(1,2,3,4,5,6,7,8)") == CategoricalDistribution(list("12345678"))
    assert space("a=interval(0.1,2)") == FloatDistribution(0.1, 2.0)
    assert space("a=tag(log,interval(0.001,1))") == FloatDistribution(0.001, 1.0, log=True)
    assert space("a=int(interval(1,8))") == space("a=tag(int,interval(1,8))") == IntDistribution(1, 8)
    assert space("a=tag(int,log,interval(1,64))") == IntDistribution(1, 64, log=True)
    assert space("a=range(1,9,2)") == space("a=range(7,0,-2)") == IntDistribution(1, 7, step=2)
    assert space("a=range(0.1,0.5,0.1)") == FloatDistribution(0.1, 0.4, step=0.1)
    assert search_plan.ends(space("a=int(interval(1,8))")) == ["1", "8"]
    assert search_plan.shortened(0.123456789, space("a=interval(0.1,2)")) == 0.123457
    assert search_plan.shortened(0.1234561, space("a=interval(0.12345600001,2)")) == 0.12345600001


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("algo.inner_lr=interval(1,0.1)", "an interval goes from a lower number to a higher one"),
        ("algo.inner_lr=tag(log,interval(0,1))", "tag(log) needs an interval above 0"),
        ("algo.inner_lr=tag(loog,interval(0.1,1))", "a search knows the tags log and int, not loog"),
        ("algo.inner_steps=range(3,3)", "is empty"),
        ("algo.inner_steps=tag(log,range(1,9,2))", "tag(log) needs a range of whole numbers above 0 in steps of 1"),
        ("algo.inner_steps=interval(1,3)", "algo.inner_steps=1.0 must be a whole number"),
        ("algo.inner_lrr=interval(0.1,1)", "did you mean algo.inner_lr?"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0 must be a whole number from 1 on"),
        ("hydra.sweeper.storage=x", "there is no key hydra.sweeper.storage: those of sweep=optuna stand in conf/"),
        ("hydra/sweeper/sampler=tpee", "hydra/sweeper/sampler=tpee is none of the choices: did you mean tpe?"),
        ("hydra.sweeper.sampler._target_=optuna.samplers.QMCSampler", "hydra/sweeper/sampler=... from random, tpe"),
        ("hydra.sweeper.sampler={_target_:optuna.samplers.QMCSampler}", "hydra/sweeper/sampler=... from random, tpe"),
        ("hydra.sweeper.sampler=tpe", "choose by hydra/sweeper/sampler=... from random, tpe"),
        ("hydra.sweeper.pruner=null", "choose by hydra/sweeper/pruner=... from median, none, percentile"),
        ("hydra/sweeper=foo", "hydra/sweeper=foo is none of the choices: give sweep=optuna for a search"),
        ("+hydra.sweeper.pruner.nonsense=1", "hydra.sweeper.pruner cannot be made: NopPruner"),
        ("task=glob(sinus*)", "task=glob(sinus*): a sweep knows no glob(...): list the choices"),
        ("algo.inner_lr=interval(0.01,inf)", "an interval goes from one finite number to another"),
        ("algo.inner_steps=range(0,inf)", "a range goes from one finite number to another"),
        ("algo.inner_steps=tag(int,log,interval(0.5,3))", "needs an interval above 0, in whole numbers from 1 on"),
        ("algo.inner_steps=int(interval(0.2,0.8))", "higher one, and 0 to 0 in whole numbers does not"),
        ("+hydra.sweeper.sampler.nonsense=1", "hydra.sweeper.sampler cannot be made: TPESampler.__init__() got an "),
        ("eval_every=0", "eval_every=0 with steps=6 has none: give an eval_every from 1 to 6"),
        ("eval_every=7", "eval_every=7 with steps=6 has none"),
        ("task=sinusoid,omniglot", "a search compares by one metric, and its tasks have accuracy and mse: give one"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence_before_the_first_trial(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "sweep=optuna", "steps=6", "eval_every=2", "seed=0,1", text, "name=s"]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_another_search_in_the_same_folder_is_refused(whole: tuple[Path, Finished]) -> None:
    folder, _ = whole
    before = (folder / "outputs" / "s" / sweep_job.STUDY_FILE).read_bytes()
    for key in ("algo.inner_lr=interval(0.1,1)", "steps=7", "hydra.sweeper.sampler.seed=1", "algo.first_order=true"):
        command = [text for text in SEARCH if text.partition("=")[0] != key.partition("=")[0]]
        refused = run(folder, *command, *KEYS, key)
        assert refused.code == 1
        assert f"outputs/s holds another search ({key.partition('=')[0]}: " in refused.err
    assert (folder / "outputs" / "s" / sweep_job.STUDY_FILE).read_bytes() == before
    assert run(folder, *SEARCH, *KEYS, "device=cpu").code == 0


def test_a_search_and_another_sweep_share_no_folder(whole: tuple[Path, Finished], tmp_path: Path) -> None:
    refused = run(whole[0], "train", "-m", *TINY, "seed=0,1", "name=s")
    assert refused.code == 1
    assert "outputs/s holds a search and cannot hold a sweep too: take another name" in refused.err
    job = tmp_path / "outputs" / "s" / "seed=0"
    job.mkdir(parents=True)
    (job / "outcome.json").write_text("{}")
    refused = run(tmp_path, *SEARCH)
    assert refused.code == 1
    assert "outputs/s holds a sweep and cannot hold a search too: take another name" in refused.err


def test_a_folder_is_one_searchs_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "s"
    folder.mkdir(parents=True)
    with lock(folder, True):
        refused = run(tmp_path, *SEARCH)
    assert refused.code == 1
    assert "outputs/s is in use by pid" in refused.err


def test_without_optuna_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    assert main(["train", "-m", "sweep=optuna", "seed=0,1"]) == 1
    assert capsys.readouterr().err.endswith("in this environment: pip install 'metalearn-cli[optuna]'\n")
    assert not list(tmp_path.iterdir())


def test_other_sweeps_want_listed_values() -> None:
    with pytest.raises(UserError, match=r"takes listed values, e\.g\. algo\.inner_lr=0\.1,0\.2; sweep=optuna"):
        sweep.sweep(["algo.inner_lr=interval(0.1,1)"])


def test_jobs_beside_one_another_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(asked: str, launcher: str, k: int) -> str:
        hydra = {"runtime": {"choices": {"hydra/launcher": launcher}}, "job": {"num": k}}
        return sweep_job.one_of_several_gpus(asked, OmegaConf.create(hydra))

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [gpu("auto", "joblib", k) for k in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert gpu("cuda:1", "joblib", 0) == "cuda:1"
    assert gpu("auto", "basic", 1) == gpu("auto", "submitit_slurm", 1) == "auto"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert gpu("auto", "joblib", 1) == "auto"
