"""Synthesize a text file, or use the Synthesizer in your own program.

    python inference.py voice=DIR input=phrases.txt output=DIR
    python inference.py tacotron2=CKPT waveglow=CKPT input=phrases.txt output=DIR
    python inference.py tacotron2=CKPT vocoder=griffin_lim input=phrases.txt output=DIR

Each non-blank line makes one wav, in the file's order: 0000.wav, 0001.wav, ..., each with a picture of its alignment;
log.jsonl has the speed of every phrase. The exit status is 3 if a phrase was not read right in any attempt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help
    from common.threads import before_torch

    show_help("inference", __doc__)
    before_torch()

import sys
from typing import Any

from common.data.filelist import read_lines
from common.entry import hydra_entry
from common.ops.precision import set_tf32
from common.schema import from_dict
from synthesis.jobs import NOT_READ_RIGHT, InferenceConfig, Job, refuse_earlier
from synthesis.models import load_model
from synthesis.options import SpeechOptions
from synthesis.synthesizer import Synthesizer
from synthesis.utterance import Utterance

__all__ = ["SpeechOptions", "Synthesizer", "Utterance", "load_model"]


@hydra_entry("inference")
def main(values: dict[str, Any]) -> None:
    config = from_dict(InferenceConfig, values)
    lines = read_lines(config.input, "input")
    refuse_earlier(config, len(lines))
    set_tf32(config.tf32)
    voice = Synthesizer.load(
        config.models,
        config.waveglow,
        config.device,
        config.precision,
        config.match_mel,
        config.postfilter_strength,
        config.lexicon,
        griffin_lim=config.vocoder == "griffin_lim",
    )
    options = SpeechOptions(
        config.seed,
        config.sigma,
        config.denoiser_strength,
        config.max_decoder_steps,
        config.attempts,
        config.attention_window,
        config.pauses,
        config.speed,
    )
    job = Job(config, lines, voice.audio)
    with job.opened():
        for part in voice.parts([text for _, text in lines], config.batch_size, options):
            job.write(part)
    if job.num_wrong:
        sys.exit(NOT_READ_RIGHT)


if __name__ == "__main__":
    main()
