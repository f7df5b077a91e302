"""Run the commands of the repository as a user does."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
import warnings
from types import ModuleType
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from common.conf import CONF
from tests.helpers import REPOSITORY

Result = subprocess.CompletedProcess[str]


def run_process(*command: object, expect: int | None = 0, **environment: str) -> Result:
    """Run `python COMMAND` in the repository, and require the exit status `expect` unless it is None."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return checked(result, expect)


def run_here(*command: object, expect: int | tuple[int, ...] | None = 0) -> Result:
    """Like `run_process`, but in this process: 0.01 s instead of seconds, since everything is already imported.

    The process state that a command may change is restored afterwards.
    """
    script, *arguments = map(str, command)
    output, errors, status = io.StringIO(), io.StringIO(), 0
    path = (REPOSITORY / script).resolve()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        contextlib.chdir(REPOSITORY),
        warnings.catch_warnings(),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.object(warnings, "showwarning", warnings.showwarning),
    ):
        GlobalHydra.instance().clear()
        try:
            load_script(path.stem).main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception as error:
            if type(error).__name__ != "UserError":
                raise
            errors.write(f"error: {error}\n")  # as run_command prints it
            status = 1
        finally:
            GlobalHydra.instance().clear()
    return checked(subprocess.CompletedProcess([script], status, output.getvalue(), errors.getvalue()), expect)


def checked(result: Result, expect: int | tuple[int, ...] | None) -> Result:
    if expect is not None:
        assert result.returncode in (expect if isinstance(expect, tuple) else (expect,)), result.stdout + result.stderr
    return result


def fails_with(result: Result, *parts: str) -> None:
    """Require that the run failed with a message that contains `parts`, without a traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


def load_script(name: str) -> ModuleType:
    """Import a script as a module, "report" for scripts/report.py."""
    return importlib.import_module(name)


def composed(name: str, *overrides: str) -> dict[str, Any]:
    """Return the values of conf/NAME.yaml with overrides, as a command gets them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose(name, overrides=list(overrides)), resolve=True)
    return values
