"""AudioLDM 2 as an engine, with a tiny model of random weights that is saved and loaded as the published ones are."""

from __future__ import annotations

import functools
import itertools
import os
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers
import transformers

from common.device import resolve_device
from common.errors import UserError
from synthesis.engines.audioldm2 import AudioLDM2
from synthesis.engines.options import AudioLDM2Options
from synthesis.engines.protocol import TextTooLongError
from synthesis.options import SpeechOptions
from tests.helpers.commands import fails_with, run_here, run_process

from benchmarks import untrained_audioldm2 as tiny

pytestmark = pytest.mark.slow  # The pipeline itself, 70 times, takes 30 s

DEVICE = resolve_device("auto")
SHORT, LONG, OTHER = "rain", "a dog barks at the full moon, far away", "two bells"
PROMPTS = [SHORT, LONG, OTHER]
ROUNDING = 3e-5 if DEVICE.type == "cpu" else 3e-3  # of full scale
HEARD = 0.05  # a difference that is none of rounding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as cvssp/audioldm2 is; tests must not change it."""
    return tiny.write_tiny(tmp_path_factory.mktemp("audioldm2") / "published")


@pytest.fixture(scope="module")
def engine(model: Path) -> AudioLDM2:
    return loaded(model)


@pytest.fixture(scope="module")
def alone(engine: AudioLDM2) -> list[Tensor]:
    """The audio of PROMPTS, one at a time, with the default options."""
    return speak(engine, PROMPTS)


def load(model: Path, precision: Any = "fp32", **options: Any) -> AudioLDM2:
    options = {"seconds": 0.2, "num_inference_steps": 2} | options
    return AudioLDM2.load(AudioLDM2Options(model=str(model), **options), DEVICE, precision)


@functools.cache
def loaded(model: Path, precision: Any = "fp32", **options: Any) -> AudioLDM2:
    """One engine for several tests, which must not change it."""
    return load(model, precision, **options)


def speak(engine: AudioLDM2, prompts: Sequence[str], batch_size: int = 1, seed: int = 0) -> list[Tensor]:
    parts = engine.parts(prompts, batch_size, SpeechOptions(seed=seed))
    return [part.utterance.audio for part in parts if part.utterance]


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@functools.cache
def plain(model: Path) -> Any:
    """diffusers' own pipeline."""
    language_model = transformers.GPT2LMHeadModel.from_pretrained(model, subfolder="language_model")
    pipe = diffusers.AudioLDM2Pipeline.from_pretrained(model, language_model=language_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DEVICE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the same audio as diffusers ----


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"negative_prompt": "lo"}], ids=str)
def test_a_prompt_alone_has_the_audio_of_the_pipeline(model: Path, options: dict[str, Any]) -> None:
    own = plain(model)(
        LONG, audio_length_in_s=0.2, num_inference_steps=2, generator=generator(), output_type="pt", **options
    )
    assert difference(speak(loaded(model, **options), [LONG]), own.audios) < ROUNDING


def test_models_that_name_gpt2model_and_those_that_name_gpt2lmheadmodel_are_equal(
    model: Path, alone: list[Tensor], tmp_path: Path
) -> None:
    later = tiny.write_tiny(tmp_path / "later", "GPT2LMHeadModel")
    names = [(folder / "model_index.json").read_text(encoding="utf-8") for folder in (model, later)]
    assert ['"GPT2Model"' in names[0], '"GPT2LMHeadModel"' in names[1]] == [True, True]
    assert difference(speak(load(later), PROMPTS), alone) < ROUNDING
    with pytest.raises(AttributeError, match="_update_model_kwargs_for_generation"):  # why they need care
        diffusers.AudioLDM2Pipeline.from_pretrained(model).to(DEVICE)(SHORT)


def test_the_language_model_continues_with_its_last_hidden_states(model: Path, engine: AudioLDM2) -> None:
    """Those behind the last layer's norm; with a cache of keys and values they are equal."""
    gpt2 = transformers.GPT2Model.from_pretrained(model, subfolder="language_model").eval().to(DEVICE)
    states = torch.randn(2, 9, 16, generator=generator()).to(DEVICE)
    mask = torch.ones(2, 9, dtype=torch.long, device=DEVICE)
    mask[0, 4:7] = 0  # as padding of T5 is
    cache, seen, step, found = transformers.DynamicCache(), mask, states, []
    with torch.no_grad():
        for _ in range(8):
            step = gpt2(inputs_embeds=step, attention_mask=seen, past_key_values=cache).last_hidden_state[:, -1:]
            seen = torch.cat([seen, seen.new_ones(2, 1)], 1)
            found.append(step)
        ours = engine.pipe.generate_language_model(states, attention_mask=mask, max_new_tokens=None)
        theirs = plain(model).generate_language_model(states, attention_mask=mask, max_new_tokens=None)
    assert ours.shape == (2, 8, 16)
    assert difference([ours], [torch.cat(found, 1)]) < 1e-4
    assert difference([ours], [theirs]) < 1e-4
    assert ours.std(1).min() > 1e-3  # they are not all the same


# ---- prompts, batches, seeds ----


def test_parts(engine: AudioLDM2) -> None:
    texts = ["  rain\t", "", SHORT, " \n", OTHER]
    parts = list(engine.parts(iter(texts), 2, SpeechOptions()))
    assert [part.number for part in parts] == [0, 1, 2, 3, 4]
    assert all(part.is_last for part in parts)
    assert [part.utterance is None and part.read is None for part in parts] == [False, True, False, True, False]
    for part in parts:
        if part.read and part.utterance:
            piece = part.read.piece
            assert piece.text == texts[part.number][piece.start : piece.end] == texts[part.number].strip()
            assert (piece.pause, part.read.ids, part.read.dropped) == ("end", [], [])
            assert part.utterance.audio.shape == (3200,)
            assert part.utterance.audio.device.type == "cpu"
            assert not part.utterance.truncated
            assert part.utterance.stats["audio_seconds"] == 0.2
            assert part.utterance.stats["latency"] == part.utterance.stats["audioldm2_latency"] > 0
    first, second, _ = (part.utterance.audio for part in parts if part.utterance)
    assert difference([first], [second]) < ROUNDING
    assert (engine.name, engine.audio.sample_rate, engine.audio.hop_length) == ("audioldm2", tiny.SAMPLE_RATE, 64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": 1.0},
        {"negative_prompt": "low quality, noise"},  # longer than some prompts
        {"num_waveforms_per_prompt": 2},
        {"scheduler": "EulerAncestralDiscrete", "num_waveforms_per_prompt": 2},  # it draws noise in each step
    ],
    ids=str,
)
def test_a_batch_equals_its_prompts_alone(model: Path, options: dict[str, Any]) -> None:
    engine = loaded(model, **options)
    singles = speak(engine, PROMPTS)
    assert difference(singles, speak(engine, PROMPTS, batch_size=3)) < ROUNDING
    assert difference(singles, speak(engine, PROMPTS[::-1], batch_size=2)[::-1]) < ROUNDING
    assert min(difference([a], [b]) for a, b in itertools.pairwise(singles)) > HEARD


def test_in_the_pipeline_itself_prompts_change_each_other(model: Path, alone: list[Tensor]) -> None:
    """Why the engine encodes one prompt at a time: its language model counts the padding."""
    arguments = {"audio_length_in_s": 0.2, "num_inference_steps": 2, "output_type": "pt"}
    batch = plain(model)([SHORT, LONG], generator=[generator(), generator()], **arguments).audios
    assert difference(batch[1:], alone[1:2]) < ROUNDING  # the longest has no padding
    assert difference(batch[:1], alone[:1]) > HEARD


def test_a_negative_prompt_is_read_whole(model: Path) -> None:
    negative = "low quality, noise"
    engine = load(model, negative_prompt=negative)
    with torch.no_grad():
        _, theirs = engine._encode("hm")
        whole = loaded(model, guidance_scale=1.0)._encode(negative)[0]
    assert theirs is not None
    assert difference(theirs, whole) < 1e-5
    assert int(theirs.mask.sum()) == len(engine.pipe.tokenizer_2(negative).input_ids)


def test_a_seed_fixes_the_audio_and_the_global_generators_stay(model: Path, alone: list[Tensor]) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    engine = load(model, num_waveforms_per_prompt=2, seconds=1.2)  # CLAP would take 1 s of it by chance
    first = speak(engine, [SHORT])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()) == before
    np.random.seed(2), torch.manual_seed(2)
    assert difference(first, speak(engine, [SHORT])) == 0
    engine = loaded(model)
    assert difference(alone, speak(engine, PROMPTS)) == 0
    assert difference(alone, speak(engine, PROMPTS, seed=1)) > HEARD


def test_threads_wait_for_each_other(engine: AudioLDM2, alone: list[Tensor]) -> None:
    found: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        found[number] = speak(engine, PROMPTS * 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [difference(alone * 2, found[number]) for number in range(3)] == [0, 0, 0]


def test_a_prompt_that_is_too_long_is_not_cut(model: Path, engine: AudioLDM2) -> None:
    fits, t5, clap = "a" * (tiny.T5_TOKENS - 2), "a" * (tiny.T5_TOKENS - 1), "é" * 30
    assert len(speak(engine, [fits])) == 1
    with pytest.raises(UserError, match=f"'a{{{len(t5)}}}' has 49 tokens.* at most 48"):
        speak(engine, [t5])
    with pytest.raises(UserError, match=r"'é{30}' has 62 tokens.* at most 60"):  # two of bytes each, only in CLAP's
        speak(engine, [SHORT, clap])
    with pytest.raises(UserError, match=r"engine.negative_prompt='a+' has 49 tokens.* at most 48"):
        load(model, negative_prompt=t5)


def test_no_line_is_made_of_a_file_with_a_prompt_that_is_too_long(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"Rain.\n\n{'word ' * 60}\nWind.\n", encoding="utf-8")
    command = ("inference.py", "engine=audioldm2", f"engine.model={model}", f"input={prompts}")
    result = run_here(*command, "engine.seconds=0.2", f"output={tmp_path / 'out'}", expect=1)
    fails_with(result, f"{prompts}:3: 'word word", "has 301 tokens, and the model reads at most 60; shorten it")
    assert not (tmp_path / "out").exists()


def test_the_short_way_to_check_a_length_agrees_with_the_tokenizers(engine: AudioLDM2) -> None:
    for text in ("a" * 45, "a b " * 11, "! " * 23, "a" * 46, "a" * 47, "é" * 29, "é" * 30, "\t a \n" * 9):
        prompt = text.strip()
        tokenizers = (engine.pipe.tokenizer, engine.pipe.tokenizer_2)
        if all(len(tokenizer(prompt).input_ids) <= tokenizer.model_max_length for tokenizer in tokenizers):
            engine.check_length(text)
        else:
            with pytest.raises(TextTooLongError):
                engine.check_length(text)


def test_tokenizers_without_a_limit_get_that_of_the_models(model: Path, tmp_path: Path) -> None:
    folder = tiny.variant(tmp_path / "unlimited", model)
    for name in ("tokenizer", "tokenizer_2"):
        tiny.edit(folder / name / "tokenizer_config.json", model_max_length=None)
    engine = load(folder)
    assert difference(speak(engine, [SHORT]), speak(loaded(model), [SHORT])) < ROUNDING
    assert len(speak(engine, ["a" * 56])) == 1  # of 58 and 57 tokens
    with pytest.raises(UserError, match=r"has 61 tokens.* at most 60"):
        speak(engine, ["a" * 59])


# ---- options ----


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("DPMSolverMultistep", 3),
        ("pndmscheduler", 5),
        ("eulerdiscrete", 2),
        ("UniPCMultistepScheduler", 3),
        ("LMSDiscrete", 2),
    ],
)
def test_schedulers(model: Path, name: str, steps: int) -> None:
    engine = load(model, scheduler=name, num_inference_steps=steps)
    chosen = engine.pipe.scheduler
    assert type(chosen).__name__.lower().removesuffix("scheduler") == name.lower().removesuffix("scheduler")
    assert chosen.config.beta_end == 0.0195  # of the model's own scheduler
    audio = speak(engine, PROMPTS)
    assert difference(audio, speak(engine, PROMPTS, batch_size=3)) < ROUNDING
    assert difference(audio, speak(loaded(model, num_inference_steps=steps), PROMPTS)) > 0.01
    assert max(float(a.abs().max()) for a in audio) > HEARD


def test_schedulers_that_do_not_suit(model: Path) -> None:
    with pytest.raises(UserError, match=r"engine.scheduler=Flow: .*: DDIM, DDPM, .*DPMSolverMultistep"):
        load(model, scheduler="Flow")
    with pytest.raises(UserError, match=r"engine.num_inference_steps=1001: not with the scheduler DDIM: .*1000"):
        load(model, num_inference_steps=1001)
    with pytest.raises(UserError, match=r"engine.num_inference_steps=2: not with the scheduler PNDM"):
        load(model, num_inference_steps=2, scheduler="pndm")


def test_a_negative_prompt_without_guidance_is_an_error(model: Path) -> None:
    with pytest.raises(UserError, match=r"engine.negative_prompt='noise' has no effect with engine.guidance_scale=1.0"):
        load(model, negative_prompt="noise", guidance_scale=1.0)


def test_kinds_of_attention_are_equal(model: Path, engine: AudioLDM2, alone: list[Tensor]) -> None:
    eager = load(model, attention="eager")
    for name, chosen in (("AttnProcessor2_0", engine), ("AttnProcessor", eager)):
        used = [*chosen.pipe.unet.attn_processors.values(), *chosen.pipe.vae.attn_processors.values()]
        assert {type(processor).__name__ for processor in used} == {name}
    assert difference(alone, speak(eager, PROMPTS)) < ROUNDING


@pytest.mark.parametrize(("precision", "nearness"), [("bf16", 0.1), ("fp16", 0.01)])
def test_precisions_are_near(model: Path, alone: list[Tensor], precision: str, nearness: float) -> None:
    engine = load(model, precision)
    audio = speak(engine, PROMPTS)
    dtypes = {str(next(module.parameters()).dtype) for module in (engine.pipe.unet, engine.pipe.language_model)}
    assert dtypes == {{"bf16": "torch.bfloat16", "fp16": "torch.float16"}[precision]}
    assert audio[0].dtype == torch.float32
    error = torch.cat(audio) - torch.cat(alone)
    assert 0 < error.std() / torch.cat(alone).std() < nearness


@pytest.mark.parametrize("options", [{}, {"num_waveforms_per_prompt": 2}], ids=str)
def test_offload_changes_nothing(model: Path, options: dict[str, Any]) -> None:
    engine = load(model, offload=True, **options)
    first = speak(engine, PROMPTS)
    modules = [module for module in engine.pipe.components.values() if isinstance(module, torch.nn.Module)]
    assert all(hasattr(module, "_hf_hook") for module in modules)
    assert {p.device.type for module in modules for p in module.parameters()} == {"cpu"}  # nothing stays
    assert difference(first, speak(loaded(model, **options), PROMPTS)) == 0
    assert difference(first, speak(engine, PROMPTS)) == 0


def test_the_best_candidate_of_its_own_prompt_is_the_answer(model: Path) -> None:
    """As the pipeline's ranking of one prompt alone finds it, which is right."""
    engine, ranking = load(model, num_waveforms_per_prompt=4), plain(model)
    with torch.no_grad():
        candidates = engine._candidates(PROMPTS, 0, 2)
        best = [
            ranking.score_waveforms(p, c, 4, DEVICE, torch.float32)[0] for p, c in zip(PROMPTS, candidates, strict=True)
        ]
    assert [len(found) for found in candidates] == [4, 4, 4]
    found = [int((c - b).abs().amax(1).argmin()) for c, b in zip(candidates, best, strict=True)]
    assert set(found) != {0}  # the choice is not that of the first
    assert difference(speak(engine, PROMPTS, batch_size=3), best) < ROUNDING
    assert (
        difference([c[0] for c in candidates], speak(loaded(model), PROMPTS)) < ROUNDING
    )  # the first has the seed's noise


COMBINATIONS: list[dict[str, Any]] = [
    {"offload": True, "attention": "eager", "negative_prompt": "noise", "num_waveforms_per_prompt": 2},
    {"offload": True, "scheduler": "DPMSolverMultistep", "guidance_scale": 1.0, "precision": "bf16"},
    {"attention": "eager", "scheduler": "EulerAncestralDiscrete", "num_waveforms_per_prompt": 3, "seconds": 0.29},
    {"offload": True, "precision": "fp16", "num_waveforms_per_prompt": 2, "negative_prompt": "hiss", "seconds": 0.1},
    {"scheduler": "ddim", "guidance_scale": 7.5, "negative_prompt": "low quality, noise", "precision": "bf16"},
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
def test_combinations(model: Path, options: dict[str, Any]) -> None:
    engine = load(model, **options)
    engine.warm_up()
    audio = speak(engine, [SHORT, "", LONG], batch_size=3)
    samples = round(options.get("seconds", 0.2) * tiny.SAMPLE_RATE)
    assert [a.shape for a in audio] == [(samples,)] * 2
    assert all(a.isfinite().all() and a.std() > 0.01 for a in audio)
    assert difference(audio, speak(engine, [SHORT, "", LONG], batch_size=3)) == 0
    assert difference(audio[:1], audio[1:]) > HEARD


@pytest.mark.parametrize("seconds", [0.105, 0.172, 0.3337])  # 0.172 s are 43 frames, which floats round to 42
def test_the_duration_is_exact(model: Path, seconds: float) -> None:
    assert len(speak(load(model, seconds=seconds), [SHORT])[0]) == round(seconds * tiny.SAMPLE_RATE)


def test_options_of_other_engines_are_refused(engine: AudioLDM2) -> None:
    with pytest.raises(UserError, match=r"speed=2.0: engine=audioldm2 has no such option"):
        next(iter(engine.parts([SHORT], 1, SpeechOptions(speed=2.0))))


def test_warming_up_changes_nothing_and_nothing_is_printed(
    model: Path, alone: list[Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = load(model)
    capfd.readouterr()
    engine.warm_up()
    assert difference(alone, speak(engine, PROMPTS)) == 0
    assert capfd.readouterr() == ("", "")
    assert not hasattr(diffusers.AudioLDM2Pipeline, "_progress_bar_config")


# ---- compiling ----


@pytest.mark.skipif(
    not torch.cuda.is_available() and "COMPILE" not in os.environ,
    reason="compiling even a tiny UNet for a CPU takes minutes; COMPILE=1 runs it",
)
@pytest.mark.parametrize("options", [{}, {"offload": True, "num_waveforms_per_prompt": 2}], ids=str)
def test_compiled_it_is_equal(model: Path, options: dict[str, Any]) -> None:
    engine = load(model, compile=True, **options)
    engine.warm_up()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    audio = speak(engine, PROMPTS)
    assert before > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before  # for no prompt it is compiled again
    assert difference(audio, speak(loaded(model, **options), PROMPTS)) < ROUNDING


def test_without_a_compiler_compiling_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(model, compile=True).pipe.unet._compiled_call_impl is not None  # it is compiled when it first runs
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"engine.compile=true needs a C\+\+ compiler, and .* is not found"):
        load(model, compile=True)


# ---- what can be wrong with a model ----


def test_infinity_is_not_written(model: Path) -> None:
    """The weights are too large for float16, and not for the others."""

    def enlarged(precision: str) -> AudioLDM2:
        engine = load(model, precision)
        engine.pipe.vae.decoder.conv_in.weight.data.mul_(1e4).clamp_(-60_000, 60_000)
        return engine

    with pytest.raises(UserError, match=r"'rain': the model gives NaN .*precision=fp16; use precision=bf16 or .*=fp32"):
        speak(enlarged("fp16"), [SHORT])
    assert all(speak(enlarged(precision), [SHORT])[0].isfinite().all() for precision in ("bf16", "fp32"))
    engine = load(model)
    engine.pipe.vae.decoder.conv_in.weight.data.fill_(torch.nan)
    with pytest.raises(
        UserError, match=r"'rain': the model gives NaN .* with precision=fp32; download the model again"
    ):
        speak(engine, [SHORT, OTHER], batch_size=2)


def test_a_sound_that_is_too_short(model: Path, tmp_path: Path) -> None:
    folder = tiny.variant(tmp_path / "slow", model)
    tiny.edit(folder / "vocoder" / "config.json", sampling_rate=1000)
    with pytest.raises(UserError, match=r"engine.seconds=0.1: this model's shortest sound is 0.128 s"):
        load(folder, seconds=0.1)


def other_class(folder: Path) -> None:
    tiny.edit(folder / "model_index.json", _class_name="MusicLDMPipeline")


def vits(folder: Path) -> None:
    tiny.edit(folder / "model_index.json", text_encoder_2=["transformers", "VitsModel"])


def of_transformers(folder: Path) -> None:
    shutil.copy(folder / "text_encoder_2" / "config.json", folder / "config.json")
    (folder / "model_index.json").unlink()


def bark(folder: Path) -> None:
    of_transformers(folder)
    tiny.edit(folder / "config.json", architectures=["BarkModel"])


def no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def damaged(folder: Path) -> None:
    (folder / "model_index.json").write_text("{", encoding="utf-8")


def no_weights(folder: Path) -> None:
    (folder / "language_model" / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "unet" / "diffusion_pytorch_model.safetensors", 1000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_class, "it is a MusicLDMPipeline; engine=audioldm2 runs AudioLDM2Pipeline"),
        (vits, "text_encoder_2 is VitsModel"),
        (
            of_transformers,
            r"one model \(T5EncoderModel\), not a pipeline: it has config.json but no model_index.json; give",
        ),
        (bark, r"one model \(BarkModel\).*use engine=bark"),
        (no_index, "no model is in it.*hf download cvssp/audioldm2 --local-dir DIR, and set engine.model=DIR"),
        (damaged, "model_index.json: cannot be read"),
        (no_weights, "not all of it can be loaded.*download it again"),
        (cut_weights, "not all of it can be loaded.*download it again"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_folders_that_cannot_be_loaded(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tiny.variant(tmp_path / "folder", model)
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_models_that_are_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"engine.model=/no/such/folder: no such folder, and no name on the hub"):
        load(Path("/no/such/folder"))
    command = re.escape("hf download nobody/nothing --local-dir DIR, and set engine.model=DIR")
    with pytest.raises(UserError, match=f"engine.model=nobody/nothing: no such folder, and not to be had.*{command}"):
        load(Path("nobody/nothing"))
    with pytest.raises(UserError, match=r"a file; give the folder that has model_index\.json"):
        load(model / "model_index.json")


def test_weights_in_bin_files_are_loaded_without_running_code(model: Path, alone: list[Tensor], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tiny.variant(tmp_path / "bin", model)
    for path in folder.rglob("*.safetensors"):
        name = path.name.replace("model.safetensors", "model.bin")
        torch.save(load_file(path), path.with_name(name if "diffusion" in name else "pytorch_model.bin"))
        path.unlink()
    # Not equal to the last bit: on some CPUs that depends on where the weights begin in memory
    assert difference(alone, speak(load(folder), PROMPTS)) < ROUNDING
    for name in ("unet/diffusion_pytorch_model.bin", "language_model/pytorch_model.bin"):
        trap = tiny.variant(tmp_path / name.split("/")[0], folder)
        torch.save({"conv_in.weight": Trap(trap / "was_run")}, trap / name)
        with pytest.raises(UserError, match="not all of it can be loaded"):
            load(trap)
        assert not (trap / "was_run").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_packages_that_are_not_installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("diffusers", "accelerate", "transformers"):
        with monkeypatch.context() as absent:
            absent.setitem(sys.modules, package, None)
            with pytest.raises(UserError, match=f"{package} is not installed; pip install -r requirements-engines.txt"):
                load(model)


def test_the_packages_are_imported_only_when_they_are_needed() -> None:
    code = (
        "import sys, synthesis.engines.audioldm2\n"
        "print({'transformers', 'diffusers', 'accelerate', 'huggingface_hub'} & set(sys.modules))"
    )
    assert run_process("-c", code).stdout.strip() == "set()"


def test_the_server_names_the_limit_of_a_prompt(model: Path) -> None:
    pytest.importorskip("httpx")
    from tests.helpers.server import running

    engine = {"name": "audioldm2", "model": str(model), "seconds": 0.2, "num_inference_steps": 2}
    with running(engines={"sounds": engine}) as server:
        assert len(server.speak("Rain.", model="sounds", voice="default").content) > 1000
        answer = server.speak("rain " * 100, model="sounds", voice="default")
        assert answer.status_code == 400
        assert "tokens, and the model reads at most" in answer.json()["error"]["message"]
        assert server.speak("Rain.", model="sounds", voice="default").status_code == 200
