"""The command `metalearn`: results on stdout, everything else on stderr, one sentence for each mistake."""

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli import __version__, runs
from metalearn_cli.config import Job, load_job
from metalearn_cli.errors import UserError
from metalearn_cli.loop import new_learner, train
from metalearn_cli.progress import Console

HELP = """\
metalearn: train and test few-shot learners

  metalearn train algo=maml task=sinusoid steps=1000 name=my-run
  metalearn train experiment=maml/sinusoid          a row of a paper, see conf/experiment
  metalearn train experiment=maml/sinusoid --cfg job    print the configuration and do nothing
  metalearn --version

Every key of the configuration can be given as key=value; conf/config.yaml and the folders beside it explain each.
The same command with the same name continues an interrupted run. A run's files are in outputs/NAME.

Exit codes: 0 done, 1 a mistake or a failed run, 2 unknown command or option, 130 interrupted.
"""


def entry() -> None:
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command line -> the exit code."""
    match arguments:
        case [] | ["help" | "-h" | "--help", *_]:
            print(HELP, end="")
            return 0
        case ["--version"]:
            print(__version__)
            return 0
        case ["train", *rest]:
            command = train_command
        case [unknown, *_]:
            print(f"metalearn: there is no command {unknown!r}; see metalearn --help", file=sys.stderr)
            return 2
    try:
        return command(rest)
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"metalearn: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"metalearn: {error.strerror or error}: {error.filename or 'a file of the run'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("metalearn: interrupted; the same command with the same name continues", file=sys.stderr)
        return 130


def train_command(arguments: list[str]) -> int:
    options = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if options == ["--cfg"] and overrides[-1:] == ["job"]:
        print(OmegaConf.to_yaml(OmegaConf.create(load_job(overrides[:-1]).config)), end="")
        return 0
    if options:
        print(f"metalearn: train does not know the option {options[0]}; see metalearn --help", file=sys.stderr)
        return 2
    job = load_job(overrides)
    results = run_job(job, overrides)
    print_results(results)
    return 0


def run_job(job: Job, overrides: list[str]) -> dict[str, Any]:
    """Train in the run's folder, or take the results of a run that is already finished."""
    # What is wrong with the device, the parts or the data is said before a folder is made.
    learner = new_learner(job)
    fingerprint = job.task.fingerprint
    folder = runs.folder_of(job.run.name, job.choices["algo"], job.choices["task"])
    folder.mkdir(parents=True, exist_ok=job.run.name is not None)
    with runs.lock(folder):
        runs.check_same(folder, job.config)
        with closing(Console(folder / "train.log")) as console:
            results = finished_results(folder, job.run.steps)
            if results is not None:
                console.say(f"{folder} is already finished, {job.run.steps} steps")
                return results
            runs.write_records(folder, job.config, overrides, fingerprint)
            results = train(learner, job, folder, console)
            console.say(f"results are in {folder}")
            return results


def finished_results(folder: Path, steps: int) -> dict[str, Any] | None:
    path = folder / "results.json"
    if not path.exists():
        return None
    results: dict[str, Any] = json.loads(path.read_text())
    return results if results["steps"] == steps else None


def print_results(results: dict[str, Any]) -> None:
    """The test as a table: one line per inner step."""
    percent = results["metric"] == "accuracy"
    mode = f", batch norm {results['batch_norm']}" if results["batch_norm"] else ""
    print(f"test {results['metric']}{' in %' if percent else ''} over {results['episodes']} episodes{mode}")
    print(f"{'inner steps':>11}  {'mean':>9}  {'+- 95%':>8}  {'median':>9}  {'diverged':>8}")
    for row in results["per_step"]:
        mean, ci95, median = (_number(row[key], percent) for key in ("mean", "ci95", "median"))
        print(f"{row['step']:>11}  {mean:>9}  {ci95:>8}  {median:>9}  {row['diverged']:>8.2%}")
    for other, row in results["other_batch_norm"].items():
        print(
            f"after the last step, batch norm {other}: {_number(row['mean'], percent)} +- {_number(row['ci95'], percent)}"
        )


def _number(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4g}"
