"""A voice in one folder: packed from two checkpoints, found by its name, and used by inference.py and by programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from inference import Synthesizer
from synthesis.job_options import NOT_READ_RIGHT
from synthesis.voices import Voice
from tests.helpers.commands import fails_with, run_here

PACK = "scripts/pack_voice.py"


@pytest.fixture
def packed(tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> Path:
    """voices/anna"""
    (tmp_path / "words.txt").write_text("GIF\tjif\nLinux\tlinnucks\n")
    run_here(
        PACK, f"tacotron2={tacotron2_run}", f"waveglow={waveglow_run}", f"output={tmp_path / 'voices/anna'}",
        f"lexicon={tmp_path / 'words.txt'}", "license=CC0",
    )  # fmt: skip
    return tmp_path / "voices/anna"


def test_a_voice_is_what_it_was_made_of(packed: Path, tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in packed.iterdir()) == [
        "README.md", "lexicon.txt", "tacotron2.safetensors", "waveglow.safetensors",
    ]  # fmt: skip
    card = (packed / "README.md").read_text()
    assert "CC0" in card
    assert "2 entries" in card
    options: dict[str, Any] = {"max_decoder_steps": 10, "attempts": 1}
    voice, models = Synthesizer.load(packed, device="cpu"), Synthesizer.load(tacotron2_run, waveglow_run, device="cpu")
    batches = [next(v.batches(["Linux"], **options))[0] for v in (voice, models)]
    linnucks = next(models.batches(["linnucks"], **options))[0]
    assert batches[0] is not None
    assert batches[1] is not None
    assert linnucks is not None
    assert torch.equal(batches[0].audio, linnucks.audio)
    assert not torch.equal(batches[0].audio, batches[1].audio)
    assert voice.vocoder.waveglow is not None
    assert voice.vocoder.waveglow.config.overlap > 0
    (tmp_path / "own.txt").write_text("Linux\tline ux\n")
    own = Synthesizer.load(packed, device="cpu", lexicon=tmp_path / "own.txt", griffin_lim=True)
    assert own.ids("a GIF on Linux") == models.ids("a jif on line ux")
    assert own.vocoder.waveglow is None


def test_a_voice_is_found_by_its_name(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Voice.find("anna").tacotron2.samefile(packed / "tacotron2.safetensors")
    with pytest.raises(UserError, match=r"voice=ana: no such folder or voice; voices/ has anna; did you mean 'anna'"):
        Voice.find("ana")
    with pytest.raises(UserError, match=r"no tacotron2.safetensors in this folder.*pack_voice"):
        Voice.find("voices")
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("Hello.\n")
    command = ("inference.py", f"voice={packed}", f"input={phrases}", "max_decoder_steps=10", "attempts=1")
    run_here(*command, f"output={tmp_path / 'out'}", expect=NOT_READ_RIGHT)
    assert (tmp_path / "out/0000.wav").is_file()
    fails_with(run_here(*command, "output=x", "waveglow=y", expect=1), "has its own models")
    fails_with(run_here("inference.py", f"input={phrases}", "output=x", expect=1), "set voice=NAME")


def test_a_voice_is_made_whole_or_not_at_all(packed: Path, tacotron2_run: Path, tmp_path: Path) -> None:
    lexicon = tmp_path / "bad.txt"
    lexicon.write_text("word\t{QQ}\n")
    command = (PACK, f"tacotron2={tacotron2_run}", f"output={tmp_path / 'new'}")
    fails_with(run_here(*command, f"lexicon={lexicon}", expect=1), "bad.txt:1")
    fails_with(run_here(*command, f"waveglow={tacotron2_run}", expect=1), "waveglow")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]
    fails_with(run_here(PACK, f"tacotron2={tacotron2_run}", f"output={packed}", expect=1), "anna", "output")
