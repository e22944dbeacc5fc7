"""`assay policy judge`: another judge on kept answers, and what is in memory of long ones."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_reasoning_bench import little

import reasoning_sets
from answer_server import AnswerServer, words
from assay.bench.reasoning import kept
from assay.bench.reasoning.cards import Card, Judge
from assay.bench.reasoning.judging import labels
from assay.bench.reasoning.measure import Settings, measure
from assay.bench.reasoning.serving import Endpoint
from assay.errors import AssayError
from in_process import assay


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reasoning_sets.write(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def out(data: Path, tmp_path: Path) -> Path:
    """Results of a policy that says 42, 2 and 101, two answers each; it has gone since."""
    from assay.bench import compare

    with AnswerServer(lambda body: reasoning_sets.reply(words(body)).replace("100", "101")) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        found = measure(
            end,
            data,
            tmp_path / "out",
            Settings(only=("aime24",), repeats=2),
            tmp_path,
            say=lambda _: None,
            library=little,
        )
    compare.save(tmp_path / "out" / "results.json", "m", {"served by": "a test"}, found.results)
    return tmp_path / "out"


@pytest.fixture
def judge() -> Iterator[AnswerServer]:
    """Says yes to all but what model says no to: `strict` to 2, `soft` to nothing."""

    def told(body: dict[str, Any]) -> str:
        if "Say yes." in words(body):
            return "yes"
        no = body["model"] == "strict" and "boxed{2}" in words(body)
        return json.dumps({"equivalent": not no})

    with AnswerServer(told) as server:
        yield server


def rejudge(out: Path, server: AnswerServer, *names: str, more: tuple[object, ...] = ()) -> tuple[int, str, str]:
    return assay("policy", "judge", out, "--judge", *(f"{n}@{server.url}" for n in names), *more)


def told(out: Path) -> dict[str, Any]:
    """The headline and all that stands beside it, by name."""
    (found,) = json.loads((out / "results.json").read_text())["results"]
    return {"rule": found["headline"]["value"], **{c["name"]: round(c["value"], 1) for c in found["diagnostics"]}}


def test_another_judge_stands_beside_the_first_and_the_rule(out: Path, judge: AnswerServer) -> None:
    """One command each; the policy is gone, and no judge is asked twice."""
    code, text, _ = rejudge(out, judge, "strict")
    assert code == 0
    assert "rule, then judge strict" in text
    assert told(out)["judge strict"] == 66.7
    asked = judge.asked.total()
    code, _, err = rejudge(out, judge, "soft")
    assert (code, err) == (0, "")
    assert told(out) == {
        "rule": pytest.approx(200 / 3), "judge strict": 66.7, "rule, then judge strict": 100.0,
        "agreement of rule and strict": 33.3, "judge soft": 100.0, "rule, then judge soft": 100.0,
        "agreement of rule and soft": 66.7, "agreement of strict and soft": 66.7, "two answers score alike": 100.0,
    }  # fmt: skip
    assert judge.asked.total() == asked + 1 + 3, "a word before, and each answer (two of a question are one here)"
    before = (out / "results.json").read_text()
    assert rejudge(out, judge, "soft")[0] == 0
    assert (judge.asked.total(), (out / "results.json").read_text()) == (asked + 4, before)
    card = json.loads((out / "cards.json").read_text())["aime24"]
    assert [j["name"] for j in card["judges"]] == ["strict", "soft"]
    assert card["judge"].startswith(
        "rule first, then strict (temperature 1, at most 1,024 tokens, no pictures, Assay's"
    )
    assert "strict" in (out / "results.html").read_text()


def test_the_same_model_with_another_prompt_is_another_judge(out: Path, judge: AnswerServer, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.md"
    prompt.write_text("Of {{reference}}: is {{answer}} equivalent?")
    assert rejudge(out, judge, "strict")[0] == 0
    assert rejudge(out, judge, "strict", more=("--judge-prompt", prompt))[0] == 0
    names = [n for n in told(out) if n.startswith("judge strict prompt ")]
    assert len(names) == 2
    assert "a prompt of one's own" in (out / "cards.json").read_text()
    for text, why in (
        ("Is {{answer}} equivalent?", "it has {{answer}}"),
        ("{{reference}} {{answer}}", "it must ask for"),
    ):
        prompt.write_text(text)
        code, _, err = rejudge(out, judge, "strict", more=("--judge-prompt", prompt))
        assert code == 2
        assert why in err


def test_a_judge_that_fails_takes_nothing_from_the_others(out: Path, judge: AnswerServer) -> None:
    assert rejudge(out, judge, "soft")[0] == 0
    before, answer = told(out), judge.answer
    judge.answer = lambda body: answer(body) if "Say yes." in words(body) else 400
    code, _, err = rejudge(out, judge, "strict")
    assert code == 2
    assert "aime24: judge strict: " in err
    assert told(out) == before
    judge.answer = answer
    assert rejudge(out, judge, "strict")[0] == 0
    assert "agreement of soft and strict" in told(out)


def test_verdicts_are_of_the_answers_beside_them(out: Path, judge: AnswerServer, tmp_path: Path) -> None:
    code, _, err = rejudge(tmp_path, judge, "soft")
    assert (code, "no results of `assay policy bench` (results.json is missing)" in err) == (2, True)
    file = out / "answers" / "aime24.jsonl"
    file.write_text(file.read_text().replace("101", "102"))
    code, _, err = rejudge(out, judge, "soft")
    assert code == 2
    assert "not the answers that cards.json tells of" in err
    assert judge.asked.total() == 0


def test_judges_of_one_name_are_told_apart() -> None:
    one, other = Judge(name="j", url="http://a", prompt="1"), Judge(name="j", url="http://b", prompt="1")
    assert labels([one, other, Judge(name="k")]) == ["j at http://a", "j at http://b", "k"]
    assert labels([one, Judge(name="j", url="http://a", prompt="2")]) == ["j prompt 1", "j prompt 2"]


def test_a_card_is_read_back(out: Path) -> None:
    kept_card = json.loads((out / "cards.json").read_text())["aime24"]
    assert Card.of(kept_card).as_json() == json.loads(json.dumps(kept_card), object_hook=None) | {
        k: tuple(v) for k, v in kept_card.items() if isinstance(v, list) and k != "differs"
    }


def test_thoughts_are_on_disk_and_not_in_memory(data: Path, tmp_path: Path) -> None:
    """Sixty answers of half a million characters, of which a few would fit into what is held; odd ones come back."""
    odd = "\u2028line\x85\ud800"

    def think(body: dict[str, Any]) -> dict[str, Any]:
        return {"content": f"{odd} {reasoning_sets.reply(words(body))}", "reasoning_content": "so " * 166_667}

    tracemalloc.start()
    try:
        with AnswerServer(think) as server:
            end = Endpoint(url=server.url, model="m", identity="m", by="a test")
            settings = Settings(only=("aime24",), repeats=20)
            (found,) = measure(end, data, tmp_path, settings, tmp_path, say=lambda _: None, library=little).results
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    assert getattr(found, "n", 0) == 3
    rows = list(kept.read_whole(tmp_path / "answers" / "aime24.jsonl"))
    assert len(rows) == 60
    assert {len(r.thoughts) for r in rows} == {500_001}
    assert all(r.answer.startswith("\u2028line\x85? ") for r in rows)
    assert all(r.thoughts == "" for r in kept.read(tmp_path / "answers" / "aime24.jsonl"))
    (tmp_path / "answers" / "aime24.jsonl").write_text('{"no": 1}\n')
    with pytest.raises(AssayError, match=r"aime24.jsonl, line 1: not an answer"):
        kept.read(tmp_path / "answers" / "aime24.jsonl")


def test_models_are_compared_by_the_judge_as_well(out: Path, judge: AnswerServer, tmp_path: Path) -> None:
    """The paper's number is the rule's with a judge behind it: before and after are paired by both."""
    assert rejudge(out, judge, "strict")[0] == 0
    assert rejudge(out, judge, "soft")[0] == 0
    other = tmp_path / "other.json"
    told_ = json.loads((out / "results.json").read_text())
    told_["results"][0]["beside"].pop("rule, then judge strict")
    other.write_text(json.dumps(told_))
    code, text, _ = assay("bench", "compare", out / "results.json", other)
    assert code == 0
    assert "aime24, rule, then judge soft" in text
    assert "judge strict" not in text


def test_what_was_not_run_stays_a_line(out: Path, judge: AnswerServer) -> None:
    """Another benchmark without data, and one that failed, are told as before."""
    file = out / "results.json"
    before = json.loads(file.read_text())
    before["results"] += [{"name": "ifeval", "skipped": "not here"}, {"name": "mmmu", "failed": "no space left"}]
    file.write_text(json.dumps(before))
    code, text, _ = rejudge(out, judge, "soft")
    assert code == 0, "no judge failed"
    assert "mmmu: failed: no space left" in text
    after = {r["name"]: r for r in json.loads(file.read_text())["results"]}
    assert list(after) == ["aime24", "ifeval", "mmmu"]
    assert (after["ifeval"]["skipped"], after["mmmu"]["failed"]) == ("not here", "no space left")
    assert "agreement of rule and soft" in {c["name"] for c in after["aime24"]["diagnostics"]}
