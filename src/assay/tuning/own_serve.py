"""A policy behind a chat server of this process, until it is told to end."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

from aiohttp import web

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.tuning.own import opened, room


def run_serve(model: str, host: str, port: int, settings: PolicyConfig, rows: int, name: str) -> None:
    """Serve until SIGTERM or Ctrl-C. A line on stdout says when it is ready, and where."""
    from assay.policy.chat_server import ChatServer

    with tempfile.TemporaryDirectory(prefix="assay-pictures-") as folder:
        store = ImageStore(Path(folder))
        policy, sampler = opened(model, settings, SamplerConfig(rows=rows), store, trains=False)
        asyncio.run(_serve(ChatServer(policy, sampler, store, name or model, room(policy), rows), host, port))


async def _serve(server: object, host: str, port: int) -> None:
    runner = web.AppRunner(server.app(), shutdown_timeout=5.0)  # type: ignore[attr-defined]
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise AssayError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error
    where = runner.addresses[0]
    print(f"serving {server.name} at http://{where[0]}:{where[1]}/v1", flush=True)  # type: ignore[attr-defined]
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await stop.wait()
    await runner.cleanup()
