"""Commands as a user runs them."""

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

from common.entry import CONF
from tests.helpers import REPOSITORY

Result = subprocess.CompletedProcess[str]


def run_process(*command: object, expect: int | None = 0, **environment: str) -> Result:
    """Run `python COMMAND` in the repository; unless `expect` is None the exit status must be that."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return checked(result, expect)


def run_here(*command: object, expect: int | None = 0) -> Result:
    """The same in this process, which has imported everything already: a hundredth of a second instead of seconds.

    It changes back the process state that a command may change.
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


def checked(result: Result, expect: int | None) -> Result:
    if expect is not None:
        assert result.returncode == expect, result.stdout + result.stderr
    return result


def fails_with(result: Result, *parts: str) -> None:
    """The run failed with a message that holds `parts`, and no traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


def load_script(name: str) -> ModuleType:
    """A script as a module: "report" for scripts/report.py."""
    return importlib.import_module(name)


def composed(name: str, *overrides: str) -> dict[str, Any]:
    """The values of conf/NAME.yaml with overrides, as a command gets them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose(name, overrides=list(overrides)), resolve=True)
    return values
