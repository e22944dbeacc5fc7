"""An OpenAI-compatible chat server on loopback whose replies a test decides; it keeps what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Judged:
    """`answer` turns a request's last message into a reply's text; a status of 400 and more where it raises ValueError."""

    answer: Callable[[str], str]
    url: str = ""
    asked: list[Any] = field(default_factory=list)

    def text(self, body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


@contextmanager
def judging(answer: Callable[[str], str]) -> Iterator[Judged]:
    judged = Judged(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judged.asked.append(body)
            try:
                choice = {
                    "index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": judged.answer(judged.text(body))},
                }  # fmt: skip
                self.send(200, {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}})
            except ValueError as error:
                self.send(400, {"error": {"message": str(error)}})

        def send(self, status: int, told: dict[str, Any]) -> None:
            payload = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judged.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judged
    finally:
        server.shutdown()
        server.server_close()
