"""What every test stands on: a cache of its own, no network, one thread of arithmetic."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# Set before any library reads them: tests must not ask the network, nor fight for the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a training takes all of them after all

import cv2
import pytest

cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stored pictures lie in a folder of this test session, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A training takes every processor; the tests after it in this process are to have one again."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
