"""The LLM transport: replies per CPU second of the client, against a server on loopback that answers after 20 ms.

    python benchmarks/bench_chat.py     # 5 x 4,000 requests, a minute on two cores

The server is a process of its own and not counted. Every reply is written to the cache, as in use; then the same requests
are answered by the cache alone. The peer, where it is installed, is the `openai` client on 1,000 of the same requests, as
many at once, which keeps nothing. Ours and theirs take turns. The last line of stdout is JSON.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REQUESTS, PEER_REQUESTS, REPETITIONS, CONCURRENCY, DELAY_S = 4_000, 1_000, 5, 256, 0.02


def serve(ready: Any) -> None:
    """Answer every question after 20 ms, until killed."""
    from aiohttp import web

    body = {"choices": [{"message": {"role": "assistant", "content": "Verdict: 1"}}],
            "usage": {"prompt_tokens": 400, "completion_tokens": 4}}  # fmt: skip

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(DELAY_S)
        return web.json_response(body)

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def peer(url: str, texts: list[str]) -> float:
    """Replies per CPU second of the openai client; nan where it is not installed."""
    try:
        from openai import AsyncOpenAI
    except ImportError:
        return float("nan")

    async def run() -> None:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            todo = iter(texts)

            async def work() -> None:
                for text in todo:
                    reply = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": text}], temperature=1.0, max_tokens=1024
                    )
                    assert reply.choices[0].message.content == "Verdict: 1"

            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))

    start = time.process_time()
    asyncio.run(run())
    return len(texts) / (time.process_time() - start)


def main() -> None:
    from assay.llm.chat import ChatConfig, Request
    from assay.llm.client import Server
    from assay.records import user

    os.environ["NO_PROXY"] = "127.0.0.1"
    ready: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=serve, args=(ready,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ready.get(timeout=30)}/v1"
    fresh, cached, theirs = [], [], []
    for repetition in range(REPETITIONS):
        requests = [Request(messages=(user(f"{'which is better? ' * 100} {repetition} {n}"),)) for n in range(REQUESTS)]
        with tempfile.TemporaryDirectory() as place:
            server = Server(ChatConfig(url=url, model="m", concurrency=CONCURRENCY), Path(place) / "c.sqlite")
            for told in (fresh, cached):
                start = time.process_time()
                replies = server.complete(requests)
                told.append(REQUESTS / (time.process_time() - start))
                assert all(r.text == "Verdict: 1" for r in replies)
        theirs.append(peer(url, [r.messages[0].content for r in requests[:PEER_REQUESTS]]))
        print(
            f"{fresh[-1]:,.0f} fresh, {cached[-1]:,.0f} cached, openai {theirs[-1]:,.0f} replies per CPU second",
            file=sys.stderr,
        )
    process.terminate()
    print(f"fresh {statistics.median(fresh):,.0f} ({min(fresh):,.0f} to {max(fresh):,.0f}) replies per CPU second, cached "
          f"{statistics.median(cached):,.0f} ({min(cached):,.0f} to {max(cached):,.0f}); {REQUESTS:,} requests of 1.7 kB, "
          f"{CONCURRENCY} at once, {REPETITIONS} repetitions; openai client {statistics.median(theirs):,.0f} "
          f"({min(theirs):,.0f} to {max(theirs):,.0f})")  # fmt: skip
    rates = {"fresh_per_cpu_s": fresh, "cached_per_cpu_s": cached, "openai_per_cpu_s": theirs}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(json.dumps({"bench": "chat"} | {k: round(v) for k, v in medians.items() if v == v}))


if __name__ == "__main__":
    main()
