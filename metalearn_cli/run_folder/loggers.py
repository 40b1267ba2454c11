"""A run's metrics.jsonl at Weights & Biases or in MLflow too (`logger=wandb`, `logger=mlflow`).

What is sent is the file, line by line, and only lines that a checkpoint has made final: a run that was killed and goes
on leaves nothing out there, and repeats nothing (wandb, which sends from a process of its own, may get lines again
after a SIGKILL: it drops them, since each has its number). logger.json in the run's folder holds, for each logger, the
id of the run there, and how many lines it has got for sure.

A logger that cannot be opened stops a run before its first step. One that fails later does not: it is said, the lines
are kept in metrics.jsonl, and are sent when the run ends, or when the same command is given again.
"""

import importlib.util
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalearn_cli.config.conf_folder import flatten
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import records, runs
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.system.console import Console
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.ranks import Ranks

PROJECT = "metalearn"  # where the environment names none

Line = dict[str, Any]


class Remote(ABC):
    """A run at a logger's."""

    id: str
    is_prompt: bool  # what `send` was given has arrived when it returns; otherwise only when the run is closed there

    @abstractmethod
    def send(self, lines: list[Line], first: int) -> None:
        """The next lines of metrics.jsonl, of which the first is line `first`, counted from 0."""

    @abstractmethod
    def end(self, final: dict[str, float] | None) -> None:
        """Whole, with these figures of the test; None: it was stopped, and may go on."""


class Wandb(Remote):
    """WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and the others hold as wandb has them."""

    is_prompt = False

    def __init__(self, folder: Path, run_id: str | None, config: dict[str, Any]) -> None:
        import wandb

        refuse_link(folder / "wandb")
        self.id = run_id or secrets.token_hex(4)
        quiet = wandb.Settings(console="off", silent=True)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project,
            id=self.id,
            name=str(folder.relative_to(runs.OUTPUTS)),
            dir=folder,
            config=config,
            resume="allow",
            settings=quiet,
        )
        # A line is a row, whose number is wandb's own step, since that may neither repeat nor go back.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def send(self, lines: list[Line], first: int) -> None:
        for number, line in enumerate(lines, first):
            self._run.log(line, step=number, commit=True)

    def end(self, final: dict[str, float] | None) -> None:
        self._run.summary.update(final or {})
        self._run.finish(exit_code=1 if final is None else 0)


class Mlflow(Remote):
    """MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold as mlflow has them."""

    is_prompt = True

    def __init__(self, folder: Path, run_id: str | None, config: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if run_id is not None:
            self.id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=str(folder.relative_to(runs.OUTPUTS)))
        self.id = str(run.info.run_id)
        params = [Param(key, str(value)[:6000]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # as many as mlflow takes at once
            self._client.log_batch(self.id, params=params[start : start + 100])

    def send(self, lines: list[Line], first: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._metric(name, value, now, line["step"])
            for line in lines
            for name, value in line.items()
            if name != "step"
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def end(self, final: dict[str, float] | None) -> None:
        for name, value in (final or {}).items():
            self._client.log_metric(self.id, name, value)
        self._client.set_terminated(self.id, "KILLED" if final is None else "FINISHED")


REMOTES: dict[str, type[Any]] = {"wandb": Wandb, "mlflow": Mlflow}


def check_installed(logger: str | None) -> None:
    """Raises UserError where the package that this logger needs is not there."""
    if logger is not None and importlib.util.find_spec(logger) is None:
        raise UserError(f"logger={logger} needs {logger}: pip install 'metalearn-cli[{logger}]'")


class Mirror:
    def __init__(
        self,
        folder: Path,
        logger: str | None,
        config: dict[str, Any],
        results: Results | None,
        say: Callable[[str], None],
    ) -> None:
        """Open the run at the logger, or go on with it. With `results` of a run that is finished, only where something
        is left to be sent."""
        self._folder, self._logger, self._say = folder, logger, say
        self._path = folder / "logger.json"
        self._failure: str | None = None
        self._remote: Remote | None = None
        self._records: dict[str, Any] = records.read_json(self._path) if self._path.exists() else {}
        record = self._records.get(logger or "", {"id": None, "lines": 0, "is_whole": False})
        if logger is None or (results is not None and record["is_whole"]):
            return
        try:
            self._remote = REMOTES[logger](folder, record["id"], flatten(config))
        except Exception as error:  # whatever a logger may raise: no network, no login, a run that was deleted there
            raise UserError(f"logger={logger} cannot be opened: {_first_line(error)}") from error
        self._record = self._records[logger] = {**record, "id": self._remote.id}
        self._sent = int(record["lines"])
        self._note(is_whole=False)

    def send(self) -> None:
        """The lines that came since; to be called when a checkpoint has made them final."""
        if self._remote is None or self._failure is not None:
            return
        try:
            self._send(self._remote)
        except Exception as error:
            self._failure = _first_line(error)
            self._say(
                f"{self._logger} failed ({self._failure}): training goes on, and what is missing is sent at the end"
            )

    def finish(self, results: Results) -> None:
        """The rest of the lines, and the figures of the test."""
        if self._remote is None:
            return
        remote, self._remote = self._remote, None
        try:
            self._send(remote)
            remote.end(final_figures(results))
        except Exception as error:
            lines = len(read_lines(self._folder / "metrics.jsonl"))
            self._say(
                f"{self._logger} failed ({_first_line(error)}) and has {self._record['lines']} of the {lines} lines of "
                "metrics.jsonl for sure: the same command again sends the rest"
            )
            return
        self._note(is_whole=True)

    def close(self) -> None:
        """Of a run that stops before its end."""
        if self._remote is None:
            return
        remote, self._remote = self._remote, None
        try:
            remote.end(None)
        except Exception as error:
            self._say(f"{self._logger} failed ({_first_line(error)}) when the run was closed there")
            return
        self._note(is_whole=False)

    def _send(self, remote: Remote) -> None:
        if new := read_lines(self._folder / "metrics.jsonl", self._sent):
            remote.send(new, self._sent)
            self._sent += len(new)
            if remote.is_prompt:
                self._note(is_whole=False)

    def _note(self, is_whole: bool) -> None:
        self._record.update(lines=self._sent, is_whole=is_whole)
        records.write_json(self._path, self._records)


def final_figures(results: Results) -> dict[str, float]:
    """test/accuracy, test/accuracy_ci95 and so on, those that are finite."""
    name = f"test/{results.metric}"
    figures = {name: results.mean, f"{name}_ci95": results.ci95, f"{name}_median": results.median}
    return {key: value for key, value in figures.items() if value is not None}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def new_mirror(folder: Path, job: Job, results: Results | None, console: Console, ranks: Ranks) -> Mirror:
    logger = job.run.logger.name if job.run.logger and ranks.is_first else None
    return Mirror(folder, logger, job.config, results, console.say)
