"""Rewards on disk: recorded, resumed, read back as a judge, and refused where they are broken."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.bench import progress, score_file
from assay.bench.score_file import Recorder, ScoreFile
from assay.errors import AssayError
from assay.records import Conversation, assistant, user

CHATS: list[Conversation] = [(user("q"), assistant("x" * k)) for k in range(1, 8)]


class Counting:
    may_fail = True

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, flat: Sequence[Conversation]) -> NDArray[np.float64]:
        lengths = [len(c[-1].content) for c in flat]
        self.asked += lengths
        return np.array([np.nan if n == 3 else n for n in lengths], dtype=float)


def test_what_was_scored_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_file, "PART", 2)
    path, first = tmp_path / "s.jsonl", Counting()
    told = Recorder(first, path, {"model": "m"})(CHATS[:4])
    np.testing.assert_array_equal(told, [1, 2, np.nan, 4])
    path.write_bytes(path.read_bytes()[:-5])
    again = Counting()
    np.testing.assert_array_equal(Recorder(again, path, {"model": "m"})(CHATS), [1, 2, np.nan, 4, 5, 6, 7])
    assert again.asked == [3, 4, 5, 6, 7], "the failure and the torn line are asked again, and what is new"
    np.testing.assert_array_equal(ScoreFile(path)(CHATS), [1, 2, np.nan, 4, 5, 6, 7])


def test_scores_of_another_model_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    Recorder(Counting(), path, {"model": "m", "max_tokens": 9})(CHATS)
    with pytest.raises(AssayError, match=r"scores of other inputs \(model: 'm' -> 'n'\)"):
        Recorder(Counting(), path, {"model": "n", "max_tokens": 9})
    with pytest.raises(AssayError, match="max_tokens: 9 -> 8"):
        Recorder(Counting(), path, {"model": "m", "max_tokens": 8})
    (tmp_path / "s.jsonl.identity.json").unlink()
    with pytest.raises(AssayError, match="does not say whose scores"):
        Recorder(Counting(), path, {"model": "m", "max_tokens": 9})
    assert np.isfinite(ScoreFile(path)(CHATS)).sum() == 6, "read as a judge, it needs no name"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"conversation": "a", "reward": null}\n{"conversation": "b"}\n')
    with pytest.raises(AssayError, match="line 2: expected"):
        ScoreFile(path)
    with pytest.raises(AssayError, match="cannot be read"):
        ScoreFile(tmp_path / "nothing")


def test_parts_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PART", 3)
    monkeypatch.setattr(progress, "EVERY_S", -1.0)
    said: list[str] = []
    scorer = Counting()
    told = progress.Parts(scorer, said.append)
    np.testing.assert_array_equal(told(CHATS), [1, 2, np.nan, 4, 5, 6, 7])
    assert told.may_fail
    assert [s.split(",")[0] for s in said] == ["3 of 7 conversations", "6 of 7 conversations"]
    assert told([]).shape == (0,)
