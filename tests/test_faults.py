"""Faults that must not harm a run: signals, kills, lost machines, a second run in its directory."""

import dataclasses
import gc
import json
import multiprocessing.process
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

from common.checkpoint import files as checkpoints
from common.data.loading import num_workers
from common.distributed.preemption import StopFlag
from common.errors import UserError
from common.lock import locked
from common.threads import allowed_cores
from common.training.task import Loss
from common.training.trainer import Trainer
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import fails_with, run_here, run_process
from tests.helpers.runs import (
    TINY_TACOTRON2,
    TINY_WAVEGLOW,
    assert_same_run,
    losses,
    make_trainer,
    read_log,
    state_is_finite,
    train_command,
    with_objective,
)

ENDLESS = ("trainer.max_steps=100000", "trainer.epochs=100000")
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE: without it a restarted worker finds the agent's rendezvous store closed about
# every other time.
CATCHING = ("env", "--default-signal=INT,HUP")  # a shell's background jobs, and so these tests, may ignore them
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(*command: str, ranks: int = 1, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launcher += [f"--max-restarts={restarts}"]
    return launch(*launcher, *command)


def launch(*command: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=ENVIRONMENT | environment,
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


def read_log_so_far(run_dir: Path) -> list[dict[str, Any]]:
    """Read the log of a run in progress, without its last line, which may be incomplete."""
    lines = (run_dir / "log.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def workers_of(agent: "subprocess.Popen[str]") -> dict[int, int]:
    """Return the process id of each rank that torchrun started: rank -> pid."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = dict(
                entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry
            )
        except (OSError, ValueError):
            continue
        if parent == agent.pid and "RANK" in environment:
            found[int(environment["RANK"])] = int(process.name)
    return found


def end(process: "subprocess.Popen[str]", seconds: float = 90) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        process.kill()


def interrupted(run_dir: Path, corpus: Path, name: str, *options: str) -> int:
    """Start a run, stop it with a signal after some steps, check what it leaves, and return the step it reached."""
    process = start(*train_command(corpus, run_dir, TINY_WAVEGLOW, *options, *ENDLESS))
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.Signals[name])
    output = end(process)
    assert process.returncode == 128 + signal.Signals[name], output
    marker = json.loads((run_dir / "stopped.json").read_text())
    newest = checkpoints.load(checkpoints.find(run_dir))
    assert marker["signal"] == name
    assert marker["step"] == newest.progress.step == max(losses(run_dir))
    assert f"stopped by {name} at step {marker['step']}, saved" in output
    return marker["step"]


@pytest.mark.fault(13)
def test_a_run_resumes_after_a_signal_as_if_uninterrupted(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.val_every_steps=1000000", "trainer.epochs=100000")
    last = 3 + interrupted(tmp_path / "cut", corpus, "SIGTERM", *options)
    for name in ("cut", "whole"):
        run_here(*train_command(corpus, tmp_path / name, TINY_WAVEGLOW, *options, f"trainer.max_steps={last}"))
    assert not (tmp_path / "cut/stopped.json").exists()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.fault(13)
@pytest.mark.slow
def test_a_run_saves_and_stops_at_slurms_signal(corpus: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "run", corpus, "SIGUSR1")


@pytest.mark.slow  # two runs by two processes each
@pytest.mark.fault(13)
def test_a_signal_to_one_rank_stops_all_at_the_same_step(corpus: Path, tmp_path: Path) -> None:
    """The same holds for a signal during validation, for a second signal, and for a checkpoint by the clock."""
    options = ("trainer.val_every_steps=2", "trainer.checkpoint_every_minutes=0.001", *ENDLESS)
    command = train_command(corpus, tmp_path / "run", TINY_TACOTRON2, *options)
    agent = start(*command, ranks=2)
    wait_for_step(tmp_path / "run", 4, agent)
    worker = workers_of(agent)[1]
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGTERM)
    output = end(agent)
    step = json.loads((tmp_path / "run/stopped.json").read_text())["step"]
    newest = checkpoints.load(checkpoints.find(tmp_path / "run"))
    assert newest.progress.step == step >= 4
    assert len(newest.rng) == 2
    assert len(list((tmp_path / "run/checkpoints").glob("step_*.pt"))) == 2  # checkpoint_every_steps is 500
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output.split("stopped by SIGTERM")[0]


@pytest.mark.slow  # five starts of two processes
@pytest.mark.fault(10)
def test_a_killed_rank_is_restarted_and_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    """Rank 1 is killed with SIGKILL under --max-restarts: the final state is that of an undisturbed run."""
    options: tuple[str, ...] = ("trainer.epochs=1000", "trainer.max_steps=40", "trainer.checkpoint_every_steps=2")
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
def test_a_signal_in_validation_cuts_it_short(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path / "run", "waveglow", "trainer.max_steps=2", "trainer.val_every_steps=1")
    objective, calls = trainer.task.objective, []

    class Signalling:
        """The task's objective, which sends SIGTERM to its own process in validation."""

        part_names, advice = objective.part_names, objective.advice

        def __call__(self, model: nn.Module, *arguments: Any) -> Loss:
            if not model.training:
                calls.append(1)
                os.kill(os.getpid(), signal.SIGTERM)
            return objective(model, *arguments)

    with_objective(trainer, Signalling())
    trainer.data.num_val_batches = 5  # more rounds than batches, so that the signal is seen before validation ends
    assert trainer.fit() == 128 + signal.SIGTERM
    assert len(calls) == 1
    assert not any("val_loss" in row for row in read_log(tmp_path / "run"))
    assert checkpoints.load(checkpoints.find(tmp_path / "run")).progress.step == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.fault(8)
def test_two_runs_do_not_share_a_directory(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", "run_dir"):
        command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, "trainer.max_steps=1")
        result = run_here(*command, expect=1)
        fails_with(result, f"run_dir={tmp_path / 'run'} is in use", f"process {os.getpid()}", "another run_dir")
        assert not (tmp_path / "run/log.jsonl").exists()
    with locked(tmp_path / "run", "run_dir"):
        pass


@pytest.mark.fault(7)
def test_a_checkpoint_that_cannot_be_removed_is_a_warning(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"step_{step:08d}.pt").touch()
    (tmp_path / "step_00000000.pt").mkdir()  # unlink fails on a directory, even for root
    (tmp_path / ".step_00000004.pt.tmp").touch()
    with pytest.warns(UserWarning, match=r"step_00000000.pt could not be removed"):
        checkpoints.prune(tmp_path, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_0000000{step}.pt" for step in (0, 2, 3)]


@pytest.mark.fault(1)
def test_killed_in_the_middle_of_a_save(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL comes between write and rename: the previous checkpoint is used, and the unfinished file is removed."""
    options = ("trainer.checkpoint_every_steps=1", "trainer.max_steps=4", "trainer.val_every_steps=1000")
    command = train_command(corpus, tmp_path, TINY_WAVEGLOW, *options)
    code = f"""
import os, runpy, signal, sys
replace = os.replace
def killed(source, target):
    if "step_00000003" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
sys.argv = {command!r}
runpy.run_path("train.py", run_name="__main__")
"""
    run_process("-c", code, expect=-signal.SIGKILL)
    assert (tmp_path / "checkpoints/.step_00000003.pt.tmp").exists()
    assert f"resumed from {tmp_path}/checkpoints/step_00000002.pt" in run_here(*command).stdout
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.fault(13)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_saves(corpus: Path, tmp_path: Path, number: signal.Signals) -> None:
    """torchrun and Ctrl-C signal the loader processes as well: they must keep running until the trainer has saved."""
    command = train_command(corpus, tmp_path, TINY_WAVEGLOW, *ENDLESS, "data.num_workers=2")
    process = subprocess.Popen(
        [*CATCHING, sys.executable, *command], cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_step(tmp_path, 3, process)
    os.killpg(process.pid, number)
    output = end(process)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    step = json.loads((tmp_path / "stopped.json").read_text())["step"]
    assert checkpoints.load(checkpoints.find(tmp_path)).progress.step == step


@pytest.mark.fault(13)
@pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid of util-linux")
@pytest.mark.slow
def test_a_closed_terminal_saves(corpus: Path, tmp_path: Path) -> None:
    """Closing it sends SIGHUP, and every print fails from then on."""
    master, slave = os.openpty()
    command = ["setsid", "--ctty", *CATCHING, sys.executable, *train_command(corpus, tmp_path, TINY_WAVEGLOW, *ENDLESS)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stdin=slave, stdout=slave, stderr=slave, text=True
    )
    os.close(slave)
    wait_for_step(tmp_path, 3, process)
    os.close(master)
    process.wait(timeout=90)
    assert process.returncode == 128 + signal.SIGHUP
    marker = json.loads((tmp_path / "stopped.json").read_text())
    assert marker["signal"] == "SIGHUP"
    assert checkpoints.load(checkpoints.find(tmp_path)).progress.step == marker["step"]


@pytest.mark.fault(13)
def test_a_second_ctrl_c_ends_at_once_and_nohup_is_respected() -> None:
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopFlag() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.agreed() == 0
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.agreed() == 128 + signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGINT, interrupt)


@pytest.mark.fault(18)
@pytest.mark.slow
def test_a_killed_loader_process_is_an_error(corpus: Path, tmp_path: Path) -> None:
    process = start(*train_command(corpus, tmp_path, TINY_WAVEGLOW, *ENDLESS, "data.num_workers=2"))
    wait_for_step(tmp_path, 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output = end(process)
    assert process.returncode == 1
    assert "error: a process that loads data has died" in output
    assert "data.num_workers" in output
    assert "Traceback" not in output


# ---- slow: not in `make test` ----


@pytest.mark.slow
@pytest.mark.fault(9)
@pytest.mark.parametrize("model", [TINY_TACOTRON2, TINY_WAVEGLOW])
def test_two_ranks_resume_exactly(corpus: Path, tmp_path: Path, model: list[str]) -> None:
    """Resume in mid-epoch, with gradient accumulation and loader processes."""
    options = ("trainer.batch_size=1", "trainer.accumulation_steps=2", "data.num_workers=1", "trainer.epochs=9")
    for name, stops in (("whole", (5,)), ("parts", (3, 5))):
        for stop in stops:
            command = train_command(corpus, tmp_path / name, model, *options, f"trainer.max_steps={stop}")
            agent = start(*command, ranks=2)
            output = end(agent)
            assert agent.returncode == 0, output
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.fault(14)
def test_nan_on_one_rank_is_skipped_by_all(corpus: Path, tmp_path: Path) -> None:
    """With one huge mel one rank's loss is infinite, and both ranks skip one step per epoch. With only such mels the
    run ends with an error."""
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    options = ("trainer.batch_size=1", "trainer.val_every_steps=1000", "trainer.log_every_steps=4", "trainer.epochs=2")
    clip = (root / "filelists/train.txt").read_text().split("|")[0]
    poisoned = [root / "mels" / f"{clip}.npy", *(root / "mels").rglob("*.npy")]
    manifest = root / "mels/manifest.jsonl"  # as an earlier version wrote it, without checksums
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "crc": None, "audio": None}) + "\n" for row in rows))
    np.save(poisoned[0], np.full_like(np.load(poisoned[0]), 1e30))
    agent = start(*train_command(root, tmp_path / "one", TINY_TACOTRON2, *options), ranks=2)
    output = end(agent)
    assert agent.returncode == 0, output
    assert [row["skipped_steps"] for row in read_log(tmp_path / "one") if "skipped_steps" in row] == [1, 1]
    assert state_is_finite(tmp_path / "one")
    for mel in poisoned:
        np.save(mel, np.full_like(np.load(mel), 1e30))
    agent = start(*train_command(root, tmp_path / "all", TINY_TACOTRON2, *options, "trainer.epochs=99"), ranks=2)
    output = end(agent)
    assert agent.returncode == 1
    assert "steps in a row without a finite gradient" in output
    assert f"{root}/filelists/train.txt:" in output


@pytest.mark.slow
@pytest.mark.fault(18)
def test_a_rank_that_hangs_is_named(corpus: Path, tmp_path: Path) -> None:
    options = (*ENDLESS, "trainer.timeout_minutes=0.1")
    agent = start(*train_command(corpus, tmp_path, TINY_WAVEGLOW, *options), ranks=2)
    wait_for_step(tmp_path, 3, agent)
    worker = workers_of(agent)[1]
    os.kill(worker, signal.SIGSTOP)
    output = end(agent)
    assert agent.returncode == 1
    assert "no heartbeat from rank 1 on " in output
    assert "for 0.1 minutes (trainer.timeout_minutes)" in output


@pytest.mark.slow
@pytest.mark.fault(18)
def test_a_rank_that_ends_is_named(corpus: Path, tmp_path: Path) -> None:
    agent = start(*train_command(corpus, tmp_path, TINY_WAVEGLOW, *ENDLESS), ranks=2)
    wait_for_step(tmp_path, 3, agent)
    os.kill(workers_of(agent)[1], signal.SIGKILL)
    output = end(agent)
    assert agent.returncode == 1
    assert "error: the run has lost a process: no heartbeat from rank 1 on " in output
    assert "Traceback" not in output.split("ChildFailedError")[0].split("torch/distributed")[0]


@pytest.mark.slow
@pytest.mark.fault(12)
def test_one_of_two_nodes_is_killed(corpus: Path, tmp_path: Path) -> None:
    """Two torchrun agents on this machine stand for two nodes. One agent is killed: both ranks save at the same step,
    and the other agent continues alone from there."""
    options = ("trainer.max_steps=300", "trainer.epochs=100000", "trainer.val_every_steps=100000")
    command = train_command(corpus, tmp_path, TINY_WAVEGLOW, *options)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-id=test", f"--rdzv-endpoint=localhost:{port}"]
    first = launch(*torchrun, *command)
    wait_until(lambda: not socket.socket().connect_ex(("localhost", port)))  # this agent must host the rendezvous
    second = launch(*torchrun, *command)
    wait_for_step(tmp_path, 5, first)
    assert len(workers_of(second)) == 1
    second.kill()
    second.wait()
    output = end(first, 150)
    assert first.returncode == 0, output
    stopped = int(re.search(r"stopped by SIGTERM at step (\d+), saved", output)[1])
    assert f"step_{stopped:08d}.pt at step {stopped}" in output
    assert "2 x cpu" in output
    assert "1 x cpu" in output
    assert list(losses(tmp_path)) == list(range(1, 301))  # no step is repeated or missing


@pytest.mark.slow
@pytest.mark.fault(13)
def test_slurm_queues_again_after_a_signal(corpus: Path, tmp_path: Path) -> None:
    """Run the batch script with real processes; stubs replace srun and scontrol, which need a cluster, and torchrun."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, content in (
        ("srun", 'exec "$@"'),
        ("scontrol", f'if [ "$1" = show ]; then echo localhost; else echo "$@" >> {tmp_path}/requeued; fi'),
        ("torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"'),
    ):
        (tools / name).write_text(f"#!/usr/bin/env bash\n{content}\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "42", "NPROC_PER_NODE": "2", "RDZV_PORT": "29577",
    }  # fmt: skip
    script = ["bash", "scripts/slurm/train.sbatch"]
    command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW)[1:]
    job = launch(*script, *command, *ENDLESS, **environment)
    wait_for_step(tmp_path / "run", 3, job)
    job.send_signal(signal.SIGUSR1)
    output = end(job)
    assert job.returncode == 0, output
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    step = json.loads((tmp_path / "run/stopped.json").read_text())["step"]
    job = launch(*script, *command, "trainer.epochs=9999", f"trainer.max_steps={step + 2}", **environment)
    output = end(job)
    assert job.returncode == 0, output
    assert f"resumed from {tmp_path}/run/checkpoints/step_{step:08d}.pt" in output
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"  # a finished run is not queued again
    job = launch(*script, "model=tacotron2", **environment)
    assert "run_dir is not set" in end(job)


class Disturbed:
    """A task's objective that calls `disturb` with the number of each training step, before it."""

    def __init__(self, trainer: Trainer, disturb: Callable[[int], None]) -> None:
        objective = trainer.task.objective
        self.objective, self.disturb, self.steps = objective, disturb, trainer.state.progress
        self.part_names, self.advice = objective.part_names, objective.advice
        with_objective(trainer, self)

    def __call__(self, model: nn.Module, batch: Any, step: int | None, generator: Any) -> Loss:
        if step is not None:
            self.disturb(step + 1)
        return self.objective(model, batch, step, generator)


@pytest.mark.fault(26)
def test_what_is_removed_during_a_run_is_made_again(corpus: Path, tmp_path: Path) -> None:
    options = ("trainer.max_steps=6", "trainer.val_every_steps=2", "trainer.dry_run=false")
    trainer = make_trainer(corpus, tmp_path, "waveglow", *options)
    log = tmp_path / "log.jsonl"

    def disturb(step: int) -> None:
        if step == 3:
            for name in ("samples", "tensorboard", "checkpoints"):
                shutil.rmtree(tmp_path / name)
            log.rename(tmp_path / "moved.jsonl")
            log.mkdir()  # cannot be written to, like a file on a full disk
        if step == 5:
            log.rmdir()

    Disturbed(trainer, disturb)
    trainer.fit()
    assert (tmp_path / "checkpoints/step_00000006.pt").exists()
    assert (tmp_path / "checkpoints/best.pt").exists()
    assert list((tmp_path / "samples").glob("*_00000006.wav"))
    assert list((tmp_path / "tensorboard").iterdir())
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows if "train_loss" in row] == [3, 4, 5, 6]  # none is lost
    assert any("was removed, with its checkpoints" in row.get("warning", "") for row in rows)


@pytest.mark.fault(26)
def test_a_failure_of_pictures_is_a_warning(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=1")

    def report(*_: object) -> NoReturn:
        raise ZeroDivisionError("in a plot")

    trainer.validation.task = dataclasses.replace(trainer.task, report=report)
    trainer.fit()
    warnings = [row["warning"] for row in read_log(tmp_path) if "warning" in row]
    assert warnings == ["the plots and audio of step 1 failed (ZeroDivisionError: in a plot)"]
    assert (tmp_path / "checkpoints/step_00000001.pt").exists()


@pytest.mark.fault(26)
def test_a_failure_of_the_validation_costs_no_step(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    (mel,) = [root / f"mels/{line.split('|')[0]}.npy" for line in (root / "filelists/val.txt").read_text().splitlines()]
    options = ("trainer.max_steps=4", "trainer.val_every_steps=2", "trainer.dry_run=false")
    trainer = make_trainer(root, tmp_path / "run", "tacotron2", *options)

    def disturb(step: int) -> None:
        if step == 2:
            mel.write_bytes(mel.read_bytes()[:200])

    Disturbed(trainer, disturb)
    with pytest.raises(UserError, match=r"\.npy is not a readable mel"):
        trainer.fit()
    assert checkpoints.load(checkpoints.find(tmp_path / "run")).progress.step == 2
    # Once the cause is removed, the run repeats the validation and goes on.
    shutil.copy(corpus / mel.relative_to(root), mel)
    make_trainer(root, tmp_path / "run", "tacotron2", *options).fit()
    assert [row["step"] for row in read_log(tmp_path / "run") if "val_loss" in row] == [2, 4]
    make_trainer(corpus, tmp_path / "whole", "tacotron2", *options).fit()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.fault(7)
def test_another_validation_set_has_another_best(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path, "waveglow", "trainer.max_steps=1").fit()
    best = (tmp_path / "checkpoints/best.pt").read_bytes()
    (tmp_path / "val.txt").write_text((corpus / "filelists/train.txt").read_text().splitlines()[0] + "\n")
    trainer = make_trainer(corpus, tmp_path, "waveglow", f"data.val_filelist={tmp_path}/val.txt", "trainer.max_steps=2")
    trainer.fit()
    assert trainer.state.progress.best_loss == read_log(tmp_path)[-2]["val_loss"]
    assert checkpoints.load(tmp_path / "checkpoints/best.pt").progress.step == 2
    assert (tmp_path / "checkpoints/best_until_00000002.pt").read_bytes() == best


def loader_processes(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.fault(27)
@pytest.mark.slow
def test_a_signal_is_obeyed_while_no_data_comes(corpus: Path, tmp_path: Path) -> None:
    """The loader processes are frozen, as if their disk did not respond."""
    command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, *ENDLESS, "data.num_workers=2")
    process = launch(sys.executable, *command)
    wait_for_step(tmp_path / "run", 3, process)
    for pid in loader_processes(process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output = end(process, 60)
    assert process.returncode == 128 + signal.SIGTERM, output
    marker = json.loads((tmp_path / "run/stopped.json").read_text())
    assert (
        checkpoints.load(checkpoints.find(tmp_path / "run")).progress.step
        == marker["step"]
        == max(losses(tmp_path / "run"))
    )
    run_here(*train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, f"trainer.max_steps={marker['step'] + 2}"))
    run_here(*train_command(corpus, tmp_path / "whole", TINY_WAVEGLOW, f"trainer.max_steps={marker['step'] + 2}"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.fault(27)
def test_a_signal_while_loader_processes_start(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(corpus, tmp_path, "waveglow", "data.num_workers=2", "trainer.dry_run=false", *ENDLESS)
    start = multiprocessing.process.BaseProcess.start

    def start_and_signal(process: multiprocessing.process.BaseProcess) -> None:
        start(process)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_and_signal)
    assert trainer.fit() == 128 + signal.SIGTERM
    gc.collect()
    assert multiprocessing.active_children() == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.fault(8, 31)
def test_a_forked_process_does_not_keep_a_lock(tmp_path: Path) -> None:
    """As a loader process does that is frozen, or slow to notice that its trainer was killed."""
    with locked(tmp_path, "run_dir"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with locked(tmp_path, "run_dir", 10.0), pytest.raises(UserError, match=f"process {os.getpid()} on"):
            locked(tmp_path, "run_dir").__enter__()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow  # three starts of torchrun
@pytest.mark.fault(27)
def test_a_signal_is_obeyed_while_a_rank_gets_no_data(corpus: Path, tmp_path: Path) -> None:
    """The loader processes of rank 1 are frozen; rank 0 has its batch, and waits for rank 1."""
    command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, *ENDLESS, "data.num_workers=2")
    agent = start(*command, ranks=2)
    wait_for_step(tmp_path / "run", 3, agent)
    for pid in loader_processes(workers_of(agent)[1]):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    began = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    output = end(agent)
    assert time.monotonic() - began < 25, output  # torchrun kills the ranks after 30 s
    step = json.loads((tmp_path / "run/stopped.json").read_text())["step"]
    assert checkpoints.load(checkpoints.find(tmp_path / "run")).progress.step == step == max(losses(tmp_path / "run"))
    for name in ("run", "whole"):
        options = ("trainer.epochs=100000", f"trainer.max_steps={step + 2}")
        end(start(*train_command(corpus, tmp_path / name, TINY_WAVEGLOW, *options), ranks=2))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.fault(32)
@pytest.mark.slow
def test_frozen_loader_processes_are_an_error(corpus: Path, tmp_path: Path) -> None:
    options = (*ENDLESS, "data.num_workers=2", "trainer.timeout_minutes=0.03")
    process = start(*train_command(corpus, tmp_path, TINY_WAVEGLOW, *options))
    wait_for_step(tmp_path, 3, process)
    for pid in loader_processes(process.pid):
        os.kill(pid, signal.SIGSTOP)
    output = end(process, 60)
    assert process.returncode == 1, output
    assert "have given no batch for 0.03 minutes (trainer.timeout_minutes)" in output


@pytest.mark.fault(32)
def test_little_shared_memory_means_fewer_loader_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("common.data.loading.PLENTY", 1e15)
    wanted = min(2, allowed_cores())
    assert num_workers(2, lambda: 1) == wanted
    assert capsys.readouterr().err == ""
    assert num_workers(2, lambda: 10**15) == 0
    assert f"MB free: 0 processes load data instead of {wanted}" in capsys.readouterr().err

    two_batches = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize / 10.5  # each process keeps five
    assert num_workers(1, lambda: int(two_batches)) == 1
    assert num_workers(1, lambda: int(two_batches), num_ranks=4) == 0
    capsys.readouterr()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    assert num_workers(2, lambda: 1) == 0
    assert "cannot be used ([Errno 30] Read-only file system): 0 processes" in capsys.readouterr().err


@pytest.mark.fault(32)
@pytest.mark.slow
def test_a_long_path_of_temporary_files(corpus: Path, tmp_path: Path) -> None:
    """Loader processes hand over batches through sockets, whose paths may have at most 108 characters."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = train_command(corpus, tmp_path / "run", TINY_WAVEGLOW, "trainer.max_steps=2", "data.num_workers=1")
    output = end(launch(sys.executable, *command, TMPDIR=str(long)), 60)
    assert "finished at step 2" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.fault(35)
def test_no_damaged_file_is_more_than_a_message(corpus: Path, waveglow_run: Path, tmp_path: Path) -> None:
    """6,000 files, the better part of a minute: rare combinations show only in many. The helper's default is 20,000."""
    result = run_process("-m", "tests.helpers.fuzz", corpus, waveglow_run, tmp_path / "fuzz", "6000", "0")
    print(result.stdout)
    assert " 0 failed" in result.stdout


@pytest.mark.slow
@pytest.mark.fault(9)
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.call(["unshare", "--map-root-user", "--mount", "true"]) != 0,
    reason="mounts a small disk",
)
def test_random_faults_change_nothing(tmp_path: Path) -> None:
    """Minutes, because a run starts again after each fault."""
    output = run_process("-m", "tests.helpers.soak", tmp_path / "soak", "0.5").stdout
    assert "equal bit for bit\nno mistakes" in output
