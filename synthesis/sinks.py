"""Where speech goes while it is made: a file, a stream of bytes such as a pipe, or the loudspeaker.

Each sink is a context that gives a function for the parts (N) of the audio, within [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, get_args

from torch import Tensor

from common.errors import UserError, did_you_mean, require_packages
from common.files import replacing
from synthesis.audio_file import LARGEST, AudioFormat, create, in_16_bits, wav_header

if TYPE_CHECKING:
    from synthesis.server.encoders import Encoder

Write = Callable[[Tensor], None]
STREAMED = ("wav", "flac", "mp3", "opus", "aac")
FORMATS = tuple(dict.fromkeys((*get_args(AudioFormat), *STREAMED)))


def format_of(path: Path) -> str:
    """The audio format that a file's suffix names. Raises UserError if there is no such format."""
    name = path.suffix[1:].lower()
    if name not in FORMATS:
        near = did_you_mean(name, FORMATS)
        raise UserError(f"{path}: its suffix names no audio format that can be written{near}; or set --format")
    return name


@contextmanager
def to_file(path: Path, kind: str, sample_rate: int) -> Iterator[Write]:
    """A file that appears whole at the end of the block, or not at all."""
    if kind not in get_args(AudioFormat):
        encoder = _encoder(kind, sample_rate)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            yield lambda audio: _put(file, encoder.feed(audio))
            _put(file, encoder.close())
        return
    with replacing(path) as temporary:
        audio_file = create(temporary, kind, sample_rate)  # type: ignore[arg-type] # one of AudioFormat
        try:
            yield audio_file.append
        finally:
            audio_file.close()


@contextmanager
def to_stream(file: BinaryIO, kind: str, sample_rate: int) -> Iterator[Write]:
    """Bytes that another program reads while they are made."""
    check_format(kind, is_streamed=True)
    if kind == "wav":  # without the packages of the server
        _put(file, wav_header(sample_rate, LARGEST))
        yield lambda audio: _put(file, in_16_bits(audio).tobytes())
        return
    encoder = _encoder(kind, sample_rate)
    yield lambda audio: _put(file, encoder.feed(audio))
    _put(file, encoder.close())


@contextmanager
def to_loudspeaker(sample_rate: int) -> Iterator[Write]:
    """The loudspeaker; the block ends when all has been heard."""
    check_loudspeaker()
    import sounddevice

    try:
        stream = sounddevice.OutputStream(samplerate=sample_rate, channels=1, dtype="int16")
    except sounddevice.PortAudioError as error:
        raise UserError(f"no loudspeaker can be used ({error}); write a file instead: -o FILE") from None
    with stream:
        yield lambda audio: stream.write(in_16_bits(audio))


def check_loudspeaker() -> None:
    """Raise a UserError if the package or the library for it is not installed."""
    require_packages(("sounddevice",), "pip install sounddevice, or write a file: -o FILE")
    try:
        import sounddevice  # noqa: F401
    except OSError as error:  # PortAudio is not a Python package
        raise UserError(f"{error}; install it (apt install libportaudio2), or write a file: -o FILE") from None


def check_format(kind: str, is_streamed: bool = False) -> None:
    """Raise a UserError if a pipe cannot have this format, or the package that encodes it is not installed."""
    if is_streamed and kind not in STREAMED:
        raise UserError(f"format {kind} cannot be written to a pipe; choose from: {', '.join(STREAMED)}")
    if kind not in (("wav",) if is_streamed else get_args(AudioFormat)):
        require_packages(("av",), "pip install -r requirements-server.txt, or choose wav")


def _encoder(kind: str, sample_rate: int) -> Encoder:
    from synthesis.server.encoders import encoder

    return encoder(kind, sample_rate)  # type: ignore[arg-type] # one of SpeechFormat


def _put(file: BinaryIO, data: bytes) -> None:
    if data:
        file.write(data)
        file.flush()
