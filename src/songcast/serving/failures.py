"""Who may ask, and how every refusal is worded: one line of JSON."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from songcast.errors import SongcastError
from songcast.serving.limits import RefusedError
from songcast.serving.messages import Failure
from songcast.serving.payload import TooLongError

CODES = {
    401: "PERMISSION_DENIED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_PARAMETER_VALUE",
    415: "INVALID_PARAMETER_VALUE",
    422: "INVALID_PARAMETER_VALUE",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "The bearer token is missing or wrong."},
    403: {
        "model": Failure,
        "description": "Asked for by a page of another site, or by another name.",
    },
    413: {"model": Failure, "description": "Too large or too long."},
    415: {"model": Failure, "description": "Not JSON."},
    422: {"model": Failure, "description": "Not understood; the message says why."},
    429: {"model": Failure, "description": "Too many requests at once."},
    503: {"model": Failure, "description": "Not done in time, or the server stops."},
}
RETRY_AFTER = {429: "5", 503: "5"}


def add_failures(app: FastAPI) -> None:
    """Turn every failure into one line of JSON."""

    def failure(status: int, message: str) -> JSONResponse:
        said = Failure(error_code=CODES.get(status, "BAD_REQUEST"), message=message)
        headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(said.model_dump(), status, headers)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return failure(error.status, str(error))

    @app.exception_handler(SongcastError)
    async def mistaken(_: Request, error: SongcastError) -> JSONResponse:
        return failure(413 if isinstance(error, TooLongError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return failure(422, first_mistake(error.errors()))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return failure(error.status_code, str(error.detail))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard_of(token: str | None, local: bool) -> Callable[[Request], Awaitable[None]]:
    """Return the check of every request: the token, and that no other site's page asks.

    ``local``: without a token, the server answers to this machine's own names alone. A page may
    give its site's name this machine's address, and then counts as this server's (DNS rebinding).
    """

    async def guard(request: Request) -> None:
        if local and token is None and not is_loopback(_host(request)):
            raise RefusedError(403, "ask for localhost, or set SONGCAST_TOKEN for other names")
        origin = request.headers.get("origin")
        if origin and origin.partition("://")[2] != request.headers.get("host"):
            raise RefusedError(403, "asked for by a page of another site")
        if token is None or request.url.path in ("/", "/docs", "/ping", "/health"):
            return
        said = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(said, f"Bearer {token}".encode()):
            raise RefusedError(401, "send the header `Authorization: Bearer TOKEN`")

    return guard


def _host(request: Request) -> str:
    """Return the name by which the server was asked for, without its port."""
    host = request.headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def first_mistake(errors: Any) -> str:
    """Return the first mistake in one line."""
    where = ".".join(str(part) for part in errors[0]["loc"])
    return f"{where}: {errors[0]['msg']}" if where else str(errors[0]["msg"])
