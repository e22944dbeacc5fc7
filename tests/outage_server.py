"""An OpenAI-compatible chat server in a thread that can be made to fail and to come back at the same address.

It prefers the shorter candidate in any form that a judge's prompt asks for, describes tasks, and compares answers.
`answered` counts whole answers by question (the Idempotency-Key without its suffix), `refused` what it did not answer, by
how.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ATTRIBUTES = {
    "category": "Math", "objectivity": "objective", "controversiality": "low", "desired": ["is right"],
    "guideline": "Check.",
}  # fmt: skip
FAILURES: dict[str, tuple[int, str]] = {
    "503": (503, '{"error": {"message": "overloaded"}}'),
    "429": (429, '{"error": {"message": "rate limit"}}'),
    "401": (401, '{"error": {"message": "incorrect API key"}}'),
    "402": (402, '{"error": {"message": "insufficient credits"}}'),
    "404": (404, '{"error": {"message": "no such model"}}'),
    "400-key": (400, '{"error": {"message": "API key not valid. Please pass a valid API key."}}'),
    "html": (200, "<html>Bad gateway</html>"),
    "too-long": (400, '{"error": {"message": "This model\'s maximum context length is 2048 tokens."}}'),
    "filtered": (400, '{"error": {"message": "The response was filtered", "code": "content_filter"}}'),
}


class OutageServer(AbstractContextManager["OutageServer"]):
    """The server for the length of a `with`; `url` is what a client is given."""

    def __init__(self, port: int = 0) -> None:
        self.answered, self.refused = Counter[str](), Counter[str]()
        self.refuses: dict[str, str] = {}
        """What a request that holds a text gets instead of an answer, for good."""
        self._lock, self._left, self._how = threading.Lock(), -1, ""
        self._start(port)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def fail(self, how: str, after: int = 0) -> None:
        """From the answer after the next `after` ones on, every request fails: a key of FAILURES, or "drop"."""
        with self._lock:
            self._how, self._left = how, after

    def recover(self) -> None:
        with self._lock:
            self._how, self._left = "", -1

    def down(self) -> None:
        """Nothing listens at the address any more."""
        self._server.shutdown()
        self._server.server_close()

    def up(self) -> None:
        self._start(self.port)

    def __exit__(self, *_: object) -> None:
        self.down()

    def _start(self, port: int) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, text = outer._answer(body, self.headers.get("Idempotency-Key", "").split("-")[0])
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _answer(self, body: dict[str, Any], question: str) -> tuple[int, str]:
        prompt = body["messages"][-1]["content"]
        own = next((how for text, how in self.refuses.items() if text in prompt), "")
        with self._lock:
            how = own or (self._how if self._how and self._left <= 0 else "")
            if how:
                self.refused[how] += 1
                return FAILURES.get(how, (0, ""))
            self._left -= 1
            self.answered[question] += 1
        message = {"role": "assistant", "content": said(prompt)}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return 200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


def said(prompt: str) -> str:
    """The answer of a model that likes what is short."""
    if prompt.startswith("You describe a task"):
        return json.dumps(ATTRIBUTES)
    if "<candidate_1>" not in prompt:
        return f"[[{'ABC'[int(hashlib.md5(prompt.encode()).hexdigest(), 16) % 3]}]]"
    first, second = (re.findall(rf"<candidate_{n}>\n(.*?)\n</candidate_{n}>", prompt, re.DOTALL)[-1] for n in (1, 2))
    verdict = "1" if (len(first), first) < (len(second), second) else "2"
    return json.dumps({"reason": "short", "verdict": verdict}) if "JSON object" in prompt else f"Verdict: {verdict}"
