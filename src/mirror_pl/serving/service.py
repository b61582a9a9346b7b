"""Scores over HTTP, for programs: pictures in, JSON out. Requests that come at the same time are scored together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Message

from mirror_pl.detectors import Prediction
from mirror_pl.prediction import Item
from mirror_pl.serving.scoring import Scorer
from mirror_pl.sources.folder import suffix_of

BUCKETS_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the histogram of answering times."""
_FORM_BYTES: Final = 2**20
"""Of a form with files, besides these: names, and what is between them."""
_RETRY_S: Final = 1
_GRACE_S: Final = 2
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_RAW_BODY: Final = {"requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}}
_FILES: Final = {"schema": {"type": "object", "properties": {"files": {"type": "array", "items": _BINARY["schema"]}}}}
_FILES_BODY: Final = {"requestBody": {"required": True, "content": {"multipart/form-data": _FILES}}}


@dataclass(frozen=True)
class ServiceLimits:
    """What requests may cost.

    Attributes:
        max_upload_mb: Of a file.
        max_files: In a request.
        max_waiting: Pictures that wait for their verdict, or are on their way, at a time.
    """

    max_upload_mb: float = 20.0
    max_files: int = 20
    max_waiting: int = 64

    @property
    def file_bytes(self) -> int:
        """Of a file, at most."""
        return int(self.max_upload_mb * 2**20)


@dataclass(frozen=True)
class Reply:
    """The answer on a picture.

    Attributes:
        name: Of its file, as it was given.
        p_fake: In [0, 1]; null without a score. Calibrated, where the detector has a calibration; so is `logit`.
        logit: Above 0 means fake.
        is_fake: The decision; null without a score, and where it is ``unsure``.
        decision: ``fake``, ``real``, or of a detector that may abstain ``unsure``.
        status: ``ok``, ``truncated`` (scored as far as it goes), ``undecodable`` or ``non_finite``.
        reason: Why the status is not ``ok``.
        raw_logit: The detector's own, where `logit` is calibrated; else null.
    """

    name: str
    p_fake: float | None
    logit: float | None
    is_fake: bool | None
    decision: str | None
    status: str
    reason: str
    raw_logit: float | None

    @classmethod
    def of(cls, item: Item, prediction: Prediction) -> Reply:
        """Return what is said of a prediction."""
        one = prediction
        return cls(item.path, one.p_fake, one.logit, one.is_fake, one.verdict, one.status, one.reason, one.raw_logit)


class Batcher:
    """One thread that scores what waits, together: as many pictures as the scorer takes at once.

    Attributes:
        waiting: Pictures that have a place: on their way, waiting, or being scored.
    """

    def __init__(self, scorer: Scorer, max_waiting: int) -> None:
        self.waiting = 0
        self._scorer = scorer
        self._max_waiting = max_waiting
        self._queue: SimpleQueue[tuple[Item, Future[Prediction]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="scoring")

    @property
    def ready(self) -> bool:
        """Whether it scores."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End once what waits is scored."""
        self._queue.put(None)

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Hold so many places while the block runs; to be called in the thread of the event loop only.

        Raises:
            HTTPException: 503, if there are not so many.
        """
        if self.waiting + count > self._max_waiting:
            reason = f"{self.waiting} pictures wait, and at most {self._max_waiting} may (max_waiting); try again later"
            raise HTTPException(503, reason, {"Retry-After": str(_RETRY_S)})
        self.waiting += count
        try:
            yield
        finally:
            self.waiting -= count

    async def score(self, items: Sequence[Item]) -> list[Prediction]:
        """Score items, beside those of others."""
        futures: list[Future[Prediction]] = [Future() for _ in items]
        for pair in zip(items, futures, strict=True):
            self._queue.put(pair)
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            with suppress(Empty):
                while len(batch) < self._scorer.at_once:
                    another = self._queue.get_nowait()
                    if another is None:
                        self._queue.put(None)  # for the next round, which ends then
                        break
                    batch.append(another)
            self._answer([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _answer(self, batch: Sequence[tuple[Item, Future[Prediction]]]) -> None:
        try:
            found = self._scorer.score([item for item, _ in batch])
            for (_, future), (_, prediction) in zip(batch, found, strict=True):
                future.set_result(prediction)
        except Exception as error:  # each of the requests fails with it, and the service goes on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)


class Metrics:
    """Counts of what was answered, in Prometheus' text format."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._pictures: Counter[str] = Counter()
        self._seconds: Counter[float] = Counter()
        self._sum_s = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests[status] += 1
        self._sum_s += seconds
        self._seconds.update(bound for bound in BUCKETS_S if seconds <= bound)

    def scored(self, status: str) -> None:
        """Count a picture."""
        self._pictures[status] += 1

    def text(self, waiting: int) -> str:
        """Return all counts; `waiting` is how many pictures wait."""
        total = self._requests.total()
        return "\n".join(
            [
                "# TYPE mirror_pl_requests_total counter",
                *(f'mirror_pl_requests_total{{status="{key}"}} {count}' for key, count in sorted(self._requests.items())),
                "# TYPE mirror_pl_pictures_total counter",
                *(f'mirror_pl_pictures_total{{status="{key}"}} {count}' for key, count in sorted(self._pictures.items())),
                "# TYPE mirror_pl_request_seconds histogram",
                *(f'mirror_pl_request_seconds_bucket{{le="{bound:g}"}} {self._seconds[bound]}' for bound in BUCKETS_S),
                f'mirror_pl_request_seconds_bucket{{le="+Inf"}} {total}',
                f"mirror_pl_request_seconds_sum {self._sum_s:.6f}",
                f"mirror_pl_request_seconds_count {total}",
                "# TYPE mirror_pl_waiting gauge",
                f"mirror_pl_waiting {waiting}\n",
            ]
        )


def build_service(
    scorer: Scorer, limits: ServiceLimits, *, hosts: Sequence[str] = ("*",), root_path: str | None = None
) -> FastAPI:
    """Build the service.

    Args:
        scorer: What scores.
        limits: What requests may cost.
        hosts: Names that it may be asked by, see `place.allowed_hosts`.
        root_path: The path at which a reverse proxy serves it.
    """
    batcher, metrics = Batcher(scorer, limits.max_waiting), Metrics()

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        del app
        batcher.start()
        yield
        batcher.stop()

    # FastAPI's own pages of documentation load scripts from elsewhere; /openapi.json is there.
    app = FastAPI(
        title="mirror_pl",
        version=version("mirror_pl"),
        docs_url=None,
        redoc_url=None,
        root_path=root_path or "",
        lifespan=running,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        begun, status = time.monotonic(), 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            metrics.answered(status, time.monotonic() - begun)

    async def replies(items: Sequence[Item]) -> list[Reply]:
        found = [Reply.of(*pair) for pair in zip(items, await batcher.score(items), strict=True)]
        for reply in found:
            metrics.scored(reply.status)
        return found

    async def predict(request: Request, name: str | None = None) -> Any:
        """Score the picture that is the body; `name` is its file's, whose suffix the format alignment goes by."""
        with batcher.places(1):
            content = await _bounded(request, limits.file_bytes).body()
            (reply,) = await replies([Item(content, name or "", None if name is None else suffix_of(name))])
        return reply if reply.p_fake is not None else JSONResponse(asdict(reply), 422)

    async def predict_files(request: Request) -> list[Reply]:
        """Score the files of a form, and answer with one reply for each, in their order."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(415, "files come as a form: multipart/form-data, as by curl -F files=@NAME")
        with batcher.places(1):
            most = limits.max_files * limits.file_bytes + _FORM_BYTES
            async with _bounded(request, most).form(max_files=limits.max_files, max_fields=0) as form:
                files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
                large = next((file for file in files if (file.size or 0) > limits.file_bytes), None)
                if large is not None:
                    raise _too_large(f"{large.filename} has {large.size} bytes", limits.file_bytes)
                with batcher.places(max(0, len(files) - 1)):
                    named = [(file.filename or "", await file.read()) for file in files]
                    return await replies([Item(content, name, suffix_of(name)) for name, content in named])

    async def health(response: Response) -> dict[str, Any]:
        """Say whether pictures are scored, and by what."""
        response.status_code = 200 if batcher.ready else 503
        return {"ready": batcher.ready, "detector": scorer.name, "crops": scorer.policy.crops, "version": app.version}

    async def show_metrics() -> PlainTextResponse:
        """Return counts, for Prometheus."""
        return PlainTextResponse(metrics.text(batcher.waiting), media_type="text/plain; version=0.0.4")

    app.middleware("http")(count)
    app.post("/predict", response_model=Reply, openapi_extra=_RAW_BODY, responses=_REFUSALS)(predict)
    app.post("/predict/files", response_model=list[Reply], openapi_extra=_FILES_BODY, responses=_REFUSALS)(predict_files)
    app.get("/health")(health)
    app.get("/metrics", response_class=PlainTextResponse)(show_metrics)
    return app


_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    413: {"description": "Larger than max_upload_mb; refused while it arrives"},
    415: {"description": "Of /predict/files: no form of files"},
    422: {"description": "No picture that can be read, or one of too many pixels; the reply says which"},
    503: {"description": "max_waiting pictures wait; Retry-After says when to come again"},
}


def _bounded(request: Request, most_bytes: int) -> Request:
    """Return a request whose body ends with 413 as soon as it is longer."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and len(said) < 19 and int(said) > most_bytes:
        raise _too_large(f"{said} bytes", most_bytes)
    arrived = 0

    async def receive() -> Message:
        nonlocal arrived
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request ended before its body did")
        arrived += len(message.get("body", b""))
        if arrived > most_bytes:
            raise _too_large(f"more than {arrived - 1} bytes", most_bytes)
        return message

    return Request(request.scope, receive)


def _too_large(what: str, most_bytes: int) -> HTTPException:
    return HTTPException(413, f"{what}; at most {most_bytes} are taken (max_upload_mb)", {"Connection": "close"})


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal asks to stop; what waits is answered, if it takes no longer than `_GRACE_S`."""
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S)
