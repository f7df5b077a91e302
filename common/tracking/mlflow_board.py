"""MLflow: a run in the store that MLFLOW_TRACKING_URI names, by default in run_dir/mlruns."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from common.tracking.board import PROJECT, RemoteBoard, flat

LONGEST_PARAM = 6000  # characters, of MLflow
LOCAL = "mlruns"
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"


class MlflowBoard:
    """Metrics are MLflow's, the config is its parameters, and text, pictures and sounds are artifacts."""

    def __init__(self, client: MlflowClient, run: dict[str, str], is_new: bool) -> None:
        self.client, self.run, self.is_new = client, run, is_new
        self.run_id, self.where = run["run_id"], str(client.tracking_uri)

    def config(self, values: Mapping[str, Any], step: int) -> None:
        if self.is_new:  # parameters cannot be changed; the artifacts hold the config of every start
            params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flat(values).items()]
            self.client.log_batch(self.run_id, params=params, synchronous=True)
            self.is_new = False
        self.client.log_dict(self.run_id, dict(values), f"config/{step:08d}.json")

    def text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, f"text/{name}_{step:08d}.txt")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        self._sample(f"{name}_{step:08d}.png", png)

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        self._sample(f"{name}_{step:08d}.wav", wav)

    def close(self) -> None:
        self.client.set_terminated(self.run_id)

    def _sample(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self.client.log_artifact(self.run_id, str(path), "samples")


def connect(run_dir: Path, earlier: dict[str, str]) -> RemoteBoard:
    """Continue the run `earlier`, or create one if it is {} or is in another store or deleted."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        client = MlflowClient(tracking_uri=uri)
    else:
        with _files_allowed():
            client = MlflowClient(tracking_uri=(run_dir / LOCAL).resolve().as_uri())
    uri = uri or LOCAL
    if earlier.get("tracking_uri") == uri and _exists(client, earlier.get("run_id", "")):
        client.update_run(earlier["run_id"], status="RUNNING")
        return MlflowBoard(client, earlier, is_new=False)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run_id = client.create_run(number, run_name=run_dir.resolve().name).info.run_id
    return MlflowBoard(client, {"run_id": run_id, "tracking_uri": uri}, is_new=True)


def _exists(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # such as a network that fails
            raise
        return False


@contextmanager
def _files_allowed() -> Iterator[None]:
    """MLflow 3 prefers databases, which need more packages, and opens files only with this variable set."""
    before = os.environ.get(ALLOWED)
    os.environ[ALLOWED] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOWED]
        else:
            os.environ[ALLOWED] = before
