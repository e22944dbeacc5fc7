"""Presets of part B: the embedded vision-language policy, a text policy, and a user's own model and questions."""

import re
from collections.abc import Callable
from pathlib import Path

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import BufferConfig, FitConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.monitor import MonitorConfig
from assay.policy.rewards import RewardConfig
from assay.reward.config import EngineConfig, TrainConfig
from assay.rollouts import Prompt
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import Exam
from assay.tuning.questions import arithmetic
from assay.tuning.visual import caption, described, easy_vqa, examination

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's, without its default system prompt of thirty tokens."""
MARKS = ("<think>", "</think>", "<answer>", "</answer>")


PAPER_BUFFER = BufferConfig(capacity=256, beta=0.0, replays=0)
"""As in paper B, whose claims these recipes test; on a user's own questions the default is what saves samples."""


def tiny_vlm() -> TuneConfig:
    """EfficientNet-Lite0 + adapter + 12 of SmolLM2-135M's 30 layers on easy-vqa: real packaged parts, minutes on two cores,
    no network.

    Nine picture tokens (96 pixels); questions and answers of about a dozen tokens. With all layers every stage takes 2.5
    times as long, and reinforcement learning of so few samples shows nothing (docs/log.md, 11 and 12).
    The monitor's thresholds are 0.6 and 0.9, not its defaults of 0.3 and 0.6: this policy hallucinates more than that before
    it is tuned, or soon after (docs/log.md, 13). The reward model's gate asks for eight right picks in ten, not nine: one
    of this size, taught by 150 questions, did not earn nine (docs/log.md, 21).
    """
    both = PolicyConfig(train=("adapter", "llm"), precision="auto")
    return TuneConfig(
        recipe="tiny-vlm", align_prompts=800, gold_prompts=240, pair_prompts=240, tune_prompts=320, test_prompts=320,
        sampler=SamplerConfig(max_tokens=24), align_policy=both, policy=both,
        align=FitConfig(batch=16, lr=5e-4, warmup=0.05, weight_decay=0.0),
        reward_model=TrainConfig(
            batch_pairs=16, epochs=1, lr=2e-4, max_tokens=256, checks=2, precision="auto", train_embeddings=False,
            engine=EngineConfig(tokens=4_096, compile="off"),
        ),
        rewards=RewardConfig(gate_precision=0.8), pairs=PairConfig(samples=8, per_prompt=2),
        mpo=FitConfig(batch=16, lr=2e-5, weight_decay=0.0),
        grpo=GrpoConfig(steps=24, prompts=8, group=8, lr=4e-5, schedule="constant", signal="rule", buffer=PAPER_BUFFER),
        monitor=MonitorConfig(every=8, prompts=96, lower_at=0.6, stop_at=0.9),
    )  # fmt: skip


def tiny_text() -> TuneConfig:
    """SmolLM2-135M on sums of three numbers, made by reasoning-gym: the same path without pictures."""
    whole = PolicyConfig(train=("llm",), precision="auto")
    return TuneConfig(
        recipe="tiny-text", align_prompts=160, gold_prompts=0, pair_prompts=160, tune_prompts=480, test_prompts=320,
        sampler=SamplerConfig(max_tokens=32), align_policy=whole, policy=whole,
        align=FitConfig(batch=16, lr=5e-5, warmup=0.05, weight_decay=0.0),
        mpo=FitConfig(batch=16, lr=5e-6, weight_decay=0.0),
        rewards=RewardConfig(), pairs=PairConfig(samples=8, per_prompt=2),
        grpo=GrpoConfig(steps=40, prompts=8, group=8, lr=5e-6, schedule="constant", signal="total", buffer=PAPER_BUFFER),
        monitor=MonitorConfig(every=20, prompts=96),
    )  # fmt: skip


def visual_task(config: TuneConfig) -> Callable[[ImageStore], Task]:
    """easy-vqa's questions for a colour or a shape: disjoint ones for every stage, of training pictures; other pictures for
    the monitor, others again for the test. The monitor's are those by which the preset was chosen.

    As in the paper there is hardly any imitation of answers: seven in eight of the examples to imitate are captions, which
    teach the adapter to show, and the form of an answer. That a question asks for one of the two words is left to MPO and
    GRPO. Every answer says both words before it answers, so half of what it says is never asked for and rewarded by no rule:
    that shows whether a policy which is tuned on answers still looks. Questions for yes or no are left out: they ask
    to compare two words, which a model of this size does not learn from so few (docs/log.md, 12).
    """

    def task(store: ImageStore) -> Task:
        sizes = (config.align_prompts, config.gold_prompts, config.pair_prompts, config.tune_prompts)
        whole = easy_vqa(store, "train", sum(sizes), config.seed, checks=False)
        starts = [sum(sizes[:i]) for i in range(4)]
        align, gold, pairs, tune = (tuple(whole[s : s + n]) for s, n in zip(starts, sizes, strict=True))
        watched, test = examination(store, config.test_prompts)
        shown = tuple(p if i // 2 % 8 == 0 else described(p) for i, p in enumerate(align))
        return Task(
            align=shown, worked=tuple(f"{caption(p)}</think><answer>{p.answer}</answer>" for p in shown), gold=gold,
            pairs=pairs, tune=tune, watched=watched, test=test, base=_packaged_vlm(config.seed),
        )  # fmt: skip

    return task


def text_task(config: TuneConfig) -> Callable[[ImageStore], Task]:
    """Sums of three numbers of one digit: other questions for every stage."""

    def task(_: ImageStore) -> Task:
        sizes = (
            config.align_prompts, config.gold_prompts, config.pair_prompts, config.tune_prompts,
            config.monitor.prompts, config.test_prompts,
        )  # fmt: skip
        distinct = {p.id: p for p in arithmetic(2 * sum(sizes), config.seed, terms=3)}
        if len(distinct) < sum(sizes):
            raise AssayError(
                f"only {len(distinct):,} different sums were made, {sum(sizes):,} are needed; ask for fewer"
            )
        whole = list(distinct.values())
        starts = [sum(sizes[:i]) for i in range(6)]
        align, gold, pairs, tune, watched, test = (tuple(whole[s : s + n]) for s, n in zip(starts, sizes, strict=True))
        return Task(
            align=align, worked=tuple(_worked_sum(p) for p in align), gold=gold, pairs=pairs, tune=tune,
            watched=Exam(prompts=watched), test=Exam(prompts=test), base=_packaged_text,
        )  # fmt: skip

    return task


def _worked_sum(prompt: Prompt) -> str:
    """The sum from left to right: "4 + 3 = 7, 7 - 2 = 5</think><answer>5</answer>"."""
    first, *rest = re.findall(r"[-+]?\s*\d+", prompt.messages[0].content.split(":")[-1])
    value, steps = int(first.replace(" ", "")), []
    for term in rest:
        number = int(term.replace(" ", ""))
        steps.append(f"{value} {'-' if number < 0 else '+'} {abs(number)} = {value + number}")
        value += number
    assert str(value) == prompt.answer, prompt
    return f"{', '.join(steps)}</think><answer>{prompt.answer}</answer>"


def _packaged_vlm(seed: int) -> Callable[[Path], str]:
    def base(folder: Path) -> str:
        from assay import models
        from assay.policy.assemble import assemble, describe, save
        from assay.policy.lite import packaged_vision

        language, tokenizer = models.load_generator("smollm2")
        models.keep_layers(language, 8, 4)
        models.add_marks(language, tokenizer, MARKS)
        tokenizer.chat_template = TEMPLATE
        encoder, processor = packaged_vision(96)
        model, whole = assemble(encoder, processor, language, tokenizer, 96, seed=seed)
        save(model, whole, folder)
        return describe(model)

    return base


def _packaged_text(folder: Path) -> str:
    from assay import models

    model, tokenizer = models.load_generator("smollm2")
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return "SmolLM2-135M-Instruct"


RECIPES: dict[str, tuple[Callable[[], TuneConfig], Callable[[TuneConfig], Callable[[ImageStore], Task]]]] = {
    "tiny-vlm": (tiny_vlm, visual_task),
    "tiny-text": (tiny_text, text_task),
}
"""What `assay policy run` knows by name."""
