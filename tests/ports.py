"""Ports for servers that are told theirs before they listen, as a command's `--port` is.

The system gives ports of one range to every socket that asks for none (port 0, and the near end of every connection), so one
that was free a moment ago may be another test's by the time a server takes it. These lie below that range, and each worker
of pytest-xdist has its own.
"""

import os
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_START, _END = 12_000, min(32_768, int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768)
if _END < _START + 2_000:  # a system that gives away nearly all: no range is ours alone
    _END = 32_768
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_OURS = range(_START + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), _END, _WORKERS)
_CHANCE, _given = random.SystemRandom(), set[int]()


def free_port() -> int:
    """One that nobody listens at, that the system gives to nobody, and that this process has not had before."""
    while True:
        port = _CHANCE.choice(_OURS)
        with socket.socket() as probe:
            if port in _given or probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
