"""Where the page is served: a port that is bound before anything is loaded, or the next one that is free, named."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

from mirror_pl.errors import ConfigError


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
