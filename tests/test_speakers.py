"""Several speakers in one Tacotron 2: the model, its start from another model's weights, and its training data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.checkpoint import files, formats
from common.checkpoint.checkpoint import Checkpoint
from common.checkpoint.initialize import Target, initialize
from common.config import AudioConfig, TextConfig
from common.data.filelist import scan_filelist
from common.errors import UserError
from synthesis.models import MODELS
from tacotron2.continuous import Continuous, Text
from tacotron2.data import TextMelDataset, collate
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.speaker_weights import EMBEDDING, READERS, folded, select
from tacotron2.spec import TACOTRON2
from tacotron2.text import SYMBOLS
from tests.helpers.commands import fails_with, load_script, run_here
from tests.helpers.corpus import SENTENCES, prepare_speakers, write_speakers
from tests.helpers.runs import TINY_TACOTRON2, losses, train_command
from tests.helpers.tacotron2 import TINY, model_of, outputs_and_gradients, ragged_batch
from tests.test_data import data_config
from tests.test_free_running import both

SPEAKERS = dataclasses.replace(TINY, speakers=["anna", "bert"], speaker_dim=5)
WHO = torch.tensor([0, 1, 1])
AUDIO = AudioConfig(n_mels=20)
TEXT = TextConfig(tuple(SYMBOLS), "english_cleaners")


# ---- the model ----


@pytest.mark.parametrize("frames_per_step", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_both_decoders_of_training_are_equal(training: bool, frames_per_step: int) -> None:
    """Outputs and all gradients, also that of the embedding, in float64."""
    config = dataclasses.replace(SPEAKERS, p_attention_dropout=0.3, n_frames_per_step=frames_per_step)
    model = model_of(config).double().train(training)
    text, text_lengths, mel, mel_lengths = ragged_batch()
    batch = (text, text_lengths, mel.double(), mel_lengths, WHO)
    plain, plain_gradients = outputs_and_gradients(model, batch, False, frames_per_step)
    fast, fast_gradients = outputs_and_gradients(model, batch, True, frames_per_step)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, atol=1e-12, rtol=1e-12, msg=name, check_dtype=False)
    for name, gradient in plain_gradients.items():
        assert gradient is not None
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-7, rtol=1e-7, msg=name)
    embedding = plain_gradients[EMBEDDING]
    assert embedding is not None
    assert embedding.abs().sum(1).min() > 0


@pytest.mark.parametrize("frames_per_step", [1, 3])
def test_both_decoders_of_synthesis_are_equal(frames_per_step: int) -> None:
    model = model_of(dataclasses.replace(SPEAKERS, n_frames_per_step=frames_per_step)).double().eval()
    with torch.no_grad():
        model.decoder.gate_layer.linear_layer.weight *= 8
        model.decoder.linear_projection.linear_layer.weight *= 3
    torch.manual_seed(2)
    text, lengths = torch.randint(1, 148, (8, 15)), torch.randint(3, 16, (8,))
    who = torch.arange(8) % 2
    plain, packed = both(model, text, lengths, 40, None, None, None, who)
    assert torch.equal(plain.mel_lengths, packed.mel_lengths)
    torch.testing.assert_close(plain.mel_postnet, packed.mel_postnet, atol=1e-9, rtol=1e-9)
    other = model.infer(text, lengths, 40, None, None, None, 1 - who)
    assert (other.mel_postnet[:, :, :1] - packed.mel_postnet[:, :, :1]).abs().amax((1, 2)).min() > 1e-3


def test_speakers_in_one_batch_speak_as_alone() -> None:
    """Texts of both join a running batch: on a CPU each has the bits that it has alone."""
    model = model_of(dataclasses.replace(SPEAKERS, prenet_dropout=0.5, gate_threshold=2.0)).eval()
    ids = [torch.randint(1, 148, (length,)).tolist() for length in (9, 4, 40)]

    def text_of(k: int) -> Text:
        return Text(ids[k], torch.Generator().manual_seed(k), speaker=k % 2)

    def mels(batch: Continuous, texts: list[Text]) -> list[Tensor]:
        found = {}
        while batch:
            found.update({id(text): part.mel for text, part in batch.advance()})
        return [found[id(text)] for text in texts]

    batch, texts = Continuous(model, 12), [text_of(k) for k in range(3)]
    batch.join(texts[:2])
    batch.join(texts[2:])
    together = mels(batch, texts)
    for k in range(3):
        alone, text = Continuous(model, 12), text_of(k)
        alone.join([text])
        assert torch.equal(mels(alone, [text])[0], together[k])
        whole = model.infer(
            torch.tensor([ids[k]]), torch.tensor([len(ids[k])]), 12, [text_of(k).generator],
            speaker=torch.tensor([k % 2]),
        )  # fmt: skip
        assert torch.equal(whole.mel_postnet[0], together[k])


def test_padding_changes_nothing() -> None:
    model = model_of(SPEAKERS).eval()
    text, text_lengths, mel, mel_lengths = ragged_batch()
    output = model(text, text_lengths, mel, mel_lengths, WHO)
    for row in range(3):
        length, frames = int(text_lengths[row]), int(mel_lengths[row])
        one = slice(row, row + 1)
        alone = model(text[one, :length], text_lengths[one], mel[one, :, :frames], mel_lengths[one], WHO[one])
        torch.testing.assert_close(alone.mel_postnet[0], output.mel_postnet[row, :, :frames], atol=1e-5, rtol=0)
        assert not output.alignment[row, :, length:].any()


def test_a_speaker_is_needed_if_there_are_several_and_only_then() -> None:
    batch = ragged_batch()
    several, one = model_of(SPEAKERS).eval(), model_of(TINY).eval()
    for speak in (lambda: several(*batch), lambda: several.infer(*batch[:2], 3)):
        with pytest.raises(UserError, match="this model has 2 speakers; choose one with speaker=NAME: anna, bert"):
            speak()
    for speak in (lambda: one(*batch, WHO), lambda: one.infer(*batch[:2], 3, speaker=WHO)):
        with pytest.raises(UserError, match="this model has one speaker; leave speaker out"):
            speak()


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], ["a", " b"], ["a", "b\n"]])
def test_names_that_are_none(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"model.speakers"):
        Tacotron2Config(speakers=names)


# ---- weights ----


def saved(model: Tacotron2, path: Path) -> Path:
    config = dataclasses.asdict(model.config)
    files.save(path, Checkpoint("tacotron2", config, AUDIO, TEXT, model.state_dict()))
    return path


def started(config: Tacotron2Config, path: Path, warm_start: bool = True) -> tuple[Tacotron2, str]:
    model = Tacotron2(config).eval()
    return model, initialize(Target(model, TACOTRON2, config, AUDIO, TEXT), str(path), warm_start)


def assert_same_speech(a: Tacotron2, who: Tensor | None, b: Tacotron2, whose: Tensor | None, atol: float) -> None:
    """Teacher forcing and free running give the same, for the batch with the speakers `who` and `whose`."""
    text, text_lengths, mel, mel_lengths = ragged_batch()
    batch = (text, text_lengths, mel.to(a.embedding.weight.dtype), mel_lengths)
    for mine, theirs in zip(a(*batch, who), b(*batch, whose), strict=True):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=0)
    own, other = a.infer(*batch[:2], 12, speaker=who), b.infer(*batch[:2], 12, speaker=whose)
    torch.testing.assert_close(own.mel_postnet, other.mel_postnet, atol=atol, rtol=0)


def test_several_speakers_start_as_the_one_voice(tmp_path: Path) -> None:
    """In double precision exactly: only the order of sums may differ, and the added terms are 0."""
    one = model_of(TINY).eval()
    path = saved(one, tmp_path / "one.pt")
    with pytest.raises(
        UserError, match=r"the checkpoint has no speakers, this run the speakers anna, bert .*warm_start"
    ):
        started(SPEAKERS, path, warm_start=False)
    several, note = started(SPEAKERS, path)
    assert "each begins as the checkpoint's voice" in note
    assert "not taken" not in note
    for who in (WHO, 1 - WHO):
        assert_same_speech(several.double(), who, one.double(), None, 1e-13)
    output = several.train()(*(x.double() if x.is_floating_point() else x for x in ragged_batch()), WHO)
    (output.mel.sum() + output.gate.sum()).backward()
    for name in READERS:  # and it learns from there
        gradient = several.get_parameter(name).grad
        assert gradient is not None
        assert gradient[:, -5:].abs().max() > 0, name


def test_speakers_are_copied_by_name(tmp_path: Path) -> None:
    several = model_of(SPEAKERS).eval()
    path = saved(several, tmp_path / "several.pt")
    same, note = started(SPEAKERS, path, warm_start=False)
    assert note.startswith("initialized with all weights")
    assert_same_speech(same, WHO, several, WHO, 0.0)
    more = dataclasses.replace(SPEAKERS, speakers=["aaron", "anna", "bert", "carl"])
    with pytest.raises(UserError, match=r"the speakers anna, bert .* this run the speakers aaron, anna, bert, carl"):
        started(more, path, warm_start=False)
    other, note = started(more, path)
    assert "copied by name for anna, bert; new for aaron, carl" in note
    assert_same_speech(other, WHO + 1, several, WHO, 0.0)
    wider, note = started(dataclasses.replace(SPEAKERS, speaker_dim=7), path)
    assert "the embeddings are new: the checkpoint's have 5 channels" in note
    assert torch.equal(wider.decoder.decoder_rnn.weight_ih[:, :-7], several.decoder.decoder_rnn.weight_ih[:, :-5])
    assert wider.decoder.decoder_rnn.weight_ih[:, -7:].abs().max() == 0


def test_one_of_the_speakers(tmp_path: Path) -> None:
    """--speaker keeps one, which speaks the same, without being named, as it is the only one."""
    several = model_of(SPEAKERS).eval()
    path, out = saved(several, tmp_path / "several.pt"), tmp_path / "bert.safetensors"
    run_here("scripts/convert_checkpoint.py", path, out, "--speaker", "bert")
    bert = formats.build(formats.load(out, [TACOTRON2]), out, MODELS.values())
    assert isinstance(bert, Tacotron2)
    assert bert.config.speakers == ["bert"]
    assert_same_speech(bert, 0 * WHO, several, 0 * WHO + 1, 0.0)
    result = run_here("scripts/convert_checkpoint.py", path, tmp_path / "x", "--speaker", "carl", expect=1)
    fails_with(result, "--speaker", "speaker=carl: no such speaker; there are: anna, bert")
    result = run_here("scripts/convert_checkpoint.py", path, tmp_path / "x", "--to", "dle", expect=1)
    fails_with(result, "has an embedding of 2 speakers (model.speakers)", "convert to safetensors instead")


def test_a_model_without_speakers_starts_from_one_of_them(tmp_path: Path) -> None:
    several = model_of(SPEAKERS).eval()
    path = saved(several, tmp_path / "several.pt")
    with pytest.raises(
        UserError, match=r"the speakers anna, bert, this corpus names none; choose one: .*--speaker NAME"
    ):
        started(TINY, path)
    checkpoint = select(files.load(path), "bert")
    files.save(tmp_path / "bert.pt", checkpoint)
    alone, note = started(TINY, tmp_path / "bert.pt")
    assert "the embedding of bert is now in biases; what it added to the attention's keys is lost" in note
    assert "not taken" not in note
    assert EMBEDDING not in alone.state_dict()
    # What is not lost is exact: without what the keys, and the first step of the first LSTM, get from the embedding.
    with torch.no_grad():
        several.decoder.attention_rnn.weight_ih[:, -5:] = 0
        several.decoder.attention_layer.memory_layer.linear_layer.weight[:, -5:] = 0
    weights = select(Checkpoint("tacotron2", dataclasses.asdict(SPEAKERS), AUDIO, TEXT, several.state_dict()), "bert")
    alone.load_state_dict(folded(weights.state_dict, dataclasses.replace(SPEAKERS, speakers=["bert"])))
    assert_same_speech(alone.double(), None, several.double(), 0 * WHO + 1, 1e-6)


# ---- data ----


def problems_of(filelist: Path, corpus: Path) -> list[str]:
    return scan_filelist(filelist, corpus)[1]


def test_all_rows_name_a_speaker_or_none_does(corpus: Path, tmp_path: Path) -> None:
    filelist = tmp_path / "list.txt"
    filelist.write_text("wavs/clip0.wav|a|anna\nwavs/clip1.wav|b\nwavs/clip2.wav|c| \nwavs/clip3.wav|d|anna|x\n")
    found = problems_of(filelist, corpus)
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in found] == ["2", "3", "4"]
    assert "2 columns in 'wavs/clip1.wav|b'; a row is path|transcript, or path|transcript|speaker; all" in found[0]
    assert "must be like line 1" in found[0]
    assert "the speaker of wavs/clip2.wav is empty" in found[1]
    assert "4 columns" in found[2]
    filelist.write_text("wavs/clip0.wav|a\nwavs/clip1.wav|b|anna\n")
    assert "3 columns" in problems_of(filelist, corpus)[0]
    rows = [f"wavs/clip{i}.wav|{text}|" for i, text in enumerate(SENTENCES)]
    filelist.write_text("".join(f"{row}{text}\n" for row, text in zip(rows, SENTENCES, strict=True)))
    assert "its third column holds 8 values in 8 rows, such as 'The first line.'" in problems_of(filelist, corpus)[0]
    filelist.write_text("".join(f"{row} anna \n" for row in rows))
    clips, found = scan_filelist(filelist, corpus)
    assert found == []
    assert {clip.speaker for clip in clips} == {"anna"}


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("folders", "{id}|{text}"),
        ("folders", "{id}|raw|{text}"),
        ("column", "{id}|{text}|{speaker}"),
        ("column", "{id}|{speaker}|{text}"),
        ("column", "{id}|{number} raw|{text}|{speaker}"),
    ],
)
def test_filelists_with_speakers(tmp_path: Path, source: str, row: str) -> None:
    root = write_speakers(tmp_path / "c", row)
    result = run_here("scripts/prepare_filelists.py", root, "--speakers", source)
    assert "speakers: anna (4 clips), bert (4 clips)" in result.stdout
    lists = {name: (root / f"filelists/{name}.txt").read_text().splitlines() for name in ("train", "val")}
    assert sorted(line.split("|")[2] for line in lists["val"]) == ["anna", "bert"]
    assert sorted(lists["train"] + lists["val"]) == sorted(
        f"wavs/{'anna' if i < 4 else 'bert'}/clip{i}.wav|{text}|{'anna' if i < 4 else 'bert'}"
        for i, text in enumerate(SENTENCES)
    )
    check = ("scripts/check_dataset.py", f"data.root={root}", f"output={tmp_path}/check", "num_processes=1")
    report = run_here(*check).stdout
    assert "0 bad rows" in report
    assert "speaker anna: 4 clips, 0.0 minutes" in report
    run_here("scripts/trim_silence.py", root, tmp_path / "trimmed", "--speakers", source)
    run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1")
    data = TextMelDataset(f"{root}/filelists/train.txt", data_config(root), AudioConfig())
    assert data.speakers == ["anna", "bert"]
    batch = collate([data[(index, 0)] for index in range(len(data))])
    assert batch.speaker is not None
    assert batch.speaker.tolist() == [int("bert" in clip.path) for clip in data.clips]


def test_speakers_that_cannot_be_read(tmp_path: Path) -> None:
    root, prepare = write_speakers(tmp_path / "c", "{id}|{text}"), "scripts/prepare_filelists.py"
    fails_with(
        run_here(prepare, root, "--speakers", "column", expect=1), "metadata.csv:1: 2 columns", "id|text|speaker"
    )
    metadata = root / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("anna/clip0", "clip0"))
    (root / "wavs/anna/clip0.wav").rename(root / "wavs/clip0.wav")
    message = "clip0 is in no folder below wavs/; move it to wavs/SPEAKER/"
    fails_with(run_here(prepare, root, "--speakers", "folders", expect=1), "metadata.csv:1", message)
    metadata.write_text("anna/clip1|one|anna\nbert/clip4|two|bert\nbert/clip5|three|bert\nbert/clip6|four|bert\n")
    fails_with(run_here(prepare, root, "--speakers", "column", expect=1), "the speaker anna has 1 clip")
    metadata.write_text("".join(f"bert/clip{i}|{i}|text {i}|\n" for i in (4, 5, 6, 7)))
    fails_with(run_here(prepare, root, "--speakers", "column", expect=1), "metadata.csv:1", "must name its speaker")
    fails_with(run_here(prepare, root, expect=1), "4 columns", "add --speakers column")
    metadata.write_text("".join(f"bert/clip{i}|{i}|text {i}\n" for i in (4, 5, 6, 7)))
    fails_with(run_here(prepare, root, "--speakers", "column", expect=1), "no column names speakers: each holds 4")


def test_speakers_in_validation(tmp_path: Path) -> None:
    """The clips that are held out are those of all speakers alike, and there are not more of them."""
    script = load_script("prepare_filelists")
    for per_speaker, expected in (({"a": 185, "b": 184}, {"a": 4, "b": 4}), ({"a": 5, "b": 2000}, {"a": 1, "b": 20})):
        rows = [
            script.MetadataRow(f"{name}{i}", "", "", name) for name, count in per_speaker.items() for i in range(count)
        ]
        parts = script.split_by_speaker(rows)
        assert {row.clip for row in rows} == parts.keys()
        found = [clip[0] for clip, part in parts.items() if part == "val"]
        assert {name: found.count(name) for name in expected} == expected


def without_speakers(rows: str) -> str:
    return "".join(row.rpartition("|")[0] + "\n" for row in rows.splitlines())


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    root = prepare_speakers(tmp_path / "c")
    train, val = root / "filelists/train.txt", root / "filelists/val.txt"
    right = val.read_text()
    check = ("scripts/check_dataset.py", f"data.root={root}", f"output={tmp_path}/check", "num_processes=1")
    run = train_command(root, tmp_path / "run", TINY_TACOTRON2)
    val.write_text(right.replace("|bert", "|carl"))
    fails_with(run_here(*run, expect=1), "the speaker carl is not one of the model's, which are anna, bert")
    assert "the val list has the speakers carl, the train list anna, bert" in run_here(*check, expect=1).stdout
    val.write_text(without_speakers(right))
    fails_with(run_here(*run, expect=1), "its rows name no speaker")
    assert "the val list has no speakers, the train list anna, bert" in run_here(*check, expect=1).stdout
    val.write_text(right)
    train.write_text(without_speakers(train.read_text()))
    fails_with(run_here(*run, expect=1), "its rows name speakers, those of the training list do not")


@pytest.mark.slow
def test_training_resumes_and_knows_its_speakers(tmp_path: Path) -> None:
    """The sentences of a validation are spoken by the speakers in turn."""
    root, dim = prepare_speakers(tmp_path / "c"), "model.speaker_dim=3"
    command = train_command(root, tmp_path / "run", TINY_TACOTRON2, dim)
    result = run_here(*command, "trainer.max_steps=2", 'data.sentences=["A.","B."]')
    assert f"listen with: python inference.py tacotron2={tmp_path / 'run'} speaker=anna vocoder" in result.stdout
    checkpoint = files.load(files.find(tmp_path / "run"))
    assert checkpoint.model_config["speakers"] == ["anna", "bert"]
    assert checkpoint.state_dict[EMBEDDING].shape == (2, 3)
    run_here(*command, "trainer.max_steps=4")
    assert losses(tmp_path / "run").keys() == {1, 2, 3, 4}
    run_here(*train_command(root, tmp_path / "whole", TINY_TACOTRON2, dim, "trainer.max_steps=4"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "run")
    for name in ("train", "val"):
        filelist = root / f"filelists/{name}.txt"
        filelist.write_text(filelist.read_text().replace("|bert", "|carl"))
    message = "was trained with model.speakers=['anna', 'bert']; use the same, or another run_dir"
    fails_with(run_here(*command, "trainer.max_steps=6", expect=1), message)


def test_an_option_of_speakers_needs_speakers(corpus: Path, tmp_path: Path) -> None:
    command = train_command(corpus, tmp_path / "run", TINY_TACOTRON2, "model.speaker_dim=3")
    fails_with(run_here(*command, expect=1), "model.speaker_dim=3: the rows of", "name no speakers")
