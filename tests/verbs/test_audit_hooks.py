"""From the pictures to a served answer, under a watch: no pickle, no program, no stranger, no other folder.

``audit_watch.py`` says what the watch is and what it cannot see; ``watched.py``, what may be started.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from asking import QUICK, traces
from watched import MAY_BE_WRITTEN, WORKER, Watched

import toys

FLOW = Path(__file__).with_name("watched_flow.py")
CLIENT = """
import json, sys
import pictune as pt
with pt.Client(sys.argv[1], token=sys.argv[2]) as client:
    print(json.dumps(client.predict(*sys.argv[3:])))
"""
DENSE = ("--model", "resnet9", "--weights", "starter", "--epochs", "1", "--batch-size", "8", *QUICK[10:])


@dataclass
class Flow:
    """What went through all verbs, and what came of it."""

    watched: Watched
    before: dict[Path, tuple[Any, ...]] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    left_by_serving: list[str] = field(default_factory=list)

    @property
    def kept(self) -> dict[Path, tuple[Any, ...]]:
        """The folders that are not ours to write to, as they are."""
        return {**traces(self.watched.place / "data"), **traces(self.watched.place / "home")}


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    flow = Flow(Watched.make(tmp_path_factory.mktemp("watched")))
    data = flow.watched.place / "data"
    toys.shape_folders(data / "photos")
    toys.box_table(data / "boxes")
    toys.mask_folders(data / "masks")
    flow.before = flow.kept
    code, _, said = flow.watched.run(FLOW, json.dumps(commands(data)))
    assert code == 0, said
    open_to_all = [flow.watched.place / name for name in MAY_BE_WRITTEN]
    before = files(open_to_all)
    flow.answers = served(flow.watched, data / "photos" / "cross")
    after = files(open_to_all)
    flow.left_by_serving = sorted(path.name for path in after if after[path] != before.get(path))
    return flow


def files(folders: list[Path]) -> dict[Path, tuple[Any, ...]]:
    """What lies in folders; not the folders themselves, whose times change with what comes and goes."""
    found = [traces(folder) for folder in folders]
    return {path: trace for one in found for path, trace in one.items() if not path.is_dir()}


def commands(data: Path) -> list[list[str]]:
    """Everything but serving. The models are hardly trained, and it does not matter."""
    photos = data / "photos"
    lines: list[tuple[object, ...]] = [
        ("audit", photos, "--out", "audit"),
        ("train", photos, *QUICK, "--name", "fox"),
        ("evaluate", "runs/fox"),
        ("predict", "runs/fox", photos),
        ("export", "runs/fox", "--out", "fox.pictune", "--accept-loss"),
        ("export", "runs/fox", "--int8", "--out", "small.pictune", "--accept-loss"),
        ("predict", "fox.pictune", photos, "--csv", "answers.csv"),
        ("predict", "small.pictune", photos),
        ("train", data / "boxes", *DENSE, "--name", "boxes"),
        ("predict", "runs/boxes", data / "boxes" / "pictures", "--save", "drawn"),
        ("train", data / "masks", *DENSE, "--name", "masks"),
        ("predict", "runs/masks", data / "masks" / "images" / "test"),
    ]
    return [[str(word) for word in line] for line in lines]


def served(watched: Watched, pictures: Path) -> list[dict[str, Any]]:
    """What a server said about pictures; it has ended since."""
    words = ("-m", "pictune", "serve", "fox.pictune", "--port", "0", "--tokens", "tokens")
    with watched.process(*words) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if line.startswith("Ready: "):
                break
        else:
            pytest.fail("".join(said))
        assert said[-1].startswith("Ready: http://127.0.0.1:")
        token = (watched.place / "work" / "tokens").read_text().split()[1]
        asked = sorted(pictures.iterdir())[:3]
        code, out, err = watched.run("-c", CLIENT, said[-1].split()[1], token, *asked)
        assert code == 0, err
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=60)
        assert server.returncode == 0, rest
    return json.loads(out)


@pytest.mark.slow
def test_nothing_had_to_be_refused(flow: Flow) -> None:
    assert flow.watched.breaches() == []


@pytest.mark.slow
def test_every_process_was_watched_and_no_other_was_started(flow: Flow) -> None:
    """Some ways to start a process tell no hook; but each one that runs Python says so itself."""
    started = [words[1:] for words in flow.watched.started()]
    worker = [words for words in started if words[:3] == list(WORKER[1:])]
    assert len(worker) == 1
    assert sorted(words[:2] for words in started if words not in worker) == sorted(
        [[str(FLOW), json.dumps(commands(flow.watched.place / "data"))], ["-m", "pictune"], ["-c", CLIENT]]
    )


@pytest.mark.slow
def test_the_source_data_and_the_home_are_as_they_were(flow: Flow) -> None:
    """Bytes, names, modes and times: this sees what code in C++ does, too."""
    assert len(flow.before) > 100
    assert flow.kept == flow.before


@pytest.mark.slow
def test_a_server_keeps_no_picture_that_it_was_sent(flow: Flow) -> None:
    """Nor anything else but the tokens that it was told to write."""
    assert flow.left_by_serving == ["tokens"]


@pytest.mark.slow
def test_it_came_to_an_end(flow: Flow) -> None:
    """A flow that does nothing breaks no rule."""
    work = flow.watched.place / "work"
    assert [set(row["confidences"]) for row in flow.answers] == [set(toys.SHAPES)] * 3
    for made in ("audit", "runs/fox/reports/test/report.html", "fox.pictune", "small.pictune", "answers.csv"):
        assert (work / made).exists(), made
    assert len(list((work / "drawn").iterdir())) == 36
    assert (work / "tokens").stat().st_mode & 0o777 == 0o600


# The watch itself: every line must be refused, as what stands before it says, and must have had no effect.
FORBIDDEN = {
    "pickle": """
        import pickle; pickle.loads(pickle.dumps(print))
        import pickle, io; pickle.Unpickler(io.BytesIO(pickle.dumps(print))).load()
        import pickle; pickle._loads(pickle.dumps(print))
        import numpy as np; np.save("a.npy", np.array([print])); np.load("a.npy", allow_pickle=True)
    """,
    "process": """
        import subprocess; subprocess.run(["true"])
        import subprocess; subprocess.run("true", shell=True)
        import subprocess, sys; subprocess.run([sys.executable, "-m", "http.server"])
        import subprocess, sys; subprocess.run([sys.executable, "-P", "-m", "pictune.serving"])
        import subprocess; subprocess.run([*WORKER], executable="/bin/true")
        import subprocess; subprocess.run(["/sbin/ldconfig"])
        import asyncio; asyncio.run(asyncio.create_subprocess_exec("true"))
        import os; os.system("true")
        import os; os.popen("true")
        import os; os.execv("/bin/true", ["true"])
        import os; os.posix_spawn("/bin/true", ["true"], {})
        import os; os.spawnv(os.P_WAIT, "/bin/true", ["true"])
        import os; os.fork() or os._exit(0)
        import pty; pty.spawn("true")
        import multiprocessing as m; m.get_context("fork").Process(target=print).start()
    """,
    "network": """
        import socket; socket.create_connection(("192.0.2.1", 80), timeout=0.1)
        import socket; socket.socket().connect(("192.0.2.1", 80))
        import socket; socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80))
        import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
        import socket; socket.socket(type=socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.1", 53))
        import socket; socket.socket().bind(("0.0.0.0", 0))
        import socket; socket.socket().bind(("", 0))
        import socket; socket.create_connection(("telemetry.example", 80), timeout=0.1)
        import socket; socket.getaddrinfo("telemetry.example", 80)
        import socket; socket.gethostbyname("telemetry.example")
        import http.client; http.client.HTTPConnection("192.0.2.1", timeout=0.1).request("GET", "/")
        import asyncio; asyncio.run(asyncio.open_connection("192.0.2.1", 80))
    """,
    "write": """
        (data / "new").write_text("x")
        (data / "a.png").write_bytes(b"")
        open(data / "a.png", "ab").close()
        open(data / "a.png", "r+b").close()
        open("../data/new", "x").close()
        import os; os.open(data / "new", os.O_CREAT | os.O_WRONLY)
        import os; os.open(b"../data/a.png", os.O_RDWR)
        (data / "a.png").unlink()
        import os; os.unlink("a.png", dir_fd=os.open(data, os.O_RDONLY))
        (data / "a.png").rename("a.png")
        open("b", "w").close(); Path("b").replace(data / "b")
        open("c", "w").close(); (data / "c").hardlink_to("c")
        (data / "d").symlink_to("a.png")
        (data / "e").mkdir()
        (data / "folder").rmdir()
        (data / "a.png").chmod(0o777)
        import os; os.utime(data / "a.png")
        import os; os.truncate(data / "a.png", 0)
        import os; os.chown(data / "a.png", -1, -1)
        Path("f").symlink_to(data); Path("f/new").write_text("x")
        Path("g").symlink_to(data / "a.png"); Path("g").write_text("x")
        import shutil; shutil.copy(data / "a.png", data / "new")
        import shutil; shutil.move(data / "a.png", "a.png")
        import shutil; shutil.rmtree(data / "folder")
        import tempfile; tempfile.mkdtemp(dir=data)
        import tempfile; tempfile.NamedTemporaryFile(dir=data)
        import sqlite3; sqlite3.connect(data / "new")
        Path("~/new").expanduser().write_text("x")
        Path("/tmp/audit-hooks-must-not-write-here").write_text("x")
    """,
    "home": """
        Path("~/letter.txt").expanduser().read_text()
        open("../home/letter.txt").close()
        import os; os.open(Path.home() / "letter.txt", os.O_RDONLY)
        import os; os.listdir(Path.home())
        import os; os.scandir(Path.home())
        list(Path.home().iterdir())
        Path("h").symlink_to(Path.home()); Path("h/letter.txt").read_text()
        import os; os.chdir(Path.home()); os.listdir()
    """,
}
ASK_ALL = """
import json, os, sys
from pathlib import Path
data, WORKER = Path("../data").resolve(), json.loads(sys.argv[2])
work = Path.cwd()
for line in json.loads(sys.argv[1]):
    os.chdir(work)
    try:
        exec(line)
    except PermissionError as error:
        print(type(error).__name__, str(error).partition(":")[0])
    else:
        print("nothing was refused")
"""


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    watched = Watched.make(tmp_path)
    toys.write_picture(tmp_path / "data" / "a.png", ["cross"], 0)
    (tmp_path / "data" / "folder").mkdir()
    return watched


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_the_watch_refuses(watched: Watched, kind: str) -> None:
    lines = [line.strip() for line in FORBIDDEN[kind].strip().splitlines()]
    kept = Flow(watched).kept
    code, out, err = watched.run("-W", "ignore", "-c", ASK_ALL, json.dumps(lines), json.dumps(WORKER))
    assert code == 0, err
    found = dict(zip(lines, out.splitlines(), strict=True))
    assert {line: answer for line, answer in found.items() if answer != f"RefusedError {kind}"} == {}
    assert {record["kind"] for record in watched.breaches()} == {kind}
    assert len(watched.breaches()) >= len(lines)
    assert Flow(watched).kept == kept


HARMLESS = """
import os, pickle, shutil, socket, sys, tempfile
from pathlib import Path
for folder in (Path(), Path(tempfile.gettempdir()), Path(os.environ["PICTUNE_CACHE"])):
    (folder / "a").mkdir()
    (folder / "a" / "b").write_text("x")
    (folder / "a" / "b").rename(folder / "c")
    shutil.copyfile("../data/a.png", folder / "d")
    shutil.rmtree(folder / "a")
    (folder / "c").unlink()
open(os.devnull, "w").close()
os.listdir("../data"), os.listdir("/"), Path(os.__file__).read_text()
one, other = socket.socketpair()
one.sendall(b"x")
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
pickle.loads(pickle.dumps([1, "plain values name nothing that could be run"]))
print("done")
"""


def test_the_watch_lets_pass_what_is_allowed(watched: Watched) -> None:
    assert watched.run("-W", "ignore", "-c", HARMLESS)[1] == "done\n"
    assert watched.breaches() == []


def test_a_process_that_no_hook_hears_of_tells_of_itself(watched: Watched) -> None:
    code = "import multiprocessing as m; m.get_context('spawn').Process(target=print).start()"
    watched.run("-c", code)
    assert len(watched.started()) > 1
