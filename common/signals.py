"""The signals that ask a run to stop."""

from __future__ import annotations

import signal

# Kubernetes and torchrun send SIGTERM; Slurm sends the signal that --signal in the job script names; Ctrl-C sends
# SIGINT, and a terminal that is closed SIGHUP.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
SIGNALED = 128  # plus the number of a signal: a reason to stop, and the exit status that shells use for it
