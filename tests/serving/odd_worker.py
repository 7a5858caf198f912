"""A worker whose model does odd things with pictures of some colours; run by tests instead of the real one.

``python odd_worker.py <folder> --socket ...``: the sum of every picture that is looked at is left in the
folder, as the name of an empty file.

    magenta    the decoder never comes back
    cyan       the process dies
    yellow     decoding takes a while
    grey       nonsense is sent to the server
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from pictune.exporting.exported import Exported, Looked
from pictune.serving import worker

MAGENTA, CYAN, YELLOW, GREY = (255, 0, 255), (0, 255, 255), (255, 255, 0), (128, 128, 128)
WHILE = 0.1  # seconds


class Odd(Exported):
    """Answers as it should, but for some colours."""

    folder: Path
    socket: int

    def look(self, source: bytes | Path) -> Looked:
        """Decodes, with a surprise."""
        assert isinstance(source, bytes)
        (self.folder / name_of(source)).touch()
        looked = super().look(source)
        match tuple(looked.canvas[0, 0].tolist()):
            case (255, 0, 255):
                time.sleep(3600)
            case (0, 255, 255):
                os.kill(os.getpid(), signal.SIGKILL)
            case (255, 255, 0):
                time.sleep(WHILE)
            case (128, 128, 128):
                os.write(self.socket, b"\xff" * 100)
        return looked


def name_of(image: bytes) -> str:
    """Under which a picture is remembered."""
    return hashlib.sha256(image).hexdigest()


def open_odd(path: Path, threads: int) -> Exported:
    """Opens an artifact as an odd one."""
    return Odd.open(path, threads=threads)


if __name__ == "__main__":
    Odd.folder, words = Path(sys.argv[1]), sys.argv[2:]
    Odd.socket = int(words[words.index("--socket") + 1])
    worker.main(words, open_artifact=open_odd)
