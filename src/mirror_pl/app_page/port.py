"""What the page is served with: a private folder for gradio, nothing asked of or told to others, and a port."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mirror_pl.errors import ConfigError

_ENVIRONMENT: Final = {
    "GRADIO_TEMP_DIR": "",
    "GRADIO_ANALYTICS_ENABLED": "False",  # no report of its use, no question for a newer version
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
}


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give gradio a folder of its own for temporary files, which only this user can read, and remove it in the end.

    Nothing should ever be in it: uploads stay in memory, and answers are part of the page.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with tempfile.TemporaryDirectory(prefix="mirror_pl-app-") as name:  # of mode 0700
        os.environ.update({**_ENVIRONMENT, "GRADIO_TEMP_DIR": name})
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a port; 0 is any that is free.

    Raises:
        ConfigError: If the port is taken, with the next one that is free, or there is no such host.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"host={host} port={port}: {error.strerror or error}") from error
    for other in range(port + 1, min(port + 100, 65536)):
        try:
            _bound(host, other).close()
        except OSError:
            continue
        raise ConfigError(f"port={port} is taken on {host}; {other} is free: port={other}")
    raise ConfigError(f"port={port} is taken on {host}; give another one, or port=0 for any that is free")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # so that a port can be used again right after its server ended
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError:
        opened.close()
        raise
    return opened


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
