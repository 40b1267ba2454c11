"""A run's metrics.jsonl at Weights & Biases or in MLflow too (`logger=wandb`, `logger=mlflow`).

The file is sent line by line, when a checkpoint has made the lines final. logger.json in the run's folder holds the id
of the run at each logger, so that a run that goes on goes on there. After a crash some lines are sent again: wandb
drops them by their numbers, and MLflow's curves may have the points of one step twice.

A logger that cannot be opened stops a run before its first step. One that fails later does not: the user is told, the
lines are in metrics.jsonl, and are sent when the run ends, or when the same command is given again.
"""

import importlib.util
import os
import secrets
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.config.conf_folder import Config, flatten
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import records, runs
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.system.console import Console
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.ranks import Ranks
from metalearn_cli.system.typed_json import Json, read_value

PROJECT = "metalearn"  # where the environment names none


class RemoteRun(NamedTuple):
    """What logger.json holds of the run at a logger."""

    id: str
    is_whole: bool = False  # whether all lines and the test have arrived


class Wandb:
    """A run at Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and the others hold as wandb has them."""

    reached = 0  # it drops lines that are there already

    def __init__(self, folder: Path, run_id: str | None, config: Config) -> None:
        import wandb

        refuse_link(folder / "wandb")
        self.id = run_id or secrets.token_hex(4)
        quiet = wandb.Settings(console="off", silent=True)
        project, name = os.environ.get("WANDB_PROJECT", PROJECT), str(folder.relative_to(runs.OUTPUTS))
        self._run = wandb.init(
            project=project, id=self.id, name=name, dir=folder, config=config, resume="allow", settings=quiet
        )
        # A line is a row, whose number is wandb's own step, since that may neither repeat nor go back.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def send(self, lines: list[Json], first: int) -> None:
        """Send the next lines of metrics.jsonl; the first of them has number `first`, counted from 0."""
        for number, line in enumerate(lines, first):
            self._run.log(line, step=number, commit=True)

    def end(self, final: dict[str, float] | None) -> None:
        """Close the run with these figures of the test; None: it was stopped, and may go on."""
        self._run.summary.update(final or {})
        self._run.finish(exit_code=1 if final is None else 0)


class Mlflow:
    """A run in MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold as mlflow has them."""

    def __init__(self, folder: Path, run_id: str | None, config: Config) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        self.reached = 0  # lines of earlier steps are there already
        if run_id is not None:
            self.id = run_id
            self._client.update_run(run_id, status="RUNNING")
            names = self._client.get_run(run_id).data.metrics
            points = [point for name in names for point in self._client.get_metric_history(run_id, name)]
            self.reached = max((point.step for point in points), default=0)
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=str(folder.relative_to(runs.OUTPUTS)))
        self.id = str(run.info.run_id)
        params = [Param(key, str(value)[:6000]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # as many as mlflow takes at once
            self._client.log_batch(self.id, params=params[start : start + 100])

    def send(self, lines: list[Json], first: int) -> None:
        now = int(1000 * time.time())
        points = [(name, value, line["step"]) for line in lines for name, value in line.items() if name != "step"]
        metrics = [self._metric(name, value, now, step) for name, value, step in points]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def end(self, final: dict[str, float] | None) -> None:
        for name, value in (final or {}).items():
            self._client.log_metric(self.id, name, value)
        self._client.set_terminated(self.id, "KILLED" if final is None else "FINISHED")


Remote = Wandb | Mlflow
REMOTES: dict[str, Callable[[Path, str | None, Config], Remote]] = {"wandb": Wandb, "mlflow": Mlflow}


def check_installed(logger: str | None) -> None:
    """Raises UserError where the package that this logger needs is not there."""
    if logger is not None and importlib.util.find_spec(logger) is None:
        raise UserError(f"logger={logger} needs {logger}: pip install 'metalearn-cli[{logger}]'")


class Mirror:
    """The run at the logger that was asked for, if any."""

    def __init__(self, folder: Path, job: Job, results: Results | None, console: Console, ranks: Ranks) -> None:
        """Open the run at the logger, or go on with it; one that is finished, with `results`, only where something was
        not sent. The first of several ranks does so."""
        self._folder, self._console = folder, console
        self._logger = job.run.logger.name if job.run.logger and ranks.is_first else ""
        self._path = folder / "logger.json"
        content = records.read_json(self._path) if self._path.exists() else {}
        self._runs: dict[str, RemoteRun] = read_value(dict[str, RemoteRun], content, self._path, "")
        self._remote: Remote | None = None
        self._sent, self._has_failed = 0, False
        known = self._runs.get(self._logger)
        if not self._logger or (results is not None and known is not None and known.is_whole):
            return
        try:
            self._remote = REMOTES[self._logger](folder, known.id if known else None, flatten(job.config))
        except Exception as error:  # whatever a logger may raise: no network, no login, a run that was deleted there
            raise UserError(f"logger={self._logger} cannot be opened: {_first_line(error)}") from error
        self._note(self._remote, is_whole=False)

    def send(self) -> None:
        """Send the new lines; to be called when a checkpoint has made them final."""
        if self._remote is None or self._has_failed:
            return
        try:
            self._send(self._remote)
        except Exception as error:
            self._has_failed = True
            self._say_failed(error, "training goes on, and what is missing is sent at the end")

    def finish(self, results: Results) -> None:
        """Send the rest of the lines, and the figures of the test that are finite: test/accuracy_ci95 and so on."""
        name = f"test/{results.metric}"
        figures = {name: results.mean, f"{name}_ci95": results.ci95, f"{name}_median": results.median}
        self._end({key: value for key, value in figures.items() if value is not None})

    def close(self) -> None:
        """Close a run that stops before its end."""
        self._end(None)

    def _end(self, final: dict[str, float] | None) -> None:
        if self._remote is None:
            return
        remote, self._remote = self._remote, None
        try:
            if final is not None:
                self._send(remote)
            remote.end(final)
        except Exception as error:
            self._say_failed(error, "the same command again sends what is missing")
            return
        if final is not None:
            self._note(remote, is_whole=True)

    def _send(self, remote: Remote) -> None:
        new = list(islice(read_lines(self._folder / "metrics.jsonl"), self._sent, None))
        if missing := [line for line in new if line["step"] >= remote.reached]:
            remote.send(missing, self._sent + len(new) - len(missing))
        self._sent += len(new)

    def _note(self, remote: Remote, is_whole: bool) -> None:
        self._runs[self._logger] = RemoteRun(remote.id, is_whole)
        records.write_record(self._path, self._runs)

    def _say_failed(self, error: Exception, then: str) -> None:
        self._console.say(f"{self._logger} failed ({_first_line(error)}): {then}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
