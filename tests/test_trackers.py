"""Trackers beside TensorBoard: what they get, that a resumed run continues theirs, and that none can end a training."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.config import TrackerName
from common.errors import UserError
from common.tracking import sender as sending
from common.tracking.board import connections
from common.tracking.sender import Sender
from tests.helpers import wait_until
from tests.helpers.commands import fails_with, run_here
from tests.helpers.runs import TINY_WAVEGLOW, assert_same_run, losses, make_trainer, read_log, train_command


class Scripted:
    """A tracker whose calls fail while `broken`, and wait while `hangs` is set."""

    def __init__(self) -> None:
        self.run, self.where = {"id": "a"}, "nowhere"
        self.broken, self.calls, self.values = False, 0, list[tuple[int, dict[str, float]]]()
        self.free, self.closed = threading.Event(), False
        self.free.set()

    def connect(self, run_dir: Path, earlier: dict[str, str]) -> Scripted:
        self._answer()
        return self

    def _answer(self) -> None:
        self.calls += 1
        self.free.wait(60)
        if self.broken:
            raise ConnectionError("no route to the tracker\nand more")

    def config(self, values: Mapping[str, Any], step: int) -> None:
        self._answer()

    def text(self, name: str, text: str, step: int) -> None:
        self._answer()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._answer()
        self.values.append((step, dict(values)))

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        self._answer()

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        self._answer()

    def close(self) -> None:
        self.closed = True


def test_a_repeated_step_is_sent_once(tmp_path: Path) -> None:
    """A run that resumes from step 2 repeats steps 3 and 4, which the tracker has from before."""
    tracker, said = Scripted(), list[str]()
    first = Sender("x", tracker.connect, tmp_path, said.append)
    for step in range(1, 5):
        first.scalars({"loss": step}, step)
    first.close()
    again = Sender("x", tracker.connect, tmp_path, said.append)
    for step in range(3, 7):
        again.scalars({"loss": step, "new": 0.0} if step == 4 else {"loss": step}, step)
    again.close()
    expected = [(step, {"loss": step}) for step in range(1, 5)]
    assert tracker.values == [*expected, (4, {"new": 0.0}), (5, {"loss": 5}), (6, {"loss": 6})]
    assert tracker.closed
    assert said == ["tracker x: nowhere"] * 2


def test_another_run_of_the_tracker_gets_all_steps(tmp_path: Path) -> None:
    """As when its runs were deleted, or are kept elsewhere."""
    tracker = Scripted()
    for run in ("a", "b"):
        tracker.run = {"id": run}
        board = Sender("x", tracker.connect, tmp_path, print)
        board.scalars({"loss": 1.0}, 1)
        board.close()
    assert tracker.values == [(1, {"loss": 1.0})] * 2


def test_a_tracker_that_recovers_gets_all_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSES", (0.01,) * 1000)
    tracker, said = Scripted(), list[str]()
    tracker.broken = True
    board = Sender("x", tracker.connect, tmp_path, said.append)
    for step in range(1, 4):
        board.scalars({"loss": 0.5}, step)
    wait_until(lambda: tracker.calls >= 5)
    tracker.broken = False
    board.close()
    assert [step for step, _ in tracker.values] == [1, 2, 3]
    assert said == [
        "warning: tracker x: not reached (ConnectionError: no route to the tracker); the run goes on, and tries again",
        "tracker x: nowhere",
    ]


def test_a_record_that_is_refused_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSES", (0.01, 0.01))
    tracker, said = Scripted(), list[str]()

    def refuse(*_: object) -> None:
        raise ValueError("too long")

    monkeypatch.setattr(tracker, "text", refuse)
    board = Sender("x", tracker.connect, tmp_path, said.append)
    board.text("note", "a" * 10_000, 1)
    board.scalars({"loss": 0.5}, 1)
    wait_until(lambda: tracker.values)
    board.close()
    assert said[-1] == "warning: tracker x: 1 record could not be sent; log.jsonl has all"


def test_the_end_waits_for_a_hanging_tracker_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "GRACE", 0.1)
    monkeypatch.setattr(sending, "MAX_WAITING", 1000)
    tracker, said = Scripted(), list[str]()
    tracker.free.clear()
    board = Sender("x", tracker.connect, tmp_path, said.append)
    for step in range(1, 101):  # of 100 bytes each
        board.scalars({"loss": 0.5}, step)
    assert len(board.waiting) <= 11  # the memory is bounded
    board.close()
    assert said[-1] == "warning: tracker x: 100 records could not be sent; log.jsonl has all"
    tracker.free.set()
    board.thread.join()


def test_unknown_and_absent_trackers_are_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW)
    fails_with(
        run_here(*command, "trackers=[comet]", expect=1),
        "trackers[0]", "'comet' is unknown; choose from: tensorboard, mlflow, wandb, trackio",
    )  # fmt: skip
    fails_with(run_here(*command, "trackers=[wandb,wandb]", expect=1), "name each once")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trackers=\['tensorboard', 'wandb'\]: wandb is not installed; run: pip inst"):
        connections(["tensorboard", "wandb"])


def test_without_trackers_the_log_is_complete(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path / "none", "waveglow", "trainer.max_steps=2", "trackers=[]").fit()
    make_trainer(corpus, tmp_path / "board", "waveglow", "trainer.max_steps=2").fit()
    assert not (tmp_path / "none/tensorboard").exists()
    assert [row.keys() for row in read_log(tmp_path / "none")] == [row.keys() for row in read_log(tmp_path / "board")]
    assert_same_run(tmp_path / "none", tmp_path / "board")


def test_tensorboard_shows_the_config(waveglow_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(waveglow_run / "tensorboard"))
    board.Reload()
    (config,) = board.Tensors("config")
    text = config.tensor_proto.string_val[0].decode()
    assert json.loads(text) == read_log(waveglow_run)[0]["config"]
    assert all(line.startswith("    ") for line in text.splitlines())  # a block of code, in Markdown


def train(corpus: Path, run_dir: Path, tracker: TrackerName, steps: int, val_every: int = 2) -> None:
    """Train up to `steps`; the checkpoints are at 2, 4, ..."""
    options = [f"trainer.max_steps={steps}", f"trainer.val_every_steps={val_every}"]
    make_trainer(corpus, run_dir, "waveglow", *options, f"trackers=[tensorboard,{tracker}]").fit()


def undo_last(run_dir: Path) -> None:
    """Remove the newest checkpoint, as if the run had crashed before it was written."""
    max((run_dir / "checkpoints").glob("step_*.pt")).unlink()


def test_mlflow_continues_its_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 8 seconds, most of them to import MLflow. Its client reads the metrics back from its files."""
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir = tmp_path / "run"
    train(corpus, run_dir, "mlflow", 4)
    undo_last(run_dir)
    train(corpus, run_dir, "mlflow", 6)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(run_dir / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tacotron2-waveglow").experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert {metric.step: metric.value for metric in history} == losses(run_dir)
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")] == [2, 4, 6]
    assert run.data.params["trainer.batch_size"] == "2"
    artifacts = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "samples")}
    assert {"copy_synthesis_00000006.wav", "mel_target_00000006.png"} <= artifacts
    make_trainer(corpus, tmp_path / "plain", "waveglow", "trainer.max_steps=6", "trainer.val_every_steps=2").fit()
    assert losses(run_dir) == losses(tmp_path / "plain")  # the tracker takes no part in the training


def test_mlflow_out_of_reach_is_one_warning(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(corpus, tmp_path / "run", "mlflow", 2)
    output = capsys.readouterr().out
    assert output.count("warning: tracker mlflow: not reached") == 1
    assert "records could not be sent; log.jsonl has all" in output
    assert len(losses(tmp_path / "run")) == 2


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes, then LevelDB's log format, in blocks of 32 KiB.

    A record is one or more chunks, each of a checksum (4 bytes), a length (2) and a type (1): 1, the whole record; 2,
    its first chunk; 3, a middle one; 4, the last one.
    """
    record, place = b"", 7
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_wandb_continues_its_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 10 seconds: each of the two starts waits for the service of wandb. Its files are read back."""
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run_dir = tmp_path / "run"
    train(corpus, run_dir, "wandb", 4)
    undo_last(run_dir)
    train(corpus, run_dir, "wandb", 6)
    steps, names = list[int](), set[str]()
    files = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.stem for file in files}) == 1  # the id of the run
    for file in files:
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {item.nested_key[0]: item.value_json for item in record.history.item}
            names |= set(items)
            if "train_loss" in items:
                steps.append(int(items["_step"]))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert {"val_loss", "copy_synthesis", "mel_target"} <= names


def test_trackio_continues_its_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):  # TRACKIO_DIR is read when it is imported
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    run_dir = tmp_path / "run"
    train(corpus, run_dir, "trackio", 4)
    undo_last(run_dir)
    train(corpus, run_dir, "trackio", 6)
    name = json.loads((run_dir / "trackers/trackio.json").read_text())["run"]["name"]
    rows = sqlite_storage.SQLiteStorage.get_logs("tacotron2-waveglow", name)
    assert [row["step"] for row in rows if "train_loss" in row] == [1, 2, 3, 4, 5, 6]
    assert {"val_loss", "copy_synthesis", "mel_target"} <= {key for row in rows for key in row}
