"""Where it is served: a free port, the names that it is asked by, and a private folder for gradio."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mirror_pl.errors import ConfigError

_ENVIRONMENT: Final = {
    "GRADIO_TEMP_DIR": "",
    "GRADIO_ANALYTICS_ENABLED": "False",  # no report of its use, no question for a newer version
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give gradio a folder of its own for uploads and answers, which only this user can read, and remove it in the end."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with tempfile.TemporaryDirectory(prefix="mirror_pl-app-", ignore_cleanup_errors=True) as name:  # of mode 0700
        os.environ.update({**_ENVIRONMENT, "GRADIO_TEMP_DIR": name})
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def free_port(host: str, port: int) -> int:
    """Return `port`, or any that is free in place of 0.

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
            _bound(host, other)
        except OSError:
            continue
        raise ConfigError(f"port={port} is taken on {host}; {other} is free: port={other}")
    raise ConfigError(f"port={port} is taken on {host}; give another one, or port=0 for any that is free")


def _bound(host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with closing(socket.socket(family, kind, protocol)) as opened:
        if os.name == "posix":  # a port can be used again right after its server ended; on Windows, also one that is taken
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        return int(opened.getsockname()[1])


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, hosts: Sequence[str]) -> list[str]:
    """Return the names that requests may be for, so that no page elsewhere can have a visitor's browser ask this server.

    Args:
        host: Where it listens. Beyond this machine, and with no `hosts`, any name is allowed: it has some that are not known
            here.
        hosts: Further names.
    """
    return ["*"] if not (hosts or is_local(host)) else ["localhost", "127.0.0.1", "[::1]", host, *hosts]
