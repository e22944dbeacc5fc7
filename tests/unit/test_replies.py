"""The file of replies: one server in many spellings, killed processes whose number lives again, older files."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assay import processes
from assay.llm.budget import Budget
from assay.llm.chat import ChatConfig, Request, request_key, request_text
from assay.llm.client import Server
from assay.llm.replies import MOST_CUTS, ODD, Reply, ledger, open_database, open_replies, spelled
from assay.processes import alive, this_process
from assay.records import user
from loopback import answering

SPELLINGS = (
    "http://Host.example:80/v1", "http://host.example/v1/", "HTTP://host.example/v1//", "http://host.example./v1",
    "http://host.example/v1/chat/completions",
)  # fmt: skip


@pytest.mark.parametrize("url", SPELLINGS)
def test_one_server_has_one_spelling(url: str) -> None:
    assert spelled(url) == "http://host.example/v1"
    assert ChatConfig(url=url, model="m").endpoint == "http://host.example/v1/chat/completions"


def test_other_servers_stay_others() -> None:
    urls = [
        "http://a/v1", "https://a/v1", "http://a:8000/v1", "http://a/V1", "http://a/v2", "http://b/v1", "http://a",
        "http://[::1]:8000/v1", "https://a:80/v1", "http://u@a/v1", "http://a/v1?deployment=x", "local",
    ]  # fmt: skip
    assert [spelled(u) for u in urls] == urls


@pytest.mark.parametrize("url", SPELLINGS)
def test_what_was_spent_is_kept_under_any_spelling(tmp_path: Path, url: str) -> None:
    """Also in a file of an earlier version, which kept the url as it was given."""
    cache = tmp_path / "r.sqlite"
    with open_database(cache) as database:
        database.execute("INSERT INTO spending VALUES (?, 'm', 7, 3, '', 1.0, 1.0)", (url,))
    for other in SPELLINGS:
        budget = Budget(100.0)
        Server(ChatConfig(url=other, model="m", price_in=1e6, price_out=1e6), cache, budget)
        assert budget.spent == 10
    assert [(r["url"], r["tokens_in"]) for r in ledger(cache)] == [("http://host.example/v1", 7)]


def keep(cache: Path, config: ChatConfig, request: Request, reply: Reply) -> None:
    with open_replies(cache, config.url, config.model) as replies:
        replies.came(request_key(config, request), request_text(config, request), reply)


def test_schemas_may_change_without_asking_again(tmp_path: Path) -> None:
    cache, asked = tmp_path / "r.sqlite", Request(messages=(user("a"),), schema='{"type": "object"}')
    keep(cache, ChatConfig(url="http://a/v1", model="m"), asked, Reply(text="kept", tokens_in=1))
    for schemas in ("auto", "never", "always"):
        server = Server(ChatConfig(url="http://a/v1", model="m", schemas=schemas), cache)  # type: ignore[arg-type]
        assert server.complete([asked])[0].text == "kept"
        assert server.estimate([asked]).requests == 0
    plain = Request(messages=(user("b"),))
    keep(cache, ChatConfig(url="http://a/v1", model="m"), plain, Reply(text="by --schemas never", tokens_in=1))
    formed = Request(messages=(user("b"),), schema='{"type": "object"}')
    assert Server(ChatConfig(url="http://a/v1", model="m"), cache).complete([formed])[0].text == "by --schemas never"


def test_a_larger_limit_asks_only_what_was_cut(tmp_path: Path) -> None:
    cache, whole, cut = tmp_path / "r.sqlite", Request(messages=(user("a"),)), Request(messages=(user("b"),))
    small, large = (ChatConfig(url="http://a/v1", model="m", max_tokens=n) for n in (10, 100))
    keep(cache, small, whole, Reply(text="whole", tokens_in=1))
    keep(cache, small, cut, Reply(text="cu", problem="cut off at max_tokens", tokens_in=1, final=False))
    assert Server(large, cache).estimate([whole, cut]).requests == 1
    assert Server(small, cache).estimate([whole, cut]).requests == 1, "and the same limit asks again"
    smaller = ChatConfig(url="http://a/v1", model="m", max_tokens=5)
    assert Server(smaller, cache).estimate([whole]).requests == 1, "under a smaller one it might have been cut"


def test_what_is_cut_again_and_again_is_final(tmp_path: Path) -> None:
    cache, config, request = (
        tmp_path / "r.sqlite",
        ChatConfig(url="http://a/v1", model="m"),
        Request(messages=(user("a"),)),
    )
    for asked in range(1, 4):
        keep(cache, config, request, Reply(text="cu", problem="cut off at max_tokens", tokens_in=1, final=False))
        assert Server(config, cache).estimate([request]).requests == int(asked < 3)
    (reply,) = Server(config, cache).complete([request])
    assert (reply.problem, reply.final, reply.cached) == ("cut off at max_tokens", True, True)
    keep(cache, config, request, Reply(text="whole", tokens_in=1))
    assert Server(config, cache).complete([request])[0].text == "whole"


_OLD = """CREATE TABLE replies (key TEXT PRIMARY KEY, url TEXT, model TEXT, request TEXT, text TEXT, tokens_in INTEGER,
    tokens_out INTEGER, seconds REAL, at REAL, problem TEXT DEFAULT '', confidence REAL DEFAULT 1.0) WITHOUT ROWID;
CREATE TABLE spending (url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER, problem TEXT, at REAL);
CREATE TABLE sent (key TEXT, process INTEGER, url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER,
    PRIMARY KEY (key, process)) WITHOUT ROWID"""


def test_a_file_of_an_earlier_version_is_honoured(tmp_path: Path) -> None:
    """Under the url as it was given; its reply that was as long as the limit is no answer any more."""
    cache = tmp_path / "r.sqlite"
    old = sqlite3.connect(cache)
    old.executescript(_OLD)
    for text, out in (("whole", 3), ("cut", 10)):
        body = {
            "model": "m", "messages": [{"role": "user", "content": text}], "temperature": 1.0, "max_tokens": 10, "sample": 0,
            "response_format": {"type": "json_schema"},
        }  # fmt: skip
        row = (f"key of {text}", "http://HOST/v1", "m", json.dumps(body), text, 7, out, 0.1, 1.0)
        old.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 1.0)", row)
    old.execute("INSERT INTO replies VALUES ('local', 'local', 'l', '', 'Verdict: 1', 7, 1, 0.1, 1.0, '', 0.9)")
    old.execute("INSERT INTO spending VALUES ('http://HOST/v1', 'm', 14, 13, '', 1.0)")
    old.execute("INSERT INTO sent VALUES ('gone', 2147483646, 'http://HOST/v1', 'm', 5, 5)")
    old.execute("INSERT INTO sent VALUES ('ours', ?, 'http://HOST/v1', 'm', 5, 5)", (os.getpid(),))
    old.commit()
    old.close()
    config = ChatConfig(url="http://host/v1", model="m", max_tokens=10, price_in=1e6, price_out=1e6)
    server = Server(config, cache, budget := Budget(1e9))
    assert budget.spent == 27 + 20, "and what killed processes had sent, though one's number lives again: it is ours"
    assert server.complete([Request(messages=(user("whole"),))])[0].text == "whole"
    assert server.estimate([Request(messages=(user("cut"),))]).requests == 1
    with open_replies(cache, "local", "l") as replies:
        found = replies.find("local")
        assert found is not None
        assert (found.text, found.confidence) == ("Verdict: 1", 0.9)


def test_a_killed_process_is_gone_though_its_number_lives(tmp_path: Path) -> None:
    place, number, started = this_process().rsplit(" ", 2)
    assert alive(this_process())
    assert not alive(f"{place} {number} {int(started) - 1}"), "another one had this number before"
    assert not alive(f"another-machine {number} {started}")
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{place} {other.pid} {processes._started(other.pid)}"
    assert alive(name)
    other.kill()
    until = time.monotonic() + 300
    while alive(name) and time.monotonic() < until:
        time.sleep(0.01)  # a zombie is gone as well
    assert not alive(name)
    other.communicate()
    cache = tmp_path / "r.sqlite"
    with open_database(cache) as database:
        row = ("k", f"{place} {number} {int(started) - 1}", "http://a/v1", "m", 100, 900)
        database.execute("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?)", row)
    for _ in range(2):
        Server(ChatConfig(url="http://a/v1/", model="m", price_in=1.0, price_out=1.0), cache, budget := Budget(1.0))
        assert budget.spent == pytest.approx(1000 / 1e6), "once"


def test_what_another_machine_took_for_dead_is_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "r.sqlite"
    with open_replies(cache, "http://a/v1", "m") as here:
        here.sending("k", (100, 900))
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(processes, "_place", lambda: "another machine")
            with open_replies(cache, "http://a/v1", "m") as there:
                there.clear_killed()
                assert there.spent() == (100, 900)
        here.came("k", "", Reply(text="yes", tokens_in=50, tokens_out=5))
        assert here.spent() == (50, 5)


def test_a_budget_waits_for_nobody_who_is_not_there() -> None:
    """Sums of floats leave a rest; there is no request in flight, so the answer is no."""
    shares = [844421.85, 757954.40, 420571.58]
    rest = sum(shares)
    for share in (shares[1], shares[0], shares[2]):
        rest -= share
    assert abs(rest) > 1e-12, "the rest that the reservations would leave"
    budget = Budget(1e7)
    for share in shares:
        assert budget.take(share)
    for share in (shares[1], shares[0], shares[2]):
        budget.settle(share, 0.0)
    budget.spend(1e7)

    async def ask() -> bool:
        return await asyncio.wait_for(budget.enough(1.0), 300)

    assert not asyncio.run(ask())
    assert budget._reserved == 0.0
    assert budget.take(5.0, whatever=True)


@contextmanager
def pages_for(odd: set[str], models: bool, page: object = None) -> Iterator[tuple[str, Counter[str]]]:
    """A server that answers questions in `odd` with a page (or `page`), and (not `models`) tells no models."""
    asked: Counter[str] = Counter()

    def answer(_: str, body: dict[str, Any] | None) -> tuple[int, object]:
        if body is None:
            return (200, {"data": []}) if models else (404, b"<html>Bad Gateway</html>")
        said = body["messages"][-1]["content"]
        asked[said] += 1
        message = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {}}
        return 200, (page or b"<html>Bad Gateway</html>") if said in odd else message

    with answering(answer) as url:
        yield f"{url}/v1", asked


def test_a_request_that_a_working_server_never_answers_ends_as_its_own_problem(tmp_path: Path) -> None:
    with pages_for({"b"}, models=True) as (url, asked):
        chat = Server(ChatConfig(url=url, model="m", tries=1), tmp_path / "replies.sqlite")
        requests = [Request(messages=(user(q),)) for q in "abc"]
        told = [chat.complete(requests) for _ in range(MOST_CUTS)]
        assert [[r.final for r in replies] for replies in told] == [[True, False, True]] * 2 + [[True] * 3]
        assert told[-1][1].problem == ODD
        assert not told[-1][1].text
        assert asked == {"a": 1, "b": MOST_CUTS, "c": 1}
        assert chat.complete(requests)[1].problem == ODD
        assert asked["b"] == MOST_CUTS, "a counted problem is not asked again"


def test_a_page_for_everything_is_an_outage_however_often_it_comes(tmp_path: Path) -> None:
    chat_of = lambda url: Server(ChatConfig(url=url, model="m", tries=1), tmp_path / "replies.sqlite")  # noqa: E731
    requests = [Request(messages=(user(q),)) for q in "ab"]
    with pages_for({"a", "b"}, models=False) as (url, _):
        for _ in range(MOST_CUTS + 1):
            assert not any(r.final for r in chat_of(url).complete(requests))


def test_an_error_that_a_server_tells_in_a_200_is_an_outage_however_often_it_comes(tmp_path: Path) -> None:
    quota = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with pages_for({"b"}, models=True, page=quota) as (url, _):
        chat = Server(ChatConfig(url=url, model="m", tries=1), tmp_path / "replies.sqlite")
        told = [chat.complete([Request(messages=(user(q),)) for q in "ab"]) for _ in range(MOST_CUTS + 1)]
    assert [r.final for replies in told for r in replies] == [True, False] * (MOST_CUTS + 1)
