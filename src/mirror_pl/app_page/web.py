"""The page on a port: which requests are answered at all, where uploads go, and that nothing is asked of anybody else."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import fastapi
import gradio as gr
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirror_pl.app_page import markup
from mirror_pl.app_page.blocks import Service, build_blocks, theme
from mirror_pl.app_page.form import FormReader
from mirror_pl.app_page.uploads import RefusedUploadError, Uploads

_API: Final = "/gradio_api"
_READ: Final = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", f"{_API}/theme.css",
                f"{_API}/queue/data", f"{_API}/upload_progress", f"{_API}/startup-events")  # fmt: skip
_READ_BELOW: Final = ("/assets/", "/static/", f"{_API}/heartbeat/")
_WRITE: Final = (f"{_API}/upload", f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset")
"""All that the page asks for. What else gradio can do, such as handing out files of the server, is not there."""
_QUESTION_BYTES: Final = 2**20
"""Most of a request that is no upload: names of files, and settings."""
TIDY_S: Final = 60.0
"""How often what was left behind is forgotten: uploads that nobody asked about, answers to who has left."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""The browser itself refuses whatever would leave this server. Gradio's own scripts are in the page, and build templates."""


def web_app(service: Service, folder: Path, root_path: str | None = None) -> ASGIApp:
    """Return the page as an application.

    Args:
        service: The detector, and what goes with it.
        folder: From `private_folder`.
        root_path: Where a reverse proxy serves it.
    """
    blocks = build_blocks(service)

    def forget() -> None:
        # What gradio holds of each session: its last answer, the names of its uploads. Here nobody ever asks for them.
        for mount in app.routes:
            if isinstance(mount, Mount):
                for session in mount.app.state_holder.session_data.values():
                    session.config_values.clear()
        for block in blocks.blocks.values():
            block.temp_files.clear()

    @asynccontextmanager
    async def tidied(app: fastapi.FastAPI) -> AsyncIterator[None]:
        del app
        task = asyncio.create_task(tidy())
        yield
        task.cancel()

    async def tidy() -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            service.uploads.drop_old()
            forget()

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=tidied)
    app.add_route(f"{_API}/upload", _receiver(service.uploads, folder), methods=["POST"])
    app.add_route(f"{_API}/upload_progress", _nothing_to_say, methods=["GET"])
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=root_path or "",
        footer_links=[],
        run_history=False,
        show_error=False,  # what goes wrong here is for the console of who started it
        max_file_size=service.uploads.limits.file_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=markup.text_of("page.css"),
        js=markup.text_of("page.js"),
    )
    return Guard(app, folder, forget)


class Guard:
    """Answers what the page asks for, and nothing else, and tells the browser to ask nobody else."""

    def __init__(self, app: ASGIApp, folder: Path, forget: Callable[[], None]) -> None:
        """Take the application, the folder that uploads seem to be in, and what to call once something was answered."""
        self._app = app
        self._folder = f"{folder}/"
        self._forget = forget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do so."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = str(scope["path"]), str(scope["method"])
        refusal: Response | None = None
        if method in ("GET", "HEAD"):
            if path not in _READ and not path.startswith(_READ_BELOW):
                refusal = PlainTextResponse("Not found", 404)
        elif method != "POST" or path not in _WRITE:
            refusal = PlainTextResponse("Not found", 404)
        elif not headers.get("content-length", "").isdigit():
            refusal = PlainTextResponse("A request must say how long it is", 411)
        elif path != f"{_API}/upload":
            if int(headers["content-length"]) > _QUESTION_BYTES:
                refusal = PlainTextResponse("Too large", 413)
            elif path == f"{_API}/queue/join":
                body = await _read(receive)
                refusal, receive = self._examined(body), _again(body, receive)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in _HEADERS]
                message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in _HEADERS.items())]
            await send(message)

        try:
            await (refusal or self._app)(scope, receive, send_guarded)
        finally:
            if path == f"{_API}/queue/data":
                self._forget()

    def _examined(self, body: bytes) -> Response | None:
        """Refuse a question that names any other file than an upload: gradio would fetch an address."""
        try:
            question = json.loads(body)
        except ValueError:
            return PlainTextResponse("No JSON", 400)
        strange = [path for path in _paths_in(question) if not str(path).startswith(self._folder)]
        return PlainTextResponse("Only uploads are scored", 400) if strange else None


def _paths_in(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _receiver(uploads: Uploads, folder: Path) -> Any:
    async def receive(request: Request) -> ASGIApp:
        try:
            with uploads.arriving(int(request.headers["content-length"])):
                reader = FormReader(request.headers.get("content-type", ""), uploads.limits)
                async for chunk in request.stream():
                    reader.feed(chunk)
                keys = uploads.keep(reader.finish())
        except RefusedUploadError as error:
            return _Refusal(str(error), error.status)
        return JSONResponse([f"{folder}/{key}" for key in keys])

    return receive


class _Refusal:
    """Says no at once, and lets who still sends finish, within bounds: a connection that breaks would lose the answer."""

    def __init__(self, message: str, status: int) -> None:
        self._body, self._status = message.encode(), status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(len(self._body)),
            "connection": "close",
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": raw})
        await send({"type": "http.response.body", "body": self._body, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_drain(receive), _LINGER_S)
        await send({"type": "http.response.body", "body": b""})


_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 2**26


async def _drain(receive: Receive) -> None:
    left = _LINGER_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _nothing_to_say(request: Request) -> Response:
    del request  # an upload takes moments; the page waits for the word that it is done
    return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def serve(app: ASGIApp, opened: socket.socket) -> None:
    """Serve until the process is interrupted or told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is temporary is removed then too
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on")
    try:
        uvicorn.Server(config).run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
