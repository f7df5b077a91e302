"""Make a voice from two runs: one folder with both models, the lexicon and a card.

    python scripts/pack_voice.py tacotron2=runs/tacotron2 waveglow=runs/waveglow output=voices/anna

inference.py and Synthesizer.load then take it as voice=anna. The weights are those of the checkpoints, averaged if the
run averaged them; README.md is the card, to be completed by hand.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("pack_voice", __doc__)

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from convert_checkpoint import halved

from common.checkpoint import formats
from common.checkpoint.checkpoint import Checkpoint
from common.entry import hydra_entry
from common.errors import UserError
from common.files import new_directory, write_text
from common.schema import Options, from_dict
from common.wording import counted
from synthesis.models import MODELS, RUINED, load_checkpoint, not_finite
from synthesis.synthesizer import Synthesizer
from synthesis.voices import CARD, LEXICON, TACOTRON2, WAVEGLOW
from tacotron2.text import Lexicon
from waveglow.model import WaveGlow
from waveglow.overlap import measure_overlap


@dataclass
class PackConfig(Options):
    """The keys of conf/pack_voice.yaml, which explains them."""

    tacotron2: str
    output: str
    waveglow: str | None = None
    lexicon: str | None = None
    half: bool = False
    sample: str | None = None
    license: str | None = None
    report: str | None = None


@hydra_entry("pack_voice")
def main(values: dict[str, Any]) -> None:
    config = from_dict(PackConfig, values)
    output = Path(config.output)
    with new_directory(output, "output") as part:
        found = [("tacotron2", config.tacotron2, TACOTRON2), ("waveglow", config.waveglow, WAVEGLOW)]
        rows = [pack(name, path, part / file, config.half) for name, path, file in found if path]
        if config.lexicon:
            Lexicon.load(config.lexicon)  # names what is wrong in it
            shutil.copyfile(config.lexicon, part / LEXICON)
        voice = Synthesizer.load(part, device="cpu")
        if config.sample:
            first = voice.speakers[0] if voice.speakers else None
            audio = voice.speak(config.sample, speaker=first).audio.numpy().clip(-1, 1)
            soundfile.write(part / "sample.wav", audio, voice.audio.sample_rate)
        write_text(part / CARD, card(output.name, rows, voice, config))
    print(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    name = output.name if output.parent == Path("voices") else output
    print(f"next: python inference.py voice={name} input=phrases.txt output=speech")


def pack(name: str, source: str, target: Path, half: bool) -> str:
    """Write the model of a checkpoint or run directory to `target`; return its row of the card."""
    checkpoint = load_checkpoint(source, name)
    model = formats.build(checkpoint, source, MODELS.values())
    if weight := not_finite(model):
        raise UserError(f"{name}={source}: {RUINED.format(weight)}")
    if isinstance(model, WaveGlow) and not model.config.overlap:
        checkpoint.model_config["overlap"] = measure_overlap(model)
    checkpoint.state_dict = model.state_dict()
    if half:
        checkpoint.state_dict = halved(checkpoint.state_dict, "safetensors")
    formats.save_safetensors(checkpoint, target)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"| `{target.name}` | {parameters:,} | {steps(checkpoint)} | {target.stat().st_size / 1e6:.1f} MB |"


def steps(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.progress.step:,}" if checkpoint.progress else "not recorded"


def card(name: str, rows: list[str], voice: Synthesizer, config: PackConfig) -> str:
    audio, text = voice.audio, voice.reader
    lines = [
        f"# {name}",
        "",
        f"A voice of Tacotron 2 and {'WaveGlow' if config.waveglow else 'Griffin-Lim'}, {audio.sample_rate} Hz.",
        "",
        "| file | parameters | training steps | size |",
        "|---|---|---|---|",
        *rows,
        "",
        *([f"- Language: {text.language}."] if text.language else []),
        f"- Text: cleaners `{text.cleaners}`, {counted(len(text.symbols), 'symbol')}; pieces of at most "
        f"{counted(text.limit, 'symbol')}.",
        *([f"- Speakers: {', '.join(voice.speakers)}."] if voice.speakers else []),
        *([f"- Lexicon: {counted(len(text.lexicon), 'entry', 'entries')}."] if text.lexicon else []),
        *(["- [sample.wav](sample.wav): " + config.sample] if config.sample else []),
        f"- License: {config.license or 'not stated; add who may use the recordings and the voice, and for what.'}",
        "- Recordings: not described; add whose voice this is, how long, and who agreed to it.",
        "",
        *([Path(config.report).read_text(encoding="utf-8")] if config.report else []),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
