"""Audio as the bytes of a stream that clients play while it is made: the formats of OpenAI's /v1/audio/speech.

The bytes depend on the audio only: not on how it is cut into feeds, on the time, or on encoders in other threads.
Memory does not grow with the length of the stream. An encoder that is dropped before its end frees all it holds.

Where decoded audio starts, and what follows it (rates that the codec lacks are resampled, see `Codec.sample_rate`):

| format          | starts after              | then, at the end          |
|-----------------|---------------------------|---------------------------|
| wav, pcm, flac  | 0                         | nothing                   |
| opus            | 0 (signalled in the file) | nothing (signalled)       |
| mp3             | 1105 samples of silence   | silence, to a whole frame |
| aac             | 1024 samples of silence   | silence, to a whole frame |

ADTS has no field for the silence. MP3 has one, but only beside the number of frames, which a stream does not know.
"""

from __future__ import annotations

import dataclasses
import weakref
from fractions import Fraction
from typing import Literal, Protocol, get_args

import av
import numpy as np
import soxr
import torch
from torch import Tensor

from common.errors import UserError, did_you_mean
from synthesis.audio_file import LARGEST, in_16_bits, wav_header

SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
PCM_RATE = 24000  # Hz, which OpenAI's clients assume: pcm has no header
# Bits per second of mp3, opus and aac, up to 24 kHz and above. Decoded speech of LJSpeech correlates with
# the recordings (mean of four) by 0.998 at 64,000 in all three, and at 48,000 by 0.995, 0.988 and 0.989.
BIT_RATE, WIDE_BIT_RATE = 64_000, 96_000
CONTENT_TYPES: dict[SpeechFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": f"audio/pcm; rate={PCM_RATE}",  # 16 bits, signed, little-endian, one channel
}


class Encoder(Protocol):
    """An encoder of one stream of one channel, used by one thread at a time."""

    def feed(self, audio: Tensor) -> bytes:
        """audio (N) float32 in [-1, 1] (clipped outside) -> the bytes that are ready, maybe none

        Raises ValueError if a sample is not a number, or after `close`.
        """

    def close(self) -> bytes:
        """The rest, which is nothing the second time."""


def encoder(kind: SpeechFormat, sample_rate: int) -> Encoder:
    """A new encoder of audio with `sample_rate` (Hz). Raises UserError for another format or no rate."""
    if kind not in get_args(SpeechFormat):
        raise UserError(f"audio format {kind!r} is unknown{did_you_mean(str(kind), get_args(SpeechFormat))}")
    if sample_rate < 1:
        raise UserError(f"audio has a sample rate of 1 Hz or more, not {sample_rate} Hz")
    if kind == "pcm":
        return PcmEncoder(sample_rate, PCM_RATE)
    if kind == "wav":
        # Readers that are told the largest size read to the end of the file; told 0, some read nothing.
        return PcmEncoder(sample_rate, sample_rate, wav_header(sample_rate, LARGEST))
    return CodecEncoder(CODECS[kind], sample_rate)


class PcmEncoder:
    """Samples of 16 bits, after a header."""

    def __init__(self, sample_rate: int, target_rate: int, header: bytes = b"") -> None:
        self.samples, self.header = _Samples(sample_rate, target_rate), header

    def feed(self, audio: Tensor) -> bytes:
        return self._encode(self.samples.feed(audio))

    def close(self) -> bytes:
        return self._encode(self.samples.close())

    def _encode(self, samples: np.ndarray) -> bytes:
        header, self.header = self.header, b""
        return header + in_16_bits(torch.from_numpy(samples)).tobytes()


@dataclasses.dataclass(frozen=True)
class Codec:
    """What libavcodec and libavformat need to know of a format."""

    name: Literal["libmp3lame", "libopus", "aac", "flac"]
    container: str
    sample_format: Literal["fltp", "flt", "s16"]
    shortest: int = 1  # samples: players reject what is shorter, so silence follows it
    container_options: dict[str, str] = dataclasses.field(default_factory=dict)

    def sample_rate(self, wanted: int) -> int:
        """The next supported rate (Hz) that loses no frequency, or the highest."""
        rates = av.Codec(self.name, "w").audio_rates or [wanted]  # FLAC names none: it has all
        return min((rate for rate in rates if rate >= wanted), default=max(rates))


# Libavformat holds back the last two pages of Ogg, hence short ones. The headers that are turned off would be empty.
CODECS: dict[SpeechFormat, Codec] = {
    "mp3": Codec("libmp3lame", "mp3", "fltp", 2400, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": Codec("libopus", "ogg", "flt", container_options={"page_duration": "40000"}),  # microseconds
    "aac": Codec("aac", "adts", "fltp", 2400),
    "flac": Codec("flac", "flac", "s16", container_options={"metadata_header_padding": "0"}),
}


class CodecEncoder:
    """A codec of libavcodec in a container of libavformat, which writes to memory."""

    def __init__(self, codec: Codec, sample_rate: int) -> None:
        self.codec, self.rate = codec, codec.sample_rate(sample_rate)
        self.samples = _Samples(sample_rate, self.rate)
        self.pending = np.zeros(0, np.float32)  # less than a frame
        self.num_encoded = 0
        self.sink = _Sink()
        options = {"fflags": "+bitexact", **codec.container_options}  # Ogg has random serial numbers otherwise
        self.container = av.open(self.sink, "w", format=codec.container, container_options=options)
        # The container and its stream refer to each other until it is closed: a megabyte that waits for the garbage
        # collector.
        weakref.finalize(self, self.container.close).atexit = False
        self.stream = self.container.add_stream(
            codec.name,
            self.rate,
            layout="mono",
            format=codec.sample_format,
            bit_rate=BIT_RATE if self.rate <= 24_000 else WIDE_BIT_RATE,
            thread_count=1,
        )
        self.container.start_encoding()

    def feed(self, audio: Tensor) -> bytes:
        self._encode(self.samples.feed(audio))
        return self.sink.take()

    def close(self) -> bytes:
        if not self.samples.is_closed:
            self._encode(self.samples.close())
            if (num_missing := self.codec.shortest - self.num_encoded - len(self.pending)) > 0:
                self._encode(np.zeros(num_missing, np.float32))
            if len(self.pending):
                self._send(self.pending)
            self._send(None)
            self.container.close()
        return self.sink.take()

    def _encode(self, samples: np.ndarray) -> None:
        samples = np.concatenate((self.pending, samples))
        size = self.stream.codec_context.frame_size
        whole = len(samples) // size * size
        for start in range(0, whole, size):
            self._send(samples[start : start + size])
        self.pending = samples[whole:].copy()

    def _send(self, samples: np.ndarray | None) -> None:
        """Give the codec a frame, or None at the end, and the container the packets that are ready."""
        context = self.stream.codec_context
        # `context.encode` does the same through a filter graph, which starts a thread for each core.
        frame = None if samples is None else self._frame(samples)
        for packet in context._send_frame_and_recv(frame):  # type: ignore[attr-defined]
            packet.stream, packet.time_base = self.stream, context.time_base
            self.container.mux(packet)

    def _frame(self, samples: np.ndarray) -> av.AudioFrame:
        if self.codec.sample_format == "s16":
            samples = in_16_bits(torch.from_numpy(samples))
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], self.codec.sample_format, "mono")
        frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self.num_encoded
        self.num_encoded += len(samples)
        return frame


class _Samples:
    """Samples from a tensor: clipped, and resampled by a filter that keeps its state from feed to feed."""

    def __init__(self, sample_rate: int, target_rate: int) -> None:
        self.is_closed = False
        is_same = sample_rate == target_rate
        self.resampler = None if is_same else soxr.ResampleStream(sample_rate, target_rate, 1, dtype="float32")

    def feed(self, audio: Tensor) -> np.ndarray:
        """audio (N) -> (M) float32"""
        if self.is_closed:
            raise ValueError("the encoder is closed")
        samples = audio.detach().float().cpu().numpy().clip(-1.0, 1.0)
        if np.isnan(samples).any():
            raise ValueError("the audio has samples that are not a number")
        return samples if self.resampler is None else self.resampler.resample_chunk(samples)

    def close(self) -> np.ndarray:
        """The rest of a filter that looks ahead."""
        rest = np.zeros(0, np.float32)
        if self.resampler is not None and not self.is_closed:
            rest = self.resampler.resample_chunk(rest, last=True)
        self.is_closed = True
        return rest


class _Sink:
    """What the container writes to: a file that cannot seek."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(data)
        return len(data)

    def take(self) -> bytes:
        """The bytes since the last call."""
        data = b"".join(self.parts)
        self.parts.clear()
        return data
