"""The page on a port: which requests are answered at all, where uploads go, and that nothing is asked of anybody else."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import fastapi
import gradio as gr
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirror_pl.app_page import markup
from mirror_pl.app_page.blocks import Service, build_blocks, theme
from mirror_pl.app_page.form import FormReader
from mirror_pl.app_page.uploads import RefusedUploadError, Uploads
from mirror_pl.stopping import leave_signals

_API: Final = "/gradio_api"
_READ: Final = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", f"{_API}/theme.css",
                f"{_API}/queue/data", f"{_API}/upload_progress", f"{_API}/startup-events")  # fmt: skip
_READ_BELOW: Final = ("/assets/", "/static/", f"{_API}/heartbeat/")
_WRITE: Final = (f"{_API}/upload", f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset")
"""All that the page asks for. What else gradio can do, such as handing out files of the server, is not there."""
_QUESTION_BYTES: Final = 2**20
"""Most of a request that is no upload: names of files, and settings."""
_LENGTH_DIGITS: Final = 18
"""Most digits of a request's length; Python itself refuses to read some thousands of them."""
STALL_S: Final = 10.0
"""A request that is no upload must be there in this time, and an upload must bring `PACE_BYTES` more each time."""
PACE_BYTES: Final = 2**14
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


_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""What this machine is called by its own browser."""


def web_app(
    service: Service, folder: Path, root_path: str | None = None, host: str = "localhost", hosts: Iterable[str] = ()
) -> ASGIApp:
    """Return the page as an application.

    Args:
        service: The detector, and what goes with it.
        folder: From `private_folder`.
        root_path: Where a reverse proxy serves it.
        host: Where it listens.
        hosts: Further names that it is asked by; the address that a request has come to is always one, and `_LOCAL` are.
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
        _give_back_memory()

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
    return Guard(app, service.uploads, folder, host, hosts, forget)


def _give_back_memory() -> None:
    """Have glibc give back what it keeps of large pictures to the system: two of 90 megapixels would leave 670 MB behind."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


class Guard:
    """Answers what the page asks for, and nothing else, and tells the browser to ask nobody else."""

    def __init__(
        self, app: ASGIApp, uploads: Uploads, folder: Path, host: str, hosts: Iterable[str], forget: Callable[[], None]
    ) -> None:
        """Begin.

        Args:
            app: The application.
            uploads: What may be asked about.
            folder: That uploads seem to be in.
            host: See `web_app`.
            hosts: Likewise.
            forget: Called once something was answered.
        """
        self._app = app
        self._uploads = uploads
        self._folder = f"{folder}/"
        self._host = host
        self._hosts = {_host_of(name) for name in hosts} - {""}
        self._forget = forget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method, length = str(scope["path"]), str(scope["method"]), headers.get("content-length", "")
        refusal = self._stranger(headers, scope.get("server"))
        if refusal is not None:
            pass
        elif method in ("GET", "HEAD"):
            if path not in _READ and not path.startswith(_READ_BELOW):
                refusal = PlainTextResponse("Not found", 404)
        elif method != "POST" or path not in _WRITE:
            refusal = PlainTextResponse("Not found", 404)
        elif not (length.isascii() and length.isdigit()):
            refusal = PlainTextResponse("A request must say how long it is", 411)
        elif len(length) > _LENGTH_DIGITS:
            refusal = PlainTextResponse("No length", 400)
        elif path != f"{_API}/upload":
            if int(length) > _QUESTION_BYTES:
                refusal = PlainTextResponse("Too large", 413)
            else:
                try:
                    body = await asyncio.wait_for(_read(receive), STALL_S)
                except asyncio.TimeoutError:
                    refusal = PlainTextResponse("Too slow", 408)
                except ClientDisconnect:  # nobody is left to answer
                    return
                else:
                    receive = _again(body, receive)
                    refusal = self._examined(body) if path == f"{_API}/queue/join" else None

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if not _is_ours(pair[0].decode("latin-1").lower())]
                message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in _HEADERS.items())]
            await send(message)

        gone = False

        async def receive_watched() -> Message:
            nonlocal gone
            message = await receive()
            gone |= message["type"] == "http.disconnect"
            return message

        try:
            await (refusal or self._app)(scope, receive_watched, send_guarded)
        except Exception as error:
            # What goes wrong for a client that has gone away is nobody's matter; nor is a question about its former session.
            if not gone and not isinstance(error.__cause__, HTTPException):
                raise
        finally:
            if path == f"{_API}/queue/data":
                self._forget()

    def _examined(self, body: bytes) -> Response | None:
        """Refuse a question that names any other file than an upload: gradio would fetch an address."""
        try:
            question = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse("No JSON", 400)
        # Gradio would read whatever file a path leads to: only a path that was given out is one, to the letter.
        strange = [path for path in _paths_in(question) if not (isinstance(path, str) and self._is_upload(path))]
        return PlainTextResponse("Only uploads are scored, and this is none, or no longer one", 400) if strange else None

    def _is_upload(self, path: str) -> bool:
        return path.startswith(self._folder) and path.removeprefix(self._folder) in self._uploads

    def _stranger(self, headers: dict[str, str], served: tuple[str, int | None] | None) -> Response | None:
        """Refuse who asks for another server, or from another one's page.

        A page elsewhere cannot read what this server answers, unless its name is made to lead here: then the name is wrong.
        """
        asked = _host_of(headers.get("host", ""))
        arrived_at = "" if served is None else served[0].removeprefix("::ffff:")  # which IPv4 is called behind host=::
        if not asked or asked not in (*_LOCAL, self._host, arrived_at, *self._hosts):
            return PlainTextResponse(f"This page is not served as {asked}; hosts=[{asked}] at its start would allow it", 403)
        origin = headers.get("origin")
        page = None if origin is None else origin.partition("://")[2]
        if page is None or page == headers["host"] or _host_of(page) in self._hosts:
            return None
        return PlainTextResponse(f"This was not asked from this page, but from {origin}", 403)


def _host_of(address: str) -> str:
    """Return the name in ``NAME:PORT``, in lower case; empty where there is none."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def _is_ours(header: str) -> bool:
    """Whether a header is set here, or by nobody: no other page may read what is answered."""
    return header in _HEADERS or header.startswith("access-control-")


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
        client = "" if request.client is None else request.client.host
        try:
            with uploads.arriving(int(request.headers["content-length"]), client) as arrived:
                reader = FormReader(request.headers.get("content-type", ""), uploads.limits)
                async for chunk in _paced(request.stream()):
                    arrived(len(chunk))
                    reader.feed(chunk)
                keys = uploads.keep(reader.finish(), client)
        except RefusedUploadError as error:
            return _Refusal(str(error), error.status)
        return JSONResponse([f"{folder}/{key}" for key in keys])

    return receive


async def _paced(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield an upload's parts.

    Raises:
        RefusedUploadError: As soon as `STALL_S` have brought less than `PACE_BYTES`.
    """
    clock = asyncio.get_running_loop().time
    due, fresh = clock() + STALL_S, 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), due - clock())
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise RefusedUploadError(f"The upload stalled: less than {PACE_BYTES:,} bytes in {STALL_S:g} s.", 408) from error
        yield chunk
        fresh += len(chunk)
        if fresh >= PACE_BYTES:
            due, fresh = clock() + STALL_S, 0


class _Refusal:
    """Refuses a request at once, and reads on for a while what the client still sends: else it would lose the answer."""

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
    leave_signals()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is temporary is removed then too
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on")
    try:
        uvicorn.Server(config).run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
