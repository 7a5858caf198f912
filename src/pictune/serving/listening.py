"""How uvicorn is set up, so that our limits are the ones that hold."""

from __future__ import annotations

import uvicorn

from pictune.serving.guard import Application
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import Metrics
from pictune.serving.protocol import protocol_with


def configured(
    app: Application, *, limits: ServerLimits, metrics: Metrics, host: str, port: int
) -> uvicorn.Config:
    """The settings of a server for an application of ours.

    Args:
        app: Made by `pictune.serving.app.create_app`.
        limits: The same as the application's.
        metrics: The same as the application's.
        host: To listen at.
        port: To listen at; 0 is any that is free.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="none",
        http=protocol_with(limits, metrics),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=limits.backlog,
        timeout_graceful_shutdown=int(limits.request_s),
    )
