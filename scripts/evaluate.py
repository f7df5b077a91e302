"""Judge a voice with pretrained third-party models, and compare it with real recordings. Install the judges first:

    pip install -e '.[eval]'
    python scripts/evaluate.py tacotron2=CKPT waveglow=CKPT sentences=FILE recordings=FILELIST root=DIR output=DIR
    python scripts/evaluate.py engine=bark engine.model=suno/bark-small sentences=FILE output=DIR
    python scripts/evaluate.py wavs=DIR sentences=FILE output=DIR
    python scripts/evaluate.py recordings=FILELIST root=DIR limit=4 "ladders=[noise,cut]" output=DIR

Set at least one of: recordings, tacotron2 with sentences, wavs.
Writes evaluation.json (means, 95 % intervals, and every utterance), evaluation.md (the table), and the wavs that are
judged, except those that were files before. The measures are listed in evaluation/table.py (MEASURES). `ladders` shows
what each judge hears: it adds the recordings made worse step by step (evaluation/ladders.py).
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("evaluate", __doc__)

import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.audio import load_audio, save_audio
from common.config import AudioConfig
from common.entry import hydra_entry
from common.files import make_directory, refuse_existing, write_text
from common.lock import locked
from common.schema import from_dict
from evaluation.panel import Panel
from evaluation.systems import EvaluateConfig, systems
from evaluation.table import RECORDINGS, System, folder_name, markdown, summarize


@hydra_entry("evaluate")
def main(values: dict[str, Any]) -> None:
    config = from_dict(EvaluateConfig, values)
    # The judges' packages use deprecated functions of other packages, and pystoi warns about too little speech.
    warnings.simplefilter("ignore")
    output = Path(config.output)
    make_directory(output, "output")
    with locked(output, "output"):
        if not config.overwrite:
            refuse_existing([output / "evaluation.json"], "choose another output=DIR or set overwrite=true")
        judge(config, output)
    print((output / "evaluation.md").read_text(encoding="utf-8"), end="")


def judge(config: EvaluateConfig, output: Path) -> None:
    """Make the audio of all systems, then judge one after the other, and write the results to `output`.

    The judges come after all synthesis: their idle threads would make it several times slower, and its RTF wrong.
    """
    earlier, waiting = earlier_wavs(output), list(systems(config))
    for system in waiting:
        if system.made:
            folder = output / folder_name(system.name)
            for wav in earlier.get(folder, []):  # they would be among the new ones
                wav.unlink(missing_ok=True)
            write_wavs(folder, system, config.audio)
    panel, judged = Panel(config.audio), list[System]()
    for system in waiting:
        for utterance in tqdm(system.utterances, desc=f"judging {system.name}", disable=None):
            panel.listen(utterance)
        judged.append(system)
        recordings = next((other.utterances for other in judged if other.name == RECORDINGS), [])
        for utterance in tqdm(system.utterances, desc=f"comparing {system.name}", disable=None):
            panel.compare(utterance, recordings, system.copies)
        write(output, config, judged)


def earlier_wavs(output: Path) -> dict[Path, list[Path]]:
    """The wavs that an earlier evaluation made in `output`, by folder, as its evaluation.json lists them."""
    try:
        systems = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))["utterances"]
        folders = {output / folder_name(name): [row["name"] for row in rows] for name, rows in systems.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # there was none, or it is damaged
        return {}
    return {folder: [folder / f"{name}.wav" for name in names if _is_name(name)] for folder, names in folders.items()}


def _is_name(text: object) -> bool:
    return isinstance(text, str) and text != "" and Path(text).name == text


def write_wavs(folder: Path, system: System, audio: AudioConfig) -> None:
    """Write what the system made, and let the wavs be judged: to some judges their 16 bits make a difference."""
    make_directory(folder, "output")
    for utterance in system.utterances:
        file = folder / f"{utterance.name}.wav"
        save_audio(file, utterance.audio, audio.sample_rate)
        utterance.audio = load_audio(file, audio)


def write(output: Path, config: EvaluateConfig, judged: Sequence[System]) -> None:
    """Write the results so far, so that an interruption does not lose the systems already judged."""
    summary = {system.name: summarize(system) for system in judged}
    rows = {
        system.name: [
            {"name": u.name, "text": u.text, **{k: v for k, v in u.found.items() if k != "embedding"}}
            for u in system.utterances
        ]
        for system in judged
    }
    result = {"config": dataclasses.asdict(config), "summary": summary, "utterances": rows}
    write_text(output / "evaluation.json", json.dumps(result, indent=1))
    write_text(output / "evaluation.md", markdown(summary) + "\n")


if __name__ == "__main__":
    main()
