"""The process that answers for one artifact: ``python -m pictune.serving.worker``.

Started by the server with one end of a socket pair. It opens the artifact, checks that it answers here as it
did where it was exported, says `ready` or `unusable`, and answers until the socket closes. It holds one
artifact for all its life and never writes anywhere but to that socket and to its log, standard error.

    server to worker   ask      number; values: top_k, threshold; payload: the picture's file
                       stop     finish what you have, and end
    worker to server   ready    payload: id, task, classes, image_size
                       unusable payload: code, message, causes, instead
                       row      number; values: seconds of decoding and of the network; payload: the answer
                       refused  number; payload: status, code, message, retry_after
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from pictune.errors import ArtifactError
from pictune.exporting.exported import Exported
from pictune.serving.capacity import Capacity
from pictune.serving.failing import refusal_of
from pictune.serving.frames import Frame, FrameError, NoRoomError, read_frame
from pictune.serving.pipeline import Job, Pipeline, refused_frame

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>

Open = Callable[[Path, int], Exported]


def open_exported(path: Path, threads: int) -> Exported:
    """Opens an artifact and has it checked.

    Raises:
        ArtifactError: When it cannot be used here.
    """
    exported = Exported.open(path, threads=threads)
    exported.self_test()
    return exported


def main(words: Sequence[str] | None = None, *, open_artifact: Open = open_exported) -> None:
    """Answers on the socket named by the command line until it closes.

    Args:
        words: The command line; the process's own when None.
        open_artifact: Gives the model at a path for a number of threads, or raises `ArtifactError`.
    """
    parser = argparse.ArgumentParser(prog="pictune.serving.worker")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of our end of the pair")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--headroom", type=int, default=None)
    given = parser.parse_args(words)
    capacity = Capacity(threads=given.threads, max_batch=given.max_batch, headroom=given.headroom)
    logging.basicConfig(format="%(asctime)s worker %(levelname)s %(message)s")
    _depend_on_parent()
    # Pictures are opened by several threads already.
    cv2.setNumThreads(1)
    with socket.socket(fileno=given.socket) as connection, connection.makefile("rb") as stream:
        send = _sender(connection)
        try:
            check_threads(capacity.most_threads)
            exported = open_artifact(given.artifact, capacity.threads)
            pipeline = Pipeline(exported, capacity, fetch=_fetcher(stream, send), send=send)
        except ArtifactError as error:
            send(Frame("unusable", payload=_packed(_told(error))))
            return
        if capacity.headroom is not None:
            _limit_memory(capacity.headroom)
        send(Frame("ready", payload=_packed(_description(exported))))
        pipeline.run()


def check_threads(count: int) -> None:
    """Refuses to begin where the system gives no so many threads: a runtime that gets too few may hang.

    Raises:
        ArtifactError: ``no_threads``.
    """
    over = threading.Event()
    waiting: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait)
            thread.start()
            waiting.append(thread)
    except RuntimeError as error:
        raise ArtifactError(
            f"the system gives {len(waiting)} threads, and {count} are needed",
            code="no_threads",
            instead="Name fewer with --threads, or allow more: TasksMax= of systemd, --pids-limit of Docker.",
        ) from error
    finally:
        over.set()
        for thread in waiting:
            thread.join()


def _depend_on_parent() -> None:
    """Only the server decides when a worker ends; and should the server die, its workers do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _sender(connection: socket.socket) -> Callable[[Frame], None]:
    """Sends frames from any thread, one after the other."""
    lock = threading.Lock()

    def send(frame: Frame) -> None:
        data = frame.pack()
        with lock:
            try:
                connection.sendall(data)
            except OSError:
                os._exit(0)  # the server is gone, and nobody waits for an answer

    return send


def _fetcher(stream: BinaryIO, send: Callable[[Frame], None]) -> Callable[[], Job | None]:
    """Takes what the server asks, until it says stop; ends the process when the server is gone."""

    def fetch() -> Job | None:
        while True:
            try:
                frame = read_frame(stream)
            except NoRoomError as error:
                send(refused_frame(error.number, refusal_of(MemoryError())))
                continue
            except (FrameError, OSError):
                frame = None
            if frame is None:
                os._exit(0)
            if frame.kind == "stop":
                return None
            top_k, threshold = frame.values
            return Job(frame.number, frame.payload, None if top_k is None else int(top_k), threshold)

    return fetch


def _description(exported: Exported) -> Mapping[str, Any]:
    specification = exported.artifact.specification
    return {
        "id": exported.artifact.id,
        "task": specification.task,
        "classes": list(specification.classes),
        "image_size": list(specification.canvas),
    }


def _told(error: ArtifactError) -> Mapping[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "causes": list(error.causes),
        "instead": error.instead,
    }


def _packed(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode()


def _limit_memory(headroom: int) -> None:
    """From now on no more than this many bytes are given to this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + headroom
    resource.setrlimit(
        resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
    logging.shutdown()
    os._exit(0)  # everything was sent; taking a model's memory apart piece by piece takes a while
