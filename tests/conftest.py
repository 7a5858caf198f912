"""What every test stands on: a cache of its own, no network, one thread of arithmetic."""

from __future__ import annotations

import os

# Set before any library reads them: tests must not ask the network, nor fight for the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2  # noqa: E402
import pytest  # noqa: E402

cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stored pictures lie in a folder of this test session, never in the user's."""
    monkeypatch.setenv("PICTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
