"""A server of aiohttp in a thread of this process, on loopback: what fakes of language models are made of."""

import asyncio
import threading
from contextlib import AbstractContextManager
from typing import Any

from aiohttp import web


class Loopback(AbstractContextManager[Any]):
    """Serves as soon as it is made, until `stop` or the end of a `with`; `url` is what a client is given."""

    def __init__(self, application: web.Application) -> None:
        self._application, self._ready = application, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self._application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def __exit__(self, *_: object) -> None:
        self.stop()
