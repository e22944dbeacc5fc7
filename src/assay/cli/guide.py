"""What `--help` shows: the flags that matter first, an example of each command, and what other tools call a flag.

tyro makes the whole text from signatures and docstrings. Here its lines are chosen from: `--help-all` shows all of them.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import BytesIO, StringIO, TextIOWrapper
from unittest.mock import patch

FEW, TEN = 12, 10
"""Up to so many flags are all shown; of more, the first ten."""
WIDTH = 110
"""Columns at most: beyond these, tyro lays boxes side by side."""
_RUN = ("out", "dry-run", "seeds", "claims", "tune", "train.backbone", "train.epochs", "engine", "processes")
_TUNE = ("out", "images", "epochs", "batch", "lr", "policy.train", "policy.lora-rank", "save-every", "trackers", "seed")
FIRST: dict[str, tuple[str, ...]] = {
    "run tiny": (*_RUN, "people"),
    "run human": (*_RUN, "sets", "per-set"),
    "run pool": ("out", "judge", "price", "budget", "attributes", "samples", "train.backbone", "train.epochs",
                 "stage1.seed-gold", "stage1.iterations", "near-duplicates", "tune", "engine", "dry-run"),
    "reward train": ("out", "labels", "gold", "backbone", "epochs", "lr", "batch-pairs", "max-tokens", "processes",
                     "trackers", "dry-run"),
    "annotate run": ("judge", "out", "gold", "samples", "examples", "limit", "prices", "budget", "merge", "dry-run"),
    "guidance": ("judge", "out", "gold", "samples", "examples", "limit", "prices", "budget", "seeds"),
    "attributes": ("server", "out", "limit", "prices", "budget", "batch", "concurrency", "sets", "dry-run"),
    "policy run tiny-vlm": ("out", "dry-run", "seed", "tune-prompts", "test-prompts", "rounds", "grpo.steps"),
    "policy run tiny-text": ("out", "dry-run", "seed", "tune-prompts", "test-prompts", "rounds", "grpo.steps"),
    "policy grpo": ("out", "gold", "watch", "reward-model", "steps", "group", "lr", "policy.train", "rewards.form",
                    "instruction", "vllm"),
    "policy mpo": _TUNE,
    "policy align": tuple(n for n in _TUNE if n != "images"),
    "policy pairs": ("out", "reward-model", "round", "samples", "threshold", "form", "instruction", "seed", "vllm"),
}  # fmt: skip
"""The flags of a command's `--help`, where the first ten that it has are not those that matter first."""

_JUDGE = "Qwen/Qwen3-32B@http://localhost:8000/v1"
_FINAL = "runs/tiny/seed-0/models/final"
EXAMPLES: dict[str, str] = {
    "run tiny": "run tiny --out runs/tiny",
    "run human": "run human sets --out runs/human",
    "run pool": f"run pool pool --out runs/mine --judge {_JUDGE}",
    "reward train": "reward train pool --out models/mine --backbone Qwen/Qwen3-0.6B --lr 1e-5",
    "reward export": "reward export runs/tiny --labels filtered --out prefs",
    "reward push": "reward push models/mine someone/my-reward-model",
    "reward sweep": "reward sweep runs/tiny --out sweeps/tiny",
    "reward paper": "reward paper Qwen3-8B --dry-run",
    "policy run tiny-vlm": "policy run tiny-vlm --out runs/tiny-vlm",
    "policy run tiny-text": "policy run tiny-text --out runs/tiny-text",
    "policy assemble": "policy assemble encoder language --size 224 --out vlm",
    "policy grpo": "policy grpo vlm questions.jsonl --out tuned --policy.train adapter",
    "policy pairs": "policy pairs vlm questions.jsonl --out pairs",
    "policy mpo": "policy mpo vlm pairs --out aligned",
    "policy align": "policy align vlm captions.jsonl --out aligned",
    "policy evaluate": "policy evaluate tuned questions.jsonl --out tuned.json",
    "policy filter": "policy filter tuned questions.jsonl --out kept.jsonl",
    "policy ablate": "policy ablate stages --out ablations",
    "policy report": "policy report tuned",
    "pool add": "pool add prefs.jsonl more.parquet --out pool",
    "pool near-duplicates": "pool near-duplicates pool --out alike.parquet",
    "verify": "verify runs/mine --annotator ann",
    "judgements export": "judgements export runs/mine --to argilla --out argilla.json",
    "judgements import": "judgements import argilla.json runs/mine",
    "judgements agreement": "judgements agreement runs/mine/judgements.jsonl",
    "attributes": f"attributes pool --server {_JUDGE} --out attributes --dry-run",
    "annotate run": f"annotate pool --gold gold.jsonl --judge {_JUDGE} --prices prices.toml --budget 20 --out votes",
    "annotate report": "annotate report votes --merge dawid-skene",
    "guidance": f"guidance pool --gold gold.jsonl --judge {_JUDGE} --out guidance",
    "web": "web runs/mine --port 8010",
    "web-user": "web-user runs/mine ann --role annotator",
    "show": "show runs/mine 2560",
    "report": "report runs/mine",
    "bench run": f"bench {_FINAL} --data DIR --out mine.json",
    "bench fetch": "bench fetch DIR --only rewardbench-2",
    "bench compare": "bench compare mine.json other.json",
    "bench correlate": "bench correlate a.json b.json c.json",
    "best-of-n": f"best-of-n questions.jsonl --policy smollm2 --reward {_FINAL} --out best.jsonl",
    "serve": f"serve {_FINAL} --port 8001",
    "fetch": "fetch smollm2",
    "policy bench": "policy bench tuned --data DIR --only aime24 ifeval --out bench",
    "policy judge": f"policy judge policy-bench --judge {_JUDGE}",
    "policy serve": "policy serve tuned --port 8000",
    "runs": "runs runs",
    "resume": "resume runs/mine",
    "compare": "compare runs/mine runs/other",
    "delete": "delete runs/old",
    "watch": "watch runs",
}
"""One of each command; a group of commands has that of its first."""
BEGIN = (
    "begin with: assay run tiny --out runs/tiny (offline, minutes), or your own pairs: assay pool add FILE --out pool",
    "--help of each command shows its flags that matter first, --help-all all of them; --version: which Assay this is",
)
"""What nobody can know who sees the list of commands for the first time."""

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "learning-rate": ("lr",), "num-train-epochs": ("epochs",), "num-epochs": ("epochs",), "max-epochs": ("epochs",),
    "per-device-train-batch-size": ("batch-pairs", "batch"), "train-batch-size": ("batch-pairs", "batch"),
    "batch-size": ("batch-pairs", "batch"), "max-length": ("max-tokens",), "max-seq-length": ("max-tokens",),
    "max-len": ("max-tokens",), "max-new-tokens": ("max-tokens",), "max-completion-length": ("max-tokens",),
    "output-dir": ("out",), "output": ("out",), "save-path": ("out",), "model-name-or-path": ("backbone",),
    "model": ("backbone", "reward", "policy"), "pretrain": ("backbone",), "report-to": ("trackers",),
    "use-wandb": ("trackers",), "dataset": ("data",), "dataset-name": ("data",), "num-generations": ("group", "samples"),
    "n-samples-per-prompt": ("group", "samples"), "warmup-ratio": ("warmup",), "max-grad-norm": ("clip",),
    "lora-r": ("lora-rank",), "gradient-checkpointing": ("checkpointing",), "attn-implementation": ("attention",),
    "load-in-4bit": ("quantize",), "bf16": ("precision",), "fp16": ("precision",), "num-processes": ("processes",),
    "zero-stage": ("shard",), "kl-coef": ("beta",), "host-name": ("host",), "n": ("samples",),
}  # fmt: skip
"""What TRL, transformers, OpenRLHF and others call a flag, and what ours is called."""
_ENTRY = re.compile(r"│ (?:-\w, )?--([\w.-]+)")


def page(text: str, everything: bool) -> str:
    """tyro's help with the flags that matter first (or `everything`), the commands' first sentences, and an example."""
    found = re.search(r"usage: assay((?: [a-z][\w-]*)*)", text)
    command = found[1].strip() if found else ""
    lines = text.rstrip().splitlines()
    kept, left = ("\n".join(lines), 0) if everything else _chosen(lines, command)
    more = [f"{left} more: assay {command} --help-all"] if left else []
    example = EXAMPLES.get(command) or next(
        e for c, e in EXAMPLES.items() if c.startswith(f"{command} " if command else "run pool")
    )
    shown = [*(BEGIN if not command else ()), f"example: assay {example}"]
    return "\n".join([kept, *shown, *more])


def _chosen(lines: Sequence[str], command: str) -> tuple[str, int]:
    """The lines without flags that can wait and without the rest of a command's description, and how many flags wait."""
    flags = [flag for line in lines if (flag := _flag(line)) not in ("", "help")]
    wanted = set(FIRST.get(command, flags[:TEN])) if len(flags) > FEW else set(flags)
    out, left = list[str](), 0
    for box in _boxes(lines):
        if "subcommands" in box[0]:
            out += _first_sentences(box)
            continue
        entries = _entries(box)
        stay = [
            e
            for e in entries
            if not (m := _ENTRY.match(e[0])) or m[1] in {"help", *wanted} or "(required)" in "".join(e)
        ]
        left += len(entries) - len(stay)
        if stay or not entries:
            head = next((i for i, line in enumerate(box) if _ENTRY.match(line)), len(box) - 1)
            out += [*box[:head], *(line for e in stay for line in e), *box[-1:]] if entries else box
    return "\n".join(out), left


def _flag(line: str) -> str:
    found = _ENTRY.match(line)
    return found[1] if found else ""


def _boxes(lines: Sequence[str]) -> Iterator[list[str]]:
    """Boxes, and the lines between them."""
    held = list[str]()
    for line in lines:
        if line.startswith("╭") and held:
            yield held
            held = []
        held.append(line)
        if line.startswith("╰"):
            yield held
            held = []
    if held:
        yield held


def _entries(box: Sequence[str]) -> list[list[str]]:
    found = list[list[str]]()
    for line in box[1:-1] if box[0].startswith("╭") else ():
        if _ENTRY.match(line):
            found.append([line])
        elif found:
            found[-1].append(line)
    return found


def _first_sentences(box: Sequence[str]) -> list[str]:
    """A list of commands, each with the first paragraph of what it says."""
    out, over = list[str](), False
    for line in box:
        if "•" in line or line[0] in "╭╰":
            over = False
        over = over or not line.strip("│ ")
        if not over:
            out.append(line)
    return out


def helped(arguments: Sequence[str], command: Callable[[Sequence[str]], object]) -> str | None:
    """The help that was asked for; None where it was not."""
    everything = "--help-all" in arguments
    if not everything and not {"-h", "--help"} & set(arguments):
        return None
    asked = ["--help" if a == "--help-all" else a for a in arguments]
    width = str(min(WIDTH, shutil.get_terminal_size().columns))
    out, err = TextIOWrapper(BytesIO(), encoding="utf-8"), StringIO()
    with patch.dict(os.environ, {"COLUMNS": width}), redirect_stdout(out), redirect_stderr(err), suppress(SystemExit):
        command(asked)
    out.seek(0)
    text = out.read()
    return page(text, everything) if text else None


def hints(arguments: Sequence[str], command: Callable[[Sequence[str]], object]) -> list[str]:
    """What a flag that this command does not have is called here, where other tools have it."""
    said = [a.removeprefix("--").partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    foreign = [name for name in said if name in ELSEWHERE]
    if not foreign:
        return []
    path = [a for a in arguments if re.fullmatch(r"[a-z][a-z-]*", a)]
    flags = list[str]()
    for depth in (3, 2, 1):
        text = helped([*path[:depth], "--help-all"], command)
        if text and (flags := re.findall(r"^│ (?:-\w, )?--([\w.-]+)", text, re.MULTILINE)):
            break
    ours = {
        name: [f for f in flags if f.rpartition(".")[2] in ELSEWHERE[name]] for name in foreign if name not in flags
    }
    return [f"hint: --{name} is --{' or --'.join(known)} here" for name, known in ours.items() if known]
