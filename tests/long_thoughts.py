"""How much memory long thoughts take: a model that thinks for LENGTH characters before each answer, on QUESTIONS of
OlympiadBench's form, REPEATS answers each, through evalscope. Prints the peaks of this process and of evalscope in MiB.

Usage: python long_thoughts.py FOLDER QUESTIONS REPEATS LENGTH
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

LENGTH = 262_144
"""64K tokens of about four characters."""


def serve(length: int) -> None:
    """Answers at once, always the same."""
    message = {"role": "assistant", "content": "So \\boxed{7}.", "reasoning_content": "I think so. " * (length // 12)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 50, "completion_tokens": length // 4, "total_tokens": 50 + length // 4}
    told = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=told, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)

    async def begun() -> web.AppRunner:
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        return runner

    import asyncio

    async def until_told() -> None:
        runner = await begun()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()

    asyncio.run(until_told())


def questions(folder: Path, n: int) -> Path:
    """A folder of data in the published form."""
    file = folder / "olympiadbench" / "OE_TO_maths_en_COMP.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {"id": i, "subfield": "Algebra", "context": None, "question": f"What is the number of case {i}?", "solution": [""],
         "final_answer": ["7"], "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None}
        for i in range(n)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def main(folder: Path, n: int, repeats: int, length: int) -> None:
    from assay.bench.reasoning.environments import default_folder
    from assay.bench.reasoning.measure import Settings, measure
    from assay.bench.reasoning.serving import Endpoint

    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(length)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    end = Endpoint(url=server.stdout.readline().strip(), model="m", identity="m", by="a test")
    settings = Settings(only=("olympiadbench",), repeats=repeats, max_tokens=65_536)
    try:
        told = measure(end, questions(folder / "data", n), folder / "out", settings, default_folder())
    finally:
        server.communicate("")
    (found,) = told.results
    size = (folder / "out" / "asked.sqlite").stat().st_size
    peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"n": found.n, "journal_mib": size >> 20, "peak_mib": peaks[0], "evalscope_mib": peaks[1]}))  # type: ignore[union-attr]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
