"""Part B's main path: assemble -> align -> reward model -> MPO -> GRPO with the sample buffer -> evaluation, report.

    models/base       vision encoder + new adapter + language model (or a text model, as it is)
    models/aligned    imitates worked answers: the adapter learns to show, a small language model the answer's form
    models/reward     Bradley-Terry on the aligned policy's right against wrong answers (with its eyes, where it has some)
    models/mpo-1      MPO on pairs of the policy's own answers; models/mpo-2 ... on those of the one before
    models/grpo       GRPO + Selective Sample Buffer, rule + format + calibrated reward model; hallucination is watched

Every stage is a step of the run folder: the same command goes on where it was killed. A stage that has nothing to learn from
is skipped, with its reason; the policy that it would have begun from stands for its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.images import ImageStore
from assay.recipes.tune_config import Task, TuneConfig
from assay.recipes.tuner import Job, Tuner
from assay.run import Run
from assay.workers import Beside


def tune(out: Path, config: TuneConfig, task: Callable[[ImageStore], Task]) -> Path:
    """The whole path, or what is left of it. Returns the run folder.

    The reward model is made beside MPO and the examinations of the policies so far (`_side_by_side`), where MPO does not ask
    it. GRPO has all threads.
    """
    run = Run(out, config)
    try:
        tuner = Tuner(run, config, task(ImageStore(out / "images")))
        tuner.base()
        tuner.align()
        with _side_by_side(config.gold_prompts > 0 and not tuner.scored_pairs) as other:
            if not tuner.has_reward:
                other.begin(_reward_model, tuner.job())
            tuner.evaluate("aligned")
            last = "aligned"
            for number in range(1, config.rounds + 1):
                made = tuner.mpo(f"mpo-{number}", last, number)
                if made != last:
                    tuner.evaluate(made)
                last = made
            other.wait()
        made = tuner.grpo("grpo", last)
        if made != last:
            tuner.evaluate(made)
    finally:
        run.close()
    return out


@contextmanager
def _side_by_side(wanted: bool) -> Iterator[Beside]:
    """Another process, with half of this one's threads for as long as this lasts; none where it is not wanted, where this
    one has but one thread, or an accelerator. It hangs on the config, not on what is left to do: results round alike."""
    import torch

    threads = torch.get_num_threads()
    other = Beside(threads // 2 if wanted and not torch.accelerator.is_available() else 0)
    torch.set_num_threads(threads - other.threads)
    try:
        yield other
    finally:
        other.close()
        torch.set_num_threads(threads)


def _reward_model(job: Job) -> None:
    place, config, task = job
    Tuner(Run.joined(*place), config, task).reward_model()
