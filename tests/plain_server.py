"""An HTTP server of JSON in a thread, on loopback: what fakes of judges and of reward models are made of."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(answer: Callable[[str, dict[str, Any] | None], tuple[int, object]]) -> Iterator[str]:
    """Its address, for as long as this lasts. `answer`: of path and body (None: a GET), status and body (bytes stay)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(*answer(self.path, None))

        def do_POST(self) -> None:
            self.send(*answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")))

        def send(self, status: int, told: object) -> None:
            payload = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
