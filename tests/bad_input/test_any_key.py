"""Row C20 of the fault matrix: whatever is given for whichever key, a command does its work, or says one sentence.

The keys are those of conf/, the words those that conf/ lists. What would only take long is left out: sizes are small,
and nothing is compiled.
"""

import random
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from commands import Finished, run
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from pairs import PAIRS, built_or_refused, small
from places import MAML as GOLDEN

from metalearn_cli.commands import eval as eval_command
from metalearn_cli.config import conf_folder
from metalearn_cli.config.job import Job, load_job

TINY = ["steps=1", "eval_every=1", "eval_episodes=2", "test_episodes=2", "threads=1", "name=run"]
# Whole numbers beyond all measure are for keys whose size costs nothing.
FREE = ("seed", "episodes_seed", "threads", "keep", "save_every", "log_every", "schedule_steps", "decay_every", "lr")
SLOW = {"compile=true", "tasks_per_chunk=auto", "memory=auto", "memory=1GB"}

NUMBERS = ["-1", "0", "1", "2", "3", "0.5", "1e-3", "-0.0", "1e30", "nan", "inf", "-inf", "1e999", "1.5", "0x10"]
WORDS = ["null", "true", "false", "", "abc", "auto", "best", "cpu", "cuda:7", "???", "${x}", "${seed}", "[]", "[1]"]
WORDS += ["[0.5,2]", "[a,b]", "[[1]]", "[null]", "{}", "{a:1}", "{a:{b:c}}", "'", '"', "a b", "ä", "\\", "a=b", "1,2"]
WORDS += [
    "range(3)",
    "[",
    "{a",
    "../up",
    "/",
    "~nobody-is-called-so/x",
    "*",
    "mse<1e9",
    "accuracy>=0.5",
    "1GB",
    "[val]",
]


def likely(job: Job) -> dict[str, list[str]]:
    """Every key of a job, with values that may be right."""
    values_of: dict[str, list[str]] = {
        group: conf_folder.list_choices(group) for group in (*conf_folder.GROUPS, *conf_folder.PRESETS)
    }
    for key, value in conf_folder.flatten(job.config).items():
        if key.endswith("_target_"):
            continue
        values_of[key] = conf_folder.key_values(key) or ["null", "2", "3", "0.5", "[2,3]"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            values_of[key] = ["1", "2", "3"] if isinstance(value, int) else ["0", "0.01", "0.5", "3"]
    return values_of


@st.composite
def overrides(draw: st.DrawFn, keys: dict[str, list[str]]) -> list[str]:
    """Some key=value, now and then of a key that there is not."""
    words: list[str] = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        key = draw(st.sampled_from(sorted(keys)))
        beyond = ["1" + "0" * 30] if key.rpartition(".")[2] in FREE else []
        kind = draw(st.integers(0, 9))  # many that may be right, so that not everything ends at the first look
        if kind < 6:
            value = draw(st.sampled_from([*keys[key], *beyond]))
        elif kind < 9:
            value = draw(st.sampled_from([*NUMBERS, *WORDS]))
        else:
            value = draw(st.text(max_size=6)).replace("\0", "")
        odd = draw(st.integers(0, 39))
        key = {35: f"+{key}", 36: f"{key}x", 37: f"~{key}", 38: f"{key}.x", 39: f"++{key}"}.get(odd, key)
        if f"{key}={value}".lstrip("+") not in SLOW:
            words.append(f"{key}={value}")
    return words


def check(done: Finished, command: list[str]) -> None:
    assert done.code != -signal.SIGXCPU, f"a minute was not enough: {command}"
    assert "Traceback" not in done.err, f"{command}: {done.err}"
    assert done.code in (0, 1, 2, 3), f"{command}: {done}"
    sentences = [line for line in done.err.splitlines() if line.startswith("metalearn: ")]
    assert len(sentences) == (done.code != 0), f"{command}: {done}"


@pytest.mark.row("C20", gate=0, ci=5, full=50)
@pytest.mark.usefixtures("packed_images")
def test_every_command_works_or_says_a_sentence(attempt: int, tmp_path: Path, own_images: Path) -> None:
    """20 commands a try."""
    pairs = [small(algo, task, own_images) for algo, task in PAIRS]
    random.Random(attempt).shuffle(pairs)
    begun = next(pair for pair in pairs if built_or_refused(load_job(pair)))
    keys = likely(load_job(begun))
    of_run = likely(load_job(["algo=maml", "task=sinusoid"]))
    (golden := tmp_path / "golden").mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 70))

    def trained(words: list[str]) -> None:
        folder = tmp_path / "train"
        shutil.rmtree(folder, ignore_errors=True)
        done = run(folder, "train", *begun, *TINY, *words, first=limit)
        check(done, words)
        was_begun = done.code != 1 or "so training stopped" in done.err
        assert was_begun or not (folder / "outputs").exists(), f"{words}: {done}"

    def evaluated(words: list[str]) -> None:
        shutil.rmtree(golden)
        shutil.copytree(GOLDEN, golden / "outputs" / "run")
        check(run(golden, "eval", "run=outputs/run", "test_episodes=2", *words, first=limit), words)

    of_eval = {key: of_run[key] for key in of_run if key in (*eval_command.KEYS, "seed") or "task" in key}
    for test, among, examples in ((trained, keys, 14), (evaluated, of_eval, 6)):
        once = settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate])
        once = settings(once, suppress_health_check=list(HealthCheck))
        examined: Any = hypothesis.seed(attempt)(once(hypothesis.given(overrides(among))(test)))
        examined()
