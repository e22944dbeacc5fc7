"""A server of aiohttp in a thread of this process, on loopback: what fakes of language and reward models are made of."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Self

from aiohttp import web


class Loopback:
    """Serves as soon as it is made, until `stop` or the end of a `with`; `url` is what a client is given. Without an
    application it is a chat server, whose completions are `_answer`."""

    def __init__(self, application: web.Application | None = None, port: int = 0) -> None:
        if application is None:
            application = web.Application(client_max_size=2**28)
            application.router.add_post("/v1/chat/completions", self._answer)
        self._up: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(application, port)), daemon=True)
        self._thread.start()
        self._up.result(300)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    async def _serve(self, application: web.Application, port: int) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as error:  # the port is taken: that is for who asked for it
            self._up.set_exception(error)
            return
        self.port = int(runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._up.set_result(None)
        await self._stop.wait()
        await runner.cleanup()

    def stop(self) -> None:
        """Nothing listens at the address any more."""
        with suppress(RuntimeError):  # it has stopped before
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(300)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def answering(answer: Callable[[str, dict[str, Any] | None], tuple[int, object]]) -> Iterator[str]:
    """A server's address, for as long as this lasts. `answer`: of path and body (None: a GET), in a thread of its own, the
    status and the body (bytes stay)."""

    async def reply(request: web.Request) -> web.Response:
        body = None if request.method == "GET" else json.loads(await request.read() or b"{}")
        status, told = await asyncio.to_thread(answer, request.path, body)
        payload = told if isinstance(told, bytes) else json.dumps(told).encode()
        return web.Response(status=status, body=payload, content_type="application/json")

    application = web.Application(client_max_size=2**28)
    application.router.add_route("*", "/{path:.*}", reply)
    with Loopback(application) as server:
        yield server.url.removesuffix("/v1")


def completion(
    content: Any, reason: str | None = "stop", tokens: tuple[int, int] = (100, 10), **more: Any
) -> dict[str, Any]:
    """The body of a chat completion; `more` of its message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **more}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}
