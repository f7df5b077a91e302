"""Synthesize a text file, or use the Synthesizer in your own program.

    python inference.py voice=DIR input=phrases.txt output=DIR
    python inference.py tacotron2=CKPT waveglow=CKPT input=phrases.txt output=DIR
    python inference.py tacotron2=CKPT vocoder=griffin_lim input=phrases.txt output=DIR
    python inference.py engine=bark engine.model=suno/bark-small input=phrases.txt output=DIR
    torchrun --nproc-per-node 2 inference.py tacotron2=CKPT waveglow=CKPT input=phrases.txt output=DIR resume=true

Each non-blank line makes one wav, in the file's order: 0000.wav, 0001.wav, ..., each with a picture of its alignment;
log.jsonl has the speed of every phrase. Of a file of more than 1,000 lines, the output is in folders. The exit status
is 3 if a phrase was not read right in any attempt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help
    from common.threads import before_torch

    show_help("inference", __doc__)
    before_torch()

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from common.device import resolve_device
from common.entry import hydra_entry
from common.errors import UserError, about
from common.ops.precision import set_tf32
from common.schema import from_dict
from synthesis.engines.loading import load_engine
from synthesis.engines.protocol import SpeechEngine
from synthesis.job_options import InferenceConfig, Shard
from synthesis.jobs import Job
from synthesis.models import load_model
from synthesis.options import SpeechOptions
from synthesis.phrases import Phrase, PhraseFile
from synthesis.synthesizer import Synthesizer
from synthesis.utterance import Part, Utterance

__all__ = ["SpeechOptions", "Synthesizer", "Utterance", "load_model"]


def load(config: InferenceConfig) -> SpeechEngine:
    device = resolve_device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    if config.other_engine:
        return load_engine(config.other_engine, device, config.precision)
    return Synthesizer.load(
        config.models,
        config.waveglow,
        device,
        config.precision,
        config.match_mel,
        config.postfilter_strength,
        config.lexicon,
        griffin_lim=config.vocoder == "griffin_lim",
    )


def check_speakers(engine: SpeechEngine, config: InferenceConfig, phrases: PhraseFile) -> None:
    """Raise a UserError if a speaker is missing or unknown, before anything is written."""
    for name, line in phrases.speakers.items():
        with about(f"input {config.input}:{line}") if name else nullcontext():
            if isinstance(engine, Synthesizer):
                engine.reader_of(name or config.speaker)
            elif name:
                raise UserError(f"speaker {name}: engine={engine.name} has no such option; leave it out")


def parts(engine: SpeechEngine, config: InferenceConfig, phrases: list[Phrase]) -> Iterator[Part]:
    texts = [phrase.text for phrase in phrases]
    if isinstance(engine, Synthesizer):
        return engine.parts(texts, config.batch_size, config.speech, [phrase.speaker for phrase in phrases])
    return engine.parts(texts, config.batch_size, config.speech)


@hydra_entry("inference")
def main(values: dict[str, Any]) -> None:
    config = from_dict(InferenceConfig, values)
    phrase_file = PhraseFile(config.input)
    job = Job(config, phrase_file, Shard.of(config, os.environ))
    job.check()
    if job.is_shared:
        from common.distributed.ranks import stop_with_the_agent  # programs that use this module do without it

        stop_with_the_agent()
    set_tf32(config.tf32)
    engine = load(config)
    if config.other_engine:
        job.phrases.check(engine.check_length)
    check_speakers(engine, config, phrase_file)
    with job.opened(engine.audio):
        for phrases in job.batches():
            for part in parts(engine, config, phrases):
                job.write(phrases[part.number], part)
    sys.exit(job.status)


if __name__ == "__main__":
    main()
