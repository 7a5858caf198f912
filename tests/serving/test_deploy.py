"""What stands in deploy/: the list of packages, the image and the service fit the program and each other."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
import typer
from engine_place import ordinary, write
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_server import Process

from pictune.cli import app
from pictune.errors import InputError, MachineError
from pictune.serving import server
from pictune.serving.limits import ServerLimits

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))

from check_image import DOCKERFILE, Image, instructions, let_through, pins

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "deploy" / "pictune.service"
UNIT = dict(
    line.split("=", 1) for line in SERVICE.read_text().splitlines() if re.match(r"[A-Z]\w+=", line)
)  # of settings that stand there twice, the last
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed on this machine"
)
#: Runs first in every process: what is not on the list cannot be imported, and what is imported is noted.
ONLY_LISTED = """
import sys
import tomllib
from importlib.metadata import packages_distributions
from re import sub

LISTED, NOTES = {names!r}, {notes!r}
HOMES = {{
    module: {{sub("[-_.]+", "-", home).lower() for home in homes}}
    for module, homes in packages_distributions().items()
}}

class OnlyListed:
    def find_spec(self, name, path=None, target=None):
        homes = HOMES.get(name, set())
        if homes and not homes & LISTED:
            raise ModuleNotFoundError(f"{{name}} is not on the list", name=name)
        if homes:
            with open(NOTES, "a") as notes:
                notes.write(" ".join(homes) + "\\n")

sys.meta_path.insert(0, OnlyListed())
"""


def named(pins: list[str]) -> set[str]:
    return {canonicalize_name(pin.partition("==")[0]) for pin in pins}


def requirements(name: str) -> set[str]:
    """What a package needs here, without its extras."""
    found = [Requirement(text) for text in distribution(name).requires or []]
    return {each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})}


def needed() -> set[str]:
    """What the packages of the list need."""
    return {canonicalize_name(each) for name in named(pins()) for each in requirements(name)}


def asked_for_by_us() -> set[str]:
    """What is on the list, and no package of it needs."""
    return named(pins()) - needed()


def options(words: list[str]) -> dict[str, object]:
    """What the command line makes of words."""
    command = typer.main.get_command(app)
    assert words[0] == "serve"
    with command.commands["serve"].make_context("serve", words[1:]) as context:  # type: ignore[attr-defined]
        return dict(context.params)


def test_every_version_is_that_of_the_constraints() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert not set(pins()) - set(constraints)


def test_the_list_has_all_that_its_packages_need_and_nothing_else() -> None:
    listed = named(pins())
    assert not needed() - listed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert asked_for_by_us() <= {
        canonicalize_name(Requirement(each).name) for each in project["dependencies"]
    }


def test_it_serves_and_predicts_with_nothing_but_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, its worker and `predict`, for a picture, the page, the numbers and the description."""
    names, notes = {*named(pins()), "pictune", "coverage"}, tmp_path / "imported"
    (tmp_path / "sitecustomize.py").write_text(ONLY_LISTED.format(names=names, notes=str(notes)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'src'}")
    write(tmp_path / "colours.pictune")
    (tmp_path / "a.png").write_bytes(ordinary(1))
    torch = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
    assert "torch is not on the list" in torch.stderr
    words = [sys.executable, "-m", "pictune", "predict", tmp_path / "colours.pictune", tmp_path / "a.png"]
    predicted = subprocess.run(words, capture_output=True, text=True)
    assert predicted.returncode == 0, predicted.stderr
    process = Process(tmp_path / "colours.pictune")
    try:
        assert process.ask("POST", "/v1/predict", ordinary(1))[0] == 200
        for path in ("/", "/metrics", "/openapi.json", "/v1/models"):
            assert process.ask("GET", path)[0] == 200
        process.send(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.end()
    assert not asked_for_by_us() - set(notes.read_text().split())


def test_the_image_starts_a_server_that_the_command_line_knows() -> None:
    image = Image.read()
    program, *words = [*image.words("ENTRYPOINT"), *image.words("CMD")]
    given = options(words)
    assert program == "pictune"
    assert given["models"] == [Path("/models/model.pictune")]
    assert given["host"] == "0.0.0.0"
    assert given["tokens"] is not None  # or nothing would start at that host
    assert image.final["EXPOSE"] == str(given["port"])
    assert f"{given['port']}, " in " ".join(image.words("HEALTHCHECK"))


def test_the_image_is_for_another_user_than_root_and_ends_by_the_signal_that_drains() -> None:
    image = Image.read()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.final["USER"])
    assert signal.Signals[image.final["STOPSIGNAL"]] is signal.SIGTERM


def test_the_build_copies_what_is_there_and_let_through_and_installs_no_more_than_the_list() -> None:
    image = Image.read()
    copied = {source for word, rest in image.build if word == "COPY" for source in rest.split()[:-1]}
    assert copied == let_through()
    assert all((ROOT / source).exists() for source in copied)
    installs = [rest for word, rest in image.build if " install " in rest]
    assert all("--requirement deploy/requirements.txt" in rest or "--no-deps" in rest for rest in installs)
    assert {rest.split()[0] for word, rest in instructions(DOCKERFILE) if word == "FROM"} == {
        "python:3.11-slim"
    }


def test_the_service_starts_a_server_that_the_command_line_knows() -> None:
    program, *words = shlex.split(UNIT["ExecStart"])
    given = options(words)
    assert program == "/opt/pictune/bin/pictune"
    assert given["host"] in server.LOOPBACK  # IPAddressAllow= lets nobody else in
    assert given["tokens"] == Path("/etc/pictune/tokens")
    assert UNIT["ExecReload"] == f"/bin/kill -{signal.SIGHUP.name.removeprefix('SIG')} $MAINPID"


def test_the_service_waits_for_the_drain_and_starts_again_only_what_may_work_then() -> None:
    assert int(UNIT["TimeoutStopSec"]) > server.DRAIN_S + 2 * server.CLOSING_S
    assert (UNIT["KillSignal"], UNIT["KillMode"]) == ("SIGTERM", "mixed")  # workers end when all is answered
    assert UNIT["OOMPolicy"] == "continue"  # the server replaces a worker that ran out of memory
    never = {int(code) for code in UNIT["RestartPreventExitStatus"].split()}
    assert InputError.exit_code in never
    assert MachineError.exit_code not in never
    limits = ServerLimits()
    assert limits.fitted(int(UNIT["LimitNOFILE"])) == limits


@NEEDS_SYSTEMD
def test_systemd_understands_every_line_and_finds_the_service_hardened(tmp_path: Path) -> None:
    copy = tmp_path / "pictune.service"
    copy.write_text(SERVICE.read_text().replace("/opt/pictune/bin/pictune", sys.executable))
    said = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    ours = [line for line in said.stderr.splitlines() if "pictune" in line]
    assert not ours
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy]
    judged = subprocess.run(words, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-300:]
