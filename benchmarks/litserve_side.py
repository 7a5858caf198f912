"""An artifact behind LitServe, for `serve.py`: ``python litserve_side.py ARTIFACT PORT WORKERS``."""

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import fastapi
import litserve

from pictune.exporting.exported import Exported


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The same preprocessing, network and answer as our server's; a process makes one.

    Args:
        path: The artifact.
        threads: That compute one call of the network.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__()
        self.path, self.threads = path, threads

    def setup(self, device: str) -> None:
        """Opens the artifact."""
        cv2.setNumThreads(1)
        self.exported = Exported.open(self.path, threads=self.threads)

    def decode_request(self, request: fastapi.Request) -> bytes:
        """The file in the form, which LitServe has taken apart already."""
        form: Any = request
        found: bytes = form["image"].file.read()
        return found

    def predict(self, image: bytes) -> Any:
        """The answer."""
        looked = self.exported.look(image)
        answer = self.exported.answer(self.exported.run(looked.canvas[None]), looked)
        return self.exported.row(answer, looked)

    def encode_response(self, output: Any) -> Any:
        """The answer as it is."""
        return output


def main() -> None:
    """Serves until it is killed."""
    path, port, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    api = Api(path, max(1, len(os.sched_getaffinity(0)) // workers))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
