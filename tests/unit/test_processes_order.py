"""What several processes of a command rely on, without any: the engine before all models, ids that memory does not hold."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from assay import cli, models
from assay.errors import AssayError
from assay.policy import good, prompt_ids
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import grpo
from assay.policy.model import load_policy
from assay.policy.prompt_ids import IdFile, PromptIds, mapped
from assay.policy.sampler import LocalSampler
from assay.records import Response, user
from assay.rollouts import Prompt, Rollout, Score
from assay.step import Engine
from assay.tables import Table
from assay.tuning.own_pairs import SampledPreference
from assay.tuning.shared import MARK, Shared


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("order")
    tiny_models.save_language(home / "lm", "llama")
    (home / "q.jsonl").write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(4)))
    row = SampledPreference(pair_id="0", prompt=(user("a"),), chosen=Response.of("b"), rejected=Response.of("c"))
    Table(home / "pairs", SampledPreference).write("pairs", [row])
    return home


@pytest.mark.parametrize("command", [
    ("grpo", "lm", "q.jsonl", "--out", "g"), ("mpo", "lm", "pairs", "--out", "m"),
    ("filter", "lm", "q.jsonl", "--out", "f"), ("evaluate", "lm", "q.jsonl", "--out", "e"),
    ("pairs", "lm", "q.jsonl", "--out", "p"), ("align", "lm", "c.jsonl", "--out", "a"),
])  # fmt: skip
def test_the_engine_takes_its_device_before_any_model_is_loaded(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], tmp_path: Path
) -> None:
    """Under torchrun all models of all processes lay on the first accelerator."""
    events = list[str]()
    made, loaded = Engine.__init__, models.load_generator
    monkeypatch.setattr(Engine, "__init__", lambda *given: events.append("engine") or made(*given))  # type: ignore[func-returns-value]

    def load(*given: Any) -> Any:
        events.append("model")
        return loaded(*given)

    pil = pytest.importorskip("PIL.Image")
    pil.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "c.jsonl").write_text('{"image": "1.png", "caption": "x"}\n')
    for name in ("lm", "q.jsonl", "pairs"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.setattr(models, "load_generator", load)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["assay", "policy", *command])
    with suppress(SystemExit):  # some have nothing to learn from
        cli.main()
    assert events[0] == "engine"
    assert "model" in events
    assert events.count("engine") == 1, "one for all of a command"


def test_ids_lie_in_files_or_in_bounded_memory(tmp_path: Path) -> None:
    made = list[str]()

    def render(prompt: Prompt) -> list[int]:
        made.append(prompt.messages[0].content)
        return list(range(100))

    prompts = [Prompt(messages=(user(str(i)),)) for i in range(8)]
    ids = PromptIds(render, most=1200)
    for prompt in prompts:
        assert ids(prompt) == ids(prompt) == list(range(100))
    assert len(made) == 8
    assert (len(ids.made), ids.bytes) == (3, 1200), "three of 400 bytes"
    ids(prompts[0])
    assert made[-1] == "0"
    file = IdFile(tmp_path / "ids")
    places = [file.add([i, i + 1]) for i in range(3)]
    file.close()
    rows = mapped(tmp_path / "ids")
    ids.filed = {p.id: rows[a:b] for p, (a, b) in zip(prompts, places, strict=False)}
    assert [ids(p) for p in prompts[:3]] == [[0, 1], [1, 2], [2, 3]]
    assert isinstance(rows.base, np.memmap)
    IdFile(tmp_path / "none").close()
    assert len(mapped(tmp_path / "none")) == 0
    assert prompt_ids.KEPT <= 1 << 27


def reward(pairs: Sequence[tuple[Prompt, Rollout]]) -> list[Score]:
    return [Score(rule=x, format=0.0, total=x) for x in (float(len(r.tokens) % 2) for _, r in pairs)]


def trained(home: Path, out: Path, watch: Any, steps: int = 6) -> Any:
    torch.manual_seed(0)
    policy = load_policy(str(home / "lm"), PolicyConfig())
    prompts = [Prompt(messages=(user(w),), answer="1") for w in "abcdef"]
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), half=False)
    config = GrpoConfig(steps=steps, prompts=2, group=4, lr=1e-2, save_every=2, signal="total")
    return grpo(out, config, policy, prompts, sampler, reward, watch=watch, watch_every=1)


def test_the_best_and_the_last_good_policy_are_kept(home: Path, tmp_path: Path) -> None:
    right, weights = {1: 0.1, 2: 0.7, 3: 0.2, 4: 0.1}, dict[int, Any]()

    def watch(step: int, policy: Any) -> tuple[dict[str, float], str]:
        weights[step] = {n: x.clone() for n, x in policy.model.state_dict().items()}
        return {"watch_accuracy": right[step]}, "too bad" if step == 4 else ""

    done = trained(home, tmp_path / "run", watch)
    assert (done.steps, done.stopped, done.kept) == (4, "too bad", {"best": 2, "last-good": 3})
    for name, step in ((".", 4), ("best", 2), ("last-good", 3)):
        for key, value in load_file(tmp_path / "run" / name / "model.safetensors").items():
            assert value.equal(weights[step][key]), (name, key)
    assert load_policy(str(tmp_path / "run" / "best"), PolicyConfig()).packed
    again = trained(home, tmp_path / "run", watch)
    assert again == done


def test_a_resumed_run_knows_its_best_policy(home: Path, tmp_path: Path) -> None:
    right = {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3}

    def killed(step: int, policy: Any) -> tuple[dict[str, float], str]:
        if step == 4:
            raise KeyboardInterrupt
        return {"watch_accuracy": right[step]}, ""

    with pytest.raises(KeyboardInterrupt):
        trained(home, tmp_path / "run", killed, 4)
    done = trained(home, tmp_path / "run", lambda step, _: ({"watch_accuracy": right[step]}, ""), 4)
    assert done.kept == {"best": 1}, "the last one is good too: nothing stopped the run"
    assert not (tmp_path / "run" / "last-good").exists()


def test_policies_are_ranked_by_what_is_known() -> None:
    assert good.score_of({"watch_accuracy": 0.5, "watch_hallucination_rate": 0.1}) == (0.5,)
    assert good.score_of({"watch_hallucination_rate": 0.1}) == (-0.1,)
    assert good.score_of({}) == ()


def test_a_folder_of_the_user_s_that_has_the_questions_name_is_left_alone(tmp_path: Path) -> None:
    engine, folder = Engine("fp32", 1.0), tmp_path / "tuned.questions"
    folder.mkdir()
    (folder / "mine.jsonl").write_text("years of work")
    with pytest.raises(AssayError, match="is there already, and not of this command"), Shared(engine, folder):
        pass
    assert (folder / "mine.jsonl").read_text() == "years of work"
    (folder / "mine.jsonl").rename(folder / MARK)  # what a killed command left is made anew
    (folder / "old").touch()
    with Shared(engine, folder):
        assert not (folder / "old").exists()
    assert not folder.exists()
