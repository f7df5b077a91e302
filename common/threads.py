"""Threads that share a machine with other programs.

PyTorch splits an operation among the threads of a team (OpenMP). A thread that is done spins: it keeps its core busy
while it waits for the others. That is fast on an idle machine. If another program needs a core, a thread of the team
waits for that core, the others spin meanwhile, and synthesis was 30 times slower. So:

- `before_torch` shortens the spinning and respects the CPU limit of a container.
- `watch` starts a thread that looks for other programs. While they need the cores, waiting threads sleep instead of
  spinning. This changes neither the number of threads nor, therefore, any result.

What the user sets (OMP_NUM_THREADS, OMP_WAIT_POLICY, GOMP_SPINCOUNT, ONEDNN_PRIMITIVE_CACHE_CAPACITY) is left as it is.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from pathlib import Path

from common.caches import set_numba_cache

SPIN_COUNT = "100000"  # a third of the default, hardly slower alone; it counts where `watch` overlooks a program
KERNELS = "128"  # that oneDNN keeps; its default of 1,024 takes hundreds of MB when sequences have all lengths
PERIOD = 0.1  # seconds between two looks at the machine
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def allowed_cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may use: those it is bound to, or the fewer that its container allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _container_limit(cgroup) or cores)


def _container_limit(cgroup: Path) -> int | None:
    """The CPU limit of a container, rounded up; None if there is none. Reads both versions of Linux control groups."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or "max"
        return None


def before_torch(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how PyTorch's threads wait, what oneDNN keeps, and where numba writes. Commands call this before all three.

    Ctrl-C during the imports, which take seconds, then ends the process without a traceback; see `after_imports`.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_numba_cache(environment)
    environment.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if limit := _container_limit(CGROUP):  # PyTorch itself looks only at the cores that the process is bound to
        environment.setdefault("OMP_NUM_THREADS", str(min(limit, allowed_cores())))


def after_imports() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def others_running() -> int:
    """Return how many threads of other programs are running or waiting for a core at this moment."""
    running = int((PROC / "loadavg").read_text().split()[3].split("/")[0])
    own = 0
    for task in (PROC / "self" / "task").iterdir():
        try:
            own += (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        except OSError:  # the thread has ended
            continue
    return running - own


class Watcher:
    """Decides from the last three looks at the machine whether this process shares its cores, and acts on a change.

    While it does, `_idle_team` keeps a second team of threads that does nothing. OpenMP (libgomp) then has more threads
    than cores, and in that case its threads wait 100 rounds instead of thousands before they sleep (the manual of
    libgomp, GOMP_SPINCOUNT).
    """

    def __init__(self, num_threads: int, others: Callable[[], int] = others_running) -> None:
        self.num_threads, self.others = num_threads, others
        self.crowded: deque[bool] = deque(maxlen=3)
        self.end_sharing: threading.Event | None = None

    @property
    def shares(self) -> bool:
        """Whether other programs need the cores."""
        return self.end_sharing is not None

    def look(self) -> None:
        """Look once at the machine."""
        self.crowded.append(self.others() + self.num_threads > (os.cpu_count() or 1))
        crowded = sum(self.crowded) >= 2
        if crowded and self.end_sharing is None:
            self.end_sharing = threading.Event()
            threading.Thread(target=_idle_team, args=(self.end_sharing,), daemon=True).start()
        elif not crowded and self.end_sharing is not None:
            self.end_sharing.set()
            self.end_sharing = None

    def run(self) -> None:
        while True:
            time.sleep(PERIOD)
            self.look()


def _idle_team(end: threading.Event) -> None:
    """Keep a team of threads, which belongs to this thread and ends with it."""
    import torch

    torch.ones(2**18)  # large enough for PyTorch to split it among a team
    end.wait()


def watch() -> None:
    """Start a Watcher in the background, unless there is nothing to decide: one thread, a waiting policy that the user
    has set, a program without PyTorch, or a system without /proc."""
    torch = sys.modules.get("torch")
    if torch is None or "OMP_WAIT_POLICY" in os.environ or not (PROC / "loadavg").exists():
        return
    if torch.get_num_threads() > 1:
        threading.Thread(target=Watcher(torch.get_num_threads()).run, daemon=True, name="watcher").start()
