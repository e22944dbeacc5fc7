"""A provider's batch API on loopback: files and batches with the states and the failures that OpenAI's reference describes.

A batch moves one state each time it is looked at. Answers come in another order than the requests. `paid` counts how often
each request was answered: what a provider would bill. What goes wrong is set from outside: see the fields.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from loopback import Loopback

STATES = ("validating", "in_progress", "finalizing", "completed")
Line = dict[str, Any]


def good(body: dict[str, Any]) -> tuple[int, Any]:
    """The last message in capital letters."""
    message = {"role": "assistant", "content": str(body["messages"][-1]["content"]).upper()}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


class BatchProvider(Loopback):
    """The server, in a thread of this process; `url` is what a client is given."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = good
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.paid, self.calls = Counter[str](), Counter[str]()
        self.keys: list[str] = []
        self.hang: set[str] = set()
        """Names of calls that do their work and never answer."""
        self.lose: Counter[str] = Counter()
        """Names of calls -> how often the work is done and the connection then closed without an answer."""
        self.refuse: dict[str, tuple[int, Any]] = {}
        """Names of calls -> the status and body that refuse them."""
        self.end, self.leave_out, self.page = "completed", 0, 100
        """How batches end; how many of their last requests are left without an answer; batches in a page of the list."""
        self.frozen, self.torn = False, 0
        """Batches stay in their state; how often a file of answers comes without its end."""
        app = web.Application(client_max_size=1 << 30)
        for name, method, path, handler in (
            ("upload", "POST", "/v1/files", self._upload), ("content", "GET", "/v1/files/{id}/content", self._content),
            ("create", "POST", "/v1/batches", self._create), ("list", "GET", "/v1/batches", self._list),
            ("look", "GET", "/v1/batches/{id}", self._look),
        ):  # fmt: skip
            app.router.add_route(method, path, self._faulty(name, handler))
        super().__init__(app)

    def _faulty(self, name: str, handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls[name] += 1
            if name in self.refuse:
                status, body = self.refuse[name]
                return web.json_response(body, status=status)
            response: web.StreamResponse = await handler(request)
            if name in self.hang:
                await asyncio.sleep(3600)
            if self.lose[name] > 0:
                self.lose[name] -= 1
                assert request.transport is not None
                request.transport.close()
            return response

        return handle

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        field = form["file"]
        assert isinstance(field, web.FileField)
        name = f"file-{len(self.files)}"
        self.files[name] = field.file.read()
        return web.json_response({"id": name, "object": "file", "bytes": len(self.files[name]), "purpose": "batch"})

    async def _content(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.files:
            return web.json_response({"error": {"message": f"No such File object: {name}"}}, status=404)
        self.torn, torn = max(0, self.torn - 1), self.torn > 0
        return web.Response(body=self.files[name][: -40 if torn else None], content_type="application/octet-stream")

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch_{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        assert all((line["method"], line["url"]) == ("POST", "/v1/chat/completions") for line in lines)
        self.batches[name] = {
            "id": name, "object": "batch", "status": STATES[0], "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"), "created_at": 1_900_000_000 + len(self.batches), "output_file_id": None,
            "error_file_id": None, "errors": None, "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        return web.json_response(self.batches[name])

    async def _list(self, request: web.Request) -> web.Response:
        rows = list(self.batches.values())[::-1]
        after = request.query.get("after")
        start = next((n + 1 for n, row in enumerate(rows) if row["id"] == after), 0)
        page = rows[start : start + self.page]
        return web.json_response({"object": "list", "data": page, "has_more": start + self.page < len(rows)})

    async def _look(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "No batch found"}}, status=404)
        told = dict(batch)
        if not self.frozen and batch["status"] in STATES[:-1]:
            batch["status"] = STATES[STATES.index(batch["status"]) + 1]
            if batch["status"] == "completed":
                self._finish(batch)
        return web.json_response(told)

    def _finish(self, batch: dict[str, Any]) -> None:
        batch["status"] = self.end
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        if self.end == "failed":
            batch["errors"] = {
                "object": "list",
                "data": [{"code": "invalid", "message": "Enqueued token limit reached."}],
            }
            return
        cut = len(lines) - self.leave_out
        outputs, errors = [], []
        for n, line in enumerate(lines):
            row: Line = {"id": f"r{n}", "custom_id": line["custom_id"], "response": None, "error": None}
            if n >= cut:
                if self.end == "expired":
                    said = "This request could not be executed before the completion window expired."
                    errors.append(row | {"error": {"code": "batch_expired", "message": said}})
                continue
            status, body = self.answer(line["body"])
            self.paid[line["custom_id"]] += status == 200
            row["response"] = {"status_code": status, "request_id": "q", "body": body}
            (outputs if status == 200 else errors).append(row)
        for name, rows in (("output_file_id", outputs), ("error_file_id", errors)):
            if rows:
                batch[name] = f"{batch['id']}-{name}"
                self.files[batch[name]] = "".join(json.dumps(r) + "\n" for r in reversed(rows)).encode()
        self.leave_out = 0
