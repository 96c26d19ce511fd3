"""Runs in MLflow's tracking, on this machine or on a server."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from rdfia_cli.errors import ComponentError
from rdfia_cli.loggers.scalars import scalars, step_of
from rdfia_cli.spec import value_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rdfia_cli.spec import Logger

MARK = "mlflow.json"
"""The file of a run folder that says which run of MLflow is its own."""
LONGEST_PARAMETER = 500
"""Letters of a parameter that every version of MLflow takes."""
MOST_PARAMETERS = 100
"""Parameters that a server takes in one request."""
RETRIES = "2"
"""How often a request is tried again, unless the environment says it: about six seconds."""


def mlflow(
    folder: Path, config: Mapping[str, Any], *, uri: str = "", experiment: str = "rdfia"
) -> Logger:
    """A run in MLflow: uri is a server or sqlite:///FILE, else as MLflow itself decides."""
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise ComponentError(
            f"logger 'mlflow' needs the package mlflow: {error}",
            "install it: pip install 'rdfia-cli[mlflow]'",
        ) from None

    def connect() -> Any:
        # By itself MLflow tries a server that is down for minutes, in which nothing is trained.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        return MlflowClient(tracking_uri=uri or None)

    return MlflowLogger(connect, experiment, folder, config)


class MlflowLogger:
    """One run of MLflow for one run folder, found again when that run goes on.

    Nothing asks the server before the first line: one that is down must not stop a run.

    Args:
        connect: makes an `mlflow.tracking.MlflowClient`.
        experiment: the name of the experiment that the run belongs to.
        folder: the run folder, whose name the run bears.
        config: the settings by their dotted keys, the run's parameters.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        experiment: str,
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._connect = connect
        self._name = experiment
        self._client: Any = None
        self._experiment = ""
        self._folder = folder
        self._config = config
        self._run: str | None = None
        self._goes_on = False
        self._told: dict[str, set[int]] = {}

    def write(self, line: Mapping[str, Any]) -> None:
        """Tell the numbers of a line that MLflow does not have yet."""
        from mlflow.entities import Metric

        run = self._run = self._run or self._begin()
        step, now = step_of(line), int(time.time() * 1000)
        fresh = [
            Metric(name, value, now, step)
            for name, value in scalars(line).items()
            if step not in self._steps(run, name)
        ]
        if fresh:
            self._client.log_batch(run, metrics=fresh)

    def close(self, *, complete: bool) -> None:
        """Tell how the run ended."""
        if self._run is not None:
            self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")

    def _steps(self, run: str, name: str) -> set[int]:
        """The steps of a metric that MLflow had before this process came."""
        if name not in self._told:
            known = self._client.get_metric_history(run, name) if self._goes_on else ()
            self._told[name] = {point.step for point in known}
        return self._told[name]

    def _begin(self) -> str:
        """Find the experiment, or make it, and in it the run of this folder."""
        self._client = self._connect()
        known = self._client.get_experiment_by_name(self._name)
        self._experiment = (
            known.experiment_id if known else self._client.create_experiment(self._name)
        )
        return self._find() or self._create()

    def _find(self) -> str | None:
        """The run of this folder, if it is still there and in the same experiment."""
        from mlflow.exceptions import MlflowException

        try:
            mark = json.loads((self._folder / MARK).read_bytes())
            found = self._client.get_run(mark["run"])
        except (OSError, ValueError, MlflowException):
            return None
        if found.info.experiment_id != self._experiment or found.info.lifecycle_stage != "active":
            return None
        self._goes_on = True
        self._client.update_run(mark["run"], status="RUNNING")
        return mark["run"]

    def _create(self) -> str:
        from mlflow.entities import Param

        found = self._client.create_run(self._experiment, run_name=self._folder.name)
        run: str = found.info.run_id
        content = {"experiment": self._experiment, "run": run}
        (self._folder / MARK).write_text(json.dumps(content) + "\n", encoding="utf-8")
        settings = [
            Param(key, value_text(value)[:LONGEST_PARAMETER]) for key, value in self._config.items()
        ]
        for start in range(0, len(settings), MOST_PARAMETERS):
            self._client.log_batch(run, params=settings[start : start + MOST_PARAMETERS])
        return run
