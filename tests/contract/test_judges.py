"""What every judge keeps, be it an oracle, simulated people, an LLM server or an offline rule."""

from collections.abc import Sequence

import pytest

from assay.curate.annotate import judge_request, llm_judge
from assay.curate.checkers import checker_vote_judge, ten_rules_judge
from assay.curate.offline import gold_ridge_judge, hash_embedder, longer_judge
from assay.curate.people import Annotator, erring
from assay.curate.rules import rule_attributes
from assay.curate.verify import oracle
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.records import Case, Example, Judge, Pair, Response, user

NAMES = (
    "oracle",
    "simulated",
    "offline:gold-ridge",
    "offline:longer",
    "offline:checker-vote",
    "offline:ten-rules",
    "llm",
)


def _pair(n: int) -> Pair:
    return Pair.of(
        (user(f"Topic {n}. Use at most 3 words."),), Response.of(f"Short {n}."), Response.of(f"A much longer text {n}!")
    )


def _cases() -> list[Case]:
    """Six cases; the last one has no examples, no truth, no verdict."""
    gold = [_pair(n) for n in range(100, 104)]
    examples = tuple(
        Example(pair=g, attributes=rule_attributes(g), better=Response.of(f"Short {100 + i}.").id)
        for i, g in enumerate(gold)
    )
    pairs = [_pair(n) for n in range(6)]
    return [
        Case(pair=p, attributes=rule_attributes(p), examples=examples if i < 5 else ()) for i, p in enumerate(pairs)
    ]


CASES = _cases()


class Recorded:
    """A chat server that has answered before: the short response, and nothing to the last case."""

    name = "m"

    def __init__(self) -> None:
        self.replies = dict[Request, Reply]()
        for number, case in enumerate(CASES):
            for sample in range(3):
                request, order = judge_request(case, "m", sample, 0)
                better = next(i for i, r in enumerate(order, 1) if case.pair.response(r).text.startswith("Short"))
                said = {"text": f"Brief.\nVerdict: {better}"} if number < 5 else {"problem": "refused"}
                self.replies[request] = Reply(**said)

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [self.replies[r] for r in requests]


@pytest.fixture(params=NAMES)
def judge(request: pytest.FixtureRequest) -> Judge:
    match request.param:
        case "oracle":
            return oracle({c.pair.id: c.pair.responses[0].id for c in CASES[:5]})
        case "simulated":
            sure = Annotator(name="simulated:one", wrong=0.3, undecided=0.0)
            return erring({c.pair.id: c.pair.responses[0].id for c in CASES[:5]}, [sure])
        case "offline:gold-ridge":
            return gold_ridge_judge(hash_embedder())
        case "offline:longer":
            return longer_judge()
        case "offline:checker-vote":
            return checker_vote_judge(hash_embedder())
        case "offline:ten-rules":
            return ten_rules_judge()
        case "llm":
            return llm_judge([Recorded()])
        case _:
            raise ValueError(request.param)


def test_one_judgement_per_case_in_order(judge: Judge) -> None:
    judgements = judge(CASES)
    assert [j.pair_id for j in judgements] == [c.pair.id for c in CASES]
    assert all(j.better for j in judgements[:5])


def test_better_is_a_response_of_the_pair_or_there_is_a_problem(judge: Judge) -> None:
    for case, judgement in zip(CASES, judge(CASES), strict=True):
        assert judgement.better in {None, *(r.id for r in case.pair.responses)}
        assert bool(judgement.problem) == (judgement.better is None)
        assert 0.5 <= judgement.confidence <= 1.0
        assert set(judgement.shown) <= {r.id for r in case.pair.responses}


def test_judges_say_who_they_are(judge: Judge) -> None:
    judgements = judge(CASES)
    assert len({(j.by, j.kind) for j in judgements}) == 1
    by, kind = judgements[0].by, judgements[0].kind
    known = {("oracle", "oracle"), ("simulated", "oracle"), ("offline", "offline"), ("llm", "llm")}
    assert (by.split(":")[0], kind) in known


def test_the_same_cases_get_the_same_judgements(judge: Judge) -> None:
    first, second = judge(CASES[:5]), judge(CASES[:5])
    assert [(j.better, j.problem, j.shown) for j in first] == [(j.better, j.problem, j.shown) for j in second]


def test_no_cases_no_judgements(judge: Judge) -> None:
    assert judge([]) == []
