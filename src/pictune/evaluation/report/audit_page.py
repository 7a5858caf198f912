"""What the audit page shows, section by section: picked, ordered and worded, never computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pictune.evaluation.report.pictures import Album


def audit_context(audit: Mapping[str, Any], album: Album) -> dict[str, Any]:
    """Everything the audit template needs."""
    return {"audit": audit}
