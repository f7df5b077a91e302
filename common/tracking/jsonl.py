"""Log files with one JSON object on each line."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends objects to a file, each with the time, and flushes after each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the whole run)

    def write(self, **values: Any) -> None:
        # JSON has no NaN: a diverged loss is null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self.file.write(json.dumps({"time": round(time.time(), 3), **finite}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
