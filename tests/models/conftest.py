"""Here a stand-in hub on the loopback interface is asked; everywhere else the hub is off."""

from __future__ import annotations

import pytest
from huggingface_hub import constants


@pytest.fixture(autouse=True)
def _hub_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
