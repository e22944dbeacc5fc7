"""Part B on a user's own model, pictures and questions, by its commands: align, evaluate, pairs, mpo, grpo, filter."""

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tiny_models
from assay import cli
from assay.images import ImageStore
from assay.policy import shown
from assay.policy.assemble import assemble, save
from assay.records import Response
from assay.tables import Table
from assay.tuning import outcome as tuned
from assay.tuning import own, own_evaluate, own_filter, own_grpo, own_pairs, questions
from assay.tuning.own_pairs import SampledPreference
from judge_server import Judged

PIL = pytest.importorskip("PIL.Image")
COLOURS = {"red": (250, 20, 20), "blue": (20, 20, 250)}
START = ("--answer-start", "<think>")
DRAWN = (*START, "--sampler.max-tokens", "48")
BOTH = ("--policy.train", "adapter", "llm")


def assay(*arguments: object) -> None:
    before, sys.argv = sys.argv, ["assay", *map(str, arguments)]
    try:
        cli.main()
    finally:
        sys.argv = before


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        assay(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was aligned a little on red and blue pictures, and questions of which half have an answer."""
    home = tmp_path_factory.mktemp("own")
    encoder, processor = tiny_models.encoder("siglip", 32)
    language = tiny_models.language("qwen3", width=64)
    save(*assemble(encoder, processor, language, tiny_models.tokenizer(), 32), home / "vlm")
    asked, shown, wrong = [], [], []
    for i in range(24):
        name, other = (("red", "blue"), ("blue", "red"))[i % 2]
        PIL.new("RGB", (32, 32 + i), COLOURS[name]).save(home / f"{i}.png")
        shown.append({"image": f"{i}.png", "caption": f"a {name} one</think><answer>{name}</answer>"})
        row = {"question": "which?", "image": f"{i}.png", "facts": [name], "absent": [other]}
        asked.append({**row, "answer": name} if i % 4 < 2 else row)
        wrong.append({**row, "facts": [other], "absent": [name]})
    lines(home / "questions.jsonl", asked)
    lines(home / "wrong.jsonl", wrong)
    lines(home / "captions.jsonl", shown[:16])
    assay("policy", "align", home / "vlm", home / "captions.jsonl", "--out", home / "aligned", "--request", "which?",
          *START, *BOTH, "--batch", 8, "--epochs", 24, "--lr", 5e-3, "--schedule", "constant")  # fmt: skip
    return home


@pytest.fixture(scope="module")
def pairs(home: Path) -> Path:
    assay(
        "policy", "pairs", home / "aligned", home / "questions.jsonl", "--out", home / "pairs", "--samples", 6, *DRAWN
    )
    return home / "pairs"


@pytest.fixture(scope="module")
def judge(home: Path, pairs: Path) -> Path:
    """A reward model with eyes, trained by the reward engine on these pairs."""
    assay("reward", "train", pairs, "--out", home / "judge", "--images", pairs / "images", "--backbone", home / "aligned",
          "--batch-pairs", 4, "--epochs", 2, "--lr", 1e-3, "--max-tokens", 256, "--checks", 1)  # fmt: skip
    return home / "judge"


def test_alignment_moves_the_adapter_alone(home: Path) -> None:
    assay("policy", "align", home / "vlm", home / "captions.jsonl", "--out", home / "adapter")
    before, after = (load_file(home / n / "model.safetensors") for n in ("vlm", "adapter"))
    moved = {n for n, x in before.items() if not x.equal(after[n])}
    assert moved
    assert all("multi_modal_projector" in n for n in moved)


def test_an_evaluation_measures_what_the_questions_allow(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assay("policy", "evaluate", home / "aligned", home / "questions.jsonl", "--out", tmp_path / "e.json", *DRAWN)
    said = json.loads((tmp_path / "e.json").read_text())
    assert (said["n"], said["accuracy"]["n"], said["swap_agreement"]["n"]) == (24, 12, 12)
    assert said["accuracy"]["value"] >= 0.9
    assert said["accuracy"]["low"] < said["accuracy"]["value"]
    assert said["format"]["value"] >= 0.9
    assert said["hallucination_rate"]["value"] <= 0.1 <= said["hallucination_rate"]["high"]
    assert said["swap_agreement"]["value"] <= 0.1
    assert said["onsets"] == 24
    assert (said["not_measured"], said["left_out"]) == ({}, {})
    assert "95% interval" in capsys.readouterr().out
    lines(tmp_path / "text.jsonl", [{"question": "a"}, {"question": "x" * 600}])
    assay("policy", "evaluate", home / "aligned", tmp_path / "text.jsonl", "--out", tmp_path / "t.json")
    said = json.loads((tmp_path / "t.json").read_text())
    missing = {"accuracy", "hallucination_rate", "named", "blind_agreement", "swap_agreement", "cannot_see"}
    missing |= {"hallucination_short", "hallucination_middle", "hallucination_long", "false_claims_rate"}
    assert missing == said["not_measured"].keys()
    assert said["left_out"] == {"longer than 448 tokens with their pictures": 1}
    assert "evaluate with --sampler.temperature 0" in refused(
        capsys, "policy", "evaluate", home / "aligned", tmp_path / "text.jsonl", "--sampler.temperature", 1
    )


def test_pairs_keep_tokens_pictures_and_reasons(home: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Table(pairs, SampledPreference).read()
    tokenizer = tiny_models.tokenizer()
    assert {r.told_by for r in rows} == {"rule", "dropout"}
    for row in rows:
        told = ((row.chosen.text, row.chosen_ids), (row.rejected.text, row.rejected_ids))
        for text, ids in told:
            assert text == "<think>" + tokenizer.decode(ids, skip_special_tokens=True)
        assert (pairs / "images" / f"{row.prompt[0].images[0]}.png").exists()
        if row.told_by == "dropout":
            half = len(row.chosen_ids) // 2
            assert row.chosen_ids[:half] == row.rejected_ids[:half]
    kept = json.loads((pairs / "pairs.json").read_text())
    assert kept["counts"]["pairs"] == len(rows) == sum(kept["told_by"].values())
    about = {k: n for k, n in kept["counts"].items() if k != "pairs" and not k.startswith("DropoutNTP")}
    assert sum(about.values()) == 24
    assert about["no reward model"] == 12 == sum(n for k, n in kept["counts"].items() if k.startswith("DropoutNTP"))
    again = ("policy", "pairs", home / "aligned", home / "questions.jsonl", "--out", pairs, *DRAWN)
    before = (pairs / "pairs.parquet").stat().st_mtime_ns
    assay(*again, "--samples", 6)
    assert (pairs / "pairs.parquet").stat().st_mtime_ns == before
    assert "other questions, models or settings (config.samples: 6 -> 5)" in refused(capsys, *again, "--samples", 5)
    assert "give --reward-model" in refused(capsys, *again, "--samples", 6, "--threshold", 1)
    assert "holds no pairs" in refused(capsys, *again, "--samples", 6, "--out", home / "vlm")


def test_killed_pairs_go_on_to_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_pairs, "PART", 8)
    made = own_pairs._Making.part
    command = ("policy", "pairs", home / "aligned", home / "questions.jsonl", "--samples", 4, *DRAWN, "--out")

    def killed(self: Any, number: int, *rest: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return made(self, number, *rest)

    monkeypatch.setattr(own_pairs._Making, "part", killed)
    with pytest.raises(SystemExit):
        assay(*command, home / "killed")
    assert not (home / "killed").exists()
    monkeypatch.setattr(own_pairs._Making, "part", made)
    for name in ("killed", "whole"):
        assay(*command, home / name)
    first, second = (Table(home / n, SampledPreference).read() for n in ("killed", "whole"))
    assert first == second
    assert not (home / "killed.partial").exists()


def test_mpo_on_pairs_with_pictures_and_a_second_round(
    home: Path, pairs: Path, judge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assay("policy", "mpo", home / "aligned", pairs, "--out", home / "mpo-1", "--batch", 4, "--lr", 1e-3, *BOTH)
    n = len(Table(pairs, SampledPreference).read())
    assert f"{n} pairs" in capsys.readouterr().out
    before, after = (load_file(home / m / "model.safetensors") for m in ("aligned", "mpo-1"))
    assert any("multi_modal_projector" in n and not x.equal(after[n]) for n, x in before.items())
    for name, plot in (("mpo-1", "preference accuracy and margin"), ("aligned", "NLL of the answers")):
        assay("policy", "report", home / name)
        assert f"{name}: {plot} over steps" in (home / name / "report.html").read_text()
    assay("policy", "pairs", home / "mpo-1", home / "questions.jsonl", "--out", home / "pairs-2", "--round", 2,
          "--samples", 6, "--reward-model", judge, "--threshold", 0.01, *DRAWN)  # fmt: skip
    rows = Table(home / "pairs-2", SampledPreference).read()
    assert {r.round for r in rows} == {2}
    assert any(r.told_by == "model" for r in rows)
    assert all(r.margin >= 0.01 for r in rows if r.told_by != "dropout")
    assay("policy", "mpo", home / "mpo-1", home / "pairs-2", "--out", home / "mpo-2", "--batch", 4, *BOTH)


def test_pairs_that_cannot_be_read_are_left_out_and_counted(
    home: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, images = Table(pairs, SampledPreference).read(), tmp_path / "images"
    shutil.copytree(pairs / "images", images)
    (images / f"{rows[0].prompt[0].images[0]}.png").unlink()
    alone = [r for r in rows if r.prompt[0].images != rows[0].prompt[0].images]
    marked = [replace(r, prompt=(replace(r.prompt[0], content="<image>?"),)) for r in alone[:1]]
    marked += [replace(r, chosen=Response.of("a <image>"), chosen_ids=()) for r in alone[1:2]]
    Table(tmp_path / "odd", SampledPreference).once("pairs", lambda: [rows[0], *marked, *alone[2:]])
    assay("policy", "mpo", home / "aligned", tmp_path / "odd", "--out", tmp_path / "mpo", "--images", images, *BOTH)
    said = capsys.readouterr().out
    assert f"1 pairs left out: a picture is missing in {images}, or damaged" in said
    assert "1 pairs left out: the text contains <image>, which stands for a picture" in said
    assert "1 pairs left out: the answer contains <image>, which stands for a picture" in said
    assert f"{len(alone) - 2} pairs, " in said
    shown = [json.loads(line) for line in (home / "captions.jsonl").read_text().splitlines()]
    shown[0]["caption"], shown[1]["image"] = "an <image>", str(home / "1.png")
    lines(home / "odd.jsonl", shown)
    assay("policy", "align", home / "vlm", home / "odd.jsonl", "--out", tmp_path / "aligned", "--epochs", 1)
    said = capsys.readouterr().out
    assert "1 captions left out: the answer contains <image>" in said
    assert "15 captions, " in said


def test_what_is_there_is_not_written_over(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = home / "questions.jsonl"
    before = asked.read_bytes()
    for command in (("filter",), ("evaluate",)):
        said = refused(capsys, "policy", *command, home / "aligned", asked, "--out", asked)
        assert f"{asked} is there already" in said
    assert asked.read_bytes() == before
    said = refused(capsys, "policy", "assemble", home / "vlm", home / "vlm", "--out", home / "aligned")
    assert f"{home / 'aligned'} is there already" in said
    said = refused(
        capsys, "policy", "filter", home / "aligned", asked, "--out", tmp_path / "f", "--sampler.temperature", 0
    )
    assert "set it above 0" in said


def grpo(home: Path, out: str, *more: object) -> tuple[object, ...]:
    return ("policy", "grpo", home / "aligned", home / "questions.jsonl", "--out", home / out, "--steps", 2, "--prompts",
            2, "--group", 4, "--lr", 1e-4, *BOTH, *DRAWN, *more)  # fmt: skip


def test_grpo_with_a_reward_model_and_a_monitor(home: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched = ("--watch", home / "wrong.jsonl", "--monitor.every", 1, "--monitor.prompts", 12)
    assay(*grpo(home, "tuned", "--reward-model", judge, "--gold-share", 0.5, "--rewards.claims", 0.5, *watched,
                "--monitor.stop-at", 1, "--gate-every", 2, "--gate-questions", 4))  # fmt: skip
    said = capsys.readouterr().out
    assert "6 gold questions: the reward model's gate is" in said
    assert "above 30.0%: reward model's weight x 0.5" in said
    assert "18 questions, 2 steps, 16 answers" in said, "unanswered questions are trained on, gold is not"
    kept = json.loads((home / "tuned.calibration.json").read_text())
    assert (kept["questions"], kept["term"]["n_gold"]) == (6, 24)
    metrics = [json.loads(line) for line in (home / "tuned/metrics.jsonl").read_text().splitlines()]
    assert [m["model_weight"] for m in metrics] == [0.5, 0.5]
    assert all(m["watch_hallucination_rate"] > 0.9 and m["watch_n"] == 12 for m in metrics)
    assert any(m["claims"] for m in metrics)
    assert ["gate_check_action" in m for m in metrics] == [False, True]
    assert metrics[1]["gate_check_right_n"] <= 16, "four answers each to four gold questions"
    assert all("order_pairs" in m and m["gate_known"] <= 8 for m in metrics)
    assay("policy", "report", home / "tuned")
    assert f"report: {home / 'tuned/report.html'}" in capsys.readouterr().out
    page = (home / "tuned/report.html").read_text()
    rate = 100 * metrics[1]["watch_hallucination_rate"]
    assert "<td>2</td>" in page
    assert f"<td>{rate:.1f} (" in page
    assert "tuned: rewards and effective samples over steps" in page
    assert "Of a few prompts at 2 steps" in page
    assert "Hallucination by claim and by length" in page
    assert "longest third, %" in page
    assert "The reward model over time" in page
    kept_answers = shown.read(home / "tuned")
    assert {a.step for a in kept_answers} == {1, 2}
    assert any(a.text.replace("<", "&lt;").replace(">", "&gt;") in page for a in kept_answers)
    assert "Accuracy against" not in page, "these questions have no answers"
    assay(*grpo(home, "stopped", *watched))
    said = capsys.readouterr().out
    assert "stopped: step 1: hallucination rate" in said
    assert "reward model's weight" not in said
    assert f"{home / 'stopped'} is the policy that was stopped" in said
    told = json.loads((home / "stopped/training.json").read_text())
    assert (told["steps"], told["kept"]) == (1, {}), "none was good"


def test_a_judge_compares_answers_and_another_reads_their_claims(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(text: str) -> str:
        if "<response_a>" not in text:
            return '{"claims": [{"claim": "a cat", "verdict": "contradicted"}]}'
        a, b = re.findall(r"<response_([ab])>\n(.*?)\n</response_", text, re.S)
        return json.dumps({"better": "A" if len(a[1]) > len(b[1]) else "B"})

    with Judged(answer) as server:
        judges = ("--reward-model", f"judge:m@{server.url}", "--judge-by", "group", "--rewards.combine", "sum")
        read = ("--watch", home / "wrong.jsonl", "--monitor.every", 1, "--monitor.prompts", 4, "--monitor.stop-at", 1,
                "--monitor.judge", f"eyes@{server.url}")  # fmt: skip
        assay(*grpo(home, "judged", *judges, *read, "--steps", 1, "--signal", "total"))
        asked = [b["model"] for b in server.asked]
    assert 0 < asked.count("m") <= 2 * 2 * 3, "two groups of four answers, each with one other, in both orders"
    assert 0 < asked.count("eyes") <= 4
    metrics = json.loads((home / "judged/metrics.jsonl").read_text().splitlines()[0])
    assert 0 < metrics["model"] < 1
    assert (metrics["watch_judged_rate"], metrics["watch_judge_failed"]) == (1.0, 0)
    assert "24 questions, 1 steps" in capsys.readouterr().out, "nothing is gold"
    assay("policy", "report", home / "judged")
    assert "a judge: answers, %" in (home / "judged/report.html").read_text()


def test_a_benchmark_is_watched(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own questions, asked for a box; one that is trained on as well is told, though it is put in another way."""
    (tmp_path / "aime24").mkdir()
    rows = [
        {"problem": q, "question": q, "answer": "033", "solution": "x"} for q in ("Which? ", "1 + 1?", "what?", "2?")
    ]
    lines(tmp_path / "aime24" / "test.jsonl", rows)
    lines(home / "text.jsonl", [{"question": "which?", "answer": str(n)} for n in (1, 2)])
    watched = ("--watch", "aime24:4", "--watch-data", tmp_path, "--monitor.every", 1)
    command = [home / "text.jsonl" if a == home / "questions.jsonl" else a for a in grpo(home, "looks", *watched)]
    assay(*command)
    said = capsys.readouterr().out
    assert "watches aime24: 4 of 4 questions of" in said
    assert "of 4 questions that are watched, 1 are trained on as well; 1 have a text and 0 a picture of these" in said
    assert "watched every 1 steps: 4 questions, 4 with a known answer" in said
    metrics = [json.loads(line) for line in (home / "looks/metrics.jsonl").read_text().splitlines()]
    assert [m["watch_n"] for m in metrics] == [4, 4]
    for wrong, why in (("aime24:5", "has 4 questions with an answer"), ("ifeval:3", "what can be watched: aime24")):
        other = [wrong if a == "aime24:4" else a for a in command]
        assert why in refused(capsys, *other)


def test_the_sum_needs_no_gold(home: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assay(*grpo(home, "sum", "--reward-model", judge, "--rewards.combine", "sum", "--steps", 1))
    assert "24 questions, 1 steps" in capsys.readouterr().out
    assert not (home / "sum.calibration.json").exists()
    other = shutil.copytree(judge, tmp_path / "judge")
    assay(*grpo(home, "sum", "--reward-model", other, "--rewards.combine", "sum", "--steps", 1))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "changed": 1}))
    said = refused(capsys, *grpo(home, "sum", "--reward-model", other, "--rewards.combine", "sum", "--steps", 1))
    assert "holds a training with other inputs (reward.of.scorer: " in said
    metrics = json.loads((home / "sum/metrics.jsonl").read_text().splitlines()[0])
    assert metrics["model"] != 0
    assert metrics["reward"] == pytest.approx(metrics["rule"] + metrics["format"] + metrics["model"])


def test_a_text_classifier_reads_without_pictures(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_models.reward(tmp_path / "text")
    assay(*grpo(home, "blind", "--reward-model", text, "--gold", home / "questions.jsonl", "--steps", 1))
    said = capsys.readouterr().out
    assert "reads questions without their pictures" in said
    assert "12 gold questions: the reward model's gate is" in said
    assert "12 questions, 1 steps" in said, "what is gold is not trained on"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rewards.combine", "sum"), "--rewards.combine needs a reward model"),
        (("--rewards.bound", 0.2), "--rewards.bound needs a reward model"),
        (("--rewards.gate-precision", 0.8), "--rewards.gate-precision needs a reward model"),
        (("--rewards.model", 2), "--rewards.model needs a reward model"),
        (("--rewards.model-on", "unanswered"), "--rewards.model-on needs a reward model"),
        (("--gold-share", 0.4), "--gold-share needs a reward model"),
        (("--gold", "gold.jsonl"), "--gold needs a reward model"),
        (("--gate-every", 5), "--gate-every needs a reward model"),
        (("--reward-model", "x", "--rewards.combine", "sum", "--gate-every", 5), "--gate-every is for calibrated"),
        (("--reward-model", "x", "--judge-by", "group"), "are for a judge: give --reward-model judge:MODEL@URL"),
        (("--reward-model", "judge:m@http://x", "--judge-by", "reference"), "1 of 2 questions have no answer"),
        (("--monitor.hack.do", "off"), "--monitor.hack needs questions to watch: give --watch FILE"),
        (("--watch", "WATCHED", "--monitor.judge", "m@http://x"), "so --monitor.judge has nothing to look at"),
        (
            ("--reward-model", "x", "--rewards.combine", "sum", "--rewards.bound", 0.2),
            "--rewards.bound is for calibrated",
        ),
        (("--reward-model", "x", "--rewards.combine", "sum", "--gold", "g.jsonl"), "--gold is for calibrated"),
        (("--rewards.claims", 1), "--rewards.claims needs questions with the fields facts and absent"),
        (("--monitor.every", 2), "--monitor.every needs questions to watch: give --watch FILE"),
        (("--reward-model", "x", "--gold-share", 2), "gold_share is a share"),
        (("--reward-model", "x", "--judge-sees"), "are for a judge: give --reward-model judge:MODEL@URL"),
        (("--ask.budget", 1), "are for a judge: give --reward-model judge:MODEL@URL"),
        (("--rewards.overlong-band", 4), "--rewards.overlong-band needs --rewards.overlong"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[object, ...], said: str
) -> None:
    path = lines(tmp_path / "q.jsonl", [{"question": "a", "answer": "b"}, {"question": "c"}])
    more = tuple(path if x == "WATCHED" else x for x in more)
    assert said in refused(capsys, "policy", "grpo", "nothing", path, "--out", tmp_path / "out", *more)


def test_the_tours_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    tour = (Path(__file__).parents[2] / "docs/tour.md").read_text()
    block = next(b for b in re.findall(r"```bash\n(.*?)```", tour, re.DOTALL) if "assay policy align" in b)
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("assay policy")]
    ran = []
    for module in (own, own_grpo, own_filter, own_pairs, own_evaluate):
        for name in [n for n in vars(module) if n.startswith("run_")]:
            monkeypatch.setattr(module, name, lambda *_, name=name: ran.append(name))
    monkeypatch.setattr(tuned, "is_training", lambda _: True)
    monkeypatch.setattr(tuned, "write_training_report", lambda _: ran.append("run_report"))
    for command in commands:
        assay(*command)
    assert ran == [f"run_{c[1]}" for c in commands]
    assert {"run_align", "run_evaluate", "run_pairs", "run_mpo", "run_filter", "run_grpo", "run_report"} == set(ran)


def test_the_filter_writes_what_its_reader_finds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, turn = ["0.png", "1.png"], {"role": "user", "content": "hi", "images": ["2.png"]}
    rows = [
        {"question": "which?", "answer": "red", "images": both, "facts": ["red"], "absent": ["blue"]},
        {"messages": [turn, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "1?"}], "answer": 1,
         "image": "3.png"},
    ]  # fmt: skip
    path = lines(home / "several.jsonl", rows)
    monkeypatch.setattr(own_filter, "right_shares", lambda prompts, *_: [0.5] * len(prompts))
    monkeypatch.chdir(tmp_path)
    assay("policy", "filter", home / "aligned", path, "--out", "sub/kept.jsonl", *DRAWN)
    monkeypatch.chdir(home)
    kept, rejected = questions.read(tmp_path / "sub/kept.jsonl", ImageStore(tmp_path / "again"))
    assert not rejected
    given, _ = questions.read(path, ImageStore(tmp_path / "given"))
    assert kept == given
    assert [len(p.images) for p in kept] == [2, 2]
    assert [len(p.messages) for p in kept] == [1, 3]
