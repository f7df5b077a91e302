"""The recipes that serve in containers, on Kubernetes and by systemd agree with the server and with each other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.schema import from_dict
from synthesis.server.options import ServerOptions
from tests.helpers import REPOSITORY
from tests.helpers.commands import composed
from tests.helpers.servers import free_port, served

DOCKERFILE = (REPOSITORY / "scripts/docker/server.Dockerfile").read_text(encoding="utf-8")
UNIT = (REPOSITORY / "scripts/systemd/tts.service").read_text(encoding="utf-8")


def documents(name: str) -> dict[str, Any]:
    """The objects of a recipe for Kubernetes, by kind."""
    text = (REPOSITORY / "scripts/kubernetes" / name).read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "scripts/docker/compose.yaml").read_text(encoding="utf-8"))
    return found


def instruction(name: str) -> list[str]:
    """The words of an instruction of the Dockerfile that has a JSON list."""
    (found,) = re.findall(rf"^ *{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def options(words: list[str]) -> ServerOptions:
    return from_dict(ServerOptions, composed("serve", *[word for word in words if "=" in word]))


def seconds(text: str) -> int:
    """10min, 10m -> 600"""
    return int(text.rstrip("min")) * 60


@pytest.mark.slow
def test_the_image_holds_what_the_server_needs(tmp_path: Path) -> None:
    """It starts from the files that the Dockerfile copies, without the packages that it leaves out, writes nothing
    beside them, and its own check of health agrees. This takes 5 seconds."""
    for line in re.findall(r"^COPY (?!--|requirements)(.*)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / target.lstrip("/")
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder := place if line.endswith("/") else place.parent).mkdir(exist_ok=True, parents=True)
                shutil.copy(REPOSITORY / source, folder)
    packages = re.search(r"grep -v -E '\^\((.*)\)=='", DOCKERFILE)[1].split("|")
    for name in packages:
        (tmp_path / "left_out" / name).mkdir(parents=True)
        (tmp_path / "left_out" / name / "__init__.py").write_text("raise ImportError('not in the image')\n")
    before = sorted(tmp_path.rglob("*"))
    port = free_port()
    here = {"host=0.0.0.0": "host=127.0.0.1", "port=8000": f"port={port}", "voices=/voices": "voices=voices"}
    tini, dashes, python, *words = [here.get(word, word) for word in instruction("ENTRYPOINT")]
    assert (tini, dashes, python) == ("tini", "--", "python")
    command = [sys.executable, *words, *[here[word] for word in instruction(r"(?<!    )CMD")]]
    environment = {"PYTHONPATH": str(tmp_path / "left_out"), "PYTHONDONTWRITEBYTECODE": "1"}
    with served(command, port, tmp_path, **environment) as url:
        check = [sys.executable, *(word.replace("8000", str(port)) for word in instruction("    CMD")[1:])]
        assert subprocess.run(check, check=False).returncode == 0
        with urllib.request.urlopen(f"{url}/v1/audio/voices") as answer:
            assert [voice["id"] for voice in json.load(answer)["voices"]] == ["voice"]
    assert len(packages) == 2
    assert subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_recipes_start_the_server_with_keys_and_time_to_end() -> None:
    pod = documents("serve.yaml")["Deployment"]["spec"]["template"]["spec"]
    service = compose()["services"]["server"]
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    times = {
        "kubernetes": (options(pod["containers"][0]["args"]), pod["terminationGracePeriodSeconds"] - 10),
        "compose": (options(service["command"]), seconds(service["stop_grace_period"])),
        "systemd": (options(shlex.split(command)), seconds(re.search(r"^TimeoutStopSec=(.*)$", UNIT, re.MULTILINE)[1])),
    }
    for values, grace in times.values():
        assert values.keys is not None
        assert values.request_seconds < grace
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]


def test_recipes_name_the_same_image_user_and_port() -> None:
    pod = documents("serve.yaml")["Deployment"]["spec"]["template"]["spec"]
    service = compose()["services"]["server"]
    (container,) = pod["containers"]
    assert container["image"] == service["image"] + ":latest"
    assert f"-t {service['image']} ." in DOCKERFILE
    assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    ports = {str(container["ports"][0]["containerPort"]), service["ports"][0].rpartition(":")[2]}
    assert ports == set(re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE))
    assert instruction("ENTRYPOINT")[-1] == f"port={ports.pop()}"


@pytest.mark.parametrize("word", ["startup", "readiness", "liveness"])
def test_kubernetes_asks_paths_that_the_server_has_and_that_need_no_key(word: str) -> None:
    from synthesis.server.guard import OPEN

    (container,) = documents("serve.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container[f"{word}Probe"]["httpGet"]["path"] in OPEN


def test_kubernetes_objects_find_each_other() -> None:
    serve, scale = documents("serve.yaml"), documents("serve_autoscaling.yaml")
    labels = serve["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert serve["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert serve["Service"]["spec"]["selector"] == labels
    for other in (serve["PodDisruptionBudget"], scale["PodMonitor"]):
        assert other["spec"]["selector"]["matchLabels"] == labels
    target = scale["HorizontalPodAutoscaler"]["spec"]
    assert target["scaleTargetRef"]["name"] == serve["Deployment"]["metadata"]["name"]
    metric = target["metrics"][0]["pods"]["metric"]["name"]
    assert f'"{metric}"' in (REPOSITORY / "synthesis/server/app.py").read_text(encoding="utf-8")
    text = (REPOSITORY / "scripts/kubernetes/serve_autoscaling.yaml").read_text(encoding="utf-8")
    assert f"seriesQuery: '{metric}{{" in text


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """All but the paths, which this machine lacks."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = re.sub(r"/opt/tacotron2-waveglow/.venv/bin/python", sys.executable, UNIT)
    (tmp_path / "tts.service").write_text(unit.replace("/opt/tacotron2-waveglow", str(REPOSITORY)))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "tts.service")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""
