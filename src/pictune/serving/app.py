"""The paths of the server: what is asked and what is answered, over HTTP.

Starlette finds the path. FastAPI only describes the same paths, once `/openapi.json` is asked for: to answer
through it costs more than to refuse, and where more is asked than can be answered, that time is lost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from pictune.serving.guard import Application, Guard, Receive, Scope, Send
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import CONTENT_TYPE, Metrics
from pictune.serving.page import page
from pictune.serving.predicting import Answer, Answering, Predictor
from pictune.serving.refusals import Refusal
from pictune.serving.tokens import ROLES, Tokens

__all__ = ["Answer", "Answering", "create_app"]

JSON = "application/json"


class Front:
    """The endpoints.

    Args:
        shelf: Answers.
        limits: Of requests.
        tokens: Who may ask what; everybody everything when None.
        metrics: Counts pictures.
        draining: Whether the server is about to end.
    """

    def __init__(
        self,
        shelf: Answering,
        *,
        limits: ServerLimits,
        tokens: Tokens | None,
        metrics: Metrics,
        draining: Callable[[], bool],
    ) -> None:
        self._shelf, self._tokens = shelf, tokens
        self._metrics, self._draining = metrics, draining
        self._predictor = Predictor(shelf, limits=limits, metrics=metrics)

    # Who may

    def _role(self, request: Request, *roles: str) -> str:
        """The role of whoever asks, which must be one of those given or ``admin``.

        Raises:
            Refusal: 401 or 403.
        """
        if self._tokens is None:
            return "admin"
        headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if not any(headers):
            raise Refusal(
                401, "token_needed", "Send a token in the header Authorization: Bearer …, and nowhere else."
            )
        role = self._tokens.role(headers[0] if len(headers) == 1 else b"")
        if role is None:
            raise Refusal(
                401,
                "unknown_token",
                "The header Authorization is not Bearer and a token that is known here.",
            )
        if role != "admin" and role not in roles:
            raise Refusal(403, "role_not_allowed", f"A token with the role {role} may not do this.")
        return role

    def _known(self, name: str) -> str:
        """A name, if it is one of a model.

        Raises:
            Refusal: 404.
        """
        if name not in self._shelf.names:
            there = ", ".join(self._shelf.names)
            raise Refusal(404, "unknown_model", f"There is no model of this name; there are: {there}")
        return name

    # Small answers

    async def page(self, request: Request) -> Response:
        """A page to try the model on."""
        text, policy = page()
        headers = {"content-security-policy": policy, "cache-control": "no-cache"}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    async def live(self, request: Request) -> Response:
        """Whether the server runs."""
        return _json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Whether a picture would be answered now."""
        if self._draining():
            return _json({"status": "draining"}, status=503)
        if not self._shelf.ready:
            return _json({"status": "models_not_ready"}, status=503)
        return _json({"status": "ready"})

    async def models(self, request: Request) -> Response:
        """All models."""
        self._role(request, *ROLES)
        names = self._shelf.names
        models = [self._shelf.describe(name) for name in names]
        return _json({"request_id": _request_id(request), "default": names[0], "models": models})

    async def model(self, request: Request, name: str) -> Response:
        """One model."""
        self._role(request, *ROLES)
        about = self._shelf.describe(self._known(name))
        return _json({"request_id": _request_id(request), "model": about})

    async def metrics(self, request: Request) -> Response:
        """What was counted, as Prometheus reads it; names of classes only for an administrator."""
        role = self._role(request, *ROLES)
        self._metrics.shelf(self._shelf.describe(name) for name in self._shelf.names)
        text = self._metrics.text(classes=role == "admin")
        return Response(text, headers={"content-type": CONTENT_TYPE})

    # Predictions

    async def predict(self, request: Request) -> Response:
        """What the default model says of one or several pictures."""
        return await self._predict(request, self._shelf.names[0])

    async def predict_with(self, request: Request, name: str) -> Response:
        """What one model says of one or several pictures."""
        return await self._predict(request, name)

    async def _predict(self, request: Request, name: str) -> Response:
        self._role(request, "predict")
        self._known(name)
        if self._draining():
            raise Refusal(503, "draining", "The server is about to end.", retry_after=1)
        said, model = await self._predictor.predict(
            name,
            headers=request.scope["headers"],
            query=request.scope["query_string"],
            receive=request.receive,
            request_id=_request_id(request),
        )
        return _Said(said, model)


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False) + "\n", status, media_type=JSON)


def create_app(
    shelf: Answering,
    *,
    limits: ServerLimits,
    tokens: Tokens | None,
    hosts: Sequence[str],
    metrics: Metrics,
    draining: Callable[[], bool],
) -> Application:
    """The whole application, behind its guard.

    Args:
        shelf: The models.
        limits: The same as the protocol's.
        tokens: Who may ask what; None when everybody may everything.
        hosts: Names, besides ``localhost``, by which the server may be called.
        metrics: The same as the protocol's.
        draining: Whether the server is about to end, and takes nothing on.
    """
    paths = _paths(Front(shelf, limits=limits, tokens=tokens, metrics=metrics, draining=draining))

    @cache
    def document() -> bytes:
        from pictune.serving.openapi import described

        about = [(path.path, path.endpoint, path.method) for path in paths]
        return json.dumps(described(about, tokens=tokens is not None)).encode()

    async def openapi_json(request: Request) -> Response:
        return Response(document(), media_type=JSON)

    known = (*paths, Path("/openapi.json", openapi_json))
    router = Router([path.route() for path in known], redirect_slashes=False)
    # For most requests there is nothing to find.
    exact = {(path.path, path.method): path for path in known if "{" not in path.path}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if path := exact.get((scope["path"], scope["method"])):
            scope["path_params"] = {}
            await path(scope, receive, send)
            return
        scope["app"] = router  # makes it raise what it does not know, where it would answer otherwise
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            raise _unknown(error) from None

    return Guard(application, limits=limits, hosts=hosts, metrics=metrics, draining=draining)


class _Said(Response):
    """An answer of a model; `Response` draws up the same headers from texts.

    Args:
        body: One JSON object.
        model: The id of the model.
    """

    def __init__(self, body: bytes, model: str) -> None:
        self.status_code, self.body, self.background = 200, body, None
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-model-id", model.encode("latin-1")),
        ]


@dataclass(frozen=True)
class Path:
    """A path and who answers there.

    Args:
        path: With the names of its parameters in braces.
        endpoint: Is given the request, and the parameters by name.
        method: ``GET``, with which goes ``HEAD``, or ``POST``.
    """

    path: str
    endpoint: Callable[..., Awaitable[Response]]
    method: str = "GET"

    def route(self) -> Route:
        """How it is found."""
        return Route(self.path, self, methods=[self.method])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        scope["route"] = self
        response = await self.endpoint(Request(scope, receive), **scope["path_params"])
        await response(scope, receive, send)


def _paths(front: Front) -> tuple[Path, ...]:
    """All that are described; those first that are asked most."""
    return (
        Path("/v1/predict", front.predict, "POST"),
        Path("/v1/models/{name}/predict", front.predict_with, "POST"),
        Path("/v1/health/live", front.live),
        Path("/v1/health/ready", front.ready),
        Path("/metrics", front.metrics),
        Path("/v1/models", front.models),
        Path("/v1/models/{name}", front.model),
        Path("/", front.page),
    )


def _unknown(error: HTTPException) -> Refusal:
    """What the router has to say."""
    if error.status_code == 405:
        allow = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        return Refusal(405, "method_not_allowed", "This path does not know the method.", allow=allow)
    return Refusal(error.status_code, "not_found", "There is no such path.")
