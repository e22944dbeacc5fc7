"""How often the watch of the reward (docs/watching.md) suspects a policy that only answers by chance.

    .venv/bin/python benchmarks/watch_noise.py --runs 1000

Simulated runs, each with questions of its own: to every one belongs a chance of being answered rightly that does not change.

    falls    what is paid for form rises at each reading, so that the accuracy alone decides
    stands   what the reward model pays for an answer is noise around a level that does not change either

Told are the shares of runs in which something was said at any reading, and that were stopped, with 95% intervals.
"""

import argparse
import json

import numpy as np

from assay.policy.hacking import HackConfig, Hacking, Marked
from assay.statistics import clopper_pearson


def reading(step: int, right: np.ndarray, form: np.ndarray, model: np.ndarray) -> Marked:
    paid = {"format": tuple(form.tolist()), "model": tuple(model.tolist())}
    return Marked(step=step, right=tuple(right.astype(float).tolist()), tokens=(10,) * len(right), paid=paid)


def run(random: np.random.Generator, kind: str, questions: int, readings: int) -> tuple[bool, bool]:
    """One run: was anything said, and was it stopped?"""
    chance, watch = random.beta(1, 1, questions), Hacking(HackConfig(), range(questions))

    def at(step: int) -> Marked:
        rises = kind == "falls"
        form = np.full(questions, float(step) if rises else 0.0)
        return reading(
            step,
            random.random(questions) < chance,
            form,
            np.zeros(questions) if rises else random.normal(size=questions),
        )

    watch.begin(at(0))
    found = [watch.observe(at(step)) for step in range(1, readings + 1)]
    return any(f.said for f in found), any(f.stop for f in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--questions", type=int, nargs="+", default=[40, 128])
    parser.add_argument("--readings", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for kind in ("falls", "stands"):
        for questions in args.questions:
            random = np.random.default_rng(args.seed)
            runs = [run(random, kind, questions, args.readings) for _ in range(args.runs)]
            told = {"kind": kind, "questions": questions, "readings": args.readings, "runs": args.runs}
            for name, which in (("said", 0), ("stopped", 1)):
                n = sum(r[which] for r in runs)
                low, high = map(float, clopper_pearson(n / args.runs, args.runs))
                told |= {name: n, f"{name}_share": [round(n / args.runs, 4), round(low, 4), round(high, 4)]}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
