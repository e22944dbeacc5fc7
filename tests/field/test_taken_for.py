"""What was made of one thing never answers for another: models, runs, judges' folders, score files, through the commands."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from assay.cli import bench, reward
from assay.cli.run import Llms, run_pool
from assay.curate import annotate as annotate_
from assay.curate import attributes
from assay.curate.pool import add
from assay.curate.shards import Pool
from assay.errors import AssayError
from assay.judges.annotate import JudgeConfig, annotate
from assay.judges.asking import AskConfig
from assay.judges.attributes import AttributesConfig, describe
from assay.pipeline.finished import export, training_data
from assay.pipeline.flow import FlowConfig
from assay.pipeline.training import Streamed
from assay.recipes import presets
from assay.records import Attributes, Preference
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from assay.tables import Table

TOPICS = ("tea", "rain", "maps", "trains", "bread", "glue", "lamps", "moss", "kites", "ponds", "ropes", "seeds")


def write_pairs(path: Path, topics: Any = TOPICS, turned: bool = False, **fields: Any) -> Path:
    rows = []
    for topic in topics:
        good, bad = f"Gladly: {topic} in three short steps.", f"No idea about {topic}."
        row = {
            "prompt": f"Tell me about {topic}.",
            "chosen": bad if turned else good,
            "rejected": good if turned else bad,
        }
        rows.append({**row, **fields})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    add([write_pairs(tmp_path / "pairs.jsonl")], tmp_path / "pool")
    return tmp_path / "pool"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    backbone = tiny_models.reward(tmp_path_factory.mktemp("backbone"))
    return TrainConfig(
        backbone=str(backbone), batch_pairs=5, lr=1e-3, checks=1, max_tokens=96, engine=EngineConfig(tokens=2_048)
    )


def test_reward_train_on_a_pool_whose_labels_were_turned_round(
    pool: Path, config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward.reward_train(pool, tmp_path / "rm", config)
    first = capsys.readouterr().out.splitlines()
    reward.reward_train(pool, tmp_path / "rm", config)
    assert capsys.readouterr().out.splitlines() == first[-1:], "the same command says the same, and trains nothing"
    add([write_pairs(tmp_path / "turned.jsonl", turned=True)], tmp_path / "turned")
    with pytest.raises(AssayError, match=r"rm holds a training with other inputs \(.*labels.digest"):
        reward.reward_train(tmp_path / "turned", tmp_path / "rm", config)
    with pytest.raises(AssayError, match=r"other inputs .*config.lr: 0.001 -> 9"):
        reward.reward_train(pool, tmp_path / "rm", replace(config, lr=9))
    with pytest.raises(AssayError, match="cannot load the model"):
        reward.reward_train(pool, tmp_path / "rm", replace(config, backbone=str(tmp_path / "none")))
    add([write_pairs(tmp_path / "others.jsonl", ("sand", "salt"))], tmp_path / "others")
    export(tmp_path / "others", tmp_path / "gold", "raw")
    with pytest.raises(AssayError, match=r"other inputs \(.*gold"):
        reward.reward_train(pool, tmp_path / "rm", config, gold=tmp_path / "gold")


# --- Runs --------------------------------------------------------------------------------------------------------------


def small() -> FlowConfig:
    made = presets.pool()
    first = replace(made.stage1, iterations=1, seed_gold=4, seed_silver=4, per_iteration=4)
    return replace(made, stage1_share=0.9, stage1=first)


def reworded(name: str) -> str:
    return f"Please. {attributes.resources.files('assay.curate').joinpath(f'prompts/{name}.md').read_text()}"


MOVED = "m answered at http://127.0.0.1:9/v1, and is now to be asked at http://127.0.0.1:10/v1"


def begin(pool: Path, out: Path, judge: Any = ("m@http://127.0.0.1:9/v1",), **options: Any) -> str:
    """A run as far as it goes without people: what it says when it stops. No server is probed, for none is there."""
    config = options.pop("config", small())
    llms = Llms(judge=judge, **{f.name: options.pop(f.name) for f in fields(Llms) if f.name in options})
    with pytest.MonkeyPatch.context() as alone:
        alone.setattr("assay.llm.outage.probe", lambda servers: None)
        with pytest.raises(AssayError) as stopped:
            run_pool(str(pool), config, out, llms=llms, **options)
    return str(stopped.value)


def test_a_run_keeps_to_its_judges_samples_attributes_people_and_pool(
    pool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert "answers missing" in begin(pool, out)
    assert "answers missing" in begin(pool, out)
    moved = ("m@http://127.0.0.1:10/v1",)
    assert MOVED in begin(pool, out, judge=moved), "another model may go by that name there"
    assert "answers missing" in begin(pool, out, judge=moved, servers_moved=True)
    assert "answers missing" in begin(pool, out, servers_moved=True)
    for named, options in (
        ("inputs.judge.models: ['m'] -> ['other']", {"judge": ("other@http://127.0.0.1:9/v1",)}),
        ("inputs.judge: ", {"judge": ()}),
        ("inputs.judge.samples: 3 -> 5", {"samples": 5}),
        ("inputs.attributes: 'rules' -> ", {"attributes": "m@http://127.0.0.1:9/v1"}),
        ("inputs.people: 'judgements.jsonl' -> 'else.jsonl'", {"judgements": Path("else.jsonl")}),
        ("stage1.seed_gold: 4 -> 3", {"config": replace(small(), stage1=replace(small().stage1, seed_gold=3))}),
    ):
        told = begin(pool, out, **options)
        assert "holds a run with another config" in told
        assert named in told
    with monkeypatch.context() as other:
        other.setattr(attributes, "prompt_text", reworded)
        other.setattr(annotate_, "prompt_text", reworded)
        assert "inputs.prompts: " in begin(pool, out), "an Assay that asks in other words"
        assert "answers missing" in begin(pool, tmp_path / "offline", judge=())
    assert "answers missing" in begin(pool, tmp_path / "offline", judge=()), "nobody is asked in words"
    pool.rename(tmp_path / "moved")
    assert "answers missing" in begin(tmp_path / "moved", out), "where the pool lies does not matter"
    add([write_pairs(tmp_path / "again.jsonl", turned=True)], tmp_path / "turned")
    told = begin(tmp_path / "turned", out)
    assert "the pool has changed since this run began: 12 pairs then, 12 now with other content" in told
    capfd.readouterr()
    add([write_pairs(tmp_path / "more.jsonl", ("sand", "salt"))], tmp_path / "moved")
    assert "answers missing" in begin(tmp_path / "moved", out)
    assert "the pool has grown: 12 pairs when this run began, 14 now" in " ".join(capfd.readouterr().err.split())


def test_a_margin_that_the_pool_does_not_tell_is_refused(pool: Path, config: TrainConfig, tmp_path: Path) -> None:
    told = replace(small(), train=replace(small().train, loss=LossConfig(margin=True)))
    assert "no pair of the pool has a strength" in begin(pool, tmp_path / "run", config=told)
    for loss, why in ((LossConfig(margin=True), "no pair has a strength"), (LossConfig(soft_labels=True), "certain")):
        with pytest.raises(AssayError, match=why):
            reward.reward_train(pool, tmp_path / "rm", replace(config, loss=loss))


def test_votes_and_strengths_arrive_in_export_and_training(config: TrainConfig, tmp_path: Path) -> None:
    """Three files label the same pairs, one of them the other way round: two votes of three."""
    for n, turned in enumerate((False, False, True)):
        add([write_pairs(tmp_path / f"{n}.jsonl", turned=turned, source=str(n))], tmp_path / "pool")
    votes = Pool.open(tmp_path / "pool").table("votes")
    assert len(votes.shards()) == 3
    pairs, held = training_data(tmp_path / "pool", "raw", None, tmp_path / "beside")
    assert isinstance(pairs, Streamed)
    assert {round(p.certainty, 6) for p in (*pairs.labels.preferences(), *held)} == {round(2 / 3, 6)}
    soft = replace(config, loss=LossConfig(soft_labels=True))
    reward.reward_train(tmp_path / "pool", tmp_path / "rm", soft)
    assert (tmp_path / "rm" / "training.json").exists()
    export(tmp_path / "pool", tmp_path / "out", "raw")
    assert "certainty" in Table(tmp_path / "out", Preference).frame().columns


# --- Judges' folders ---------------------------------------------------------------------------------------------------


class Server:
    """Stands in for the chat servers: it prefers the answer that offers steps; who asks is counted."""

    asked = 0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    from assay.llm.client import Server as Real
    from assay.llm.replies import Reply

    def complete(self: Any, requests: Any) -> list[Reply]:
        Server.asked += len(requests)
        found = []
        for request in requests:
            text = request.messages[-1].content
            if "Candidate 1" not in text:
                found.append(Reply(text="no"))
                continue
            first = text.rindex("Candidate 1:") < text.rindex("Gladly") < text.rindex("Candidate 2:")
            found.append(Reply(text=json.dumps({"reason": "steps", "verdict": "1" if first else "2"})))
        return found

    monkeypatch.setattr(Real, "complete", complete)
    Server.asked = 0
    return Server


def judge(pool: Path, out: Path, name: str = "m@http://127.0.0.1:9/v1", **options: Any) -> Any:
    settings = JudgeConfig(embedder="hash", **options.pop("config", {}))
    ask = AskConfig(servers_moved=options.pop("moved", False))
    return annotate(pool, out, [name], options.pop("gold", [pool]), settings, ask, **options)


def test_annotate_keeps_to_its_judges_pairs_gold_and_attributes(
    pool: Path, tmp_path: Path, served: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "votes"
    assert judge(pool, out) is not None
    asked = served.asked
    with pytest.raises(AssayError, match=MOVED):
        judge(pool, out, "m@http://127.0.0.1:10/v1")
    for there in ("m@http://127.0.0.1:10/v1", "m@http://127.0.0.1:9/v1"):
        assert judge(pool, out, there, moved=True) is not None
    assert served.asked == asked
    add([write_pairs(tmp_path / "turned.jsonl", turned=True)], tmp_path / "turned")
    described = Table(tmp_path / "told" / "tables" / "attributes", Attributes)
    described.write("a", [replace(a, category="Math") for a in Table(out / "tables" / "attributes", Attributes).read()])
    for named, options in (
        ("judges: ['m'] -> ['n']", {"name": "n@http://127.0.0.1:9/v1"}),
        ("config.samples: 3 -> 4", {"config": {"samples": 4}}),
        ("gold.digest: ", {"gold": [tmp_path / "turned"]}),
        ("attributes.digest: ", {"attributes": tmp_path / "told"}),
    ):
        with pytest.raises(AssayError) as refused:
            judge(pool, out, **options)
        assert "holds a run with another config" in str(refused.value)
        assert named in str(refused.value)
    with monkeypatch.context() as other:
        other.setattr(attributes, "prompt_text", reworded)
        with pytest.raises(AssayError, match=r"another config .prompts: "):
            judge(pool, out)
    add([write_pairs(tmp_path / "more.jsonl", ("sand", "salt"))], pool)
    with pytest.raises(AssayError, match=r"pairs.n: 12 -> 14"):
        judge(pool, out)


def test_attributes_keep_to_their_servers_and_pairs(
    pool: Path, tmp_path: Path, served: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(name: str = "m@http://127.0.0.1:9/v1", moved: bool = False) -> Any:
        return describe(pool, tmp_path / "told", [name], AttributesConfig(), AskConfig(servers_moved=moved))

    assert tell()["pairs"] == 12
    with pytest.raises(AssayError, match=MOVED):
        tell("m@http://127.0.0.1:10/v1")
    for there in ("m@http://127.0.0.1:10/v1", "m@http://127.0.0.1:9/v1"):
        assert tell(there, moved=True)["pairs"] == 12
    with pytest.raises(AssayError, match=r"servers: \['m'\] -> \['n'\]"):
        tell("n@http://127.0.0.1:9/v1")
    with monkeypatch.context() as other:
        other.setattr(attributes, "prompt_text", reworded)
        with pytest.raises(AssayError, match=r"another config .prompts: "):
            tell()
    add([write_pairs(tmp_path / "more.jsonl", ("sand", "salt"))], pool)
    with pytest.raises(AssayError, match=r"pairs.n: 12 -> 14"):
        tell()


# --- Files that grow ---------------------------------------------------------------------------------------------------


def test_best_of_n_keeps_to_its_policy_and_its_reward_model(tmp_path: Path) -> None:
    policy = str(tiny_models.save_language(tmp_path / "policy", "qwen3"))
    judge = tiny_models.reward(tmp_path / "reward")
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"what is {k}?"}) + "\n" for k in range(3)))
    out = tmp_path / "best.jsonl"

    def ask(**options: Any) -> None:
        told = {"policy": policy, "reward": str(judge), "out": out, "n": 2, "seed": 0, **options}
        bench.best_of_n(questions, sampler=bench.SamplerConfig(max_tokens=4), **told)

    ask()
    before = out.read_bytes()
    ask()
    other = str(tiny_models.save_language(tmp_path / "other", "qwen3", seed=1))
    for named, options in (("policy", {"policy": other}), ("n: 2 -> 3", {"n": 3}), ("seed: 0 -> 1", {"seed": 1})):
        with pytest.raises(AssayError, match=f"answers of other inputs .*{named}"):
            ask(**options)
    tiny_models.reward(judge, seed=1)
    with pytest.raises(AssayError, match=r"answers of other inputs \(reward: "):
        ask()
    (tmp_path / "best.jsonl.identity.json").unlink()
    with pytest.raises(AssayError, match="does not say whose answers"):
        ask()
    assert out.read_bytes() == before
