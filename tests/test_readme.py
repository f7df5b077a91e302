"""README.md and docs/: commands are valid and can be pasted, links and names exist, code and recipes run as written."""

import ast
import contextlib
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import soundfile
from build_voice import BuildConfig
from export_onnx import ExportConfig
from pack_voice import PackConfig
from predict_mels import PredictConfig
from scipy.signal import resample_poly

from common.config import TrainConfig
from common.entry import Command, _quoted
from common.schema import from_dict
from evaluation.corpus import CheckConfig
from evaluation.systems import EvaluateConfig
from recordings.options import RecordingsConfig
from synthesis.job_options import NOT_READ_RIGHT, InferenceConfig
from synthesis.server.guard import Keys
from synthesis.server.options import ServerOptions
from synthesis.server.speech import SpeechRequest
from tests.helpers import REPOSITORY
from tests.helpers.commands import composed, load_script, run_here
from tests.helpers.corpus import write_corpus
from tests.helpers.golden import golden_path
from tests.helpers.pages import DOCS, PAGES, README, Page
from tests.helpers.runs import read_log
from tests.helpers.servers import free_port, served
from train import build_task

COMMANDS = sorted({command for page in PAGES for command in page.commands()})
CONFIGS: dict[str, tuple[str, type[Any]]] = {
    "inference.py": ("inference", InferenceConfig),
    "scripts/build_voice.py": ("build_voice", BuildConfig),
    "scripts/check_dataset.py": ("check_dataset", CheckConfig),
    "scripts/cut_recordings.py": ("cut_recordings", RecordingsConfig),
    "scripts/evaluate.py": ("evaluate", EvaluateConfig),
    "scripts/export_onnx.py": ("export_onnx", ExportConfig),
    "scripts/pack_voice.py": ("pack_voice", PackConfig),
    "scripts/predict_mels.py": ("predict_mels", PredictConfig),
    "scripts/serve.py": ("serve", ServerOptions),
}
SERVER = Page("docs/server.md")
# Files of the user, of a run, and of the reference.
ELSEWHERE = ("report.md", "phrases.txt", "evaluation.md", "preprocess_audio2mel.py")
CHECKOUT = "/path/to/tacotron2-waveglow"  # where the user has this repository


def by_name(page: Page) -> str:
    return page.name


def block_with(page: str, text: str) -> list[str]:
    blocks = next(p for p in PAGES if p.name == page).blocks("bash")
    return next(block.strip().splitlines() for block in blocks if text in block)


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    assert len(README.text.splitlines()) <= 200
    assert README.commands()[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("page", DOCS, ids=by_name)
def test_a_page_opens_with_one_sentence(page: Page) -> None:
    title, sentence, *_ = page.text.split("\n\n")
    assert title.startswith("# ")
    assert sentence.endswith(".")
    assert ". " not in sentence.replace("\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Page) -> None:
    anchors = {other.path.resolve(): other.anchors for other in PAGES}
    for path, anchor in page.links():
        assert path.exists(), path
        assert not anchor or anchor in anchors[path], f"{path}#{anchor}"


def test_every_page_is_reachable_from_the_readme() -> None:
    pages = {page.path.resolve(): page for page in PAGES}
    found, new = {README}, [README]
    while new:
        linked = {pages[path] for path, _ in new.pop().links() if path in pages}
        new += linked - found
        found |= linked
    assert sorted(page.name for page in found) == sorted(page.name for page in PAGES)


def test_sections_that_other_files_name_exist() -> None:
    """Comments and messages name sections as in: EXPERIMENTS.md, "The bundled voice"."""
    headings = {page.name: " ".join(re.findall(r"^#+ .*$", page.prose, re.MULTILINE)).lower() for page in PAGES}
    named = 0
    for folder in (
        "common",
        "tacotron2",
        "waveglow",
        "synthesis",
        "evaluation",
        "recordings",
        "scripts",
        "conf",
        "demo",
    ):
        for path in (REPOSITORY / folder).rglob("*.*"):
            if path.suffix in (".py", ".sh", ".yaml", ".md"):
                for page, section in re.findall(r'([\w/]+\.md)`?, "([^"]+)"', path.read_text(encoding="utf-8")):
                    assert section.lower() in headings[page], f"{path}: {page} has no section {section}"
                    named += 1
    assert named > 3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid(command: str) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    script = next((word for word in words if word.endswith(".py")), None)
    options = words[words.index(script) + 1 :] if script else []
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", "PYTHON=python3", *words[1:]], cwd=REPOSITORY, check=True)
    elif words[0] == "bash":
        subprocess.run(["bash", "-n", words[1]], cwd=REPOSITORY, check=True)
    elif words[0] == "sbatch":
        place = next(k for k, word in enumerate(words) if word.endswith(".sbatch"))
        options = words[place + 1 :]
        assert (REPOSITORY / words[place]).is_file()
        if words[place].endswith("/speak.sbatch"):
            from_dict(InferenceConfig, composed("inference", *options))
        else:
            build_task(from_dict(TrainConfig, composed("train", *options)))
    elif script and "--help" in options:
        subprocess.run([sys.executable, script, *options], cwd=REPOSITORY, check=True)
    elif script and "--cfg" in options:
        run_here(script, *options)
    elif script == "train.py":
        values = composed("train", *[_quoted(o) for o in options if not o.startswith("debug=")])
        if any(option.startswith("debug=") for option in options):  # these set run_dir; test_config composes them
            values["run_dir"] = "runs/debug"
        build_task(from_dict(TrainConfig, values))
    elif script in CONFIGS:
        name, config = CONFIGS[script]
        from_dict(config, composed(name, *options))
    elif script is not None:
        load_script(Path(script).stem).parser().parse_args(options)
    elif words[:2] == ["python", "-m"]:
        importlib.import_module(words[2]).parser().parse_args(words[3:])
    elif words[:3] == ["pip", "install", "-r"]:
        assert (REPOSITORY / Path(words[3]).name).is_file()
    elif words[0] == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        match = re.fullmatch(rf"pip install (?:-e )?(?:\.|{CHECKOUT})(?:\[(\w+)\])?", " ".join(words))
        assert match, command
        assert match[1] in (None, *extras)
    elif words[0] in ("docker", "kubectl", "sudo"):
        assert all((REPOSITORY / word).is_file() for word in words if word.startswith("scripts/")), command
    else:  # curl and openssl run in test_the_page_about_the_server_as_written
        assert words[0] in ("source", "tensorboard", "curl", "openssl"), f"{command}: no check for this command"


def in_interactive_bash(lines: list[str], directory: Path) -> str:
    """What bash complains about if `lines` are typed at a prompt as the arguments of a command that does nothing. It
    still makes the files that they redirect to, in `directory`."""
    typed = "".join(f": {line}\n" for line in lines)
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i", "-o", "history", "-o", "histexpand"]
    environment = {"PATH": "/usr/bin:/bin", "PS1": "", "PS2": "", "HISTFILE": "/dev/null", "LANG": "C.UTF-8"}
    result = subprocess.run(
        shell, input=typed.encode(), env=environment, cwd=directory, capture_output=True, start_new_session=True
    )
    errors = result.stderr.decode(errors="replace").splitlines()
    noise = ("no job control", "cannot set terminal process group", "exit")  # there is no terminal
    return "\n".join(line for line in errors if line and not any(n in line for n in noise))


def test_commands_survive_pasting_into_a_shell(tmp_path: Path) -> None:
    """An interactive bash replaces `!` outside of single quotes, and an interactive zsh takes comments as arguments."""
    assert "event not found" in in_interactive_bash(['"-!\'(),"'], tmp_path)  # the check sees what it must
    assert "unexpected" in in_interactive_bash(["'a' (b)"], tmp_path)
    assert in_interactive_bash(COMMANDS, tmp_path) == ""
    for command in COMMANDS:
        assert not set("!#") & set(re.sub(r"'[^']*'", "", command)), command


@pytest.mark.parametrize("page", [README, *DOCS], ids=by_name)
def test_files_and_options_that_a_page_names_exist(page: Page) -> None:
    for name in re.findall(r"`((?:[\w/]+/)?[\w]+\.(?:py|sh|md|txt))`", page.text):
        found = (REPOSITORY / name).exists() or list(REPOSITORY.glob(f"scripts/{name}"))
        assert found or list(REPOSITORY.glob(f"*/{name}")) or name in ELSEWHERE, name
    known = Command("train", []).known
    for key in re.findall(r"`((?:trainer|task|data|model|audio)\.(?!py|md)\w+)[`=]", page.text):
        assert key in known, key


def test_choices_of_the_option_groups_exist() -> None:
    text = next(page.text for page in DOCS if page.name == "docs/internals.md")
    table = text[text.index("| group |") :].split("\n\n")[0]
    for group, choices in re.findall(r"\| `(\w+)=` \| (.*) \|", table):
        for choice in re.findall(r"`(\w+)`", choices):
            assert (REPOSITORY / "conf" / group / f"{choice}.yaml").exists(), (group, choice)


def test_names_of_the_guided_tour_exist() -> None:
    section = README.text.split("## Start here")[1].split("\n## ")[0]
    rows = re.findall(r"^\|[^|]*\| `([\w/.]+)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) > 5
    for file, names in rows:
        defined = set()
        for node in ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
                defined |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        assert set(re.findall(r"`([\w.]+)`", names)) <= defined, file


def test_the_samples_and_the_picture() -> None:
    rows = re.findall(r"^\| (.+) \| \[ogg\]\((\S+)-(\d+)\.ogg\) \| \[ogg\]\((\S+)-(\d+)\.ogg\) \|$", README.text, re.M)
    sentences = (REPOSITORY / "filelists/unseen_sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    size = 0
    for sentence, recording, number, synthesized, same_number in rows:
        assert (sentence, number) == (sentences[int(number)], same_number)
        for name in (recording, synthesized):
            path = REPOSITORY / f"{name}-{number}.ogg"
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, 2 < info.duration < 6) == (22050, 1, True)
            size += path.stat().st_size
    assert size < 150_000
    assert len(list((REPOSITORY / "docs/samples").iterdir())) == len(rows)
    assert re.findall(r"!\[.*\]\((.*)\)", README.text) == ["docs/images/speech.png"]
    assert (REPOSITORY / "docs/images/speech.png").stat().st_size < 100_000


def test_the_changelog_ends_with_the_present_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (.*)$", Page("CHANGELOG.md").text, re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


@pytest.mark.parametrize(
    ("page", "code"),
    [(page.name, code) for page in PAGES if page != SERVER for code in page.blocks("python")],
    ids=lambda value: value[:9],
)
def test_python_code_as_written(page: str, code: str, tmp_path: Path) -> None:
    """The first takes 5 seconds: it is the first to load a voice and the dictionary in this process."""
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    with contextlib.chdir(tmp_path):
        exec(compile(code, page, "exec"), {})
    wav = re.search(r'write\("(.*?)"', code)
    assert wav is not None
    assert 0.5 < soundfile.info(tmp_path / wav[1]).duration < 5


def test_the_page_about_the_server_as_written(tmp_path: Path) -> None:
    """Start the server with the page's command, and run its requests and its program. This takes 5 seconds."""
    start = shlex.split(next(command for command in SERVER.commands() if command == "python scripts/serve.py"))
    requests = [command for command in SERVER.commands() if command.startswith(("curl", "openssl"))]
    port = free_port()
    with served([sys.executable, *start[1:], f"port={port}"], port) as url:
        for request in requests:
            command = request.replace("http://127.0.0.1:8000", url).replace("curl ", "curl --fail --silent ")
            output = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
            if "sse" in request:
                events = [json.loads(line.removeprefix("data: ")) for line in output.stdout.splitlines() if line]
                assert {"speech.audio.delta", "speech.audio.words"} < {event["type"] for event in events}
                assert events[-1]["type"] == "speech.audio.done"
        (program,) = SERVER.blocks("python")
        with contextlib.chdir(tmp_path):
            exec(compile(program.replace("http://127.0.0.1:8000", url), SERVER.name, "exec"), {})
    assert Keys.load(str(tmp_path / "keys.txt")).keys
    assert 1 < soundfile.info(tmp_path / "wait.mp3").duration < 4
    assert (tmp_path / "hello.pcm").stat().st_size > 24_000
    assert len(soundfile.read(tmp_path / "openai.wav", frames=60_000)[0]) > 22_050


def test_the_page_about_the_server_lists_all_errors_fields_and_metrics() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "synthesis/server").glob("*.py")]
    found = {pair for source in sources for pair in re.findall(r'ApiError\(\s*(\d+), .*?, "(\w+)"', source)}
    rows = re.findall(r"^\| (\d+) \| (`.*?`) \|", SERVER.text, re.MULTILINE)
    listed = {(status, code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert len(found) > 10
    assert found == listed
    for field in SpeechRequest.model_fields:
        assert f"| `{field}` |" in SERVER.text
    for metric in re.findall(r'"(tts_\w+)"', "".join(sources)):
        assert re.search(rf"`{metric}(_total)?`", SERVER.text), metric


def run_recipe(recipe: list[str], directory: Path, **options: list[str]) -> None:
    """Run commands of a page in `directory`, each as a process of its own, as for a user. `options` holds what to add
    to train.py and inference.py: small sizes."""
    for line in recipe:
        words = shlex.split(line)
        words += options.get(words[1].removesuffix(".py"), [])
        words = [sys.executable if word == "python" else word for word in words]
        words = [str(REPOSITORY / word) if word.endswith((".py", ".sh")) else word for word in words]
        environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True)
        expected = NOT_READ_RIGHT if words[1].endswith("inference.py") else 0  # after a few steps of training
        assert result.returncode == expected, f"{line}\n{result.stdout}{result.stderr}"


@pytest.mark.slow
def test_a_voice_from_recordings_as_written(tmp_path: Path) -> None:
    """The warm start of docs/voices.md on a corpus of 44.1 kHz clips, few steps. 27 s: six processes that start."""
    root = write_corpus(tmp_path / "my_voice")
    for clip in (root / "wavs").iterdir():
        audio, _ = soundfile.read(clip)
        soundfile.write(clip, audio, 44100)
    (tmp_path / "phrases.txt").write_text("It works.\n")
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    recipe = block_with("docs/voices.md", "prepare_dataset.sh my_voice")
    train = ["trainer.max_steps=1", "trainer.batch_size=2", "data.num_workers=0"]
    run_recipe(recipe, tmp_path, train=train, inference=["max_decoder_steps=5"])
    assert (tmp_path / "my_warm_speech/0000.wav").exists()


@pytest.mark.slow
def test_the_warm_start_keeps_the_attention(tmp_path: Path) -> None:
    """Another speaker: the bundled voice's clips, played one and a half times as fast. 21 s: it takes another voice
    and some steps until a recipe that loses the attention (without the guided loss, diagonality 0.24) shows it."""
    (tmp_path / "my_voice/wavs").mkdir(parents=True)
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    rows = (REPOSITORY / "demo/corpus/metadata.csv").read_text().splitlines()[:40]
    (tmp_path / "my_voice/metadata.csv").write_text("\n".join(rows) + "\n")
    for row in rows:
        name = row.split("|")[0]
        audio, sample_rate = soundfile.read(next((REPOSITORY / "demo/corpus/wavs").glob(f"{name}.*")))
        soundfile.write(tmp_path / f"my_voice/wavs/{name}.wav", resample_poly(audio, 2, 3), sample_rate)
    prepare, _, mels, train, *_ = block_with("docs/voices.md", "prepare_dataset.sh my_voice")
    run_recipe([prepare, mels, train], tmp_path, train=["trainer.max_steps=10"])
    (values,) = [row for row in read_log(tmp_path / "runs/my_warm_tacotron2") if "val_diagonality" in row]
    assert values["val_diagonality"] > 0.8


@pytest.mark.slow
def test_conversions_as_written(waveglow_run: Path, tmp_path: Path) -> None:
    shutil.copy(golden_path("nvidia_waveglow_pickled.pt"), tmp_path / "waveglow_256channels.pt")
    shutil.copytree(waveglow_run, tmp_path / "runs/waveglow")
    for line in block_with("docs/reference.md", "convert_checkpoint.py waveglow_256channels.pt"):
        _, script, *words = shlex.split(line)
        result = subprocess.run(
            [sys.executable, REPOSITORY / script, *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        layout = {"waveglow.pt": "ours", "checkpoint_WaveGlow_1000.pt": "dle"}.get(words[1], "safetensors")
        assert result.stdout.endswith(f"layout {layout}\n")


@pytest.mark.slow
def test_the_samples_are_the_bundled_voice(tmp_path: Path) -> None:
    """They are made again and must last as long; rounding differs between processors, so the samples may differ."""
    subprocess.run([sys.executable, REPOSITORY / "scripts/make_samples.py", tmp_path], check=True)
    for shipped in (REPOSITORY / "docs/samples").iterdir():
        made = soundfile.info(tmp_path / "samples" / shipped.name).duration
        assert made == pytest.approx(soundfile.info(shipped).duration, rel=0.1)
    assert (tmp_path / "images/speech.png").stat().st_size < 100_000
