"""What every test stands on: a cache of its own, no network, one thread of arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Set before any library reads them: tests must not ask the network, nor fight for the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import pytest

cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stored pictures lie in a folder of this test session, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
