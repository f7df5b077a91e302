"""The directory that scripts/export_onnx.py writes: the graphs, and all else that another machine needs to synthesize.

encoder.onnx, decoder_step.onnx, postnet.onnx, waveglow.onnx    see graphs.py
config.json      symbols, cleaners, limit, sizes, the audio config
filters.npz      the constants of the denoiser and the mel match, see corrections.py
scripts/, ...    CODE, the part of this repository that scripts/speak_onnx.py runs
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from common.errors import UserError, require_packages
from tacotron2.text import cleaners

GRAPHS = ("encoder", "decoder_step", "postnet", "waveglow")
PACKAGES = (
    "onnxruntime",
    "numpy",
    "soundfile",
    "sentencex",
)  # what every voice needs; the cleaners of its text may need more
CONFIG_FILE, FILTERS_FILE, REQUIREMENTS_FILE = "config.json", "filters.npz", "requirements-onnx-runtime.txt"
ROOT = Path(__file__).resolve().parent.parent.parent
CODE = (
    "LICENSE", REQUIREMENTS_FILE, "scripts/checkout.py", "scripts/speak_onnx.py",
    "common/__init__.py", "common/caches.py", "common/conf.py", "common/data/__init__.py",
    "common/data/filelist.py", "common/entry.py",
    "common/errors.py",
    "common/files.py", "common/lock.py", "common/schema.py", "common/threads.py", "common/wording.py",
    "synthesis/__init__.py", "synthesis/clauses.py", "synthesis/reader.py", "synthesis/sentences.py",
    "synthesis/onnx/__init__.py", "synthesis/onnx/corrections.py",
    "synthesis/onnx/files.py", "synthesis/onnx/voice.py",
    "tacotron2/__init__.py", "tacotron2/speaker_names.py", "tacotron2/text/*.py",
)  # fmt: skip


def copy_code(directory: Path) -> None:
    """Copy CODE to `directory`, each file to the same relative path."""
    for pattern in CODE:
        for source in sorted(ROOT.glob(pattern)):
            target = directory / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json, and check that all packages are installed that this voice needs.

    Imports none of them, and raises a UserError that names those that are absent.
    """
    try:
        config: dict[str, Any] = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        text_packages = cleaners.PACKAGES[config["text"]["cleaners"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{directory}: not an export ({error}); run scripts/export_onnx.py first") from error
    requirements = ROOT / REQUIREMENTS_FILE  # an installation does not have it
    names = (*PACKAGES, *text_packages)
    require_packages(names, f"pip install {f'-r {requirements}' if requirements.is_file() else ' '.join(names)}")
    return config
