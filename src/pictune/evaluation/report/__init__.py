"""The pages: what was measured and what was audited, each as one self-contained HTML file."""

from __future__ import annotations

from pictune.evaluation.report.page import render_audit, render_report

__all__ = ["render_audit", "render_report"]
