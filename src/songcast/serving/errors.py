"""Error responses: every error is one line of JSON with the keys of MLflow's scoring server."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from songcast.errors import SongcastError
from songcast.serving.jobs import RequestError
from songcast.serving.payload import TooLongError
from songcast.serving.schemas import ErrorResponse
from songcast.serving.tasks import first_error

# HTTP status: (MLflow's error code, description in the API documentation)
ERRORS = {
    401: ("PERMISSION_DENIED", "The bearer token is missing or wrong."),
    403: ("PERMISSION_DENIED", "The host name or the origin of the request is not allowed."),
    404: ("NOT_FOUND", "There is no such path."),
    413: ("INVALID_PARAMETER_VALUE", "The body is too large, or a song is too long."),
    415: ("INVALID_PARAMETER_VALUE", "The body is not JSON."),
    422: ("INVALID_PARAMETER_VALUE", "The request or a song is invalid; the message says why."),
    429: ("RESOURCE_EXHAUSTED", "Too many requests are in progress."),
    503: ("TEMPORARILY_UNAVAILABLE", "The request timed out, or the server is stopping."),
}
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "5"},
    503: {"Retry-After": "5"},
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of error responses for FastAPI's ``responses``."""
    return {s: {"model": ErrorResponse, "description": ERRORS[s][1]} for s in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Turn every exception of a request into an ``ErrorResponse``."""

    async def respond(_: Request, error: Exception) -> JSONResponse:
        status, message = 422, str(error)
        if isinstance(error, RequestError):
            status = error.status
        elif isinstance(error, HTTPException):
            status, message = error.status_code, str(error.detail)
        elif isinstance(error, RequestValidationError):
            message = first_error(error.errors())
        elif isinstance(error, TooLongError):
            status = 413
        code, _description = ERRORS.get(status, ("BAD_REQUEST", ""))
        content = ErrorResponse(error_code=code, message=message).model_dump()
        return JSONResponse(content, status, HEADERS.get(status))

    for kind in (RequestError, SongcastError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, respond)
