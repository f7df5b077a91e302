"""Train under random kills, signals, frozen processes and full disks; the result must be that of an undisturbed run.

    python -m tests.helpers.soak DIRECTORY [MINUTES] [RANKS] [SEED]

It trains the small Tacotron 2 on the bundled corpus. The run directory is a small file system of its own, which is
filled now and then: this needs Linux, and root or user namespaces. Prints what happened, and ends with status 1 if a
run printed a traceback, ended with a status that nothing explains, or lost a step that it should not.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.helpers import REPOSITORY
from tests.helpers.runs import assert_same_run, losses

CORPUS = REPOSITORY / "demo/corpus"
DISK = 200  # MB: six checkpoints
CHECKPOINT_EVERY = 10  # steps
MEAN_PAUSE = 12.0  # seconds between two events
TIMEOUT = 0.4  # minutes that a frozen process is waited for
# Its steps take 0.1 s, and its epochs, validations and checkpoints come often.
OPTIONS = (
    "experiment=demo", "model=tacotron2_small", "trainer.batch_frames=1500", "trainer.log_every_steps=1",
    f"trainer.checkpoint_every_steps={CHECKPOINT_EVERY}", "trainer.val_every_steps=45", "trainer.epochs=1000000",
    "trainer.device=cpu", "data.num_workers=2", f"trainer.timeout_minutes={TIMEOUT}", "data.sentences=[]",
)  # fmt: skip
MARK = "SOAK_TEST"  # in the environment of all processes of a run


class Soak:
    """A training run that is started again whenever it ends, and what happened to it."""

    def __init__(self, directory: Path, num_ranks: int, rng: random.Random) -> None:
        self.disk, self.run_dir, self.corpus = directory / "disk", directory / "disk/run", directory / "corpus"
        self.num_ranks, self.rng = num_ranks, rng
        # One thread: their number changes the last bits.
        self.environment = {
            **os.environ, MARK: str(self.disk), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }  # fmt: skip
        self.events, self.ends, self.mistakes = Counter[str](), Counter[str](), list[str]()
        self.output = directory / "output.txt"  # of the present process
        self.reasons = set[str]()  # why it may end
        self.newest = 0  # step of the newest checkpoint when the last process ended

    def command(self, run_dir: Path, *options: str) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.num_ranks}"]
        launcher += ["--max-restarts=100"]
        return [
            sys.executable, *(launcher if self.num_ranks > 1 else []), "train.py", *OPTIONS,
            f"data.root={self.corpus}", f"run_dir={run_dir}", *options,
        ]  # fmt: skip

    def start(self) -> None:
        self.reasons = set()
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                self.command(self.run_dir), cwd=REPOSITORY, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )

    def processes(self, workers: bool) -> list[int]:
        """The running processes that load data, or those that train."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.disk}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):  # it has ended meanwhile
                continue
        root = self.process.pid
        ranks = [pid for pid, parent in parents.items() if (pid if self.num_ranks == 1 else parent) == root]
        return sorted(pid for pid, parent in parents.items() if parent in ranks) if workers else sorted(ranks)

    def disturb(self) -> None:
        """Do something to the run, and something else before it is undone."""
        event = self.rng.choice(("kill", "kill", "term", "int", "stop", "freeze", "disk", "disk", "worker"))
        self.events[event] += 1
        if event in ("kill", "term", "int"):
            self.end_by(event)
        elif event == "worker":
            self.send(signal.SIGKILL, self.processes(workers=True), "worker")
        elif event == "disk":
            self.reasons.add("disk")
            filler = self.disk / "filler"
            fill(filler)
            self.linger(8.0)
            filler.unlink()
        else:  # a trainer, or a loader process, sometimes beyond the timeout
            pids = self.processes(workers=event == "freeze")
            stopped = self.send(signal.SIGSTOP, pids, event)
            self.linger(5.0 if event == "stop" else 60 * TIMEOUT * 1.5)
            self.send(signal.SIGCONT, stopped, event)

    def linger(self, most: float) -> None:
        """Wait up to `most` seconds; sometimes end the run meanwhile."""
        seconds = self.rng.uniform(0, most)
        if self.rng.random() < 0.4:
            time.sleep(seconds / 2)
            self.end_by(self.rng.choice(("kill", "term", "int")))
        self.wait(seconds)

    def end_by(self, event: str) -> None:
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[event]
        self.send(number, self.processes(workers=False) if event == "kill" else [self.process.pid], event)

    def send(self, number: signal.Signals, pids: list[int], reason: str) -> list[int]:
        """Send a signal to one of `pids`, and return a list of it."""
        if not pids or self.process.poll() is not None:
            return []
        pid = self.rng.choice(pids)
        self.reasons.add(reason)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return []
        return [pid]

    def wait(self, seconds: float) -> bool:
        """Whether the process ends within that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.start()
        while time.monotonic() < deadline:
            if self.wait(self.rng.expovariate(1 / MEAN_PAUSE)):
                self.judge()
                self.start()
            else:
                self.disturb()
                if self.reasons & {"term", "int"} and not self.wait(60 * TIMEOUT + 30):
                    self.mistake(f"still runs after {sorted(self.reasons)}")
                    self.process.kill()
        self.process.terminate()
        self.reasons.add("term")
        self.process.wait(120)
        self.judge()

    def judge(self) -> None:
        """Look at what the process left when it ended."""
        status, output = self.process.returncode, self.output.read_text(errors="replace")
        self.ends[f"{status} after {'+'.join(sorted(self.reasons)) or 'nothing'}"] += 1
        allowed = {"term": (143, -15), "int": (130, -2), "kill": (-9,)}
        may_fail = self.reasons & ({"disk", "worker", "freeze"} | ({"kill", "stop"} if self.num_ranks > 1 else set()))
        expected = [s for reason in self.reasons for s in allowed.get(reason, ())] + [1] * bool(may_fail)
        if status not in expected and self.num_ranks == 1:
            self.mistake(f"status {status} after {sorted(self.reasons)}")
        if "Traceback" in output and self.num_ranks == 1:  # torchrun prints one of its own
            self.mistake(f"a traceback after {sorted(self.reasons)}")
        newest = newest_step(self.run_dir)
        if newest < self.newest:
            self.mistake(f"the newest checkpoint was of step {self.newest}, now of {newest}")
        marker = self.run_dir / "stopped.json"
        if status in (143, 130) and marker.exists():
            step = json.loads(marker.read_text())["step"]
            if "disk" not in self.reasons and step != newest:
                self.mistake(f"stopped at step {step}, saved {newest}")
        elif status in (143, 130) and "step " in output and "freeze" not in self.reasons:
            self.mistake(f"status {status} without a marker after {sorted(self.reasons)}")
        self.newest = newest
        print(f"{time.strftime('%H:%M:%S')} step {newest:>6}: {status} after {sorted(self.reasons)}", flush=True)

    def mistake(self, text: str) -> None:
        self.mistakes.append(text)
        print(f"MISTAKE: {text}\n{self.output.read_text(errors='replace')[-3000:]}", flush=True)


def fill(path: Path) -> None:
    """Fill the file system of `path`."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(2**16)):
                pass
        except OSError:
            pass


def newest_step(run_dir: Path) -> int:
    steps = [int(path.stem.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*.pt")]
    return max(steps, default=0)


def main(directory: str, minutes: str = "60", num_ranks: str = "1", seed: str = "0") -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may inherit that it is ignored
    root = Path(directory).resolve()
    soak = Soak(root, int(num_ranks), random.Random(int(seed)))
    soak.disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "soak", str(soak.disk)], check=True)
    try:
        shutil.copytree(CORPUS, soak.corpus, ignore=shutil.ignore_patterns("mels", "filelists"))
        for script in ("prepare_dataset.sh", "prepare_mels.sh"):
            environment = {**os.environ, "PYTHON": sys.executable}
            subprocess.run(["bash", f"scripts/{script}", str(soak.corpus)], cwd=REPOSITORY, env=environment, check=True)
        soak.run(60 * float(minutes))
        last = f"trainer.max_steps={newest_step(soak.run_dir) + 2 * CHECKPOINT_EVERY}"
        whole = root / "whole"
        for run_dir in (soak.run_dir, whole):
            command = soak.command(run_dir, last)
            subprocess.run(command, cwd=REPOSITORY, env=soak.environment, check=True, stdout=subprocess.DEVNULL)
        first, second = losses(soak.run_dir), losses(whole)
        different = [step for step in second if first.get(step) != second[step]]
        if different:
            soak.mistakes.append(f"losses of {len(different)} steps, the first {different[0]}, differ or are missing")
        assert_same_run(soak.run_dir, whole)
    finally:
        subprocess.run(["umount", str(soak.disk)], check=True)
    print(f"events: {dict(soak.events)}\nends: {dict(soak.ends)}\n{len(second)} steps, equal bit for bit")
    print("\n".join(soak.mistakes) or "no mistakes")
    sys.exit(bool(soak.mistakes))


if __name__ == "__main__":
    if os.environ.get(f"{MARK}_INSIDE") != "1":  # with the right to mount
        os.environ[f"{MARK}_INSIDE"] = "1"
        command = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "tests.helpers.soak", *sys.argv[1:]]
        os.execvp("unshare", command)
    main(*sys.argv[1:])
