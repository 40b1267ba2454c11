"""One training in its folder: check, take the folder, prepare, train, and say what came of it."""

import contextlib
import json
import shutil
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from omegaconf import OmegaConf

from metalearn_cli.config.assemble import new_learner, require_parts, require_shares
from metalearn_cli.config.job import Job, key_defaults
from metalearn_cli.config.stages import of_stage, stage_jobs
from metalearn_cli.errors import Pruned, UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.run_folder import environment, loggers, proof, records, runs, scored_parts, unfinished
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.results import Results
from metalearn_cli.system.console import Console
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.system.signals import Interrupt, Interrupted
from metalearn_cli.tasks.capabilities import class_names, make_ready, notes_of
from metalearn_cli.tasks.example_format import examples_with_tones, with_ink_of
from metalearn_cli.training import continued
from metalearn_cli.training.loop import train
from metalearn_cli.training.session import GivesUp, Session, never
from metalearn_cli.training.start import has_begun, match, require_base_mean, start_from, take
from metalearn_cli.tuning.prepare import prepare


def train_run(
    job: Job, overrides: list[str], ranks: Ranks = ALONE, gives_up: GivesUp = never, number: int | None = None
) -> tuple[Path, Results]:
    """Train in the run's folder, or take the results of a run that is already finished -> folder, results. Raises
    Pruned where a search gives the run up. `number`: that of a job of a sweep."""
    begun = ranks.from_first(lambda: continued.begun(job.run.name))
    job = continued.as_begun(job, begun)
    # A fault of the device, the parts or the data is told before a folder is made.
    is_new = not ranks.from_first(lambda: has_begun(job.run.name))
    stages = stage_jobs(job) if is_new else []
    drawn = _require_all([*stages, job], ranks)
    init = job.run.init if is_new else None
    start = ranks.from_first(lambda: start_from(init, job.run.init_names, drawn[0]) if init else None)
    if is_new:
        require_base_mean([*stages, job][0], drawn[0], start.tensors if start else {})
    notes = notes_of(job.task)  # read the data

    def new_folder() -> Path:
        folder = runs.choose_folder(job.run.name, job.choices["algo"], job.choices["task"])
        if folder.is_file():
            raise UserError(f"{folder} is a file, and the run's folder would stand there: move it away")
        folder.mkdir(parents=True, exist_ok=job.run.name is not None)
        return folder

    folder = ranks.from_first(new_folder)
    with _first_in(folder, job, ranks) as about, closing(console_of(folder / "train.log", ranks, number)) as console:
        for note in job.notes:
            (console.say if number is None else console.note)(note)  # a sweep has shown the notes of its jobs
        for note in [*notes, *about]:
            console.say_once(note)
        results = ranks.from_first(lambda: _begin(folder, job, overrides, console, ranks))
        if results is not None:
            return folder, results
        try:
            if (last := _train_stages(folder, stages, overrides, ranks, number)) is not None:
                start = ranks.from_first(lambda: start_from(str(last), (), drawn[-1]))
            with Interrupt(ranks.agree, is_quiet=not ranks.is_first) as interrupt:
                with interrupt.leaving_at_once():
                    job = prepare(job, folder, console, ranks)
                    for split in job.splits_used:
                        make_ready(job.task, split)
                session = Session(new_learner(job, ranks), job, folder, console, interrupt)
                if start is not None:
                    take(start, session)
                results = train(session, gives_up)
        except Interrupted as signal:
            raise Interrupted(signal.code - 128, unfinished.how_to_continue(folder, overrides, ranks)) from signal
        except Pruned as end:
            console.say(f"{folder} is {end}")
            raise
        except Exception as error:  # the caller says it on the screen
            with contextlib.suppress(OSError):  # the disk may be full, which is what failed
                console.note(f"failed: {error if isinstance(error, UserError) else traceback.format_exc()}")
            raise
        console.note(f"results are in {folder}")
        return folder, results


def _require_all(jobs: list[Job], ranks: Ranks) -> list[Params]:
    """The parameters and statistics that the stages of a run, and last the run, would draw. Raises UserError for a
    fault of one of them, and where one has nothing for the next."""
    drawn: list[Params] = []
    for number, job in enumerate(jobs):
        with of_stage(number) if job is not jobs[-1] else contextlib.nullcontext():
            loggers.check_installed(job.run.logger.name if job.run.logger else None)
            require_shares(job, ranks)
            drawn.append(require_parts(job, ranks))
            same_everywhere(job, ranks)
            if number:
                taken, *_ = match(f"stages[{number - 1}]", drawn[-2], (), drawn[-1])
                require_base_mean(job, drawn[-1], taken)
    return drawn


def _train_stages(
    folder: Path, stages: list[Job], overrides: list[str], ranks: Ranks, number: int | None
) -> Path | None:
    """Train the stages of a run, each in a folder in the run's, or take those that are finished -> the last one's."""
    last: Path | None = None
    for index, stage in enumerate(stages):
        refuse_link(place := runs.stage_folder(folder, index))
        name = place.relative_to(runs.OUTPUTS).as_posix()
        init = stage.run.init if last is None else str(last)
        with of_stage(index):
            last, _ = train_run(stage.with_keys(name=name, init=init), overrides, ranks, number=number)
    return last


def _begin(folder: Path, job: Job, overrides: list[str], console: Console, ranks: Ranks) -> Results | None:
    """Check what the folder holds, and write down what will be done in it -> the results, where it is done already."""
    fingerprint = job.task.fingerprint
    runs.check_same_data(folder, fingerprint)
    runs.check_same_weights(folder, job.weights)
    if (results := finished_results(folder, job, console)) is not None:
        console.say(f"{folder} is already finished, {job.run.steps} steps")
        shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)  # of a process that was killed as it finished
        with closing(loggers.Mirror(folder, job, results, console, ranks)) as mirror:
            mirror.finish(results)
        return results
    for difference in environment.other_versions(folder, ranks.size):
        console.say(difference)
    runs.write_records(folder, job, overrides, fingerprint, ranks.size)
    examples = examples_with_tones(job.task, job.weights)
    with contextlib.suppress(UserError):  # it is written again, whatever has become of it
        examples = with_ink_of(examples, environment.read_examples(folder))
    records.write_record(folder / environment.TASK, examples)
    classes = {str(split): class_names(job.task, split) for split in job.task.splits}
    if any(classes.values()):
        records.write_record(folder / "classes.json", classes)
    return None


@contextlib.contextmanager
def _first_in(folder: Path, job: Job, ranks: Ranks) -> Iterator[list[str]]:
    """Take the folder of the run in the first rank, and check that it is this run's -> notes on what nothing proves."""
    if not ranks.is_first:
        yield []
        return
    with lock(folder, job.run.lock):
        runs.remove_temporary(folder)
        about = proof.check_written(folder)
        runs.check_same(folder, job.config, key_defaults(job), job.given_keys)
        yield about


def console_of(log: Path, ranks: Ranks, job: int | None = None) -> Console:
    return Console(log, job=job) if ranks.is_first else Console(is_silent=True)


def same_everywhere(job: Job, ranks: Ranks) -> str:
    """Return the fingerprint of the data. Raises UserError where the ranks have different commands or data."""
    fingerprint = job.task.fingerprint
    for what, text in (("configuration", json.dumps(job.config, sort_keys=True)), ("data", fingerprint)):
        each = ranks.gather(text)
        if others := [rank for rank in range(ranks.size) if each[rank] != each[0]]:
            raise UserError(
                f"rank {others[0]} of {ranks.size} has another {what} than rank 0: give all of them the same"
            )
    return fingerprint


def finished_results(folder: Path, job: Job, console: Console) -> Results | None:
    """The results of a run that was tested after these steps and as the job asks, if there are any; a sentence says
    where it was tested otherwise."""
    results, changed = proof.checked_results(folder, job.config)
    for sentence in changed:
        console.say(sentence)
    if results is None or results.steps != job.run.steps:
        return None
    asked = {
        "select": (job.run.select.name, results.select),
        "test_episodes": (job.run.test_episodes, results.episodes),
        "other_batch_norm": (_listed(mode.name for mode in job.test_modes[1:]), _listed(results.other_batch_norm)),
    }
    changes = [f"{key}={now} (it was {then})" for key, (now, then) in asked.items() if now != then]
    if changes:
        console.say(f"{folder} is tested again, with {', '.join(changes)}")
    return None if changes else results


def _listed(modes: Iterable[str]) -> str:
    return f"[{','.join(sorted(modes))}]"


def print_config(job: Job) -> int:
    """Print the configuration of a run whose stages are checked too."""
    _ = stage_jobs(job)
    print(OmegaConf.to_yaml(OmegaConf.create(job.config)), end="")
    return 0
