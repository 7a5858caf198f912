"""From a report's JSON to one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import jinja2
from markupsafe import Markup

from pictune.evaluation.report import wording
from pictune.evaluation.report.audit_page import audit_context
from pictune.evaluation.report.evaluation_page import evaluation_context, origin
from pictune.evaluation.report.pictures import Album, Picture

NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})


def render_report(report: Mapping[str, Any], *, pictures: Mapping[str, Picture] = NO_PICTURES) -> str:
    """Draws an evaluation as one self-contained HTML page.

    Args:
        report: The content of ``report.json``. Absent parts are left out, null numbers show their reason.
        pictures: Thumbnails by sample key: ``uint8`` arrays (height, width, 3) or bytes of small PNG, JPEG,
            GIF or WebP files. They stand beside confused pairs and the worst mistakes.

    Returns:
        The page. Everything that came from data is escaped; the page's own policy forbids scripts and
        loads, so that a class or file name cannot act even in a browser that misreads it.
    """
    context = evaluation_context(wording.printable(report), _album(pictures))
    return _render("evaluation.html.j2", context)


def render_audit(audit: Mapping[str, Any], *, pictures: Mapping[str, Picture] = NO_PICTURES) -> str:
    """Draws a data audit as one self-contained HTML page.

    Args:
        audit: What the audit found, as JSON.
        pictures: Thumbnails by sample key, shown beside duplicates, leaks, conflicts and outliers.

    Returns:
        The page, as safe as an evaluation's.
    """
    context = audit_context(wording.printable(audit), _album(pictures))
    return _render("audit.html.j2", context)


def render_rates(found: Mapping[str, Any], *, chart: str) -> str:
    """Draws what a learning rate range test found as one self-contained HTML page.

    Args:
        found: The content of ``lr.json``.
        chart: Its curve as one SVG element, in which everything is escaped.

    Returns:
        The page, as safe as an evaluation's.
    """
    printable = wording.printable(found)
    context = {
        "found": printable,
        "suggestion": f"{printable['suggestion']:g}",
        "chart": Markup(chart),  # noqa: S704  drawn from numbers alone
        "origin": origin(printable),
    }
    return _render("rates.html.j2", context)


def _album(pictures: Mapping[str, Picture]) -> Album:
    return Album({wording.printable(key): picture for key, picture in pictures.items()})


def _render(template: str, context: Mapping[str, Any]) -> str:
    style = Markup(_text("style.css"))  # noqa: S704  our own file
    return _environment().get_template(template).render({**context, "style": style})


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _text(f"templates/{name}")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (wording.number, wording.count, wording.short, wording.percent, wording.span, wording.plural)
    environment.filters.update({word.__name__: word for word in words})
    environment.filters.update(title_of=wording.title_of, meaning_of=wording.meaning_of)
    return environment


def _text(name: str) -> str:
    return files("pictune.evaluation.report").joinpath(name).read_text(encoding="utf-8")
