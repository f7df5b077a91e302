"""Threads on a shared machine: the limits they respect, and that they sleep while other programs need the cores."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from common.caches import set_numba_cache
from common.threads import SPIN_COUNT, Watcher, allowed_cores, before_torch, others_running
from tests.helpers import REPOSITORY, wait_until

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),  # 1.5 cores
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({}, CORES),
    ],
)
def test_a_containers_limit(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert allowed_cores(tmp_path) == min(limit, CORES)


def test_the_cores_that_a_process_is_bound_to() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    "chosen",
    [
        {"GOMP_SPINCOUNT": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"},
        {"OMP_WAIT_POLICY": "active"},
        {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "1"},
    ],
)
def test_what_the_user_sets_stays(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    before_torch(environment)
    assert environment.items() >= chosen.items()
    assert "GOMP_SPINCOUNT" in chosen or "GOMP_SPINCOUNT" not in environment


def test_numba_gets_a_cache_where_its_own_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without a home who did not install librosa. Only this user may write to a cache of code."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cached = tmp_path / f"numba-{os.getuid()}"

    def chosen(**environment: str) -> str | None:
        set_numba_cache(environment)
        return environment.get("NUMBA_CACHE_DIR")

    assert chosen(HOME="/dev/null", NUMBA_CACHE_DIR="mine") == "mine"
    assert chosen(HOME="/dev/null", XDG_CACHE_HOME=str(tmp_path / "xdg")) is None
    assert chosen(HOME="/dev/null") is None  # librosa's own folder can be written to
    elsewhere = ModuleSpec("librosa", None, origin="/dev/null/librosa/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: elsewhere)
    assert chosen(HOME=str(tmp_path)) is None
    assert chosen(HOME="/dev/null") == str(cached)
    assert cached.stat().st_mode & 0o777 == 0o700
    assert chosen(HOME="/dev/null") == str(cached)
    cached.chmod(0o770)
    assert chosen(HOME="/dev/null") not in (None, str(cached))


@pytest.mark.parametrize("entry", ["train", "inference", "scripts/checkout"])
def test_every_command_sets_it_before_torch(entry: str) -> None:
    """Run the command up to its import of torch, and print what is set then."""
    code = (
        "import os, runpy, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': raise SystemExit\n"  # what is set by now is what PyTorch reads
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.path.insert(0, '{(REPOSITORY / entry).parent}')\n"
        f"sys.argv = ['{entry}.py', '--no-such-option']\n"
        f"try: runpy.run_path('{REPOSITORY / entry}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == SPIN_COUNT, result.stderr


def test_other_programs_are_counted() -> None:
    """Own threads do not count. With a busy process the count is at least 1 in most looks."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout
            busy.stdout.readline()
            counts = sorted(others_running() for _ in range(101))
        finally:
            busy.kill()
    assert counts[50] >= 1


def test_the_decision_takes_two_of_three_looks() -> None:
    cores = os.cpu_count() or 1
    looks = iter([0, 1, 0, 1, 1, 0, 0, 0])
    watcher = Watcher(cores, lambda: next(looks))
    shares = []
    for _ in range(8):
        watcher.look()
        shares.append(watcher.shares)
    assert shares == [False, False, False, True, True, True, False, False]
    few = Watcher(1, lambda: cores - 1)  # a core is left for its single thread
    few.look()
    few.look()
    assert not few.shares


MEASURE = """
import os, resource, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
from common.threads import SPIN_COUNT, Watcher
torch.set_num_threads(2)
x = torch.ones(2**16)

def sleeps():  # how often a thread of this process went to sleep while it waited
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(300):
        x.add_(1)
        for _ in range(2000): pass  # the others wait here, too briefly for them to stop spinning
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

cores = os.cpu_count()
looks = iter([cores, cores, 0, 0])
watcher = Watcher(2, lambda: next(looks))
counts = [sleeps()]
watcher.look(), watcher.look(); time.sleep(0.5)
counts.append(sleeps())
watcher.look(), watcher.look(); time.sleep(0.5)
counts.append(sleeps())
print(*counts, torch.get_num_threads())
"""


@pytest.mark.skipif(not 2 <= (os.cpu_count() or 1) <= 3, reason="one more team must exceed the number of cores")
def test_threads_sleep_while_others_need_the_cores() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP")}
    environment["GOMP_SPINCOUNT"] = "30000000"  # so long that threads do not sleep although other tests use the cores
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(REPOSITORY)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    alone, sharing, after, threads = map(int, result.stdout.split())
    assert max(alone, after) < sharing / 3
    assert threads == 2


@pytest.mark.fault(27)
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks for PyTorch in /proc")
def test_ctrl_c_during_the_imports_is_no_traceback() -> None:
    command = ["env", "--default-signal=INT", sys.executable, "train.py", "model=waveglow", "run_dir=x"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: process.poll() is not None or "libtorch" in maps.read_text(), pause=0.005)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == -signal.SIGINT
