"""The HTTP server: MLflow's scoring interface, streamed continuations, a web page, metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

import songcast
from songcast.audio.songs import Song
from songcast.forecasting.metrics import RunningMeasures
from songcast.registry.mlflow_model import DEFAULTS
from songcast.registry.models import Model
from songcast.serving import schemas
from songcast.serving.champion import Champion
from songcast.serving.decoder import Decoder
from songcast.serving.errors import add_error_handlers, documented
from songcast.serving.idle import SurprisingSongs
from songcast.serving.jobs import CANCELLED, Job, JobQueue, Limits, Progress, RequestError
from songcast.serving.payload import sent_bytes
from songcast.serving.records import Observer
from songcast.serving.security import HEADERS, access_check
from songcast.serving.streaming import WavStream, wav_header
from songcast.serving.tasks import (
    MAX_SEED,
    MAX_TEMPERATURE,
    Prediction,
    TaskParams,
    continuation_blocks,
    finite_gains_db,
    first_error,
    forecast_blocks,
    run_task,
)
from songcast.serving.telemetry import ResponseMiddleware, Telemetry

# Files of the page; it shares player and style with the listening report.
ASSETS = {
    "style.css": "report/style.css",
    "player.js": "report/player.js",
    "wavesurfer.min.js": "report/vendor/wavesurfer.min.js",
    "served.js": "serving/served.js",
}
JobName = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description="a name that the client chooses: GET /jobs/NAME then returns the progress",
    ),
]


def create_app(
    champion: Champion,
    limits: Limits,
    token: str | None = None,
    *,
    local: bool = False,
    records: Path | None = None,
    shadow: Champion | None = None,
    surprising: SurprisingSongs | None = None,
) -> FastAPI:
    """Return the application.

    ``token``: the bearer token that clients must send; None: no token is needed. ``local``: the
    server is for this machine only, see ``access_check``. ``records``, ``shadow``,
    ``surprising``: see ``Observer``.
    """
    queue, telemetry = JobQueue(limits), Telemetry(champion)
    observer = Observer(telemetry, queue, records, shadow, surprising)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with champion, shadow or nullcontext():
            yield
        queue.stop()
        observer.stop()

    dependencies = [Depends(access_check(token, local))]
    if token is not None:  # the "Authorize" button of /docs
        dependencies.append(Depends(HTTPBearer(auto_error=False)))
    app: FastAPI = FastAPIOffline(
        title="songcast",
        version=songcast.__version__,
        description="Forecasts, continues and scores songs.",
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},  # it would send the schema elsewhere
        lifespan=lifespan,
        dependencies=dependencies,
    )
    _add_schema(app)
    add_error_handlers(app)
    app.add_middleware(ResponseMiddleware, telemetry=telemetry, headers=HEADERS)
    _add_information(app, champion, queue, telemetry)
    _add_invocations(app, champion, queue, telemetry, observer)
    _add_streams(app, champion, queue, telemetry, observer)
    return app


def _add_information(
    app: FastAPI, champion: Champion, queue: JobQueue, telemetry: Telemetry
) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return files("songcast.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return FileResponse(str(files("songcast").joinpath(ASSETS[name])))

    @app.get("/ping", summary="Check that the server is running")
    @app.get("/health", summary="Check that the server is running")
    async def ping() -> Response:
        return Response("\n", media_type="application/json")

    @app.get("/version", summary="Get the version that is served", responses=documented(401))
    async def version() -> schemas.VersionResponse:
        fields = schemas.VersionResponse.model_fields.keys() - {"songcast"}
        served = {field: getattr(champion.current, field) for field in fields}
        return schemas.VersionResponse(songcast=songcast.__version__, **served)

    @app.get("/limits", summary="Get limits and speed", responses=documented(401))
    async def limits() -> schemas.LimitsResponse:
        return schemas.LimitsResponse(
            body_bytes=queue.limits.body_bytes,
            frames=queue.limits.max_frames,
            continuation_seconds=queue.limits.continuation_seconds,
            request_seconds=queue.limits.request_seconds,
            frames_per_second=champion.current.frames_per_second,
        )

    @app.get(
        "/jobs/{name}",
        summary="Get the progress of a request that was sent with ?job=NAME",
        responses=documented(401),
    )
    async def progress(name: str) -> Progress:
        job = queue.named.get(name)
        return job.progress if job else Progress(state="unknown")

    @app.get(
        "/metrics",
        summary="Get metrics for Prometheus",
        response_class=PlainTextResponse,
        responses=documented(401),
    )
    async def metrics() -> Response:
        return Response(generate_latest(telemetry.registry), media_type="text/plain; version=0.0.4")


def _add_invocations(
    app: FastAPI, champion: Champion, queue: JobQueue, telemetry: Telemetry, observer: Observer
) -> None:
    @app.post(
        "/invocations",
        summary="Forecast, continue or score songs",
        responses=documented(401, 403, 413, 415, 422, 429, 503),
        openapi_extra=_body("application/json", {"$ref": "#/components/schemas/Invocation"}),
    )
    async def invocations(request: Request) -> schemas.InvocationResponse:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RequestError(415, "unsupported content type: send application/json")
        with queue.job() as job, telemetry.requests_in_progress.track_inprogress():
            body = await _read(request, job, queue.limits)
            invocation = await asyncio.to_thread(_parse, body)
            songs = invocation.songs()
            if len(songs) > queue.limits.max_songs:
                raise RequestError(
                    413, f"{len(songs)} songs in one request: send at most {queue.limits.max_songs}"
                )
            params = invocation.params
            if params.seconds > queue.limits.continuation_seconds:
                raise RequestError(
                    422,
                    f"params.seconds is {params.seconds:g}: "
                    f"request at most {queue.limits.continuation_seconds:g}",
                )
            served = champion.current

            def task(decoder: Decoder) -> list[Prediction]:
                predictions = []
                for index, text in enumerate(songs):
                    name, start = f"song {index}", time.perf_counter()
                    content = sent_bytes(text, name)
                    song = decoder.decode(content, name)
                    row = run_task(served.model, song, params, job.check)
                    result = row.prediction_gain_db, row.bits_per_sample
                    observer.answered(served, content, song, *result, time.perf_counter() - start)
                    predictions.append(row)
                return predictions

            predictions = await queue.run(job, task, request.is_disconnected)
            return schemas.InvocationResponse(predictions=predictions)


def _add_streams(
    app: FastAPI, champion: Champion, queue: JobQueue, telemetry: Telemetry, observer: Observer
) -> None:
    max_seconds = queue.limits.continuation_seconds
    documentation: dict[str, Any] = {
        "response_class": Response,
        "openapi_extra": _body("application/octet-stream", {"type": "string", "format": "binary"}),
    }

    async def respond(
        request: Request, job_name: str | None, task: Callable[[Model, Song, Job], Iterator[bytes]]
    ) -> Response:
        """Read a song from the body; send what ``task`` yields: a wav header, then samples."""
        with ExitStack() as resources:
            job = resources.enter_context(queue.job(job_name))
            resources.enter_context(telemetry.requests_in_progress.track_inprogress())
            content = await _read(request, job, queue.limits)
            served = champion.current

            def work(decoder: Decoder) -> Iterator[bytes]:
                start, progress = time.perf_counter(), job.progress
                song = decoder.decode(content, "song")
                progress.seconds = song.seconds
                job.enter("computing")
                yield from task(served.model, song, job)
                job.enter("finished")
                result = progress.prediction_gain_db, progress.bits_per_sample
                observer.answered(served, content, song, *result, time.perf_counter() - start)

            blocks = queue.stream(job, work, request.is_disconnected)
            # Errors of the song occur before the first block: they still get their status code.
            start = await anext(blocks) + await anext(blocks)
            return WavStream(start, blocks, job, resources.pop_all())

    @app.post(
        "/forecast",
        summary="Forecast a song; the wav file is streamed while it is computed",
        responses=_wav("The predicted song; with ?original=true the channels of the song first."),
        **documentation,
    )
    async def forecast_song(
        request: Request, original: bool = False, job: JobName = None
    ) -> Response:
        def task(model: Model, song: Song, job: Job) -> Iterator[bytes]:
            channels = song.channels * (2 if original else 1)
            yield wav_header(song.frames, channels, song.sample_rate_hz)
            measures = RunningMeasures(song.channels)
            start = time.monotonic()
            for block, predicted in forecast_blocks(model, song, measures, job.check):
                progress, left = job.progress, song.frames / measures.frames - 1.0
                progress.seconds_done = measures.frames / song.sample_rate_hz
                progress.seconds_left = (time.monotonic() - start) * left
                progress.prediction_gain_db = finite_gains_db(measures)
                progress.bits_per_sample = measures.bits_per_sample
                samples = np.concatenate([block, predicted], axis=1) if original else predicted
                yield samples.astype("<i2").tobytes()

        return await respond(request, job, task)

    @app.post(
        "/continue",
        summary="Continue a song; the wav file is streamed while it is computed",
        responses=_wav("The continuation only."),
        **documentation,
    )
    async def continue_song(
        request: Request,
        seconds: Annotated[float, Query(gt=0, le=max_seconds)] = DEFAULTS["seconds"],
        temperature: Annotated[float, Query(ge=0, le=MAX_TEMPERATURE)] = DEFAULTS["temperature"],
        seed: Annotated[int, Query(ge=0, le=MAX_SEED)] = DEFAULTS["seed"],
        job: JobName = None,
    ) -> Response:
        params = TaskParams(task="continue", seconds=seconds, temperature=temperature, seed=seed)

        def task(model: Model, song: Song, job: Job) -> Iterator[bytes]:
            blocks = continuation_blocks(model, song, params, job.check)
            frames = max(1, round(params.seconds * song.sample_rate_hz))
            yield wav_header(frames, song.channels, song.sample_rate_hz)
            for block in blocks:
                job.progress.seconds_done += len(block) / song.sample_rate_hz
                yield block.astype("<i2").tobytes()

        return await respond(request, job, task)


async def _read(request: Request, job: Job, limits: Limits) -> bytes:
    """Return the body. Raises ``RequestError`` if it is too large, too slow or incomplete."""
    too_large = RequestError(
        413, f"the body is larger than {limits.body_bytes // 2**20} MB: send a smaller file"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise too_large
    content = bytearray()
    job.progress.body_bytes = int(length) if length.isdecimal() else None
    try:
        async with asyncio.timeout(max(job.seconds_left, 0.0)):
            async for part in request.stream():
                content += part
                job.progress.received_bytes = len(content)
                if len(content) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise RequestError(503, f"the body did not arrive within {job.seconds:g} s") from None
    except ClientDisconnect:  # nobody receives this response, but it avoids a traceback in the log
        raise RequestError(503, CANCELLED) from None
    return bytes(content)


def _parse(body: bytes) -> schemas.Invocation:
    try:
        return schemas.Invocation.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(422, first_error(error.errors(include_url=False))) from None


def _add_schema(app: FastAPI) -> None:
    """Add the body of /invocations to the schema; the endpoint reads it within the limits."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            reference = "#/components/schemas/{model}"
            schema = schemas.Invocation.model_json_schema(ref_template=reference)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components |= {**schema.pop("$defs"), "Invocation": schema}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _wav(description: str) -> dict[int | str, dict[str, Any]]:
    return {
        **documented(401, 403, 413, 422, 429, 503),
        200: {"content": {"audio/wav": {}}, "description": description},
    }


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
