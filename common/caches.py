"""A place for the compiled functions of numba, which librosa imports, where the usual ones cannot be written to."""

from __future__ import annotations

import importlib.util
import os
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path


def set_numba_cache(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set NUMBA_CACHE_DIR if numba could not write to its caches: importing librosa would fail.

    This is so for a user without a home directory, as with `docker run --user`. To be called before numba is imported.
    """
    if "NUMBA_CACHE_DIR" in environment or not hasattr(os, "getuid"):
        return
    home = environment.get("HOME", os.path.expanduser("~"))  # "~" if there is none
    user_cache = Path(environment.get("XDG_CACHE_HOME", Path(home) / ".cache"))
    if user_cache.is_absolute() and _is_writable(user_cache / "numba"):
        return
    librosa = importlib.util.find_spec("librosa")
    if librosa is None or librosa.origin is None or _is_writable(Path(librosa.origin).parent / "util/__pycache__"):
        return
    environment["NUMBA_CACHE_DIR"] = str(_own_directory(Path(tempfile.gettempdir()) / f"numba-{os.getuid()}"))


def _is_writable(directory: Path) -> bool:
    """Whether a file can be made in `directory`, which is created if necessary, as numba does."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _own_directory(path: Path) -> Path:
    """`path`, if only this user can write to it; else a new directory: whoever writes to it could run code here."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="numba-"))
