"""Log files with one JSON object on each line."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends objects to a file, each with the time. The file is opened for each, so it may be moved or removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unwritten = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def write(self, **values: Any) -> None:
        """Append a line. After an OSError, the next call writes it too, so a disk that was full loses no line."""
        # JSON has no NaN: a diverged loss is null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self.unwritten += json.dumps({"time": round(time.time(), 3), **finite}) + "\n"
        data = self.unwritten.encode()
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            if file.write(data) < len(data):  # a full disk may take a part, which the next line would be glued to
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.unwritten = ""
