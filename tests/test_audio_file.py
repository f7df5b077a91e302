"""Audio files that grow: each format is what soundfile reads back, also when the disk is full in mid-file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from synthesis.audio_file import BLOCK, AudioFormat, create
from synthesis.job_options import NOT_READ_RIGHT
from tests.helpers.commands import fails_with, run_here
from tests.test_data import full_disk

FORMATS: tuple[AudioFormat, ...] = ("wav", "flac", "ogg")


def tone(seconds: float) -> torch.Tensor:
    return 0.5 * torch.sin(torch.arange(int(22050 * seconds)) * 0.06)


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_give_the_whole(kind: AudioFormat, tmp_path: Path) -> None:
    audio = torch.cat((tone(5), torch.tensor([2.0, -2.0]), tone(1)))
    assert len(audio) > 2 * BLOCK
    path = tmp_path / f"a.{kind}"
    file = create(path, kind, 22050)
    for part in audio.split(30_000):
        file.append(part)
        if kind == "wav":
            assert soundfile.info(path).frames == file.num_samples
    file.close()
    found, rate = soundfile.read(path, dtype="float32")
    assert (rate, len(found), file.num_samples) == (22050, len(audio), len(audio))
    error = np.abs(found - audio.clamp(-1, 1).numpy())
    assert error.max() <= (2**-14 if kind != "ogg" else 1.0)
    assert np.median(error) < 0.01
    assert soundfile.info(path).format == kind.upper()


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_keeps_what_fitted(kind: AudioFormat, tmp_path: Path) -> None:
    noise = torch.rand(400_000, generator=torch.Generator().manual_seed(0)) - 0.5  # which no codec makes small
    path = tmp_path / f"a.{kind}"
    with full_disk(100_000):
        file = create(path, kind, 22050)
        with pytest.raises(OSError, match="File too large"):
            file.append(noise)
        file.close()
    assert file.num_samples >= 30_000
    assert path.stat().st_size > 90_000
    with soundfile.SoundFile(path) as kept:
        found = kept.read(30_000, dtype="float32")
    assert len(found) == 30_000
    if kind != "ogg":
        np.testing.assert_allclose(found, noise[:30_000].numpy(), atol=2**-14)


@pytest.mark.parametrize("loudness", [None, -23.0])
def test_inference_writes_the_format(tacotron2_run: Path, tmp_path: Path, loudness: float | None) -> None:
    """With a loudness target the audio is scaled first, in a wav."""
    if loudness is not None:
        pytest.importorskip("pyebur128")
    (tmp_path / "phrases.txt").write_text("One.\nTwo.\n")
    for kind in FORMATS:
        run_here(
            "inference.py", f"tacotron2={tacotron2_run}", "vocoder=griffin_lim", f"input={tmp_path / 'phrases.txt'}",
            f"output={tmp_path / kind}", "max_decoder_steps=60", "attempts=1", "pictures=false", f"format={kind}",
            *([] if loudness is None else [f"loudness={loudness}"]), expect=NOT_READ_RIGHT,
        )  # fmt: skip
    names = [sorted(path.name for path in (tmp_path / kind).iterdir() if path.name != ".lock") for kind in FORMATS]
    assert names == [[f"0000.{kind}", f"0001.{kind}", "log.jsonl"] for kind in FORMATS]
    wav, flac, _ = (soundfile.read(tmp_path / kind / f"0000.{kind}", dtype="int16")[0] for kind in FORMATS)
    assert np.array_equal(wav, flac)


@pytest.mark.fault(34)
@pytest.mark.parametrize("options", [[], ["loudness=-23"]])
def test_a_disk_that_is_full_at_the_end(tacotron2_run: Path, tmp_path: Path, options: list[str]) -> None:
    """An encoder writes its last block when it is closed; with a loudness target it writes all after the wav."""
    if options:
        pytest.importorskip("pyebur128")
    (tmp_path / "phrases.txt").write_text("One.\n")
    command = (
        "inference.py", f"tacotron2={tacotron2_run}", "vocoder=griffin_lim", f"input={tmp_path / 'phrases.txt'}",
        "max_decoder_steps=60", "attempts=1", "pictures=false", "format=ogg", *options,
    )  # fmt: skip
    run_here(*command, f"output={tmp_path / 'fits'}", expect=NOT_READ_RIGHT)
    size = (tmp_path / "fits/0000.ogg").stat().st_size  # more than the wav, which has less of a header
    out = tmp_path / "out"
    with full_disk(size - 100):
        fails_with(run_here(*command, f"output={out}", expect=1), f"{out}/0000.ogg: not written (", "free some space")
    assert not [path.name for path in out.iterdir() if "tmp" in path.name]
