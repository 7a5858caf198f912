"""The paths of the server: what is asked and what is answered, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from pictune.serving import openapi
from pictune.serving.bodies import ClientGone
from pictune.serving.guard import CLIENT_GONE, Application, Guard, internal
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import CONTENT_TYPE, Metrics
from pictune.serving.page import page
from pictune.serving.predicting import Answer, Answering, Predictor
from pictune.serving.refusals import Refusal
from pictune.serving.tokens import ROLES, Tokens
from pictune.version import __version__

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
        role = self._tokens.role(headers[0] if len(headers) == 1 else b"")
        if role is None:
            raise Refusal(
                401, "token_needed", "Send a token in the header Authorization: Bearer …, and nowhere else."
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
            raise Refusal(404, "unknown_model", "There is no model of this name; see /v1/models.")
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
        return Response(said, media_type=JSON, headers={"x-model-id": model})


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, media_type=JSON)


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
    front = Front(shelf, limits=limits, tokens=tokens, metrics=metrics, draining=draining)
    app = FastAPI(
        title="Pictune",
        version=__version__,
        description="Ask a model about pictures.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_paths(app, front)

    @cache
    def document() -> bytes:
        return json.dumps(openapi.described(app, tokens=tokens is not None)).encode()

    async def openapi_json(request: Request) -> Response:
        return Response(document(), media_type=JSON)

    app.add_api_route("/openapi.json", openapi_json, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)
    return Guard(app, limits=limits, hosts=hosts, metrics=metrics, draining=draining)


def _add_paths(app: FastAPI, front: Front) -> None:
    """All paths; those that need a token say so by their tag."""
    add, tags, responses = app.add_api_route, list[str | Enum]([openapi.TOKEN]), openapi.responses
    add("/", front.page, methods=["GET", "HEAD"], include_in_schema=False)
    for path, endpoint in (("/v1/health/live", front.live), ("/v1/health/ready", front.ready)):
        add(path, endpoint, responses={status: {"model": openapi.Health} for status in (200, 503)})
        add(path, endpoint, methods=["HEAD"], include_in_schema=False)
    about_all, about_one = {"model": openapi.AboutAll}, {"model": openapi.AboutOne}
    add("/v1/models", front.models, tags=tags, responses={200: about_all, **responses(401, 403)})
    add("/v1/models/{name}", front.model, tags=tags, responses={200: about_one, **responses(401, 403, 404)})
    for path, asking in (("/v1/predict", front.predict), ("/v1/models/{name}/predict", front.predict_with)):
        add(
            path,
            asking,
            methods=["POST"],
            tags=tags,
            responses={200: openapi.ANSWERED, **responses(*openapi.REFUSED)},
            openapi_extra=openapi.PREDICTING,
        )
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    add(
        "/metrics",
        front.metrics,
        tags=tags,
        responses={200: text, **responses(401, 403)},
        response_class=Response,
    )


def _response_to(refusal: Refusal, request: Request) -> Response:
    body = refusal.body(_request_id(request))
    headers = {name.decode(): value.decode() for name, value in refusal.headers(body)}
    return Response(body, refusal.status, headers=headers)


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _response_to(error, request)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router has to say."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        refusal = Refusal(405, "method_not_allowed", "This path does not know the method.", allow=allow)
    else:
        refusal = Refusal(error.status_code, "not_found", "There is no such path.")
    return _response_to(refusal, request)


async def _on_fault(request: Request, error: Exception) -> Response:
    return _response_to(internal(), request)
