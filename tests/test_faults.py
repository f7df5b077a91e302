"""What must not harm a run: signals, a second run in its directory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import checkpoint as checkpoints
from common.run_lock import run_lock
from tests.conftest import REPOSITORY, TINY_TACOTRON2, TINY_WAVEGLOW, fails_with, run_script, train_command
from tests.test_train import assert_same_run, losses, make_trainer, read_log

ENDLESS = ("trainer.max_steps=100000", "trainer.epochs=100000")
# The second: without it a restarted worker finds the rendezvous store of the agent closed about every other time.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(*command: str, ranks: int = 1, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launcher += [f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [*launcher, *command],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(run_dir: Path, step: int, process: "subprocess.Popen[str]", seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if (run_dir / "log.jsonl").exists() and any(row.get("step", 0) >= step for row in read_log_so_far(run_dir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} after {seconds} s")


def read_log_so_far(run_dir: Path) -> list[dict]:
    """The log of a run in progress: its last line may be half written."""
    lines = (run_dir / "log.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def workers_of(agent: "subprocess.Popen[str]") -> dict[int, int]:
    """Process of each rank that torchrun started."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = dict(
                entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry
            )
        except (OSError, ValueError):
            continue
        if parent == agent.pid:
            found[int(environment["RANK"])] = int(process.name)
    return found


def end(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


def interrupted(run_dir: Path, corpus: Path, name: str, *options: str) -> int:
    """Start a run, end it with a signal after some steps, and check what it leaves; the step it came to."""
    process = start(*train_command(corpus, run_dir, TINY_WAVEGLOW, *options, *ENDLESS))
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.Signals[name])
    output = end(process)
    assert process.returncode == 128 + signal.Signals[name], output
    marker = json.loads((run_dir / "stopped.json").read_text())
    newest = checkpoints.load(checkpoints.find(run_dir))
    assert marker["signal"] == name
    assert marker["step"] == newest["progress"]["step"] == max(losses(run_dir))
    assert f"stopped by {name} at step {marker['step']}, saved" in output
    return marker["step"]


@pytest.mark.fault(13)
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(corpus: Path, tmp_path: Path):
    options = ("trainer.val_every_steps=1000000", "trainer.epochs=100000")
    last = 3 + interrupted(tmp_path / "cut", corpus, "SIGTERM", *options)
    for name in ("cut", "whole"):
        run_script(*train_command(corpus, tmp_path / name, TINY_WAVEGLOW, *options, f"trainer.max_steps={last}"))
    assert not (tmp_path / "cut/stopped.json").exists()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.fault(13)
def test_slurms_signal_does_the_same(corpus: Path, tmp_path: Path):
    interrupted(tmp_path / "run", corpus, "SIGUSR1")


@pytest.mark.fault(13)
def test_a_signal_to_one_rank_stops_all_at_the_same_step(corpus: Path, tmp_path: Path):
    """Also one that comes while validating, and a second one."""
    command = train_command(corpus, tmp_path / "run", TINY_TACOTRON2, "trainer.val_every_steps=2", *ENDLESS)
    agent = start(*command, ranks=2)
    wait_for_step(tmp_path / "run", 4, agent)
    worker = workers_of(agent)[1]
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGTERM)
    output = end(agent)
    step = json.loads((tmp_path / "run/stopped.json").read_text())["step"]
    newest = checkpoints.load(checkpoints.find(tmp_path / "run"))
    assert newest["progress"]["step"] == step >= 4
    assert len(newest["rng"]) == 2
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output.split("stopped by SIGTERM")[0]


@pytest.mark.fault(10)
def test_a_killed_rank_is_restarted_and_changes_nothing(corpus: Path, tmp_path: Path):
    """kill -9 of rank 1 under --max-restarts: the final state is that of a run without it."""
    options = ("trainer.epochs=1000", "trainer.max_steps=40", "trainer.checkpoint_every_steps=2")
    options += ("trainer.val_every_steps=1000",)
    agent = start(*train_command(corpus, tmp_path / "killed", TINY_WAVEGLOW, *options), ranks=2, restarts=2)
    wait_for_step(tmp_path / "killed", 6, agent)
    os.kill(workers_of(agent)[1], signal.SIGKILL)
    output = end(agent)
    assert agent.returncode == 0, output
    assert "resumed from" in output
    whole = start(*train_command(corpus, tmp_path / "whole", TINY_WAVEGLOW, *options), ranks=2)
    assert "resumed from" not in end(whole)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.fault(13)
def test_a_signal_in_validation_cuts_it_short(corpus: Path, tmp_path: Path):
    trainer = make_trainer(corpus, tmp_path / "run", "waveglow", "trainer.max_steps=2", "trainer.val_every_steps=1")
    inner, calls = trainer.task.loss, []

    def loss(model, batch):
        if not model.training:
            calls.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(model, batch)

    trainer.task.loss = loss
    trainer.num_val_batches = 5  # more than there are: the rest is cut
    assert trainer.fit() == signal.SIGTERM
    assert len(calls) == 1
    assert not any("val_loss" in row for row in read_log(tmp_path / "run"))
    assert checkpoints.load(checkpoints.find(tmp_path / "run"))["progress"]["step"] == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.fault(8)
def test_two_runs_do_not_share_a_directory(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with run_lock(tmp_path / "run"):
        command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, "trainer.max_steps=1")
        result = run_script(*command, expect=1)
        fails_with(result, f"run_dir={tmp_path / 'run'} is in use", f"process {os.getpid()}", "another run_dir")
        assert not (tmp_path / "run/log.jsonl").exists()
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.fault(7)
def test_a_checkpoint_that_cannot_be_removed_is_a_warning(tmp_path: Path):
    for step in (1, 2, 3):
        (tmp_path / f"step_{step:08d}.pt").touch()
    (tmp_path / "step_00000000.pt").mkdir()  # as good as a file that must not be removed, also for root
    (tmp_path / ".step_00000004.pt.tmp").touch()
    with pytest.warns(UserWarning, match=r"step_00000000.pt could not be removed"):
        checkpoints.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_0000000{step}.pt" for step in (0, 2, 3)]
