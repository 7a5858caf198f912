"""What the server counts and times, in the text format of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT".split())
STAGES = ("queue", "decode", "infer")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
NOWHERE = "-"  # the path of a request that met none of ours


class Metrics:
    """The numbers of one server; every call is cheap and safe from any thread.

    Names of classes may tell what a model is used for, so that they stand in a registry of their own,
    which only an administrator reads.
    """

    def __init__(self) -> None:
        self._open = CollectorRegistry()
        self._closed = CollectorRegistry()
        counter = partial(Counter, namespace="pictune", registry=self._open)
        gauge = partial(Gauge, namespace="pictune", registry=self._open)
        timer = partial(Histogram, namespace="pictune", registry=self._open, buckets=SECONDS)
        self._requests = counter(
            "requests", "Requests by path, method and status.", ("path", "method", "status")
        )
        self._whole = timer("request_seconds", "From headers to answer.", ("path",))
        self._series = cache(self._request_series)  # to look them up takes longer than to count
        self._pictures = counter("pictures", "Pictures, by what became of them.", ("model", "outcome"))
        self._stages = timer("stage_seconds", "Of one picture, by stage.", ("stage",))
        self._waiting = gauge("waiting", "Pictures that wait for an answer.", ("model",))
        self._connections = gauge("connections", "Open connections.")
        self._refused = counter("connections_refused", "Connections beyond the limit.")
        self._restarts = counter("worker_restarts", "Workers that were replaced.", ("model",))
        self._models = gauge("model_info", "The models that answer.", ("name", "id"))
        self._classes = Counter(
            "answers",
            "What was found, by class.",
            ("model", "class"),
            namespace="pictune",
            registry=self._closed,
        )

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Counts an answered request.

        Args:
            path: The path's template, never what the client sent.
            method: As the client sent it; unknown ones are counted as ``other``.
            status: Of the answer; 499 when the client was gone.
            seconds: From its headers to the end of the answer.
        """
        counter, timer = self._series(path, method if method in METHODS else "other", status)
        counter.inc()
        timer.observe(seconds)

    def _request_series(self, path: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(path, method, str(status)), self._whole.labels(path)

    def picture(self, model: str, outcome: str, seconds: Mapping[str, float] | None = None) -> None:
        """Counts a picture.

        Args:
            model: The name of a model that exists.
            outcome: ``answered``, or the code of its refusal.
            seconds: By stage (`STAGES`); others are left out.
        """
        self._pictures.labels(model, outcome).inc()
        for stage in STAGES:
            if seconds and stage in seconds:
                self._stages.labels(stage).observe(seconds[stage])

    def classes(self, model: str, names: Iterable[str]) -> None:
        """Counts the classes that an answer found, once for every time it found them."""
        for name in names:
            self._classes.labels(model, name).inc()

    def worker_restarted(self, model: str) -> None:
        """Counts a worker that died or hung and was replaced."""
        self._restarts.labels(model).inc()

    def connection_opened(self) -> None:
        """Counts a connection that was let in."""
        self._connections.inc()

    def connection_closed(self) -> None:
        """Counts a connection that was let in and is gone."""
        self._connections.dec()

    def connection_refused(self) -> None:
        """Counts a connection for which there was no room."""
        self._refused.inc()

    def shelf(self, models: Iterable[Mapping[str, object]]) -> None:
        """Notes which models there are and how many pictures wait for them.

        Args:
            models: ``name``, ``id`` and ``waiting`` of each.
        """
        self._models.clear()
        self._waiting.clear()
        for model in models:
            self._models.labels(str(model["name"]), str(model["id"])).set(1)
            self._waiting.labels(str(model["name"])).set(float(str(model["waiting"])))

    def text(self, *, classes: bool) -> bytes:
        """All numbers in the text format 0.0.4.

        Args:
            classes: Whether the series that hold names of classes are among them.
        """
        return generate_latest(self._open) + (generate_latest(self._closed) if classes else b"")


def classes_in(row: bytes) -> list[str]:
    """The classes that an answer found: labels, the class of each box, or those that cover something.

    Args:
        row: One JSON object, as `pictune.exporting.exported.Exported.row` makes it.
    """
    said = json.loads(row)
    boxes = [box["class"] for box in said.get("boxes", ())]
    covering = [name for name, share in said.get("shares", {}).items() if share > 0]
    return [*said.get("labels", ()), *boxes, *covering]
