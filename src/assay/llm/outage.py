"""What servers left unanswered, told apart from what models said: an outage is never a verdict, a score or a description.

A reply that is not `final` never came: the server was down, the key wrong, the rate limit spent. Whoever asked keeps nothing
of such a part and raises `Unreached`; all that did come is in the cache, so the same command asks only what failed. What a
server refuses for what is in the request (too long for the model, held back by a content filter) is that request's own
problem, and is counted like a refusal, as long as the model answers others: a server that refuses all is set up wrong.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from assay.errors import AssayError
from assay.llm.chat import Chat, Request
from assay.llm.client import Server
from assay.llm.replies import CUT, MOST_CUTS, Reply, open_database
from assay.records import user

PART = 256
"""Requests (of a judge: pairs) between two looks at whether the server is still there."""
_OWN = frozenset({400, 413, 414, 415, 422, 431})
"""HTTP statuses that can be about one request alone."""
_ACCOUNT = re.compile(r"api.?key|credit|billing|quota|balance|payment|unauthorized", re.IGNORECASE)
_CONTENT = re.compile(r"moderation|flagged|content.?(filter|polic|management)|safety", re.IGNORECASE)
_STATUS = re.compile(r"http (\d{3})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one model left unanswered of `asked` requests, by reason. `silent`: nothing came of what was sent now."""

    model: str
    asked: int
    problems: tuple[str, ...]
    silent: bool


class Unreached(AssayError):
    """Servers did not answer everything, so what was to be made of their replies is not made.

    The same call later asks only what failed.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        self.losses = tuple(losses)
        by: dict[str, list[Loss]] = {}
        for loss in losses:
            by.setdefault(loss.model, []).append(loss)
        told = "; ".join(_told(model, rows) for model, rows in by.items())
        cut = any(CUT in problem for loss in losses for problem in loss.problems)
        hint = (
            f" (what was cut: give a larger limit, or it is a counted problem at the {MOST_CUTS}rd time)" if cut else ""
        )
        super().__init__(
            f"{told}. Nothing was decided by that, and all that came is kept: see to the server, the key or the limit, "
            f"then give this command again; it asks only what failed{hint}"
        )

    @property
    def silent(self) -> bool:
        """Some server answered nothing at all: there is no use in asking on."""
        return any(loss.silent for loss in self.losses)


def loss_of(chat: Chat, replies: Sequence[Reply]) -> Loss | None:
    """What `chat` left unanswered; None when every reply is something that a model said, or its request's own problem."""
    missing = [r for r in replies if not r.final]
    if any(_own(r.problem) for r in missing) and (any(r.final for r in replies) or _answered_before(chat)):
        missing = [r for r in missing if not _own(r.problem)]
    if not missing:
        return None
    where = f"{chat.name} at {chat.config.url}" if isinstance(chat, Server) else chat.name
    lost = {id(r) for r in missing}
    in_batches = hasattr(chat, "batch")  # asked ahead of the shards: what came lies in the cache
    silent = not in_batches and not any((r.text or r.tokens or id(r) not in lost) and not r.cached for r in replies)
    return Loss(model=where, asked=len(replies), problems=tuple(r.problem for r in missing), silent=silent)


def ask_all(chat: Chat, requests: Iterable[Request]) -> list[Reply]:
    """One reply per request, in order, all of them a model's. Raises Unreached where some are not: at once where the server
    is silent, else after the last request, so that all that can be had is in the cache."""
    replies: list[Reply] = []
    losses: list[Loss] = []
    rest = iter(requests)
    while part := list(islice(rest, PART)):
        told = chat.complete(part)
        replies += told
        if (loss := loss_of(chat, told)) is not None:
            losses.append(loss)
            if loss.silent:
                break
    if losses:
        raise Unreached(losses)
    return replies


PROBE_S, PROBE_TOKENS = 60.0, 16
"""How long the answer to a probe may take, and how long it may be."""


def probe(servers: Sequence[Server]) -> None:
    """Ask each server for one word, at once and not in a batch, before people work for what it is to say: a dead server, a
    wrong key or an unknown model is told at the start. One that has answered is not asked again.

    Raises AssayError with what is wrong with the first that gives no answer.
    """
    for server in servers:
        config = server.config
        once = replace(config, tries=1, timeout_s=min(PROBE_S, config.timeout_s), max_tokens=PROBE_TOKENS)
        (reply,) = Server(once, server.cache, server.budget).complete([Request(messages=(user("Say yes."),))])
        if not (reply.final or reply.problem == CUT or reply.problem.startswith("http 429")):
            raise AssayError(
                f"{server.name} at {config.url} answers nothing ({reply.problem[:160]}): see to the server, the model's "
                "name or the key, then give this command again; nobody was asked yet"
            )


def _own(problem: str) -> bool:
    """Whether a failure can be the request's own: its size, its form, what it says."""
    status = _STATUS.match(problem)
    if status is None:
        return False
    return (int(status[1]) in _OWN and not _ACCOUNT.search(problem)) or (
        int(status[1]) == 403 and _CONTENT.search(problem) is not None
    )


def _answered_before(chat: Chat) -> bool:
    if not isinstance(chat, Server):
        return False
    with open_database(chat.cache) as database:
        query = "SELECT 1 FROM replies WHERE model = ? LIMIT 1"
        return database.execute(query, (chat.config.model,)).fetchone() is not None


def _told(model: str, losses: Sequence[Loss]) -> str:
    problems = [p for loss in losses for p in loss.problems]
    asked, kinds = sum(loss.asked for loss in losses), Counter(p.split(": ")[0] for p in problems)
    first = {p.split(": ")[0]: p for p in reversed(problems)}
    why = ", ".join(
        first[k][:160] if len(kinds) == 1 else f"{first[k][:80]} {n:,} times" for k, n in kinds.most_common(3)
    )
    how = "answered none of" if len(problems) == asked else f"did not answer {len(problems):,} of"
    return f"{model} {how} {asked:,} requests ({why})"
