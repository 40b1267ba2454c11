"""Row C21 of the fault matrix: a search's folder that somebody else has made. What its study holds beyond what the
command searches is refused, before any of it becomes a key of a training."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch._inductor  # noqa: F401 - which the commands import: once here, and not in every process
from commands import refuse, run, succeed

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState, create_trial  # noqa: E402

from metalearn_cli.sweep import search_study  # noqa: E402

SEARCH = ["train", "-m", "sweep=optuna", "model.hidden=[8]", "algo.test_steps=2", "debug=quick", "steps=2"]
SEARCH += ["eval_every=2", "threads=1", "algo.inner_lr=tag(log,interval(0.001,1))", "algo.inner_steps=1,2", "name=s"]
SPACE = {
    "algo.inner_lr": FloatDistribution(0.001, 1.0, log=True),
    "algo.inner_steps": CategoricalDistribution(["1", "2"]),
}
GOOD = {"algo.inner_lr": 0.01, "algo.inner_steps": "1"}
EVIL = "outputs.s.evil.Evil"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of one trial, and a module beside it that leaves a mark when it is imported."""
    folder = tmp_path_factory.mktemp("searched")
    succeed(folder, *SEARCH, "hydra.sweeper.n_trials=1")
    (folder / "outputs/s/evil.py").write_text("open('it-ran', 'w')\nclass Evil: pass\n")
    return folder


def choice(value: str) -> Any:
    return CategoricalDistribution([value])


# The values of a trial, its distributions, and what is told of it besides.
ATTACKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a class": ({**GOOD, "algo._target_": EVIL}, {**SPACE, "algo._target_": choice(EVIL)}, "algo._target_"),
    "a class with +": ({**GOOD, "+algo._target_": EVIL}, {**SPACE, "+algo._target_": choice(EVIL)}, "algo._target_"),
    "hydra": (
        {**GOOD, "hydra.launcher._target_": EVIL},
        {**SPACE, "hydra.launcher._target_": choice(EVIL)},
        "hydra.launcher._target_",
    ),
    "another folder": ({**GOOD, "name": "elsewhere"}, {**SPACE, "name": choice("elsewhere")}, "name"),
    "a key less": ({"algo.inner_lr": 0.01}, {"algo.inner_lr": SPACE["algo.inner_lr"]}, "algo.inner_steps"),
    "outside": ({**GOOD, "algo.inner_lr": 5.0}, {**SPACE, "algo.inner_lr": FloatDistribution(0.001, 9.0)}, "5.0"),
    "a word": (
        {**GOOD, "algo.inner_lr": "${oc.env:HOME}"},
        {**SPACE, "algo.inner_lr": choice("${oc.env:HOME}")},
        "HOME",
    ),
    "another choice": ({**GOOD, "algo.inner_steps": "3"}, {**SPACE, "algo.inner_steps": choice("3")}, "inner_steps"),
    "a whole number": ({**GOOD, "algo.inner_lr": 1}, {**SPACE, "algo.inner_lr": IntDistribution(0, 1)}, "inner_lr"),
}


@pytest.mark.row("C21")
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_trial_that_the_command_does_not_search_is_refused(searched: Path, attack: str, tmp_path: Path) -> None:
    shutil.copytree(searched / "outputs", tmp_path / "outputs")
    params, distributions, said = ATTACKS[attack]
    trial = create_trial(state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={"batch": 1})
    storage = search_study.open_storage(tmp_path / "outputs/s")
    optuna.load_study(study_name=search_study.NAME, storage=storage).add_trial(trial)
    refused = refuse(tmp_path, *SEARCH, "hydra.sweeper.n_trials=3")
    assert not (tmp_path / "it-ran").exists()
    assert "trial 1 in outputs/s/optuna.log" in refused
    assert said in refused
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["s"]


@pytest.mark.row("C21")
@pytest.mark.parametrize("batch", [..., "x", -1, 7, 1.5, None, True])
@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.PRUNED])
def test_a_trial_of_no_batch_is_foreign(batch: Any, state: TrialState) -> None:
    attributes = {} if batch is ... else {"batch": batch}
    trial = create_trial(state=state, params=GOOD, distributions=SPACE, user_attrs=attributes)
    trial.number = 1
    assert search_study.why_foreign(trial, SPACE) == f"its batch is {None if batch is ... else batch!r}"
    trial.user_attrs["batch"] = 1
    assert search_study.why_foreign(trial, SPACE) is None


@pytest.mark.row("C21")
def test_a_result_that_is_not_a_number_is_foreign() -> None:
    for value in (math.nan, math.inf, "x", None, [], True):
        about: Any = {"params": GOOD, "distributions": SPACE, "user_attrs": {"batch": 0}}
        trial = create_trial(state=TrialState.COMPLETE, value=1.0, **about)
        trial.number, trial.intermediate_values[2] = 0, value
        assert search_study.why_foreign(trial, SPACE) == f"a result of it is {value!r}"


@pytest.mark.row("C21", ci=4, full=42)
def test_a_journal_whose_lines_are_of_another_kind_is_a_sentence(attempt: int, searched: Path, tmp_path: Path) -> None:
    """Each value of its lines in turn."""
    shutil.copytree(searched / "outputs", tmp_path / "outputs")
    path = tmp_path / "outputs/s/optuna.log"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    whats = ("op_code", "values", "search", "intermediate_value", "trial_id", "state", "directions")
    what, value = whats[attempt % 7], (math.nan, "x", None, [], {}, 7)[attempt // 7]
    for line in lines:
        for place in (line, line.get("user_attr", {})):
            if what in place:
                place[what] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(tmp_path, *SEARCH, "hydra.sweeper.n_trials=2")
    assert "Traceback" not in done.err, what
    assert done.code in (0, 1)
