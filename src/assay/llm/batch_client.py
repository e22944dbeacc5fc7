"""The calls of a provider's batch API, and the journal of batches in the file of replies (see `batches`)."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

from assay.llm.chat import ChatConfig
from assay.llm.client import retry_after
from assay.llm.completion import PASSING, error_message
from assay.llm.replies import Replies, Reply
from assay.processes import alive, this_process

LINE_URL = "/v1/chat/completions"
"""What the lines of a file call the endpoint, at every provider."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """A journaled batch: `asked` is the JSON of each request, `most` the most tokens that it can cost."""

    token: str
    state: str = "claimed"
    file: str = ""
    id: str = ""
    at: float = field(default_factory=time.time)
    asked: dict[str, str] = field(default_factory=dict)
    most: dict[str, tuple[int, int]] = field(default_factory=dict)


class BatchFailed(Exception):
    """A step that came to nothing, after all its tries; `status` is the provider's, 0 where none came."""

    def __init__(self, problem: str, status: int = 0) -> None:
        super().__init__(problem)
        self.problem, self.status = problem, status


def _id(made: Mapping[str, Any]) -> str:
    if not made.get("id"):
        raise BatchFailed(f"the server's answer has no id: {json.dumps(made)[:200]}")
    return str(made["id"])


class BatchJournal:
    """The batches of one model in the file of replies."""

    def __init__(self, replies: Replies) -> None:
        self.replies, self._process = replies, this_process()
        replies.run("PRAGMA synchronous=FULL")  # a batch costs more than a request: safe against a power cut, too

    def claim(self, batch: Batch) -> list[str]:
        """Note a new batch; returns the keys that another one has already."""
        taken: list[str] = []

        def write() -> None:
            run, r = self.replies.run, self.replies
            run("INSERT INTO batches VALUES (?, ?, ?, ?, ?, '', '', ?)",
                (batch.token, self._process, r.url, r.model, batch.state, batch.at))  # fmt: skip
            for key, asked in batch.asked.items():
                row = (key, batch.token, asked, *batch.most[key])
                if not run("INSERT OR IGNORE INTO batched VALUES (?, ?, ?, ?, ?)", row).rowcount:
                    taken.append(key)

        self.replies.together([write])
        return taken

    def step(self, batch: Batch, state: str) -> None:
        batch.state = state
        self.replies.run(
            "UPDATE batches SET state = ?, file = ?, batch = ? WHERE token = ?",
            (state, batch.file, batch.id, batch.token),
        )

    def end(self, batch: Batch, writes: list[Callable[[], object]]) -> None:
        """Write what came of a batch, and forget it, at once."""
        gone = partial(self.replies.run, "DELETE FROM batched WHERE token = ?", (batch.token,))
        ended = partial(self.replies.run, "DELETE FROM batches WHERE token = ?", (batch.token,))
        self.replies.together([*writes, gone, ended])

    def resumed(self, keys: Collection[str]) -> tuple[list[Batch], dict[str, Reply]]:
        """The open batches that hold any of these requests, now this process's; and a problem for those that another
        living process waits for."""
        query = "SELECT token, process, state, file, batch, at FROM batches WHERE url = ? AND model = ?"
        rows = self.replies.run(query, (self.replies.url, self.replies.model)).fetchall()
        mine, foreign = list[Batch](), dict[str, Reply]()
        for token, process, state, file, batch_id, at in rows:
            batch = Batch(token=token, state=state, file=file, id=batch_id, at=at)
            held = "SELECT key, request, tokens_in, tokens_out FROM batched WHERE token = ?"
            for key, asked, tokens_in, tokens_out in self.replies.run(held, (token,)).fetchall():
                batch.asked[key], batch.most[key] = asked, (tokens_in, tokens_out)
            if not batch.asked.keys() & set(keys):
                continue
            take = "UPDATE batches SET process = ? WHERE token = ? AND process = ?"
            ours = process == self._process or not alive(process)
            if ours and self.replies.run(take, (self._process, token, process)).rowcount:
                mine.append(batch)
            else:
                said = f"another process waits for it in batch {batch_id or token}"
                foreign |= {k: Reply(problem=said, final=False) for k in batch.asked if k in keys}
        return mine, foreign


class BatchClient:
    """The calls of a provider's batch API, each tried as often as the config says."""

    def __init__(self, session: aiohttp.ClientSession, config: ChatConfig) -> None:
        self._session, self._config = session, config
        self._root = config.endpoint.removesuffix("chat/completions")

    async def upload(self, name: str, lines: Iterator[bytes]) -> str:
        with tempfile.TemporaryFile() as file:
            for line in lines:
                file.write(line + b"\n")

            file.flush()

            def form() -> aiohttp.FormData:
                content = os.fdopen(os.dup(file.fileno()), "rb")  # aiohttp closes what it has sent
                content.seek(0)
                data = aiohttp.FormData()
                data.add_field("purpose", "batch")
                data.add_field("file", content, filename=name, content_type="application/jsonl")
                return data

            return _id(await self._call("POST", "files", form=form))

    async def create(self, batch: Batch, window: str, again: bool) -> str:
        """The id of the batch, which is made once: after a call without an answer it is looked for before the next."""
        body = {
            "input_file_id": batch.file, "endpoint": LINE_URL, "completion_window": window,
            "metadata": {"assay": batch.token},
        }  # fmt: skip
        problem = BatchFailed("the batch was not made")
        for attempt in range(self._config.tries):
            if again and (known := await self._listed(batch)):
                return known
            try:
                made = await self._call("POST", "batches", body=body, name=batch.token, tries=1)
                return _id(made)
            except BatchFailed as failed:
                if 400 <= failed.status < 500 and failed.status not in PASSING:
                    raise
                problem, again = failed, True
                await self._wait(attempt, None)
        raise problem

    async def _listed(self, batch: Batch) -> str:
        """The id of a batch that was made though its answer was lost, from the provider's list; "" where there is none."""
        after = ""
        while True:
            try:
                page = await self.get_json(f"batches?limit=100{after}")
            except BatchFailed as failed:
                said = (
                    f"the answer to making a batch was lost, and the provider's list cannot be read: {failed.problem}"
                )
                raise BatchFailed(f"connection: {said}") from failed
            rows = [row for row in page.get("data") or [] if isinstance(row, dict)]
            for row in rows:
                if (row.get("metadata") or {}).get("assay") == batch.token or row.get("input_file_id") == batch.file:
                    return str(row["id"])
            old = rows and float(rows[-1].get("created_at") or time.time()) < batch.at - 86_400
            if not rows or not page.get("has_more") or old:
                return ""
            after = f"&after={rows[-1]['id']}"

    async def lines(self, path: str) -> tuple[list[dict[str, Any]], int]:
        """The JSON objects of a file, and how many lines cannot be read. A file with a torn end is fetched again."""
        for attempt in range(self._config.tries):
            payload = await self._bytes("GET", path)
            rows, unread, last = list[dict[str, Any]](), 0, True
            for line in filter(None, (part.strip() for part in payload.split(b"\n"))):
                try:
                    row = json.loads(line)
                    last = isinstance(row, dict)
                except ValueError:
                    last = False
                if last:
                    rows.append(row)
                else:
                    unread += 1
            if last:
                break
            await self._wait(attempt, None)
        return rows, unread

    async def get_json(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path)

    async def _call(
        self, method: str, path: str, *, body: Any = None, form: Callable[[], aiohttp.FormData] | None = None,
        name: str = "", tries: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        payload = await self._bytes(method, path, body=body, form=form, name=name, tries=tries)
        try:
            told = json.loads(payload)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise BatchFailed("the server's answer is not JSON")
        if told.get("error") and "id" not in told:
            raise BatchFailed(f"http 200, but an error: {error_message(payload)}")
        return told

    async def _bytes(
        self, method: str, path: str, *, body: Any = None, form: Callable[[], aiohttp.FormData] | None = None,
        name: str = "", tries: int = 0,
    ) -> bytes:  # fmt: skip
        failed = BatchFailed("connection: not tried")
        headers = {"Idempotency-Key": name} if name else {}
        for attempt in range(tries or self._config.tries):
            after: float | None = None
            try:
                data = form() if form is not None else None
                async with self._session.request(
                    method, self._root + path, json=body, data=data, headers=headers
                ) as response:
                    payload = await response.read()
                if response.status in (200, 201):
                    return payload
                failed = BatchFailed(
                    f"http {response.status}: {error_message(payload)}".removesuffix(": "), response.status
                )
                if response.status not in PASSING:
                    raise failed
                after = retry_after(response.headers.get("Retry-After"))
            except TimeoutError:
                failed = BatchFailed("timeout")
            except (aiohttp.ClientError, OSError) as error:
                failed = BatchFailed(f"connection: {error or type(error).__name__}")
            if attempt + 1 < (tries or self._config.tries):
                await self._wait(attempt, after)
        raise failed

    async def _wait(self, attempt: int, after: float | None) -> None:
        wait = self._config.backoff_s * 2**attempt if after is None else after
        await asyncio.sleep(min(wait, self._config.max_wait_s))
