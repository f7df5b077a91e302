"""AudioLDM 2: text to sound by latent diffusion, as diffusers runs it.

A text is one prompt, and gives one sound. With the same options and seed its audio is that of AudioLDM2Pipeline for
this prompt alone, within rounding, but for two things:
- Prompts in a batch do not change each other. In the pipeline they do: it pads their T5 states to the longest prompt,
  and the language model counts padding when it numbers the positions behind it. So here each prompt is encoded alone,
  and only then they are padded for the UNet, which masks what is padded.
- A negative prompt is read whole. The pipeline cuts it to the number of T5's tokens of the prompt.

Shapes: B prompts, S states of T5, K candidates of a prompt, N samples.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import AudioConfig
from common.device import now
from common.errors import UserError
from synthesis.engines.audioldm2_pipeline import Precision, load_pipeline
from synthesis.engines.options import AudioLDM2Options
from synthesis.engines.protocol import (
    DEFAULT_VOICE,
    TextTooLongError,
    refuse_options,
    unknown_voice,
    utterance_of,
)
from synthesis.options import SpeechOptions
from synthesis.reader import Read
from synthesis.sentences import Piece
from synthesis.utterance import Part, Utterance

WARM_UP_STEPS = 2
WARM_UP_TEXTS = ("Rain.", "Rain on a roof.")  # of two lengths: at the second, what is compiled learns that they differ
SPECIAL_TOKENS = 3  # at most, of a prompt: at its ends, and for the space that T5 puts before it
HEARD = ("seed", "pauses", "loudness")  # options; the last two are applied to what `parts` yields


class Encoding(NamedTuple):
    """What the UNet is told of one prompt."""

    states: Tensor  # (1, S, D) of T5
    mask: Tensor  # (1, S)
    generated: Tensor  # (1, 8, D) by the language model from those of CLAP and T5

    def padded(self, length: int) -> Encoding:
        """With `length` states."""
        more = length - self.states.shape[1]
        return Encoding(F.pad(self.states, (0, 0, 0, more)), F.pad(self.mask, (0, more)), self.generated)


class AudioLDM2:
    """AudioLDM 2 behind the protocol of engines. One batch runs at a time: the pipeline has state."""

    name: ClassVar[str] = "audioldm2"

    def __init__(self, pipe: Any, options: AudioLDM2Options, device: torch.device, precision: Precision) -> None:
        self.pipe, self.options, self.device, self.precision = pipe, options, device, precision
        self.is_guided = options.guidance_scale > 1
        vocoder = pipe.vocoder.config
        self.hop_length = math.prod(vocoder.upsample_rates)
        rate = vocoder.sampling_rate
        self.num_samples = round(options.seconds * rate)
        shortest = pipe.vae_scale_factor * self.hop_length / rate
        if options.seconds < shortest:
            raise UserError(f"engine.seconds={options.seconds}: this model's shortest sound is {shortest:g} s")
        self.audio = AudioConfig(sample_rate=rate, hop_length=self.hop_length, fmax=min(8000.0, rate / 2))
        self._check_negative()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, options: AudioLDM2Options, device: torch.device, precision: Precision) -> AudioLDM2:
        """Raises UserError, see `load_pipeline`; also if `seconds` or the negative prompt do not suit the model."""
        return cls(load_pipeline(options, device, precision), options, device, precision)

    @property
    def voices(self) -> list[str]:
        return [DEFAULT_VOICE]

    def speaking_as(self, voice: str) -> AudioLDM2:
        if voice != DEFAULT_VOICE:
            raise unknown_voice(self, voice)
        return self

    def parts(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Part]:
        """Synthesize each text as one prompt, `batch_size` at a time, from the seed in `options`.

        Raises UserError for a prompt that is too long, and for audio that is not finite.
        """
        refuse_options(options, HEARD, self.name)
        numbered = enumerate(texts)
        while window := list(itertools.islice(numbered, batch_size)):
            pieces = {number: _piece(text) for number, text in window if text.strip()}
            prompts = [piece.text for piece in pieces.values()]
            made = self._utterances(prompts, options.seed) if prompts else []
            found = dict(zip(pieces, made, strict=True))
            for number, _ in window:
                read = Read(pieces[number], [], []) if number in pieces else None
                yield Part(number, read, found.get(number), True)

    def check_length(self, text: str) -> None:
        """Raise a TextTooLongError if a tokenizer would cut the prompt."""
        prompt = text.strip()
        limit = min(tokenizer.model_max_length for tokenizer in (self.pipe.tokenizer, self.pipe.tokenizer_2))
        if prompt.isascii() and len(prompt) <= limit - SPECIAL_TOKENS:  # a token has a character or more
            return
        with self._lock:
            self._check_length(prompt, repr(prompt[:60]))

    def warm_up(self) -> None:
        """Run a few steps with the sizes of the options; this compiles the UNet for one prompt at a time.

        Another size of batches is compiled when it comes first.
        """
        for text in WARM_UP_TEXTS if self.options.compile else WARM_UP_TEXTS[:1]:
            with self._lock, torch.no_grad():
                self._candidates([text], 0, min(WARM_UP_STEPS, self.options.num_inference_steps))

    # ---- prompts ----

    def _check_negative(self) -> None:
        negative = self.options.negative_prompt
        if negative is None:
            return
        if not self.is_guided:
            raise UserError(
                f"engine.negative_prompt={negative!r} has no effect with engine.guidance_scale="
                f"{self.options.guidance_scale}; leave it out, or set a scale of more than 1"
            )
        self._check_length(negative, f"engine.negative_prompt={negative[:60]!r}")

    def _check_length(self, prompt: str, name: str) -> None:
        """Raise a TextTooLongError if a tokenizer would cut the prompt."""
        for tokenizer in (self.pipe.tokenizer, self.pipe.tokenizer_2):
            length, limit = _num_tokens(tokenizer, prompt), tokenizer.model_max_length
            if length > limit:
                raise TextTooLongError(f"{name} has {length} tokens, and the model reads at most {limit}; shorten it")

    def _encode(self, prompt: str) -> tuple[Encoding, Encoding | None]:
        """Encode a prompt and, with guidance, what to guide away from."""
        pipe, negative = self.pipe, self.options.negative_prompt
        if not self.is_guided:
            return Encoding(*pipe.encode_prompt(prompt, self.device, 1, False)), None
        length, length_of_negative = (_num_tokens(pipe.tokenizer_2, text) for text in (prompt, negative or ""))
        if length_of_negative > length and negative:  # the pipeline would cut it
            ours, theirs = (pipe.encode_prompt(text, self.device, 1, False) for text in (prompt, negative))
            return Encoding(*ours), Encoding(*theirs)
        both = pipe.encode_prompt(prompt, self.device, 1, True, negative_prompt=negative)
        theirs, ours = zip(*(part.chunk(2) for part in both), strict=True)
        return Encoding(*ours), Encoding(*theirs)

    def _conditions(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The arguments of the pipeline that stand for the prompts."""
        ours, theirs = zip(*map(self._encode, prompts), strict=True)
        length = max(encoding.states.shape[1] for encoding in (*ours, *theirs) if encoding)
        conditions: dict[str, Tensor] = {}
        for prefix, encodings in (("", ours), ("negative_", theirs)):
            if encodings[0] is not None:
                states, mask, generated = map(torch.cat, zip(*(e.padded(length) for e in encodings), strict=True))
                conditions |= {f"{prefix}prompt_embeds": states, f"{prefix}attention_mask": mask}
                conditions[f"{prefix}generated_prompt_embeds"] = generated
        return conditions

    # ---- audio ----

    def _utterances(self, prompts: Sequence[str], seed: int) -> list[Utterance]:
        with self._lock, torch.no_grad():  # tokenizers have state too: how they pad and cut
            for prompt in prompts:
                self._check_length(prompt, repr(prompt[:60]))
            start = now(self.device)
            candidates = self._candidates(prompts, seed, self.options.num_inference_steps)
            audios = [self._best(*pair) for pair in zip(prompts, candidates, strict=True)]
            seconds = (now(self.device) - start) / len(prompts)  # their audio is equally long
            self._release()
        return [utterance_of(self.name, audio, self.audio.sample_rate, seconds) for audio in audios]

    def _candidates(self, prompts: Sequence[str], seed: int, num_steps: int) -> list[Tensor]:
        """Run the diffusion; return audio (K, N) of each prompt."""
        options, num_frames = self.options, math.ceil(self.num_samples / self.hop_length)
        num_candidates = options.num_waveforms_per_prompt
        # On the CPU, so that a seed gives the same noise on all devices. Candidates take theirs in turn.
        generators = [torch.Generator().manual_seed(seed) for _ in prompts]
        audio = self.pipe(
            **self._conditions(prompts),
            # It rounds down to whole frames, and 0.29 s would have 28 of 0.01 s.
            audio_length_in_s=(num_frames + 0.5) * self.hop_length / self.audio.sample_rate,
            num_inference_steps=num_steps,
            guidance_scale=options.guidance_scale,
            num_waveforms_per_prompt=num_candidates,
            generator=[generator for generator in generators for _ in range(num_candidates)],
            output_type="pt",
        ).audios
        return list(audio[:, : self.num_samples].unflatten(0, (len(prompts), num_candidates)))

    def _best(self, prompt: str, candidates: Tensor) -> Tensor:
        """The one of candidates (K, N) that CLAP finds closest to the prompt.

        The pipeline's own ranking may give a prompt the audio of another one in its batch.
        """
        self._check_finite(prompt, candidates)
        if len(candidates) == 1:
            return candidates[0].clone()
        scores = self._scores(prompt, candidates)
        self._check_finite(prompt, scores)
        return candidates[int(scores.argmax())].clone()

    def _scores(self, prompt: str, candidates: Tensor) -> Tensor:
        """CLAP's similarities (K). It listens to the first 10 s, since it would choose others by chance."""
        import librosa

        pipe, extractor = self.pipe, self.pipe.feature_extractor
        rate = extractor.sampling_rate
        heard = librosa.resample(candidates.numpy(), orig_sr=self.audio.sample_rate, target_sr=rate)
        heard = heard[:, : int(extractor.nb_max_samples)]
        audio = extractor(list(heard), truncation="rand_trunc", sampling_rate=rate, return_tensors="pt")
        text = pipe.tokenizer([prompt], return_tensors="pt").to(self.device)
        features = audio.input_features.to(self.device, pipe.text_encoder.dtype)
        scores: Tensor = pipe.text_encoder(**text, input_features=features).logits_per_text[0]
        return scores

    def _check_finite(self, prompt: str, values: Tensor) -> None:
        if not values.isfinite().all():
            cure = "use precision=bf16 or precision=fp32" if self.precision == "fp16" else "download the model again"
            raise UserError(f"{prompt[:60]!r}: the model gives NaN or infinity with precision={self.precision}; {cure}")

    def _release(self) -> None:
        """Take from the GPU what stays there until the next sub-model of the pipeline would run."""
        if self.options.offload:
            for model in (self.pipe.vocoder, self.pipe.text_encoder):
                model.to("cpu")


def _piece(text: str) -> Piece:
    """The text without whitespace at its ends, as one piece."""
    start = len(text) - len(text.lstrip())
    return Piece(text.strip(), start, len(text.rstrip()), "end")


def _num_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, verbose=False).input_ids)
