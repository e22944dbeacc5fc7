"""The model card of a reward model's folder: what it was trained on, how sure it is, its limits, and how it is called.

A card is README.md with the fields that a hub reads. Its example runs as it stands, from within the folder; from elsewhere
its first line is to name the folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.figures import FEW, NEEDED, told
from assay.reward.calibration import Calibration
from assay.reward.config import TrainConfig
from assay.statistics import Estimate
from assay.tables import write_text

CARD = "README.md"

_HEAD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, preference, assay]
---
# {name}

A reward model: a sequence classifier with one output, higher for the better response to a prompt. Only differences between
responses to the same prompt mean anything.

## Use

{use}

The same from the library: `RewardModel(folder).score("Name a fruit.", ["An apple.", "A chair."])` (`from assay import
RewardModel`), and as a server: `assay serve FOLDER`. {rendering}

## Benchmarks

Not measured here yet; what `assay bench FOLDER --data DIR` measures stands here then.

## Training

{training}

## Limits

{limits}
"""

_ENCODER = """```python
import transformers

folder = "."  # where this file lies: its path, or its name on a hub
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
inputs = tokenizer("Name a fruit.", "An apple.", truncation="only_first", max_length={most}, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()
```"""
_DECODER = """```python
import transformers

folder = "."  # where this file lies: its path, or its name on a hub
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
turns = [{{"role": "user", "content": "Name a fruit."}}, {{"role": "assistant", "content": "An apple."}}]
text = tokenizer.apply_chat_template(turns, tokenize=False)
reward = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0].item()
```"""
_SEEING = """```python
from assay import RewardModel

folder = "."  # where this file lies
model = RewardModel(folder, images="images")  # the folder of the pictures that prompts name
```"""
_READS = {
    "encoder": "The tokenizer has no chat template: it is an encoder, which reads the history and the response as a pair of "
    "texts. Of a conversation of more than one turn, the history is its turns, each on a line of its own behind its role.",
    "decoder": "Conversations are rendered by the tokenizer's chat template, whole, with no token before or after.",
    "seeing": "Conversations and their pictures are rendered by the processor's chat template.",
}


def write(folder: Path, name: str, config: TrainConfig, result: Mapping[str, Any], fitted: Calibration | None) -> None:
    """Write the card of a finished training into its folder. `result` is what `training.json` keeps."""
    kind = "seeing" if config.images else "decoder" if _has_template(folder) else "encoder"
    use = {"seeing": _SEEING, "decoder": _DECODER, "encoder": _ENCODER}[kind].format(most=config.max_tokens)
    lines = [
        f"- backbone: {config.backbone}" + (f", its first {config.layers} layers" if config.layers else ""),
        f"- {result['pairs']:,} labelled pairs, {result['steps']:,} steps of {config.batch_pairs} pairs, learning rate "
        f"{config.lr:g}, at most {config.max_tokens:,} tokens of a conversation, seed {config.seed}; loss: Bradley-Terry",
        *([f"- left out: {n:,} pairs ({why})" for why, n in result["left_out"].items()]),
        "- the labels' provenance and the whole settings: `training.json` (digests), and the run or pool that they are from",
    ]
    lines += _sure(fitted, result)
    limits = [
        "- It ranks responses as its labels do: it is no judge of facts, and a policy that is trained against it for long "
        "finds what it likes and people do not.",
        "- Kinds of prompts that its labels do not have, other languages, longer conversations: not measured.",
    ]
    text = _HEAD.format(name=name, use=use, rendering=_READS[kind], training="\n".join(lines), limits="\n".join(limits))
    write_text(folder / CARD, text)


def entitle(folder: Path, name: str) -> None:
    """Give the card of a folder, where it has one, another name: a copy is no longer what it was made from."""
    card = folder / CARD
    if card.exists():
        write_text(card, re.sub(r"^# .*$", lambda _: f"# {name}", card.read_text("utf-8"), count=1, flags=re.MULTILINE))


def put(folder: Path, title: str, lines: list[str]) -> None:
    """Put a section into the card of a folder, where it has one: in place of the section of that title, or as the last."""
    card = folder / CARD
    if not card.exists():
        return
    text, section = card.read_text(encoding="utf-8"), "\n".join([f"## {title}", "", *lines, ""])
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    at = next((n for n, part in enumerate(parts) if part.startswith(f"## {title}\n")), None)
    if at is None:
        parts.append(f"\n{section}")
    else:
        parts[at] = section + "\n" * (at < len(parts) - 1)
    write_text(card, "".join(parts))


def _has_template(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").exists() or (file.exists() and '"chat_template"' in file.read_text("utf-8"))


def _sure(fitted: Calibration | None, result: Mapping[str, Any]) -> list[str]:
    if not fitted:
        return ["- no gold chose its checkpoint: how well it ranks is not known, and its rewards are not calibrated"]
    right, few = told(Estimate(**result["gold"])), f", {FEW}" if fitted.n < NEEDED else ""
    return [
        f"- gold that chose the checkpoint: {right} ranked rightly, a little too good, as it chose",
        f"- calibration: sigmoid(difference / {fitted.temperature:.4g}) is the probability of being better; expected "
        f"calibration error {fitted.ece_after:.3f} on {fitted.n:,} pairs{few} (`calibration.json`)",
    ]
