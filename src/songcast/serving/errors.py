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
RETRY_AFTER_SECONDS = {429: "5", 503: "5"}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of error responses for FastAPI's ``responses``."""
    return {s: {"model": ErrorResponse, "description": ERRORS[s][1]} for s in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Turn every exception of a request into an ``ErrorResponse``."""

    def response(status: int, message: str) -> JSONResponse:
        code, _ = ERRORS.get(status, ("BAD_REQUEST", ""))
        headers = {}
        if status in RETRY_AFTER_SECONDS:
            headers["Retry-After"] = RETRY_AFTER_SECONDS[status]
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = ErrorResponse(error_code=code, message=message).model_dump()
        return JSONResponse(content, status, headers)

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> JSONResponse:
        return response(error.status, str(error))

    @app.exception_handler(SongcastError)
    async def songcast_error(_: Request, error: SongcastError) -> JSONResponse:
        return response(413 if isinstance(error, TooLongError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        return response(422, first_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_exception(_: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, str(error.detail))
