"""Recorded replies: out of a cache into a file that can be shared, and back as a `Chat` that needs no server."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from assay.errors import AssayError
from assay.llm.chat import ChatConfig, Request, request_key, request_text
from assay.llm.replies import Reply, open_database, question_of


def export_replies(cache: Path, out: Path) -> int:
    """Write every cached reply to the JSON lines that `Replay` reads, ordered by key; returns how many."""
    if not cache.exists():
        raise AssayError(f"{cache}: there is no reply cache here")
    query = "SELECT key, text, tokens_in, tokens_out, problem, request FROM replies ORDER BY key"
    count = 0
    with open_database(cache) as database, out.open("w", encoding="utf-8") as file:
        for key, text, tokens_in, tokens_out, problem, request in database.execute(query):
            said = {"problem": problem} if problem else {"text": text}
            row = {"key": key, **said, "tokens_in": tokens_in, "tokens_out": tokens_out}
            file.write(json.dumps({**row, "request": json.loads(request) if request else None}) + "\n")
            count += 1
    return count


class Replay:
    """A `Chat` of recorded replies: a JSONL file or a folder of them, one reply per line, found by `request_key`, or as the
    same question where a line has its `request` (`replies.question_of`).

    A line needs `key` and either `text` or `problem`. `config` is that of the server that was recorded.
    Raises AssayError when a file cannot be read, and when a request has no recorded reply.
    """

    def __init__(self, path: Path, config: ChatConfig) -> None:
        self.path, self.config = path, config
        self._replies = {name: reply for names, reply in _recorded(path, config.url) for name in names}

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._find(r) for r in requests]

    def _find(self, request: Request) -> Reply:
        key = request_key(self.config, request)
        question = question_of(self.config.url, request_text(self.config, request))
        found = self._replies.get(key) or self._replies.get(question)
        if found is None:
            ends = request.messages[-1].content[-80:] if request.messages else ""
            raise AssayError(
                f"{self.path}: no recorded reply of {self.name} for request {key} (sample {request.sample}, ending "
                f"{ends!r}); the prompt or the parameters changed since it was recorded: ask a server once and export again"
            )
        return found


def _recorded(path: Path, url: str) -> Iterator[tuple[tuple[str, ...], Reply]]:
    """The names of each recorded reply (its key, its question), and the reply."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(f.is_file() for f in files):
        raise AssayError(f"{path}: no recorded replies here (a JSONL file or a folder of them)")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                reply = Reply(
                    text=row.get("text", ""), problem=row.get("problem", ""),
                    tokens_in=int(row.get("tokens_in", 0)), tokens_out=int(row.get("tokens_out", 0)), cached=True,
                )  # fmt: skip
                question = question_of(url, json.dumps(row["request"])) if row.get("request") else ""
                yield (str(row["key"]), *([question] if question else [])), reply
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise AssayError(f"{file}, line {number}: not a recorded reply ({error!r})") from error
