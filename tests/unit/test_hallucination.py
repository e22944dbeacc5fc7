"""The hallucination monitor: hand-computed measures, thresholds with hysteresis, and a state that survives a kill."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.errors import AssayError
from assay.policy.agreement import agreement, onset_entropies
from assay.policy.claims import cannot_see, check_claims, claims_in, reasoning, vocabulary
from assay.policy.hallucination import read
from assay.policy.monitor import MonitorConfig, Watch
from assay.policy.reading import Reading
from assay.records import Message
from assay.rollouts import Prompt, Rollout
from assay.statistics import Estimate
from assay.tuning import exam
from assay.tuning import plots as training_plots
from assay.tuning.plots import plot

WORDS = ("blue", "circle", "green", "red", "triangle")


def prompt(question: str = "what is it?", facts: Sequence[str] = ("red", "circle"), image: str = "a") -> Prompt:
    absent = tuple(w for w in WORDS if w not in facts) if facts else ()
    images = (image,) if image else ()
    answer = facts[0] if facts else ""
    message = Message(role="user", content=question, images=images)
    return Prompt(messages=(message,), answer=answer, facts=tuple(facts), absent=absent)


def estimate(value: float, n: int = 100) -> Estimate:
    return Estimate(value=value, se=(value * (1 - value) / n) ** 0.5, n=n, clusters=n)


def reading(step: int, rate: float | None, n: int = 100, entropy: float | None = None) -> Reading:
    found = None if rate is None else estimate(rate, n)
    return Reading(step=step, n=n, accuracy=estimate(0.7), hallucination_rate=found, onset_entropy=entropy)


def test_agreement_and_chance_by_hand() -> None:
    found = agreement(["yes", "yes", "no", "red", None], ["yes", "no", "no", None, "yes"])
    assert (found.n, found.same, found.silent, found.unclear) == (4, 2, 1, 1)
    # marginals: yes 2/4 x 1/4, no 1/4 x 2/4, red 1/4 x 0
    assert found.chance == pytest.approx(0.25)
    assert found.rate == 0.5
    assert found.excess == pytest.approx(0.25)


def test_a_constant_answer_agrees_by_chance_alone() -> None:
    found = agreement(["yes"] * 3, ["yes"] * 3)
    assert (found.rate, found.chance, found.excess) == (1.0, 1.0, 0.0)


def test_chance_within_groups_is_higher() -> None:
    answers = ["yes", "yes", "red", "red"]
    assert agreement(answers, answers).chance == 0.5
    assert agreement(answers, answers, ["is", "is", "what", "what"]).chance == 1.0


@pytest.mark.parametrize("answers", [[], [None, None]])
def test_nothing_clear_has_no_rate(answers: list[str | None]) -> None:
    found = agreement(answers, ["yes"] * len(answers))
    assert (found.n, found.rate, found.chance, found.excess) == (0, None, None, None)
    assert found.unclear == len(answers)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        agreement(["yes"], [])
    with pytest.raises(ValueError, match="1 tokens with 2 entropies"):
        onset_entropies(["a"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("I see a red circle.", ("red", "circle")),
        ("Two Circles, one RED.", ("circle", "red")),
        ("There is no red here.", ()),
        ("It is not a circle but a triangle.", ("triangle",)),
        ("It isn’t red, it is blue.", ("blue",)),
        ("There are no red, green or blue shapes.", ()),
        ("Neither red nor blue. It is green.", ("green",)),
        ("The shape is red, not blue.", ("red",)),
        ("A circle is not there.", ()),
        ("The red shape isn't visible.", ()),
        ("I don't think there is a triangle.", ()),
        ("It is not only red.", ("red",)),
        ("Is it red? Yes, it is a circle.", ("circle",)),
        ("Let me check whether it is red.", ()),
        ("The question asks for a circle. It is blue.", ("blue",)),
        ("The colour of the infrared bluebird", ()),
        ("No red. The circle is red.", ("circle", "red")),
        ("", ()),
    ],
)
def test_claims_in_words(text: str, claimed: tuple[str, ...]) -> None:
    assert claims_in(text, WORDS) == claimed


def test_words_quoted_from_the_question_are_no_claims() -> None:
    question = "is there a red shape?"
    assert claims_in('I look for "a red shape" and find "blue".', WORDS, question) == ("blue",)
    assert claims_in("is there a red shape: blue", WORDS, question) == ("blue",)
    assert claims_in("yes, there is a red shape", WORDS, question) == ("red",)
    assert claims_in("red", (), question) == ()


def test_claims_are_checked_by_hand() -> None:
    prompts = [prompt(), prompt(), prompt(), prompt(facts=())]
    texts = ["<think>a red circle</think>green", "a blue circle, not red, not a triangle", "yes", "a green triangle"]
    found = check_claims(prompts, texts)
    assert vocabulary(prompts) == WORDS
    assert (found.claims, found.false, found.unchecked, found.spoke) == (4, 1, 0, 2)
    assert found.marks == (False, True, False, None)
    assert found.named == (1.0, 0.5, 0.0, None)
    assert found.answers == 3
    assert found.rate == pytest.approx(1 / 3)


def test_what_is_known_neither_way_is_unchecked() -> None:
    half = Prompt(messages=prompt().messages, facts=("red",), absent=("red",))
    found = check_claims([half, prompt()], ["a red triangle", ""])
    assert (found.claims, found.false, found.unchecked) == (2, 0, 1)
    assert check_claims([], []).rate is None
    assert check_claims([prompt(facts=())], ["red"]).rate is None


def test_reasoning_ends_where_the_answer_begins() -> None:
    assert reasoning("<think>a</think><answer>b</answer>") == "<think>a"
    assert reasoning("a <answer>b</answer>") == "a "
    assert reasoning("a") == "a"


@pytest.mark.parametrize(
    "text",
    [
        "I can't see the image.", "Since I can’t actually see\nthe picture, I guess.", "No image provided.",
        "No picture has been provided", "As a text-based model, I guess.", "I'm a text-only assistant",
        "the image was not provided", "I don't have access to the image", "without seeing the diagram",
        "I cannot see an image", "unable to view images",
    ],
)  # fmt: skip
def test_saying_that_there_is_no_picture(text: str) -> None:
    assert cannot_see(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't see any red in the image.",
        "The image shows no circle.",
        "I can see the image.",
        "no picture is red",
    ],
)
def test_not_saying_it(text: str) -> None:
    assert not cannot_see(text)


def test_onset_entropies_by_hand() -> None:
    tokens = ["<think>", "\n", "It", "ĠBut", "Ġno", ".", "ĠAlter", "natively", ",", "▁red", " but", " x", "Wait"]
    entropies = [float(i) for i in range(len(tokens))]
    assert onset_entropies(tokens, entropies) == [2.0, 4.0, 9.0]
    assert onset_entropies([], []) == []
    assert onset_entropies(["Butter", "fly"], [1.0, 2.0]) == []


def test_a_token_that_pads_the_vocabulary_has_no_name() -> None:
    """Models have more rows of logits than their tokenizers have tokens (Qwen2.5: 271), and these can be the likeliest."""
    from types import SimpleNamespace

    import tiny_models

    words, asked = tiny_models.tokenizer(), prompt()
    answer = Rollout(
        prompt_id=asked.id, tokens=(7, len(words) + 3), logprobs=(0.0, 0.0), text="b", ended=False, policy_step=0
    )
    greedy: Any = SimpleNamespace(
        policy=SimpleNamespace(tokenizer=words), answer_start="", entropies={asked.id: (1.0, 2.0)}
    )
    assert exam._entropies(greedy)([(asked, answer)]) == [(["", words.decode([7]), ""], [0.0, 1.0, 2.0])]


def sampler(say: Callable[[Prompt], str]) -> Callable[[Sequence[Prompt], int], list[list[Rollout]]]:
    def sample(prompts: Sequence[Prompt], n: int) -> list[list[Rollout]]:
        assert n == 1
        made = [
            Rollout(prompt_id=p.id, tokens=(1,), logprobs=(0.0,), text=say(p), ended=True, policy_step=7) for p in prompts
        ]  # fmt: skip
        return [[r] for r in made]

    return sample


PICTURES = {"a": "red", "b": "blue", "c": "I can't see the image", "grey": "green", "": "red"}


def answer_of(prompt: Prompt, text: str) -> str | None:
    return text if text in WORDS else None


def right(prompt: Prompt, answer: str) -> bool:
    return answer == prompt.answer


def test_a_reading_by_hand() -> None:
    prompts = [
        prompt(image="a"), prompt("what?", image="a"), prompt(image="b"), prompt(image="c"), prompt(image=""),
    ]  # fmt: skip
    asked: list[str] = []

    def say(p: Prompt) -> str:
        asked.append(p.images[0] if p.images else "")
        return PICTURES[asked[-1]]

    found = read(
        prompts, sampler(say), 7, answer_of, right, blank="grey", swapped=["b", "a", "a", "a", "a"],
        entropies=lambda pairs: [(["Wait", " " + r.text], [0.0, 0.5]) for _, r in pairs],
    )  # fmt: skip
    blank, swapped = ["grey", "grey"], ["b", "a", "a"]  # two wordings; the last two swapped ones are the same question
    assert asked == ["a", "a", "b", "c", "", *blank, *swapped]
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.n) == (0.6, 5)
    assert found.hallucination_rate is not None
    assert (found.hallucination_rate.value, found.hallucination_rate.n) == (0.2, 5)
    assert (found.claims, found.false_claims, found.unclear, found.unanswered) == (4, 1, 1, 0)
    assert found.blind_agreement is not None
    assert found.swap_agreement is not None
    assert (found.blind_agreement.value, found.blind_agreement.n, found.chance_agreement) == (0.0, 3, 0.0)
    assert found.swap_agreement.value == pytest.approx(1 / 3)
    # red 2/3 x 2/3, blue 1/3 x 1/3
    assert found.swap_chance == pytest.approx(5 / 9)
    assert found.swap_excess == pytest.approx(1 / 3 - 5 / 9)
    assert found.cannot_see is not None
    assert (found.cannot_see.value, found.cannot_see.n) == (0.25, 4)
    assert (found.onset_entropy, found.onsets) == (0.5, 5)
    metrics = found.as_metrics()
    assert metrics["watch_hallucination_rate"] == 0.2
    assert metrics["watch_hallucination_rate_n"] == 5
    assert metrics["watch_blind_excess"] == 0.0
    assert json.loads(json.dumps(metrics)) == metrics


def test_what_is_not_known_of_a_prompt_is_not_counted() -> None:
    known, other, unknown = prompt(image="a"), prompt(image="b"), replace(prompt("what?", image="b"), answer="")
    found = read(
        [known, other, unknown], sampler(lambda p: PICTURES[p.images[0]]), 0, answer_of, right, swapped=["b", "", ""]
    )
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.n) == (0.5, 2), "no answer is known to the third"
    assert found.swap_agreement is not None
    assert (found.swap_agreement.value, found.swap_agreement.n) == (0.0, 1), "no picture is known for the others"
    assert found.format is not None
    assert (found.format.value, found.format.n) == (0.0, 3)
    form = "<think>red</think><answer>red</answer>"
    formed = read([known, other], sampler(lambda p: form if p.images == ("a",) else "red"), 0, answer_of, right)
    assert formed.as_metrics()["watch_format"] == 0.5


def test_variants_keep_the_question_and_lose_what_was_known() -> None:
    seen: list[Prompt] = []
    read([prompt("is it red?")], sampler(lambda p: seen.append(p) or "red"), 0, answer_of, right, blank="grey")  # type: ignore[func-returns-value]
    assert [p.messages[0].content for p in seen] == ["is it red?"] * 2
    assert (seen[1].images, seen[1].facts, seen[1].absent) == (("grey",), (), ())


def test_readings_with_nothing_to_count() -> None:
    empty = read([], sampler(lambda _: "red"), 3, answer_of, right, blank="grey", swapped=[])
    assert (empty.n, empty.accuracy, empty.blind_agreement) == (0, None, None)
    text = read([prompt(facts=(), image="")], sampler(lambda _: " "), 3, answer_of, right, blank="grey", swapped=["b"])
    assert (text.hallucination_rate, text.blind_agreement, text.cannot_see, text.onset_entropy) == (None,) * 4
    assert (text.unclear, text.unanswered) == (1, 1)
    assert "watch_hallucination_rate" not in text.as_metrics()
    begun = sampler(lambda _: "<think> ")
    begun.answer_start = "<think>"  # type: ignore[attr-defined]
    assert read([prompt()], begun, 3, answer_of, right).unanswered == 1, "what it was made to begin with is no answer"
    mute = read([prompt()], sampler(lambda _: "hm"), 3, answer_of, right, blank="grey")
    assert (mute.blind_agreement, mute.chance_agreement, mute.blind_excess) == (None, None, None)


def test_swapped_pictures_must_fit() -> None:
    with pytest.raises(AssayError, match="2 swapped pictures were given for 1 prompts"):
        read([prompt()], sampler(lambda _: "red"), 0, answer_of, right, swapped=["a", "b"])


def kinds(watch: Watch, rates: Sequence[float | None]) -> list[tuple[str, float]]:
    actions = [watch.observe(reading(step, rate)) for step, rate in enumerate(rates)]
    return [(a.kind, a.weight) for a in actions]


def test_one_excursion_lowers_once_and_two_calm_readings_restore() -> None:
    found = kinds(Watch(MonitorConfig()), [0.3, 0.31, 0.4, 0.2, 0.4, 0.3, None, 0.1, 0.1, 0.35])
    assert [k for k, _ in found] == [
        "keep",
        "lower",
        "keep",
        "keep",
        "keep",
        "keep",
        "keep",
        "restore",
        "keep",
        "lower",
    ]
    assert [w for _, w in found] == [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 0.5]


def test_without_recovery_every_excursion_lowers_further() -> None:
    found = kinds(Watch(MonitorConfig(recover=False)), [0.4, 0.1, 0.1, 0.4, 0.4])
    assert found == [("lower", 0.5), ("keep", 0.5), ("keep", 0.5), ("lower", 0.25), ("keep", 0.25)]


def test_a_run_stops_only_when_the_interval_lies_above() -> None:
    watch = Watch(MonitorConfig(stop_at=0.6))
    assert watch.observe(reading(1, 0.7, n=20)).kind == "lower"  # exact: 0.444 to 0.890
    stop = watch.observe(reading(2, 0.7, n=200))  # exact: 0.631 to 0.763
    assert stop.kind == "stop"
    assert stop.reason.startswith("step 2: hallucination rate 70.0 % (63.1 to 76.3; n 200) of answers, at least 63.1%")
    assert watch.observe(reading(3, 0.0)) == stop
    assert Watch(MonitorConfig(stop_at=1.0)).observe(reading(1, 1.0)).kind == "lower"


def test_collapse_needs_two_readings_in_a_row() -> None:
    watch = Watch(MonitorConfig(collapse_entropy=0.2))
    found = [watch.observe(reading(s, None, entropy=e)).kind for s, e in enumerate([0.1, 0.3, 0.1, None, 0.1])]
    assert found == ["keep", "keep", "keep", "keep", "stop"]
    assert "0.100 nats, below 0.200" in watch.stopped
    assert Watch(MonitorConfig()).observe(reading(0, None, entropy=0.0)).kind == "keep"


@pytest.mark.parametrize("cut", range(8))
def test_a_resumed_watch_decides_the_same(cut: int) -> None:
    config = MonitorConfig(collapse_entropy=0.2)
    rates, entropies = [0.4, 0.2, 0.2, 0.4, 0.1, 0.4, 0.2, 0.95], [1.0, 0.1, 1.0, 0.1, 1.0, 0.1, 1.0, 1.0]
    readings = [reading(s, r, entropy=e) for s, (r, e) in enumerate(zip(rates, entropies, strict=True))]
    whole = Watch(config)
    expected = [whole.observe(r) for r in readings]
    first, second = Watch(config), Watch(config)
    actions = [first.observe(r) for r in readings[:cut]]
    second.load_state(json.loads(json.dumps(first.state())))
    assert actions + [second.observe(r) for r in readings[cut:]] == expected
    assert second.state() == whole.state()
    assert expected[-1].kind == "stop"


@pytest.mark.parametrize(
    "bad",
    [
        {"every": 0}, {"prompts": 0}, {"lower_by": 1.0}, {"lower_by": 0.0}, {"lower_at": 0.7}, {"stop_at": 1.1},
        {"lower_at": -0.1}, {"lower_at": float("nan")}, {"collapse_entropy": -1.0}, {"collapse_entropy": float("nan")},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(AssayError, match="monitor"):
        MonitorConfig(**bad)  # type: ignore[arg-type]


def test_a_plot_of_readings() -> None:
    picture = plot([reading(0, 0.5), reading(20, 0.0), reading(40, 1.0, n=1), reading(60, None)])
    assert picture.startswith('<svg class="plot"')
    with pytest.raises(AssayError, match="nothing to plot"):
        plot([])
    with pytest.raises(AssayError, match="nothing to plot"):
        plot([reading(0, None)])


def test_steps_are_whole_numbers() -> None:
    figure = training_plots._mpo_plot([{"step": s, "accuracy": 0.5, "margin": 0.1, "nll": 2.0} for s in (1, 2, 3)])
    ticks = [t for axes in figure.axes for t in axes.get_xticks()]
    assert ticks
    assert all(float(t).is_integer() for t in ticks)


def test_the_page_of_a_training_reads_its_metrics(tmp_path: Path) -> None:
    from assay.tuning import outcome as tuned

    rates = {n: Estimate(value=0.25 + n / 10, se=0.03, n=96, clusters=96) for n in (1, 2)}
    readings = [
        Reading(step=10 * n, n=96, accuracy=r, hallucination_rate=r, claims=12, chance_agreement=0.5, blind_agreement=r)
        for n, r in rates.items()
    ]
    assert [Reading.of_metrics({"step": r.step, **r.as_metrics()}) for r in readings] == readings
    unfinished = tmp_path / "tuned.partial"
    unfinished.mkdir()
    machines = [{"processor": f"Processor {n}", "cores": 8, "python": "3.12.1"} for n in (1, 2)]
    (unfinished / "identity.json").write_text(json.dumps({"identity": {"config": {"lr": 1}}, "machines": machines}))
    assert tuned.is_training(tmp_path / "tuned")
    with pytest.raises(AssayError, match="no step has been taken yet"):
        tuned.write_training_report(tmp_path / "tuned")
    lines = [json.dumps({"step": s, "nll": 1.0, **(readings[s // 10 - 1].as_metrics() if s % 10 == 0 else {})}) + "\n"
             for s in range(1, 21)]  # fmt: skip
    (unfinished / "metrics.jsonl").write_text("".join(lines))
    page = tuned.write_training_report(tmp_path / "tuned")
    assert page == unfinished / "report.html"
    text = page.read_text()
    assert "20 steps so far" in text
    assert text.count('<svg class="plot"') == 3
    assert "Accuracy against hallucination rate, by step" in text
    assert "<td>20</td><td>45.0 (" in text
    assert "Processor 1, 8 cores, Python 3.12.1; Processor 2, 8 cores" in text, "not the machine that wrote the page"
    assert not tuned.is_training(tmp_path)


def test_no_torch_and_no_matplotlib_until_needed() -> None:
    code = "import sys, assay.policy.hallucination, assay.policy.monitor; print({'torch', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
