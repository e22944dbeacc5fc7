"""Assay: from raw preference pairs to a reward model that you can trust.

    from assay import Pool, RewardModel

    pool = Pool.add("prefs.jsonl", out="pool")
    model = RewardModel.train(pool, "models/mine")
    model.score("Name a fruit.", ["An apple.", "A chair."])

These names are the library (docs/python.md); each is loaded when it is first used, so that `import assay` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from assay.api import Pool, RewardModel, Run
    from assay.errors import AssayError
    from assay.records import Case, Judge, Judgement, Message, Pair, Preference, Response, Scorer, assistant, user
    from assay.reward.config import TrainConfig

_HOME = {
    "Pool": "api", "RewardModel": "api", "Run": "api", "AssayError": "errors", "Case": "records", "Judge": "records",
    "Judgement": "records", "Message": "records", "Pair": "records", "Preference": "records", "Response": "records",
    "Scorer": "records", "assistant": "records", "user": "records", "TrainConfig": "reward.config",
}  # fmt: skip
__all__ = [
    "AssayError", "Case", "Judge", "Judgement", "Message", "Pair", "Pool", "Preference", "Response", "RewardModel", "Run",
    "Scorer", "TrainConfig", "assistant", "user",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'assay' has no attribute '{name}'")
    return getattr(import_module(f"assay.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
