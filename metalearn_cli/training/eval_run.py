"""Evaluate a trained run in a folder of its own, below the run's."""

import contextlib
import hashlib
import json
import shlex
import shutil
from contextlib import closing
from pathlib import Path

from metalearn_cli.config.assemble import new_learner, require_parts
from metalearn_cli.config.job import Job, key_defaults
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.learning.learner import require_same_model
from metalearn_cli.run_folder import checkpoint, environment, proof, records, runs, scored_parts, unfinished
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.results import Results
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.system.signals import Interrupt, Interrupted
from metalearn_cli.tasks.capabilities import make_ready, notes_of
from metalearn_cli.tasks.embedded import pictured
from metalearn_cli.tasks.tones import drawn, warnings
from metalearn_cli.trained.loading import examples_in
from metalearn_cli.training.eval_job import is_same_data
from metalearn_cli.training.run import console_of, same_everywhere
from metalearn_cli.training.session import Session
from metalearn_cli.training.test import test
from metalearn_cli.tuning.prepare import prepare


def eval_run(run: Path, job: Job, overrides: list[str], ranks: Ranks = ALONE) -> tuple[Path, Results]:
    """Test the checkpoint that a run tested, with other episodes or on another task, in a folder of its own.

    The folder's name is made of what is tested, so that the same command finds its results again -> folder, results.
    """
    fresh = require_parts(job, ranks)
    fingerprint = same_everywhere(job, ranks)
    tested, about = ranks.from_first(lambda: _tested(run, job, fingerprint))
    notes = [*job.notes, *notes_of(job.task), *about, *_unlike_the_training(run, job)]
    weights = {name: value for name, value in tested.tensors.items() if not name.startswith("optimizer.")}
    require_same_model(weights, fresh, job.net)
    what = {key: value for key, value in job.config.items() if key not in ("expect", "trust", "logger")}
    digest = hashlib.sha256(json.dumps([what, fingerprint, tested.step], sort_keys=True).encode()).hexdigest()
    folder = run / "eval" / f"{job.choices['task']}-{digest[:8]}"

    def new_folder() -> None:
        refuse_link(folder.parent)
        refuse_link(folder)
        folder.mkdir(parents=True, exist_ok=True)

    ranks.from_first(new_folder)
    locked = lock(folder, job.run.lock) if ranks.is_first else contextlib.nullcontext()
    with locked, closing(console_of(folder / "eval.log", ranks)) as console:
        for note in notes:
            console.say(note)
        results, changed = ranks.from_first(lambda: proof.checked_results(folder, job.config))
        for sentence in changed:
            console.say(sentence)
        if results is not None:
            console.say(f"{folder} holds the results of this very evaluation: remove it to test once more")
            return folder, results
        try:
            if ranks.is_first:
                records.write_record(folder / environment.CHOICES, environment.read_choices(run))
                runs.write_records(folder, job, overrides, fingerprint, ranks.size)
            with Interrupt(ranks.agree, is_quiet=not ranks.is_first) as interrupt:
                with interrupt.leaving_at_once():
                    job = prepare(job, folder, console, ranks)
                    make_ready(job.task, "test")
                learner = new_learner(job, ranks)
                learner.load_state_dict(tested.tensors)
                results = test(Session(learner, job, folder, console, interrupt), tested.step)
        except BaseException as failure:
            if isinstance(failure, Interrupted) and (folder / scored_parts.FOLDER).exists():
                again = shlex.join([*unfinished.launcher(ranks), "eval", *overrides])
                raise Interrupted(failure.code - 128, f"saved a part of the test; continue with: {again}") from failure
            if ranks.is_first:
                shutil.rmtree(folder)  # an evaluation is complete, or its scored blocks wait, or it has no folder
            raise
        console.note(f"results are in {folder}")
        return folder, results


def _unlike_the_training(run: Path, job: Job) -> list[str]:
    """Say how the user's pictures differ from those of the training."""
    if not set(Preparation.KEYS) <= job.config["task"].keys():
        return []
    tones = examples_in(run, load_config(run / "config.yaml"), job.run.trust).tones
    if tones is None:
        return []
    x = drawn(pictured(job.task), "test")
    return warnings(x, tones, "a sample of the test", [f"number {number}" for number in range(1, len(x) + 1)])


def _tested(run: Path, job: Job, fingerprint: str) -> tuple[checkpoint.Checkpoint, list[str]]:
    """Load the checkpoint that a run tested, or its newest, with notes for the user."""
    defaults = {key.removeprefix("task."): value for key, value in key_defaults(job).items() if key.startswith("task.")}
    if is_same_data(job.config["task"], defaults | load_config(run / "config.yaml")["task"]):
        runs.check_same_data(run, fingerprint)
    runs.check_same_weights(run, job.weights)
    tested, skipped = proof.load_tested(run)
    if (run / "results.json").exists():
        return tested, skipped
    return tested, [*skipped, f"{run} is not finished: testing its step {tested.step} of {job.run.steps}"]
