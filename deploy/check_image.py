"""Goes through deploy/Dockerfile without Docker: installs, serves, asks, and ends the server as it says.

    python deploy/check_image.py exports/teal-fox.pictune

Every COPY takes only what .dockerignore lets through. The RUN lines run in a new folder, so that the
environment is a fresh one, with what deploy/requirements.txt names and nothing else. ENV, HEALTHCHECK,
ENTRYPOINT, CMD and STOPSIGNAL are used as they stand, with paths and a port of this machine. What it does not
show is the base image, another user, and a file system that may not be written. It needs a package index.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
ENVIRONMENT = "/opt/pictune"
REQUIREMENTS = ROOT / "deploy" / "requirements.txt"
LISTED = (
    "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
)
PATIENCE_S = 60.0


@dataclass
class Image:
    """What a Dockerfile says, by instruction."""

    build: list[tuple[str, str]] = field(default_factory=list)  # RUN and COPY of its first stage, in order
    final: dict[str, str] = field(default_factory=dict)  # the last of each instruction in its last stage

    @classmethod
    def read(cls, path: Path = DOCKERFILE) -> Image:
        """Reads one of two stages."""
        image, stage = cls(), 0
        for word, rest in instructions(path):
            stage += word == "FROM"
            if stage == 1 and word in ("RUN", "COPY"):
                image.build.append((word, rest))
            elif stage == 2:
                image.final[word] = rest
        return image

    def words(self, name: str) -> list[str]:
        """An instruction in its exec form: a list of words, which no shell sees."""
        rest = self.final[name]
        words = json.loads(rest[rest.index("[") :])
        assert isinstance(words, list)
        return [str(word) for word in words]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions and what stands behind them; comments are dropped, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.strip().split(None, 1) for line in whole.splitlines() if line.strip()]
    return [(pair[0].upper(), pair[1]) for pair in pairs]


def pins() -> list[str]:
    """What deploy/requirements.txt names, each as ``name==version``."""
    lines = REQUIREMENTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def let_through() -> set[str]:
    """The paths that .dockerignore lets into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line[1:] for line in lines if line.startswith("!")}


def build(image: Image, folder: Path, environment: Path) -> None:
    """Runs the first stage in a folder."""
    for word, rest in image.build:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert source in let_through(), f".dockerignore keeps {source} out"
                copy(ROOT / source, folder / target, into=target.endswith("/"))
        else:
            words = shlex.split(rest.replace(ENVIRONMENT, str(environment)))
            assert words[0] in ("python", "pip"), rest
            program = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "pip"]
            print("RUN", *words, flush=True)
            command = [*program, *words[1:]]
            subprocess.run(command, cwd=folder, env=clean(), check=True, stdout=subprocess.DEVNULL)


def copy(source: Path, target: Path, *, into: bool) -> None:
    """As COPY does: what is in a folder, or a file, under the name that is given or into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        return
    place = target / source.name if into else target
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def clean(**more: str) -> dict[str, str]:
    """This process's variables without those that would let Python find packages elsewhere."""
    elsewhere = ("PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    return {**kept, **more}


def run(image: Image, environment: Path, paths: Mapping[str, Path]) -> None:
    """Serves, asks, has the server's health checked, and ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assignments = dict(part.split("=", 1) for part in image.final["ENV"].split())
    path = assignments.pop("PATH").replace("$PATH", os.environ["PATH"]).replace(ENVIRONMENT, str(environment))
    variables = clean(PATH=path, **assignments)

    def here(words: Sequence[str]) -> list[str]:
        text = [word.replace("8080", str(port)) for word in words]
        text = [str(paths.get(word, word)) for word in text]
        return [str(shutil.which(text[0], path=path)), *text[1:]]

    def healthy() -> bool:
        words = here(image.words("HEALTHCHECK"))
        return subprocess.run(words, env=variables, stderr=subprocess.DEVNULL).returncode == 0

    listed = [*here(["python"]), "-c", LISTED]
    found = set(
        subprocess.run(listed, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    )
    ours = {name for name in found if name.startswith("pictune==")}
    assert len(ours) == 1
    assert found - ours == set(pins()), f"installed or listed, but not both: {(found - ours) ^ set(pins())}"
    assert not healthy(), "it is healthy before it runs"
    server = subprocess.Popen(here([*image.words("ENTRYPOINT"), *image.words("CMD")]), env=variables)
    try:
        end = time.monotonic() + PATIENCE_S
        while not healthy():
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "it did not get healthy"
        token = paths["/run/secrets/tokens"].read_text().split()[1]
        refused, _ = ask(port, "")
        status, said = ask(port, token)
        print(f"without a token {refused}, with one {status}: {said}")
        assert (refused, status) == (401, 200)
        server.send_signal(signal.Signals[image.final["STOPSIGNAL"]])
        assert server.wait(PATIENCE_S) == 0, f"it ended with {server.returncode}"
    finally:
        server.kill()
        server.wait()
    assert not healthy(), "it is healthy after its end"


def ask(port: int, token: str) -> tuple[int, str]:
    """One drawn picture; the status and the answer."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    headers = {"Content-Type": "image/png", **({"Authorization": f"Bearer {token}"} if token else {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("POST", "/v1/predict", cv2.imencode(".png", pixels)[1].tobytes(), headers)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response.status, content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path, help="an exported model")
    given = parser.parse_args()
    image = Image.read()
    with tempfile.TemporaryDirectory(prefix="pictune-image-") as name:
        folder = Path(name)
        tokens = folder / "tokens"
        tokens.touch(0o600)
        tokens.write_text(f"predict {secrets.token_urlsafe(32)}\n")
        (folder / "src").mkdir()
        build(image, folder / "src", folder / "environment")
        paths = {"/run/secrets/tokens": tokens, "/models/model.pictune": given.artifact.resolve()}
        run(image, folder / "environment", paths)
    print("passed")


if __name__ == "__main__":
    main()
