"""What the server says of itself in OpenAPI; nothing here runs when a request is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from pictune.serving.bodies import MOST_CLASSES
from pictune.version import __version__

TOKEN = "token"  # noqa: S105 - the name of the scheme, not a secret
_REASONS = {
    400: "The body cannot be read.",
    401: "A token is needed, and none or a wrong one was sent.",
    403: "The token's role, the Host or the Origin does not allow it.",
    404: "There is no such path or model.",
    408: "The body did not come in time.",
    413: "The body, or the number of pictures, is over the limit.",
    415: "The content type or encoding is none that is read.",
    422: "The request makes no sense, or the picture cannot be used; the code says why.",
    500: "A fault of the server.",
    503: "Not now: the queue is full, the server starts or ends, or it took too long.",
}
_UNUSED = "HTTPValidationError"  # FastAPI's own, for paths with parameters; a name in a path is any text
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


class Problem(BaseModel):
    """Why there is no answer."""

    code: str = Field(description="A short stable name of the reason, such as queue_full.")
    message: str = Field(description="One plain sentence.")
    request_id: str = Field(description="Stands in the server's log, too.")


class Failure(BaseModel):
    """The body of every status from 400 on."""

    error: Problem


class NamedModel(BaseModel):
    """Which model answered."""

    name: str
    id: str = Field(description="Names this very file; changes when another one takes its place.")


class Box(BaseModel):
    """Something that was found; pixels of the upright picture."""

    class_: str = Field(alias="class")
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


class ClassMask(BaseModel):
    """The class of every pixel."""

    classes: list[str]
    png: str = Field(
        description="Base64 of a grey PNG of the picture's size: a pixel's value counts in classes."
    )


class Row(BaseModel):
    """What a model says of one picture; which fields there are depends on what it was made for."""

    model_config = ConfigDict(protected_namespaces=())
    model_id: str
    width: int = Field(description="Of the upright picture, pixels.")
    height: int
    labels: list[str] | None = None
    confidences: dict[str, float] | None = Field(default=None, description="By class, highest first.")
    boxes: list[Box] | None = None
    shares: dict[str, float] | None = Field(default=None, description="Of the picture, by class.")
    mask: ClassMask | None = None


class Refused(BaseModel):
    """A picture among others for which there is no answer."""

    error: dict[str, str] = Field(description="code and message")


class One(BaseModel):
    """The answer about one picture."""

    request_id: str
    model: NamedModel
    prediction: Row


class Several(BaseModel):
    """The answers about several pictures, in their order."""

    request_id: str
    model: NamedModel
    predictions: list[Row | Refused]
    errors: int = Field(description="How many of them are none.")


class About(BaseModel):
    """A model."""

    name: str
    id: str
    task: str
    classes: list[str]
    image_size: Any = Field(description="Of the canvas that the network sees, pixels.")
    state: str
    waiting: int


class AboutOne(BaseModel):
    """One model."""

    request_id: str
    model: About


class AboutAll(BaseModel):
    """All models."""

    request_id: str
    default: str = Field(description="The name of the one that answers where none is named.")
    models: list[About]


class Health(BaseModel):
    """Whether requests are answered."""

    status: str


_TOP_K = {
    "type": "integer",
    "minimum": 1,
    "maximum": MOST_CLASSES,
    "description": "How many classes or boxes are named at most.",
}
_THRESHOLD = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "description": "From which confidence on something is answered; the model's own when left out.",
}
_BASE64 = {
    "type": "string",
    "format": "byte",
    "description": "Base64 without line breaks; data:image/…;base64, may stand before it. No URL or path.",
}
_OPTIONS: dict[str, Any] = {"top_k": _TOP_K, "threshold": _THRESHOLD}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"image": _FILES, "images": _FILES, **_OPTIONS},
                "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"image": _BASE64, "images": {"type": "array", "items": _BASE64}, **_OPTIONS},
                "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
            }
        },
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
    },
}
_PREDICTING: dict[str, Any] = {
    "requestBody": _PREDICT_BODY,
    "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in _OPTIONS.items()],
}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of the refusals of a path, by status."""
    return {
        status: {
            "model": Failure,
            "description": _REASONS[status],
            **({"headers": _RETRY} if status == 503 else {}),
        }
        for status in statuses
    }


_ANSWERED: dict[str, Any] = {"model": One | Several, "description": "One answer, or one a picture."}
_REFUSED = (400, 401, 403, 404, 408, 413, 415, 422, 500, 503)
_TEXT: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_TAGS: list[str | Enum] = [TOKEN]  # of what needs a token
_PREDICT: dict[str, Any] = {
    "tags": _TAGS,
    "responses": {200: _ANSWERED, **_responses(*_REFUSED)},
    "openapi_extra": _PREDICTING,
}
_HEALTH: dict[str, Any] = {"responses": {status: {"model": Health} for status in (200, 503)}}
#: What FastAPI cannot see for itself, by path; a path that is not here is for people, and not described.
_DETAILS: dict[str, dict[str, Any]] = {
    "/v1/predict": _PREDICT,
    "/v1/models/{name}/predict": _PREDICT,
    "/v1/health/live": _HEALTH,
    "/v1/health/ready": _HEALTH,
    "/v1/models": {"tags": _TAGS, "responses": {200: {"model": AboutAll}, **_responses(401, 403)}},
    "/v1/models/{name}": {
        "tags": _TAGS,
        "responses": {200: {"model": AboutOne}, **_responses(401, 403, 404)},
    },
    "/metrics": {
        "tags": _TAGS,
        "responses": {200: _TEXT, **_responses(401, 403)},
        "response_class": Response,
    },
}


def described(
    paths: Iterable[tuple[str, Callable[..., Awaitable[Response]], str]], *, tokens: bool
) -> dict[str, Any]:
    """The whole document.

    Args:
        paths: Each with who answers there and the method.
        tokens: Whether tokens are needed.
    """
    app = FastAPI(title="Pictune", version=__version__, description="Ask a model about pictures.")
    for path, endpoint, method in paths:
        if path in _DETAILS:
            app.add_api_route(path, endpoint, methods=[method], **_DETAILS[path])
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=[route for route in app.routes if getattr(route, "path", None) in _DETAILS],
    )
    needs: list[dict[str, list[str]]] = [{TOKEN: []}]
    for operations in document["paths"].values():
        for operation in operations.values():
            tags = operation.pop("tags", [])
            if tokens and TOKEN in tags:
                operation["security"] = needs
            if _UNUSED in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in (_UNUSED, "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    if tokens:
        document["components"]["securitySchemes"] = {TOKEN: {"type": "http", "scheme": "bearer"}}
    return document
