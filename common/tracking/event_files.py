"""TensorBoard's event files.

torch's SummaryWriter writes in a thread of its own, which ends with a traceback when the disk is full, and then records
nothing more.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from common.tracking.appending import Appender

VERSION = "brain.Event:2"  # of the format
_numbers = itertools.count()


class EventFile:
    """A Board: appends events to a new file of `directory`.

    TensorBoard hides the earlier events of `first_step` and later ones. The methods raise OSError if the
    file cannot be written; the next call then writes the event too.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        # TensorBoard reads a directory's files in the order of their names.
        place = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        header = _record(file_version=VERSION)
        header += _record(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=first_step)
        self.file = Appender(directory / f"events.out.tfevents.{place}", header)

    @property
    def place(self) -> Path:
        return self.file.path

    def config(self, values: Mapping[str, Any], step: int) -> None:
        indented = "\n".join(f"    {line}" for line in json.dumps(values, indent=2).splitlines())  # code in Markdown
        self.text("config", indented, step)

    def text(self, name: str, text: str, step: int) -> None:
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING,
            tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
            string_val=[text.encode()],
        )
        metadata = create_summary_metadata(display_name=name, description="")
        self._write([summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=metadata)], step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._write([summary_pb2.Summary.Value(tag=key, simple_value=value) for key, value in values.items()], step)

    def picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        width, height = size
        image = summary_pb2.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._write([summary_pb2.Summary.Value(tag=name, image=image)], step)

    def audio(self, name: str, wav: bytes, sample_rate: int, num_samples: int, step: int) -> None:
        audio = summary_pb2.Summary.Audio(
            sample_rate=sample_rate,
            num_channels=1,
            length_frames=num_samples,
            encoded_audio_string=wav,
            content_type="audio/wav",
        )
        self._write([summary_pb2.Summary.Value(tag=name, audio=audio)], step)

    def close(self) -> None:
        """No-op: the file is closed after each event."""

    def _write(self, values: list[Any], step: int) -> None:
        self.file.append(_record(summary=summary_pb2.Summary(value=values), step=step))


def _record(**fields: Any) -> bytes:
    """An event, as a record of an event file."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())
    return buffer.getvalue()
