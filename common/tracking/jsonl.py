"""Log files with one JSON object on each line."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from common.tracking.appending import Appender


class JsonLines:
    """Appends objects to a file, each with the time."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, Appender(path)

    def write(self, **values: Any) -> None:
        # JSON has no NaN: a diverged loss is null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = json.dumps({"time": round(time.time(), 3), **finite}) + "\n"
        self.file.append(line.encode())
