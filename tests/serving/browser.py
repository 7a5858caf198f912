"""A real browser, driven over a pair of pipes; see https://chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1100,900"]


class Page:
    """One page, and what its console said."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = into, out
        self._number, self._rest, self._session = 0, b"", ""
        self.console: list[str] = []

    def open(self, address: str) -> None:
        """Goes to an address in a page of its own."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression, once it is there if it is a promise."""
        said = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._into, json.dumps(asked).encode() + b"\0")
        while (said := self._next()).get("id") != self._number:
            if said["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.console.append(json.dumps(said["params"]))
        return said["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._out, 2**20)
            assert part, "the browser has gone"
            self._rest += part
        said, _, self._rest = self._rest.partition(b"\0")
        return json.loads(said)


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A browser whose profile lies in a folder."""
    assert PROGRAM is not None
    (theirs, into), (out, ours) = os.pipe(), os.pipe()
    # The browser reads from descriptor 3 and writes to 4; a shell puts ours there.
    line = f'exec "$0" "$@" 3<&{theirs} 4>&{ours} {theirs}<&- {ours}>&-'
    process = subprocess.Popen(
        ["bash", "-c", line, PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        pass_fds=(theirs, ours),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(ours)
    try:
        yield Page(into, out)
    finally:
        process.terminate()
        process.wait(20)
        os.close(into)
        os.close(out)
