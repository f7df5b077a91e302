"""Appends records to a file, without loss while its disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class Appender:
    """Appends whole records. The file is opened for each, so it may be moved or removed meanwhile.

    `header` is what a new file starts with.
    """

    def __init__(self, path: Path, header: bytes = b"") -> None:
        self.path, self.header = path, header
        self.unwritten = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def append(self, record: bytes) -> None:
        """Append a record. After an OSError, the next call writes it too, so a disk that was full loses nothing."""
        self.unwritten += record
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            data = self.unwritten if size else self.header + self.unwritten
            if file.write(data) < len(data):  # a full disk may take a part, which the next record would be glued to
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.unwritten = b""
