"""The HTTP interface: MLflow's scoring server and more, around one model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

import songcast
from songcast.serving import messages
from songcast.serving.champion import Champion
from songcast.serving.decoder import Decoder
from songcast.serving.failures import REFUSALS, add_failures, first_mistake, guard_of
from songcast.serving.limits import Limits, RefusedError
from songcast.serving.payload import sent_bytes
from songcast.serving.reference import reference_page
from songcast.serving.streaming import WavStream, wav_header
from songcast.serving.tasks import (
    DEFAULTS,
    MAX_SEED,
    MAX_TEMPERATURE,
    Settings,
    answer,
    continuation,
)
from songcast.serving.telemetry import Counting, Telemetry
from songcast.serving.work import Job, Work

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; img-src data:; media-src blob: data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(
    champion: Champion, limits: Limits, token: str | None = None, *, local: bool = False
) -> FastAPI:
    """Return the application.

    ``token``: what clients must bear, None for no such need. ``local``: it is for this machine,
    and is asked for by one of its own names unless there is a token.
    """
    work, telemetry = Work(limits), Telemetry(champion)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with champion:
            yield
        work.stop()

    app = FastAPI(
        title="songcast",
        version=songcast.__version__,
        description="Forecasts, continues and scores songs.",
        docs_url=None,  # Swagger's page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(guard_of(token, local))],
    )
    _add_schema(app)
    add_failures(app)
    app.add_middleware(Counting, telemetry=telemetry)
    _add_pages(app, champion, telemetry)
    _add_invocations(app, champion, work, telemetry)
    _add_continuation(app, champion, work, telemetry)
    return app


def _add_pages(app: FastAPI, champion: Champion, telemetry: Telemetry) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        text = files("songcast.serving").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=HEADERS)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()), headers=HEADERS)

    @app.get("/ping", summary="Is the server alive?")
    @app.get("/health", summary="Is the server alive?")
    async def ping() -> Response:
        return Response("\n", media_type="application/json")

    @app.get("/version", summary="What is being served?", responses={401: REFUSALS[401]})
    async def version() -> messages.VersionAnswer:
        now = champion.current
        return messages.VersionAnswer(
            songcast=songcast.__version__,
            uri=now.uri,
            alias=now.alias,
            version=now.version,
            commit=now.commit,
            weights_sha256=now.weights_sha256,
        )

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=PlainTextResponse,
        responses={401: REFUSALS[401]},
    )
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4")


def _add_invocations(app: FastAPI, champion: Champion, work: Work, telemetry: Telemetry) -> None:
    @app.post(
        "/invocations",
        summary="Forecast, continue or score songs",
        responses=REFUSALS,
        openapi_extra=_body("application/json", {"$ref": "#/components/schemas/Invocation"}),
    )
    async def invocations(request: Request) -> messages.Answer:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "the content type must be application/json")
        with work.place() as job, telemetry.working():
            body = await _read(request, job, work.limits)
            invocation = await asyncio.to_thread(_parsed, body)
            songs = invocation.songs()
            if len(songs) > work.limits.songs:
                raise RefusedError(413, f"{len(songs)} songs: send at most {work.limits.songs}")
            settings = Settings.checked(
                invocation.params.model_dump(), work.limits.continuation_seconds
            )
            model = champion.current.model

            def task(decoder: Decoder) -> list[dict[str, Any]]:
                rows = []
                for place, text in enumerate(songs):
                    song = decoder.decode(sent_bytes(text, f"song {place}"), f"song {place}")
                    rows.append(answer(model, song, settings, job.check))
                    telemetry.heard(song.seconds)
                return rows

            rows = await work.run(job, task, request.is_disconnected)
            return messages.Answer(predictions=[messages.Row(**row) for row in rows])


def _add_continuation(app: FastAPI, champion: Champion, work: Work, telemetry: Telemetry) -> None:
    longest = work.limits.continuation_seconds

    @app.post(
        "/continue",
        summary="Continue a song; the wav is sent while it is made",
        response_class=Response,
        responses={
            **{status: said for status, said in REFUSALS.items() if status != 415},
            200: {"content": {"audio/wav": {}}, "description": "The continuation alone."},
        },
        openapi_extra=_body("application/octet-stream", {"type": "string", "format": "binary"}),
    )
    async def continue_song(
        request: Request,
        seconds: Annotated[float, Query(gt=0, le=longest)] = DEFAULTS["seconds"],
        temperature: Annotated[float, Query(ge=0, le=MAX_TEMPERATURE)] = DEFAULTS["temperature"],
        seed: Annotated[int, Query(ge=0, le=MAX_SEED)] = DEFAULTS["seed"],
    ) -> Response:
        settings = Settings.checked(
            {"task": "continue", "seconds": seconds, "temperature": temperature, "seed": seed},
            longest,
        )
        with ExitStack() as held:
            job = held.enter_context(work.place())
            held.enter_context(telemetry.working())
            content = await _read(request, job, work.limits)
            model = champion.current.model

            def task(decoder: Decoder) -> Any:
                song = decoder.decode(content, "song")
                blocks = continuation(model, song, settings, job.check)
                frames = max(1, round(settings.seconds * song.sample_rate_hz))
                yield wav_header(frames, song.channels, song.sample_rate_hz)
                for block in blocks:
                    yield block.astype("<i2").tobytes()
                telemetry.heard(song.seconds)

            parts = work.stream(job, task)
            first, second = await anext(parts), await anext(parts)  # what is refused, is by now
            return WavStream(first + second, parts, job, held.pop_all())


async def _read(request: Request, job: Job, limits: Limits) -> bytes:
    """Return the body. Raises ``RefusedError`` where it is too large, too slow or broken off."""
    too_large = RefusedError(413, f"more than {limits.body_bytes // 2**20} MB: send a smaller file")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.body_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(max(job.left, 0.0)):
            async for part in request.stream():
                content += part
                if len(content) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise RefusedError(503, f"not received within {job.seconds:g} s") from None
    except ClientDisconnect:  # nobody hears this; the log is spared a traceback
        raise RefusedError(503, "cancelled: the client went away") from None
    return bytes(content)


def _parsed(body: bytes) -> messages.Invocation:
    try:
        return messages.Invocation.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(422, first_mistake(error.errors(include_url=False))) from None


def _add_schema(app: FastAPI) -> None:
    """Describe the body of /invocations, which is read by hand, within its limits."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            reference = "#/components/schemas/{model}"
            schema = messages.Invocation.model_json_schema(ref_template=reference)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components |= {**schema.pop("$defs"), "Invocation": schema}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
