"""Bark as an engine, with a tiny model that is loaded as the published ones are."""

from __future__ import annotations

import itertools
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import BarkModel, BarkProcessor, BertConfig, BertModel

from common.device import resolve_device
from common.errors import UserError
from common.ops.precision import Precision
from synthesis.engines import bark
from synthesis.engines.bark import Bark, seeded
from synthesis.engines.bark_model import Made, generate
from synthesis.engines.bark_voice import language_of
from synthesis.engines.options import BarkOptions
from synthesis.options import SpeechOptions
from synthesis.reading import Fault
from synthesis.utterance import Part, Utterance
from tests.helpers import REPOSITORY

from benchmarks.untrained_bark import CODEBOOK, MAX_TEXT_TOKENS, PRESETS, SEMANTIC_VOCABULARY, voice_prompt, write_tiny

pytestmark = pytest.mark.slow  # Bark itself, 80 times, takes 40 s; tests/test_engines.py has the way through it

Engines = Callable[..., Bark]
DEVICE = resolve_device("auto")
TEXTS = ["hello my dog", "he is cute", "i need him"]
LONG = "This is one. Here comes another one. And the last."


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("bark"))


@pytest.fixture(scope="session")
def engine(engines: Engines) -> Bark:
    return engines()


@pytest.fixture(scope="session")
def engines(folder: Path) -> Engines:
    """Loads an engine, once for each set of options. Tests must not change it."""
    return cache(lambda precision="fp32", **options: load(folder, precision, **options))


@pytest.fixture(scope="session")
def plain(folder: Path) -> Any:
    """The model as transformers loads it."""
    return BarkModel.from_pretrained(folder).to(DEVICE)


def load(folder: str | Path, precision: Precision = "fp32", **options: Any) -> Bark:
    return Bark.load(BarkOptions(model=str(folder), **options), DEVICE, precision)


def audible(engine: Bark, texts: list[str], batch_size: int = 1, **options: Any) -> list[Utterance]:
    parts = engine.parts(texts, batch_size, SpeechOptions(**options))
    return [part.utterance for part in parts if part.utterance]


class Recorder:
    """Calls `generate`, or makes two samples in its place, and notes what it was asked for."""

    def __init__(self, is_stub: bool = False, empty_calls: int = 0) -> None:
        self.is_stub, self.empty_calls = is_stub, empty_calls
        self.histories: list[Any] = []
        self.made: list[list[Made]] = []
        self.seeds: list[int] = []

    def __call__(self, model: Any, text: dict[str, Tensor], history: Any, sampling: Any) -> list[Made]:
        self.histories.append(history)
        self.seeds.append(torch.initial_seed())
        if self.is_stub:
            made = [Made(torch.zeros(2), False, {"semantic_prompt": torch.zeros(1)})] * len(text["input_ids"])
        else:
            made = generate(model, text, history, sampling)
        if len(self.made) < self.empty_calls:
            made[-1] = Made(torch.empty(0), False, {})
        self.made.append(made)
        return made


def recorded(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Recorder:
    recorder = Recorder(**options)
    monkeypatch.setattr(bark, "generate", recorder)
    return recorder


# ---- the chain of sub-models


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("texts", "voice"), [(TEXTS[:1], None), (TEXTS, None), (TEXTS[:2], PRESETS[1])])
def test_makes_what_transformers_makes(
    folder: Path, engines: Engines, texts: list[str], voice: str | None, offload: bool, plain: Any
) -> None:
    engine = engines(attention="eager", voice=voice, offload=offload)
    with seeded(3, DEVICE):
        made = generate(engine.model, engine._inputs(texts), engine.voice, engine.sampling)
    for model in (engine.model, plain):  # bit-equal, with offload and without
        inputs = BarkProcessor.from_pretrained(folder)(texts, voice_preset=voice).to(DEVICE)
        with seeded(3, DEVICE):
            expected, lengths = model.generate(**inputs, return_output_lengths=True)
        assert [len(one.audio) for one in made] == lengths
        for one, row, length in zip(made, expected, lengths, strict=True):
            assert torch.equal(one.audio, row[:length])


def test_offloaded_sub_models_return_to_the_cpu(folder: Path) -> None:
    engine = load(folder, offload=True)
    audible(engine, TEXTS, 3)
    codec, semantic = engine.model.codec_model, engine.model.semantic
    assert {parameter.device.type for parameter in (*codec.parameters(), *semantic.parameters())} == {"cpu"}
    for part in (semantic, engine.model.coarse_acoustics, engine.model.fine_acoustics, codec):
        assert part._hf_hook.execution_device == DEVICE


def test_options_are_those_of_transformers(folder: Path) -> None:
    engine = load(
        folder,
        semantic_temperature=0.9,
        coarse_temperature=0.0,
        fine_temperature=0.3,
        min_eos_p=0.3,
        max_semantic_tokens=15,
    )
    for seed in (1, 2):
        with seeded(seed, DEVICE):
            made = generate(engine.model, engine._inputs(TEXTS), None, engine.sampling)
        with seeded(seed, DEVICE):
            expected, _ = engine.model.generate(
                **engine._inputs(TEXTS),
                return_output_lengths=True,
                semantic_temperature=0.9,
                coarse_do_sample=False,
                coarse_temperature=1.0,
                fine_temperature=0.3,
                min_eos_p=0.3,
                semantic_max_new_tokens=15,
            )
        for one, row in zip(made, expected, strict=True):
            assert torch.equal(one.audio, row[: len(one.audio)])


def test_the_probability_of_the_end_shortens_pieces(engines: Engines) -> None:
    def num_tokens(min_eos_p: float | None) -> int:
        engine = engines(min_eos_p=min_eos_p, semantic_temperature=0.0)
        made = generate(engine.model, engine._inputs(TEXTS), None, engine.sampling)
        return sum(len(one.tokens.get("semantic_prompt", [])) for one in made)

    assert num_tokens(0.0) == num_tokens(None) > num_tokens(0.07)


def test_no_temperature_no_chance(engines: Engines) -> None:
    greedy: dict[str, Any] = {"semantic_temperature": 0.0, "coarse_temperature": 0.0}
    still = engines(**greedy, fine_temperature=0.0)
    assert torch.equal(audible(still, TEXTS[:1], seed=1)[0].audio, audible(still, TEXTS[:1], seed=2)[0].audio)
    # transformers takes fine_temperature=1.0 as 0
    moved = engines(**greedy, fine_temperature=1.0)
    assert not torch.equal(audible(moved, TEXTS[:1], seed=1)[0].audio, audible(moved, TEXTS[:1], seed=2)[0].audio)


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_a_temperature_that_half_precision_cannot_hold_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"engine.{name}_temperature=0.001: the least is 0.01"):
        load(folder, "fp32", **{f"{name}_temperature": 0.001})


def test_more_tokens_than_positions_are_refused(engines: Engines) -> None:
    assert audible(engines(max_semantic_tokens=64), TEXTS[:1])
    with pytest.raises(UserError, match=r"engine.max_semantic_tokens=65: this model has room for 64"):
        engines(max_semantic_tokens=65)


def test_a_greedy_batch_equals_single_texts_up_to_the_fine_codes(folder: Path) -> None:
    engine = load(folder, semantic_temperature=0.0, coarse_temperature=0.0, fine_temperature=0.0, min_eos_p=0.07)
    engine.sampling.semantic.min_new_tokens = 2
    together = generate(engine.model, engine._inputs(TEXTS), None, engine.sampling)
    assert len({len(one.audio) for one in together}) > 1
    longest = max(len(one.audio) for one in together)
    for text, one in zip(TEXTS, together, strict=True):
        alone = generate(engine.model, engine._inputs([text]), None, engine.sampling)[0]
        assert len(alone.audio) == len(one.audio)
        for key in ("semantic_prompt", "coarse_prompt"):
            assert torch.equal(alone.tokens[key], one.tokens[key])
        if len(one.audio) == longest:  # the others look at codes behind their end
            assert torch.equal(alone.tokens["fine_prompt"], one.tokens["fine_prompt"])


# ---- attention and precision


def both_logits(one: Any, other: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return one(**inputs).logits, other(**inputs).logits


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("part", ["semantic", "coarse_acoustics"])
def test_fused_attention_equals_that_of_transformers(engines: Engines, part: str, padding: str | None) -> None:
    models = [getattr(engines(attention=kind).model, part) for kind in ("eager", "sdpa")]
    ids = torch.randint(0, SEMANTIC_VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    mask = torch.ones_like(ids)
    if padding:
        mask[1, slice(0, 5) if padding == "left" else slice(7, 10)] = 0
    caches: list[Any] = [None, None]
    for start, end in ((0, 12), (12, 17), (17, 18), (18, 20)):  # alone, several with a cache, one with a cache
        found = []
        for k, model in enumerate(models):
            given = {} if padding is None else {"attention_mask": mask[:, :end]}
            with torch.no_grad():
                result = model(ids[:, start:end], cache=caches[k], use_cache=True, **given)
            caches[k] = result.cache
            found.append(result.logits[mask[:, start:end].bool()])
        torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("is_padded", [False, True])
def test_fused_attention_of_the_fine_model(engines: Engines, is_padded: bool) -> None:
    eager, fused = (engines(attention=kind).model.fine_acoustics for kind in ("eager", "sdpa"))
    ids = torch.randint(0, CODEBOOK, (2, 30, 8), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    mask = torch.ones(2, 30, dtype=torch.long, device=DEVICE)
    mask[1, 20:] = 0
    found = both_logits(eager, fused, codebook_idx=3, input_ids=ids, attention_mask=mask if is_padded else None)
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-5)


def test_attention_is_fused_by_default_and_not_if_it_should_not(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Tensor | None] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(options["attn_mask"])
        return fused(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    audible(engines(attention="eager"), TEXTS[:1])
    assert not calls
    audible(engines(), TEXTS[:1])
    assert set(calls) == {None}  # a mask would be slower


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_is_near(
    engines: Engines, engine: Bark, precision: Precision, dtype: torch.dtype, attention: str
) -> None:
    half = engines(precision=precision, attention=attention)
    assert {p.dtype for p in half.model.parameters()} == {dtype}
    ids = torch.randint(0, SEMANTIC_VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    codes = ids[..., None].expand(-1, -1, 8)
    tolerance = 0.02 if precision == "fp16" else 0.15
    for part, inputs in (
        ("semantic", {"input_ids": ids}),
        ("coarse_acoustics", {"input_ids": ids}),
        ("fine_acoustics", {"codebook_idx": 3, "input_ids": codes}),
    ):
        low, full = both_logits(getattr(half.model, part), getattr(engine.model, part), **inputs)
        assert 0 < (low.float() - full).abs().max() < tolerance * full.std()
    found = audible(half, TEXTS[:2], 2)
    assert all(one.audio.dtype == torch.float32 and len(one.audio) and one.audio.isfinite().all() for one in found)


# ---- voices


def test_a_preset_and_its_file_are_one_voice(engines: Engines, tmp_path: Path, engine: Bark) -> None:
    arrays: dict[str, Any] = {key: array.astype(np.int32) for key, array in voice_prompt(1).items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    preset, file = engines(voice=PRESETS[1]), engines(voice=str(tmp_path / "mine.npz"))
    one, other = (audible(voice, TEXTS, 2)[0].audio for voice in (preset, file))
    assert torch.equal(one, other)
    assert not torch.equal(one, audible(engine, TEXTS, 2)[0].audio)
    assert (preset.language, file.language) == ("de", "en")


def test_a_local_folder_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("there is no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr("socket.socket." + name, refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert load(folder, voice=PRESETS[0]).voice


def test_an_unknown_preset_is_answered_with_those_of_the_model(folder: Path) -> None:
    with pytest.raises(UserError, match=r"engine.voice=v2/en: .* it has 2: v2/en_speaker_1, v2/de_speaker_3; set"):
        load(folder, voice="v2/en")


GOOD = voice_prompt(0)
BAD_VOICES: dict[str, tuple[dict[str, Any], str]] = {
    "a key is missing": ({"fine_prompt": None}, "it has no fine_prompt"),
    "dimensions": ({"semantic_prompt": GOOD["semantic_prompt"][None]}, r"semantic_prompt has shape \(1, 25\), not"),
    "rows": ({"fine_prompt": GOOD["fine_prompt"][:7]}, r"fine_prompt has shape \(7, 37\), not \(8, X\)"),
    "no numbers": ({"coarse_prompt": GOOD["coarse_prompt"][:, :0]}, "coarse_prompt is empty"),
    "floats": ({"coarse_prompt": GOOD["coarse_prompt"] * 1.0}, "coarse_prompt has numbers of type float64"),
    "negative": ({"coarse_prompt": GOOD["coarse_prompt"] - 9}, "coarse_prompt has values from -9 to"),
    "too large": (
        {"semantic_prompt": GOOD["semantic_prompt"] + 1},
        f"values from 1 to {SEMANTIC_VOCABULARY}, not from 0 to {SEMANTIC_VOCABULARY - 1}",
    ),
    "pickled": ({"fine_prompt": np.array([{}])}, "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_VOICES)
def test_a_bad_voice_names_its_path_and_what_is_wrong(folder: Path, tmp_path: Path, case: str) -> None:
    changes, message = BAD_VOICES[case]
    path = tmp_path / "mine.npz"
    np.savez(path, **{k: v for k, v in (GOOD | changes).items() if v is not None})
    with pytest.raises(UserError, match=message) as raised:
        load(folder, voice=str(path))
    assert f"engine.voice={path}: " in str(raised.value)
    assert "make the file as" in str(raised.value)


def test_what_is_no_npz_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(UserError, match="there is no such file"):
        load(folder, voice=str(path))
    path.write_text("not a zip")
    with pytest.raises(UserError, match=r"not a readable .npz"):
        load(folder, voice=str(path))
    with path.open("wb") as file:
        np.save(file, GOOD["fine_prompt"])
    with pytest.raises(UserError, match=r"one array, no .npz"):
        load(folder, voice=str(path))


def test_a_preset_whose_file_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "bark")
    (damaged / "speaker_embeddings" / f"{PRESETS[0]}_fine_prompt.npy").unlink()
    with pytest.raises(UserError, match="download it again"):
        load(damaged, voice=PRESETS[0])


def test_the_language_is_that_of_the_preset() -> None:
    assert [language_of(v) for v in ("v2/de_speaker_3", "zh_speaker_0", "announcer", "de.npz", None)] == [
        "de", "zh", "en", "en", "en",
    ]  # fmt: skip


# ---- texts and their pieces


def flat(parts: Iterator[Part]) -> list[tuple[int, str | None, bool, bool]]:
    return [(p.number, p.read.piece.text if p.read else None, p.utterance is not None, p.is_last) for p in parts]


@pytest.mark.parametrize("voice", [None, PRESETS[0]])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_parts_come_in_order(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, voice: str | None, batch_size: int
) -> None:
    recorded(monkeypatch, is_stub=True)
    texts = ["One. Two. * * *", "", "Three", " \n", "...", "Four. — Five."]
    assert flat(engines(voice=voice).parts(texts, batch_size, SpeechOptions())) == [
        (0, "One.", True, False),
        (0, "Two.", True, True),
        (1, None, False, True),
        (2, "Three", True, True),
        (3, None, False, True),
        (4, None, False, True),
        (5, "Four.", True, False),
        (5, "— Five.", True, True),
    ]


def test_the_language_of_the_voice_says_where_sentences_end(
    engines: Engines, engine: Bark, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(monkeypatch, is_stub=True)
    text = "Am 3. Oktober ist frei."
    assert len(list(engines(voice=PRESETS[1]).parts([text], 1, SpeechOptions()))) == 1
    assert len(list(engine.parts([text], 1, SpeechOptions()))) == 2


def test_a_text_may_have_halves_of_surrogate_pairs(engine: Bark) -> None:
    assert [part.read.piece.text for part in engine.parts(["a\ud83d b"], 1, SpeechOptions())] == ["a\ud83d b"]


def test_no_piece_has_more_characters_or_tokens_than_the_model_reads(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(monkeypatch, is_stub=True)
    engine = engines()
    random = np.random.default_rng(0)
    words = [
        "a",
        "word",
        "x" * 90,
        "z" * 300,
        "1234567890",
        "\u4e2d\u6587" * 30,
        "caf\u00e9",
        "(b)",
        "d,",
        "e.",
        "\u0301",
    ]
    texts = [" ".join(random.choice(words, 40)) for _ in range(15)] + ["y" * 2000]
    for number, text in enumerate(texts):
        pieces = [part.read.piece for part in engine.parts([text], 1, SpeechOptions())]
        for piece in pieces:
            tokens = engine.processor.tokenizer(piece.text, add_special_tokens=False)["input_ids"]
            assert len(piece.text) <= 180
            assert len(tokens) <= MAX_TEXT_TOKENS
        kept = "".join(c for piece in pieces for c in piece.text if c.isalnum())
        assert kept == "".join(c for c in text if c.isalnum()), number


def test_time_is_linear_and_pieces_are_read_when_they_are_needed(engine: Bark, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, is_stub=True)
    counted: list[int] = []
    count = engine._length

    def length(text: str) -> int:
        counted.append(len(text))
        return count(text)

    monkeypatch.setattr(engine, "_length", length)

    def read(times: int, most: int | None = None) -> int:
        counted.clear()
        text = "This is a sentence, and it goes on. " * times
        list(itertools.islice(engine.parts([text], 1, SpeechOptions()), most))
        return sum(counted)

    assert read(500) < 110 * read(5)
    assert read(50_000, most=3) < 2 * read(500, most=3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_text_goes_on_in_the_voice_of_its_first_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    engine, recorder = load(folder), recorded(monkeypatch)
    engine.sampling.semantic.min_new_tokens = 1  # or a piece would be tried again
    parts = list(engine.parts([LONG, "One. Two."], batch_size, SpeechOptions()))
    assert [part.number for part in parts] == [0, 0, 0, 1, 1]
    sizes = [len(made) for made in recorder.made]
    first = [recorder.made[0][0], recorder.made[0 if batch_size == 2 else 3][-1]]
    expected = [first[0].tokens, first[0].tokens, first[1].tokens]
    if batch_size == 2:
        assert sizes == [2, 1, 1, 1]
        assert recorder.histories[0] is None
        found = recorder.histories[1:]
    else:
        assert sizes == [1] * 5
        assert recorder.histories[0] is recorder.histories[3] is None
        found = recorder.histories[1:3] + recorder.histories[4:]
    assert all(one is other for one, other in zip(found, expected, strict=True))


def test_the_tokens_of_a_piece_are_a_voice(engine: Bark) -> None:
    with seeded(0, DEVICE):
        made = generate(engine.model, engine._inputs(TEXTS), None, engine.sampling)
    assert len({len(one.audio) for one in made}) > 1
    for one in filter(lambda one: len(one.audio), made):
        semantic, coarse, fine = (one.tokens[f"{name}_prompt"] for name in ("semantic", "coarse", "fine"))
        frames = len(one.audio) // 320
        assert frames == int(len(semantic) * 75 / 49.9)
        assert (coarse.shape, fine.shape) == ((2, frames), (8, frames))
        assert torch.equal(coarse, fine[:2])
        assert int(semantic.max()) < SEMANTIC_VOCABULARY
        assert int(fine.max()) < CODEBOOK


def test_with_a_voice_a_batch_has_pieces_of_several_texts(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, recorder = engines(voice=PRESETS[0]), recorded(monkeypatch)
    parts = list(engine.parts([LONG, "", "One. Two."], 4, SpeechOptions()))
    assert [part.number for part in parts] == [0, 0, 0, 1, 2, 2]
    assert [len(made) for made in recorder.made][:1] == [3]  # the blank text is one of the window
    assert sum(len(made) for made in recorder.made) == 5
    assert all(history is engine.voice for history in recorder.histories)


# ---- what goes wrong in a piece


def test_a_piece_at_the_limit_is_truncated(engines: Engines) -> None:
    engine = engines(max_semantic_tokens=3)
    found = audible(engine, TEXTS * 2, 6, seed=1)
    assert {one.truncated for one in found} == {True, False}
    for one in found:
        assert one.faults == ([Fault("runaway", "", 1)] if one.truncated else [])
        assert one.truncated == (len(one.audio) == 4 * 320)


def test_a_piece_without_a_token_is_silent(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, recorder = engines(min_eos_p=1e-9), recorded(monkeypatch)
    found = audible(engine, [LONG], seed=1)
    assert [one.faults for one in found] == [[Fault("early stop", "", 1)]] * 3
    assert all(len(one.audio) == 2400 and not one.audio.any() and not one.truncated for one in found)
    assert len(recorder.made) == 9
    assert recorder.histories == [None] * 9


def test_only_what_has_no_token_is_tried_again(engine: Bark, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorded(monkeypatch, empty_calls=2)
    found = audible(engine, TEXTS[:2], 2, seed=5)
    assert [len(made) for made in recorder.made] == [2, 1, 1]
    assert len(set(recorder.seeds)) == 3
    assert torch.equal(found[0].audio, recorder.made[0][0].audio.cpu())
    assert torch.equal(found[1].audio, recorder.made[2][0].audio.cpu())
    assert Fault("early stop", "", 1) not in found[1].faults


def test_a_batch_may_have_texts_without_a_token(engines: Engines) -> None:
    engine = engines(max_semantic_tokens=1)
    for seed in range(100):
        with seeded(seed, DEVICE):
            made = generate(engine.model, engine._inputs(TEXTS), None, engine.sampling)
        lengths = [len(one.audio) for one in made]
        assert set(lengths) <= {0, 320}
        assert [one.is_truncated for one in made] == [length > 0 for length in lengths]
        if lengths[0] == 0 < lengths[1]:
            assert not made[0].tokens
            return
    pytest.fail("no text without a token")


def test_nan_is_an_error_that_names_the_text(folder: Path) -> None:
    engine = load(folder)
    engine.model.codec_model.decoder.layers[0].conv.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="gives NaN or infinity for 'hello my dog'; set precision=fp32"):
        audible(engine, TEXTS[:1])


# ---- seeds, threads, stats


def test_a_seed_fixes_the_audio(engine: Bark) -> None:
    before = torch.random.get_rng_state()
    one, again, other = (audible(engine, TEXTS, 3, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a.audio, b.audio) for a, b in zip(one, other, strict=True))
    alone = audible(engine, TEXTS[1:2], seed=7)[0]
    assert torch.equal(alone.audio, audible(engine, TEXTS, seed=7)[1].audio)


@pytest.mark.parametrize("are_two", [False, True])
def test_threads_take_one_after_the_other(folder: Path, engine: Bark, are_two: bool) -> None:
    engines = {1: engine, 2: load(folder) if are_two else engine}
    texts = ["One. Two."] * 4
    expected = {seed: audible(engine, texts, seed=seed) for seed in engines}
    found: dict[int, list[Utterance]] = {}

    def work(seed: int) -> None:
        found[seed] = audible(engines[seed], texts, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, utterances in expected.items():
        assert all(torch.equal(a.audio, b.audio) for a, b in zip(utterances, found[seed], strict=True))


def test_loading_leaves_the_global_random_state(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_time_of_a_batch_is_divided_by_the_audio(engine: Bark) -> None:
    found = audible(engine, TEXTS, 3, seed=2)
    assert len({len(one.audio) for one in found}) > 1
    assert len({round(one.stats["rtf"], 9) for one in found}) == 1
    assert engine.audio.sample_rate == 24000
    assert found[0].stats["audio_seconds"] == len(found[0].audio) / 24000


def test_warm_up_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, recorder = load(folder, min_eos_p=1e-9), recorded(monkeypatch)
    before = torch.random.get_rng_state()
    engine.warm_up()
    assert len(recorder.made[0][0].tokens["semantic_prompt"]) == 10  # so all sub-models ran
    assert torch.equal(before, torch.random.get_rng_state())
    assert engine.sampling.semantic.max_new_tokens == 12


def test_transformers_says_nothing_that_nobody_can_change(
    engine: Bark, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    level = logger.level
    audible(engine, [LONG])
    assert not caplog.records
    assert logger.level == level


def test_options_of_tacotron2_are_refused(engine: Bark) -> None:
    with pytest.raises(UserError, match=r"speed=2.0: engine=bark has no such option"):
        engine.parts(TEXTS, 1, SpeechOptions(speed=2.0))


# ---- loading


def test_a_model_with_only_a_bin_file_is_loaded(folder: Path, tmp_path: Path, engine: Bark) -> None:
    old = shutil.copytree(folder, tmp_path / "bark")
    (old / "model.safetensors").unlink()
    torch.save(BarkModel.from_pretrained(folder).state_dict(), old / "pytorch_model.bin")
    assert torch.equal(audible(load(old), TEXTS[:1])[0].audio, audible(engine, TEXTS[:1])[0].audio)


def test_what_is_no_bark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine.model=/nowhere/bark: there is no such folder"):
        load("/nowhere/bark")
    with pytest.raises(UserError, match=r"this folder has no config.json"):
        load(tmp_path)
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is BertModel, no BarkModel; set a Bark, such as suno/bark-small"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "a file of it is missing or damaged: download it again"),
        ("generation_config.json", "a file of it is missing or damaged: download it again"),
        ("tokenizer.json", "is missing.*: download it again|is missing; download it again"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_damaged_folder_says_so(folder: Path, tmp_path: Path, name: str, message: str, is_there: bool) -> None:
    damaged = shutil.copytree(folder, tmp_path / "bark")
    path = damaged / name
    if is_there:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(UserError, match=message) as raised:
        load(damaged)
    assert f"engine.model={damaged}: " in str(raised.value)


def test_weights_that_are_missing_are_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    damaged = shutil.copytree(folder, tmp_path / "bark")
    weights = load_file(damaged / "model.safetensors")
    del weights["semantic.lm_head.weight"]
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of its weights are missing, such as semantic.lm_head.weight"):
        load(damaged)


def test_without_a_hub_the_command_that_downloads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"run hf download someone/bark --local-dir DIR, and set engine.model=DIR"):
        load("someone/bark")


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
def test_a_package_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"the package {package} is not installed; pip install -r requirements-eng"):
        load(folder, offload=True)


def test_the_engine_is_imported_without_transformers() -> None:
    code = "import sys, synthesis.engines.bark; print({'transformers', 'accelerate'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
