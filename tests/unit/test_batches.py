"""A provider's batches against a server that has files, batches and their failures: nothing lost, nothing paid twice."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.errors import AssayError
from assay.llm.batches import BatchConfig, BatchServer
from assay.llm.budget import Budget, BudgetSpent
from assay.llm.chat import ChatConfig, Request
from assay.llm.client import Server
from assay.llm.replies import ledger, open_database
from assay.records import user
from batch_server import BatchProvider, good


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchProvider]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = BatchProvider()
    yield fake
    fake.stop()


def config(provider: BatchProvider, **options: Any) -> ChatConfig:
    settings = {"model": "m", "tries": 3, "backoff_s": 0.01, "max_wait_s": 0.05, **options}
    return ChatConfig(url=provider.url, **settings)


def batched(
    provider: BatchProvider, tmp_path: Path, budget: Budget | None = None, batch: Any = None, **options: Any
) -> BatchServer:
    told = BatchConfig(**{"poll_s": 0.01, **(batch or {})})
    server = BatchServer(config(provider, **options), tmp_path / "cache.sqlite", budget, batch=told)
    server.say = lambda text: None
    return server


def asks(count: int) -> list[Request]:
    return [Request(messages=(user(f"q{n:03}"),)) for n in range(count)]


def waiting(tmp_path: Path) -> int:
    with open_database(tmp_path / "cache.sqlite") as database:
        return int(
            database.execute("SELECT (SELECT COUNT(*) FROM batched) + (SELECT COUNT(*) FROM batches)").fetchone()[0]
        )


def test_answers_come_in_order_once_and_for_half_the_price(provider: BatchProvider, tmp_path: Path) -> None:
    said: list[str] = []
    budget = Budget(100.0)
    prices = {"price_in": 1e6, "price_out": 1e6, "max_tokens": 5}
    server = batched(provider, tmp_path, budget, **prices)
    server.say = said.append
    heard: list[str] = []
    server.told = lambda reply: heard.append(reply.text)
    replies = server.complete(asks(6))
    assert [r.text for r in replies] == [f"Q{n:03}" for n in range(6)]
    assert {(r.tokens_in, r.tokens_out, r.cached, r.final) for r in replies} == {(7, 3, False, True)}
    assert sorted(heard) == [r.text for r in replies]
    assert budget.spent == pytest.approx(6 * 10 / 2)
    assert [s.split(" is ")[-1].split(",")[0] for s in said[1:]] == [
        "validating",
        "in_progress",
        "finalizing",
        "completed",
    ]
    assert provider.calls == {"upload": 1, "create": 1, "look": 4, "content": 1}
    again = batched(provider, tmp_path, fresh := Budget(100.0), **prices).complete(asks(6))
    assert all(r.cached for r in again)
    assert (provider.calls["create"], set(provider.paid.values()), waiting(tmp_path)) == (1, {1}, 0)
    assert fresh.spent == pytest.approx(30), "what a batch cost is remembered at its price"
    live = Server(config(provider, **prices), tmp_path / "cache.sqlite")
    assert [r.text for r in live.complete(asks(6))] == [r.text for r in replies], "a live client reads the same cache"
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["answers"], row["tokens_in"], row["untold"]) == (6, 42, 0)


def test_files_keep_to_the_limits(provider: BatchProvider, tmp_path: Path) -> None:
    batched(provider, tmp_path, batch={"most_requests": 4}).complete(asks(10))
    assert sorted(len(f.splitlines()) for n, f in provider.files.items() if n.startswith("file-")) == [2, 4, 4]
    size = len(provider.files["file-0"].splitlines()[0]) + 1
    other = asks(16)[10:]
    batched(provider, tmp_path, batch={"most_bytes": 3 * size + 5}).complete(other)
    assert sorted(len(f.splitlines()) for n, f in provider.files.items() if n.startswith("file-")) == [2, 3, 3, 4, 4]
    (long,) = batched(provider, tmp_path, batch={"most_bytes": 50}).complete([Request(messages=(user("long"),))])
    assert long.problem.endswith("bytes do not fit into a batch")
    assert set(provider.paid.values()) == {1}


def test_failures_of_single_lines(provider: BatchProvider, tmp_path: Path) -> None:
    """Rate limits and server errors go into the next batch; a wrong request is told; the rest is not asked again."""
    seen: list[str] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        seen.append(text)
        if text == "q001" and seen.count(text) < 3:
            return (429, {"error": {"message": "slow down"}}) if seen.count(text) == 1 else (500, "")
        if text == "q002":
            return 400, {"error": {"message": "bad picture"}}
        if text == "q003":
            return 400, {"error": {"message": "This model's maximum context length is 8 tokens."}}
        if text == "q004":
            return 500, {"error": {"message": "always"}}
        return good(body)

    provider.answer = answer
    replies = batched(provider, tmp_path).complete(asks(6))
    assert [r.text for r in replies] == ["Q000", "Q001", "", "", "", "Q005"]
    assert replies[2].problem == "http 400: bad picture"
    assert replies[3].problem.startswith("http 400: This model's maximum context length")
    assert (replies[4].problem, replies[4].final) == ("http 500: always", False)
    assert [seen.count(f"q{n:03}") for n in range(6)] == [1, 3, 1, 1, 3, 1]
    assert waiting(tmp_path) == 0


def test_what_a_batch_leaves_out_or_cuts(provider: BatchProvider, tmp_path: Path) -> None:
    provider.leave_out = 2
    assert [r.text for r in batched(provider, tmp_path).complete(asks(4))] == ["Q000", "Q001", "Q002", "Q003"]
    assert (provider.calls["create"], set(provider.paid.values())) == (2, {1})
    cut = {"choices": [{"message": {"content": "Verdict: 1"}, "finish_reason": "length"}], "usage": None}
    provider.answer = lambda body: (200, cut)
    (reply,) = batched(provider, tmp_path).complete([Request(messages=(user("x"),))])
    assert (reply.problem, reply.final) == ("cut off at max_tokens", False)


@pytest.mark.parametrize("left", [1, 3])
def test_an_expired_batch_is_finished_by_the_next(provider: BatchProvider, tmp_path: Path, left: int) -> None:
    provider.end, provider.leave_out = "expired", left
    replies = batched(provider, tmp_path).complete(asks(3))
    assert [r.text for r in replies] == ["Q000", "Q001", "Q002"]
    assert (provider.calls["create"], set(provider.paid.values())) == (2, {1})


def test_a_batch_that_fails_or_is_cancelled_tells_why(provider: BatchProvider, tmp_path: Path) -> None:
    provider.end = "failed"
    (reply,) = batched(provider, tmp_path).complete(asks(1))
    assert (reply.problem, reply.final) == ("the batch failed: Enqueued token limit reached.", False)
    provider.end, provider.leave_out = "cancelled", 1
    first, second = batched(provider, tmp_path).complete(asks(2))
    assert (first.text, second.problem, second.final) == ("Q000", "the batch was cancelled", False)
    provider.end = "completed"
    server = batched(provider, tmp_path)
    assert [r.text for r in server.complete(asks(2))] == ["Q000", "Q001"], "the same command asks again"
    assert set(provider.paid.values()) == {1}


def test_a_request_that_failed_is_not_put_into_another_batch_by_the_same_process(
    provider: BatchProvider, tmp_path: Path
) -> None:
    provider.end = "failed"
    server = batched(provider, tmp_path)
    assert server.complete(asks(1)) == server.complete(asks(1))
    assert provider.calls["create"] == 1


@pytest.mark.parametrize(("call", "status"), [("upload", 404), ("create", 404), ("create", 405)])
def test_a_server_without_batches_is_told(provider: BatchProvider, tmp_path: Path, call: str, status: int) -> None:
    provider.refuse[call] = (status, {"detail": "Not Found"})
    with pytest.raises(AssayError, match=r"has no batches for chat completions .*Not Found.*leave out --batch"):
        batched(provider, tmp_path).complete(asks(2))
    assert waiting(tmp_path) == 0


def test_a_wrong_key_is_a_problem_and_leaves_nothing_behind(provider: BatchProvider, tmp_path: Path) -> None:
    provider.refuse["upload"] = (401, {"error": {"message": "Incorrect API key provided"}})
    (reply,) = batched(provider, tmp_path).complete(asks(1))
    assert (reply.problem, reply.final, waiting(tmp_path)) == ("http 401: Incorrect API key provided", False, 0)
    provider.refuse.clear()
    assert batched(provider, tmp_path).complete(asks(1))[0].text == "Q000"


@pytest.mark.parametrize("page", [1, 100])
def test_a_lost_answer_to_the_create_call_makes_no_second_batch(
    provider: BatchProvider, tmp_path: Path, page: int
) -> None:
    batched(provider, tmp_path).complete(asks(8)[6:])
    provider.lose["create"], provider.page = 1, page
    assert [r.text for r in batched(provider, tmp_path).complete(asks(3))] == ["Q000", "Q001", "Q002"]
    assert (len(provider.batches), set(provider.paid.values())) == (2, {1})


def test_an_upload_polls_and_downloads_may_fail_for_a_while(provider: BatchProvider, tmp_path: Path) -> None:
    provider.lose.update({"upload": 1, "look": 4, "content": 2})
    assert [r.text for r in batched(provider, tmp_path).complete(asks(2))] == ["Q000", "Q001"]
    assert set(provider.paid.values()) == {1}


def test_a_provider_that_is_gone_keeps_the_batch_in_the_journal(provider: BatchProvider, tmp_path: Path) -> None:
    provider.refuse["content"] = (503, "")
    (reply,) = batched(provider, tmp_path).complete(asks(1))
    assert (reply.problem, reply.final) == ("connection: batch batch_0: http 503", False)
    live = Server(config(provider), tmp_path / "cache.sqlite")
    (held,) = live.complete(asks(1))
    assert held.problem.startswith("waits in the provider's batch batch_0: read it with --batch")
    provider.refuse.clear()
    assert batched(provider, tmp_path).complete(asks(1))[0].text == "Q000"
    assert (len(provider.batches), set(provider.paid.values()), waiting(tmp_path)) == (1, {1}, 0)


def test_a_model_that_has_moved_keeps_its_open_batch_its_replies_and_what_it_cost(
    provider: BatchProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same provider at another address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    prices = {"price_in": 1e6, "price_out": 1e6, "max_tokens": 5}
    batched(provider, tmp_path, **prices).complete(asks(1))
    provider.refuse["content"] = (503, "")
    batched(provider, tmp_path, **prices).complete(asks(2))
    provider.refuse.clear()
    moved = replace(
        config(provider, **prices), url=provider.url.replace("127.0.0.1", "localhost"), known_as=provider.url
    )
    live = Server(moved, tmp_path / "cache.sqlite", budget := Budget(100.0))
    assert budget.spent == pytest.approx(5 + 15), (
        "an answer at the price of batches, and the most that another can cost"
    )
    told = live.complete(asks(2))
    assert told[0].text == "Q000"
    assert told[1].problem.startswith("waits in the provider's batch batch_1")
    batches = BatchServer(moved, tmp_path / "cache.sqlite", batch=BatchConfig(poll_s=0.01))
    batches.say = lambda text: None
    assert [r.text for r in batches.complete(asks(2))] == ["Q000", "Q001"]
    assert (len(provider.batches), set(provider.paid.values()), waiting(tmp_path)) == (2, {1}, 0)
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert row["answers"] == 2


def test_an_open_batch_is_not_asked_again_with_another_limit(provider: BatchProvider, tmp_path: Path) -> None:
    provider.refuse["content"] = (503, "")
    batched(provider, tmp_path).complete(asks(1))
    live = Server(config(provider, max_tokens=2_048), tmp_path / "cache.sqlite")
    for other in (batched(provider, tmp_path, max_tokens=2_048), live):
        (held,) = other.complete(asks(1))
        assert "another max_tokens" in held.problem
        assert not held.final
    provider.refuse.clear()
    assert batched(provider, tmp_path).complete(asks(1))[0].text == "Q000"
    assert batched(provider, tmp_path, max_tokens=2_048).complete(asks(1))[0].text == "Q000", (
        "a whole reply serves both"
    )
    assert (len(provider.batches), set(provider.paid.values()), waiting(tmp_path)) == (1, {1}, 0)


def test_a_damaged_file_is_fetched_again(provider: BatchProvider, tmp_path: Path) -> None:
    provider.torn = 1
    assert [r.text for r in batched(provider, tmp_path).complete(asks(2))] == ["Q000", "Q001"]
    assert (provider.calls["content"], set(provider.paid.values())) == (2, {1})


def test_the_budget_holds_batches_to_what_it_allows(provider: BatchProvider, tmp_path: Path) -> None:
    """A request may cost (10 + 5) / 2 = 7.5 and costs 5: two fit into 19, then one into the 9 that are left."""
    prices = {"price_in": 1e6, "price_out": 1e6, "max_tokens": 5}
    with pytest.raises(BudgetSpent, match="1 of 4 requests are left"):
        batched(provider, tmp_path, Budget(19.0), **prices).complete(asks(4))
    assert (sum(provider.paid.values()), provider.calls["create"]) == (3, 2)
    assert len(batched(provider, tmp_path, Budget(25.0), **prices).complete(asks(4))) == 4
    assert set(provider.paid.values()) == {1}


def test_what_waits_in_a_batch_counts_as_spent(provider: BatchProvider, tmp_path: Path) -> None:
    prices = {"price_in": 1e6, "price_out": 1e6, "max_tokens": 5}
    provider.refuse["content"] = (503, "")
    batched(provider, tmp_path, Budget(19.0), **prices).complete(asks(2))
    budget = Budget(19.0)
    server = batched(provider, tmp_path, budget, **prices)
    assert budget.spent == pytest.approx(15)
    provider.refuse.clear()
    assert [r.text for r in server.complete(asks(2))] == ["Q000", "Q001"]
    assert budget.spent == pytest.approx(10)
    assert budget.take(9.0), "nothing stays reserved"


def test_a_model_that_wants_other_parameters_is_asked_again_in_its_words(
    provider: BatchProvider, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": said, "param": "max_tokens"}}
        return good(body)

    provider.answer = answer
    server = batched(provider, tmp_path)
    assert [r.text for r in server.complete(asks(3))] == ["Q000", "Q001", "Q002"]
    assert server.complete(asks(5)[3:])[1].text == "Q004"
    inputs = [text for name, text in provider.files.items() if name.startswith("file-")]
    bodies = [json.loads(line)["body"] for text in inputs for line in text.splitlines()]
    assert ["max_tokens" in b for b in bodies] == [True] * 3 + [False] * 5, "learnt once"


_CLIENT = """
import sys
from pathlib import Path
from assay.llm.batches import BatchConfig, BatchServer
from assay.llm.chat import ChatConfig, Request
from assay.records import user
config = ChatConfig(url=sys.argv[1], model="m", tries=2, backoff_s=0.01, max_wait_s=0.05)
chat = BatchServer(config, Path(sys.argv[2]), batch=BatchConfig(poll_s=0.01, most_requests=3))
replies = chat.complete([Request(messages=(user(f"q{n:03}"),)) for n in range(5)])
assert [r.text for r in replies] == [f"Q{n:03}" for n in range(5)], replies
"""


def _uploaded(provider: BatchProvider) -> bool:
    return provider.calls["upload"] >= 2


@pytest.mark.parametrize(
    ("hang", "reached"),
    [
        ("upload", _uploaded),
        ("create", lambda p: len(p.batches) >= 2),
        ("look", lambda p: p.calls["look"] >= 2),
        ("content", lambda p: p.calls["content"] >= 2),
        ("list", lambda p: p.calls["list"] >= 2),
    ],
)
def test_a_kill_at_any_step_pays_for_nothing_twice(
    provider: BatchProvider, tmp_path: Path, hang: str, reached: Callable[[BatchProvider], bool]
) -> None:
    """The call has done its work at the provider, the answer never arrives, and the client is killed there."""
    provider.hang.add(hang)
    if hang == "list":
        provider.lose["create"] = 2
    command = [sys.executable, "-c", _CLIENT, provider.url, str(tmp_path / "cache.sqlite")]
    victim = subprocess.Popen(command)
    while not reached(provider):
        assert victim.poll() is None
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    provider.hang.clear()
    subprocess.run(command, check=True, timeout=300)
    assert (len(provider.paid), set(provider.paid.values())) == (5, {1})
    assert (len(provider.batches), waiting(tmp_path)) == (2, 0)


def test_two_processes_share_a_batch_and_do_not_make_two(provider: BatchProvider, tmp_path: Path) -> None:
    provider.frozen = True
    command = [sys.executable, "-c", _CLIENT, provider.url, str(tmp_path / "cache.sqlite")]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(provider.batches) < 2:
        time.sleep(0.01)
    replies = batched(provider, tmp_path).complete(asks(5))
    assert all(r.problem.startswith("another process waits for it in batch") and not r.final for r in replies)
    provider.frozen = False
    assert first.wait(300) == 0
    assert set(provider.paid.values()) == {1}


@pytest.mark.parametrize("wrong", [{"price": 2.0}, {"poll_s": 0.0}, {"most_requests": 0}, {"most_bytes": 0}])
def test_an_impossible_batch_config_fails_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssayError, match="batches"):
        BatchConfig(**wrong)
