"""A reward that is hacked, and what notices: SmolLM2-135M on sums, with a "reward model" that pays for long answers.

    .venv/bin/python scripts/hacked_reward.py --out runs/hacked

It writes sums of two numbers to OUT and runs `assay policy grpo` on them; what it runs, it prints. Further options go to
that. The rules pay 1 for the right answer, the reward model 1 for every 40 characters: a policy that is always right and
short earns less than one that never ends. The command stops where the answer key says that the policy has got worse while
what it is paid has risen.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from assay import cli
from assay.records import Conversation
from assay.rollouts import Prompt
from assay.tuning.questions import arithmetic, as_row

WATCH, ALL = 100, 200


def length(conversations: Sequence[Conversation]) -> list[float]:
    """The reward model: one for every 40 characters of an answer."""
    return [len(c[-1].content) / 40 for c in conversations]


def questions(path: Path, prompts: Sequence[Prompt]) -> Path:
    path.write_text("".join(json.dumps(as_row(p, "sums")) + "\n" for p in prompts))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args, more = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sums = list({p.id: p for p in arithmetic(10 * ALL, 0, terms=2)}.values())[:ALL]
    train, watch = questions(args.out / "train.jsonl", sums[WATCH:]), questions(args.out / "watch.jsonl", sums[:WATCH])
    command = [
        "policy", "grpo", "smollm2", str(train), "--out", str(args.out / "tuned"), "--watch", str(watch),
        "--reward-model", "hacked_reward:length", "--rewards.combine", "sum", "--rewards.form", "none", "--signal", "total",
        "--steps", "12", "--prompts", "2", "--lr", "1e-4", "--sampler.max-tokens", "32", "--monitor.every", "3", *more,
    ]  # fmt: skip
    print("assay", shlex.join(command), flush=True)
    sys.argv = ["assay", *command]
    cli.main()


if __name__ == "__main__":
    main()
