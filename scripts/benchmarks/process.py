"""Runs a measurement in its own process, so that neither a crash nor memory outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run_json(command: list[str], log: Path | None = None, limit: float | None = None) -> dict[str, Any]:
    """Run a command in the repository and return the JSON object in its last line that holds one.

    All of its output goes to `log`. If the command fails, the UserError has the error's line. After `limit` seconds it
    is killed, with the processes that it started.
    """
    if log is None:
        with tempfile.TemporaryDirectory() as directory:
            return run_json(command, Path(directory) / "log", limit)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"stopped at its limit of {limit:.0f} s") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if process.returncode:
        raise UserError(_reason(lines, process.returncode))
    found = next((line for line in reversed(lines) if line.startswith("{")), None)
    if found is None:
        raise UserError("ended without a result")
    values: dict[str, Any] = json.loads(found)
    return values


def _reason(lines: list[str], status: int) -> str:
    """The line of the error, which need not be the last one: PyTorch appends advice to CUDA errors."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}; the usual cause is too little memory"
    errors = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception)\b", line)]
    return [f"ended with status {status}", *lines, *errors][-1].removeprefix("error: ")
