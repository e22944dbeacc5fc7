"""The client of vLLM's servers where they misbehave: what a real one does is in tests/e2e/test_vllm_policy.py."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from assay.errors import AssayError, CannotRead
from assay.policy import vllm_servers
from assay.policy.config import PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import make_sampler
from assay.policy.vllm_servers import outline
from assay.records import user
from assay.rollouts import Prompt
from logprobs import tokens
from loopback import answering

PROMPTS = [Prompt(messages=(user(f"say {c}"),)) for c in "abcdef"]
CONFIG = SamplerConfig(max_tokens=3)
Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class Server:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Answer, root: str = "/models/tiny", room: int = 256) -> None:
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.version = "default"

        def reply(path: str, body: dict[str, Any] | None) -> tuple[int, object]:
            if body is None:
                models = [{"id": "served", "root": root, "max_model_len": room}]
                return 200, {"data": models, "weight_version": self.version}
            self.asked.append(body)
            self.paths.append(path)
            self.version = body.get("new_version", self.version)
            return answer(body)

        self.open = ExitStack()
        self.url = self.open.enter_context(answering(reply))


def good(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    choice = {
        "token_ids": [7, 8, 1],
        "logprobs": {"token_logprobs": [-0.1, -0.2, -0.3]},
        "prompt_token_ids": body["prompt"],
    }
    return 200, {"choices": [choice] * body["n"]}


def bad(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 503, {}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")
    made = outline(str(folder), PolicyConfig(), None)
    assert all(p.is_meta for p in made.parameters())
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(vllm_servers, "PAUSE_S", 0.01)
    made: list[Server] = []

    def make(*given: Any, **more: Any) -> Server:
        made.append(Server(*given, **more))
        return made[-1]

    yield make
    for one in made:
        one.open.close()


def sampler(policy: Policy, *servers: Server) -> Any:
    return make_sampler(VllmConfig(vllm=tuple(s.url for s in servers)), policy, CONFIG)


def test_nothing_of_the_model_s_own_generation_config_shapes_answers(
    policy: Policy, server: Callable[..., Server]
) -> None:
    one = server(good)
    asker = sampler(policy, one)
    groups = asker(PROMPTS[:1], 2)
    assert [r.tokens for r in groups[0]] == [(7, 8, 1)] * 2
    assert groups[0][0].ended
    assert groups[0][0].logprobs == (-0.1, -0.2, -0.3)
    [body] = one.asked
    assert body["prompt"] == asker.prompt_ids(PROMPTS[0])
    assert (body["top_k"], body["repetition_penalty"], body["min_p"]) == (-1, 1.0, 0.0)
    assert len(asker.greedy()(PROMPTS[:1], 3)[0]) == 3
    assert (one.asked[-1]["n"], one.asked[-1]["temperature"]) == (1, 0.0)


def test_a_server_that_fails_is_left_out_and_its_questions_go_to_the_others(
    policy: Policy, server: Callable[..., Server]
) -> None:
    broken, one = server(bad), server(good)
    groups = sampler(policy, broken, one)(PROMPTS, 2)
    assert [g[0].prompt_id for g in groups] == [p.id for p in PROMPTS]
    assert broken.asked
    with pytest.raises(AssayError, match=r"6 of 6 questions were not answered .*: http 503"):
        sampler(policy, broken)(PROMPTS, 2)


def test_servers_share_a_few_questions(policy: Policy, server: Callable[..., Server]) -> None:
    """Not more than one of them could have in flight."""
    both = server(good), server(good)
    sampler(policy, *both)(PROMPTS, 2)
    assert [len(one.asked) for one in both] == [3, 3]


def test_another_prompt_and_a_refusal_are_told(policy: Policy, server: Callable[..., Server]) -> None:
    def longer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return good({**body, "prompt": [5, *body["prompt"]]})

    with pytest.raises(AssayError, match="reads another prompt than is trained on"):
        sampler(policy, server(longer))(PROMPTS[:1], 1)
    refusing = server(lambda _: (400, {"error": {"message": "the maximum context\nlength is 5"}}))
    with pytest.raises(AssayError, match="http 400: the maximum context length is 5"):
        sampler(policy, refusing)(PROMPTS[:1], 1)
    silent = server(lambda body: (200, {"choices": [{**good(body)[1]["choices"][0], "prompt_token_ids": None}]}))
    with pytest.raises(AssayError, match="does not say which tokens it read"):
        sampler(policy, silent)(PROMPTS[:1], 1)


def test_servers_are_met_before_anything_is_asked(
    policy: Policy, server: Callable[..., Server], tmp_path: Path
) -> None:
    one, other = server(good), server(good, root="/models/another")
    with pytest.raises(AssayError, match=r"several models \(another, tiny\)"):
        sampler(policy, one, other)
    with pytest.raises(AssayError, match="no vLLM server answers there"):
        make_sampler(VllmConfig(vllm=("http://127.0.0.1:9",)), policy, CONFIG)
    small = sampler(policy, server(good, room=8))
    with pytest.raises(CannotRead, match="longer than 5 tokens"):
        small.prompt_ids(PROMPTS[0])


class Taking:
    """Takes weights over, as our worker does, where it sees their files."""

    def __init__(self, sees: str = "") -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.sees = sees

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body.get("method") == "sees":
            there = Path(body["args"][0])
            return 200, {"results": [str(there.exists() and str(there).startswith(self.sees))]}
        if body.get("method") == "take_weights":
            files = json.loads(body["args"][0])
            assert all(f.startswith(self.sees) for f in files)
            self.weights.append({n: x for f in files for n, x in load_file(f).items()})
            return 200, {"results": [None]}
        return good(body) if "prompt" in body else (200, {})


def test_servers_take_over_the_policy_that_trains_once_a_step(server: Callable[..., Server], tmp_path: Path) -> None:
    policy = load_policy(str(tiny_models.save_language(tmp_path / "lm", "qwen3")), PolicyConfig(precision="fp32"))
    for taking in (Taking(), Taking(str(tmp_path))):
        seeing = [server(taking), server(taking)]
        config = VllmConfig(vllm=tuple(s.url for s in seeing))
        asker: Any = make_sampler(config, policy, CONFIG, within=tmp_path)
        for step in (0, 1, 1):
            with torch.no_grad():
                policy.inner.model.norm.weight.fill_(2.0 + step)
            asker.load(step)
            asker.greedy().load(step)
        assert [float(w["model.norm.weight"][0]) for w in taking.weights] == [2.0, 2.0, 3.0, 3.0], (
            "each server, each step"
        )
        for one in seeing:
            paths = [p for p in one.paths if "reset" in p]
            assert paths == ["/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"] * 2
        assert asker(PROMPTS[:1], 1)[0][0].policy_step == 1
        assert not list(tmp_path.glob("assay-vllm-*")), "files go with the transfer"
        seeing[1].version = "default"
        with pytest.raises(AssayError, match=r"other weights \(default\) than it was given \(assay-\w+-1\)"):
            asker(PROMPTS[:1], 1)
    with pytest.raises(AssayError, match="sees neither /dev/shm nor"):
        make_sampler(config, policy, CONFIG, within=tiny_models.save_language(tmp_path.parent / "elsewhere"))
    plain = server(lambda _: (404, {"detail": "Not Found"}))
    with pytest.raises(AssayError, match=r"http 404.*VLLM_SERVER_DEV_MODE=1 vllm serve"):
        make_sampler(VllmConfig(vllm=(plain.url,)), policy, CONFIG, within=tmp_path)
    with pytest.raises(AssayError, match="goes from GPU to GPU"):
        make_sampler(VllmConfig(vllm=(plain.url,), vllm_weights="nccl"), policy, CONFIG, within=tmp_path)


@pytest.mark.parametrize(("mode", "right"), [("processed", True), ("raw", False)])
def test_a_server_that_tells_log_probabilities_of_another_temperature_is_refused(
    server: Callable[..., Server], tmp_path: Path, mode: str, right: bool
) -> None:
    """Near 1 the gap to training is small enough to pass for an engine's rounding, and would be corrected for."""
    logits = torch.tensor([3.0, 1.0, 0.5, -2.0, -4.0])

    class Telling(Taking):
        def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            if body.get("logprobs") == 5:
                assert 0 <= body["temperature"] <= 2, "what vLLM takes"
                hot = body["temperature"] if mode == "processed" else 1.0
                told = {f"t{i}": x for i, x in enumerate((logits / hot).log_softmax(0).tolist())}
                return 200, {"choices": [{"logprobs": {"top_logprobs": [told]}}]}
            return super().__call__(body)

    policy = load_policy(str(tiny_models.save_language(tmp_path / "lm", "qwen3")), PolicyConfig(precision="fp32"))
    config = VllmConfig(vllm=(server(Telling()).url,))
    warm = SamplerConfig(max_tokens=3, temperature=0.9)
    if right:
        make_sampler(config, policy, warm, within=tmp_path)
    else:
        with pytest.raises(AssayError, match=r"at temperature 1, and training compares them at 0\.9"):
            make_sampler(config, policy, warm, within=tmp_path)
    make_sampler(config, policy, CONFIG, within=tmp_path)
    make_sampler(config, policy, warm)  # one that only samples


def test_what_servers_said_before_an_end_is_not_asked_again(
    policy: Policy, server: Callable[..., Server], tmp_path: Path
) -> None:
    """Of an unfinished call too; what was said to another prompt than ours is no answer."""
    answered, open_for = list[Any](), [4]

    def limited(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(answered) >= open_for[0]:
            return 503, {}
        answered.append(body["prompt"])
        wrong = {"prompt": [5]} if len(answered) == 4 else {}
        return good({**body, **wrong})

    one = server(limited)

    def asker() -> Any:
        made = sampler(policy, one)
        made.keep_in(tmp_path / "asked")
        return made

    open_for[0] = 3
    with pytest.raises(AssayError, match=r"3 of 6 questions were not answered"):
        asker()(PROMPTS, 2)
    [file] = (tmp_path / "asked").iterdir()
    whole = file.read_text()
    assert whole.count("\n") == 3
    open_for[0] = 4
    with pytest.raises(AssayError, match="reads another prompt"):
        asker()(PROMPTS, 2)
    assert file.read_text() == whole
    file.write_text(whole + '[3, {"choi')  # as a kill leaves it
    open_for[0] = 100
    again = asker()
    groups = again(PROMPTS, 2)
    assert len(answered) == 7, "three, the wrong one, and the other three"
    assert [g[0].prompt_id for g in groups] == [p.id for p in PROMPTS]
    assert len(again(PROMPTS, 2, 1)[0]) == 2
    assert len(answered) == 13, "another draw is another call"
    assert not file.exists(), "its answers are the caller's by now"
    assert tokens(asker()(PROMPTS, 2, 1)) == tokens(groups)
    assert len(answered) == 13
