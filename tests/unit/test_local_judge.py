"""A local model as a judge: what it reads, against a plain forward pass of the whole prompt; its lean; its cache."""

from pathlib import Path

import pytest

import tiny_models
from assay.curate.annotate import llm_judge, llm_votes
from assay.curate.rules import rule_attributes
from assay.errors import AssayError
from assay.records import Case, Pair, Response, user

torch = pytest.importorskip("torch")
from assay.judges import local as local_judge  # noqa: E402
from assay.judges.local import LocalConfig, LocalJudge  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    made = tiny_models.language(seed=3)
    made.config.max_position_embeddings = 8_192
    made.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


CASES = [
    Case(pair=p, attributes=rule_attributes(p))
    for p in (
        Pair.of((user(f"question {n}?"),), Response.of(f"one {n}"), Response.of(f"other {n * n}")) for n in range(5)
    )
]


def judge(model: Path, tmp_path: Path) -> LocalJudge:
    return LocalJudge(LocalConfig(model=str(model)), tmp_path / "replies.sqlite")


def test_it_says_the_likelier_verdict_and_how_likely(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_judge, "computes_in_half", lambda _: False)
    votes = llm_votes([judge(model, tmp_path)], CASES, samples=2, form="verdict")
    network, tokens = tiny_models.language(seed=3), tiny_models.tokenizer()
    from assay.curate.annotate import judge_request

    for n, vote in enumerate(votes):
        request, order = judge_request(CASES[n // 2], str(model), n % 2, 0, "verdict")
        chat = [{"role": "user", "content": request.messages[0].content}]
        text = tokens.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + "Verdict: "
        with torch.inference_mode():
            logits = network(torch.tensor([tokens(text).input_ids])).logits[0, -1]
        share = torch.softmax(logits[[tokens(d).input_ids[0] for d in "12"]], dim=0)
        assert vote.better == order[int(share.argmax())]
        assert vote.confidence == pytest.approx(float(share.max()), abs=1e-4)
        assert (vote.shown, vote.tokens) == (order, len(tokens(text).input_ids) + 1)


def test_what_was_read_is_not_read_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_judge, "computes_in_half", lambda _: False)
    first = llm_judge([judge(model, tmp_path)], samples=2)(CASES)
    again = judge(model, tmp_path)
    monkeypatch.setattr(again, "_read", lambda requests: pytest.fail("it was asked again"))
    assert llm_judge([again], samples=2)(CASES) == first
    assert all(j.better for j in first), "the surer of two votes that disagree decides"


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    tiny_models.language().save_pretrained(tmp_path / "base")
    tokens = tiny_models.tokenizer()
    tokens.chat_template = None
    tokens.save_pretrained(tmp_path / "base")
    with pytest.raises(AssayError, match="has no chat template"):
        llm_votes([judge(tmp_path / "base", tmp_path)], CASES, form="verdict")
