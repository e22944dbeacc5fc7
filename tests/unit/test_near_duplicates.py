"""Near-duplicates against brute force; compiled sketches against those in Python; nothing left out untold."""

import functools
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from test_decontaminate_arrow import PAIRS, TEXTS, columns

from assay import native
from assay.curate import minhash
from assay.curate import near_duplicates as near
from assay.curate.minhash import MinHash, band_keys, documents, shingle_sets, signatures
from assay.curate.near_duplicates import NearDuplicates, near_duplicates
from assay.curate.words import PART, words
from assay.records import Pair

CERTAIN = MinHash(bands=128, threshold=0.5)
"""One number a band: at a Jaccard coefficient of 0.5 all but one of 10^38 pairs are found."""


@pytest.fixture(params=["compiled", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in Python":
        monkeypatch.setattr(native, "library", lambda source: None)
    elif None in (native.library(minhash._SOURCE), native.library(near._SOURCE)):
        pytest.skip("no C++ compiler here")
    return str(request.param)


@functools.cache
def shingles(text: str, size: int) -> frozenset[tuple[str, ...]]:
    parts = [words(part) for part in text.split(PART)]
    return frozenset(tuple(p[i : i + size]) for p in parts for i in range(max(1, len(p) - size + 1)) if p)


def jaccard(one: str, other: str, size: int = 5) -> float:
    a, b = shingles(one, size), shingles(other, size)
    return len(a & b) / len(a | b) if a | b else 0.0


def brute(texts: list[str], threshold: float) -> set[frozenset[int]]:
    groups = [{i} for i in range(len(texts))]
    for i in range(len(texts)):
        for j in range(i):
            if jaccard(texts[i], texts[j]) >= threshold:
                groups[i] |= groups[j]
                for k in groups[i]:
                    groups[k] = groups[i]
    return {frozenset(g) for g in groups if len(g) > 1}


def edited(text: str, share: float, rng: random.Random) -> str:
    return " ".join(f"x{rng.random()}" if rng.random() < share else word for word in text.split())


def corpus(n: int, seed: int = 0, copies: int = 3) -> list[str]:
    """Texts of 8 to 80 words, and edited copies of some, and copies of those."""
    rng = random.Random(seed)
    texts = [" ".join(f"w{rng.randrange(5000)}" for _ in range(rng.randrange(8, 80))) for _ in range(n)]
    for _ in range(copies * n // 4):
        texts.append(edited(rng.choice(texts), rng.choice([0.0, 0.01, 0.03, 0.1]), rng))
    return texts


def ids(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.getrandbits(128):032x}" for _ in range(n)]


def found(result: NearDuplicates, names: list[str]) -> set[frozenset[int]]:
    at = {name: i for i, name in enumerate(names)}
    clusters: dict[int, set[int]] = {}
    for row in result.table.to_pylist():
        clusters.setdefault(row["cluster"], set()).add(at[row["pair_id"]])
    return {frozenset(c) for c in clusters.values()}


def test_clusters_are_those_of_brute_force(way: str) -> None:
    texts = corpus(60)
    names = ids(len(texts))
    result = near_duplicates([(names, texts)], CERTAIN)
    expected = brute(texts, 0.5)
    assert found(result, names) == expected
    assert len(expected) > 5
    assert result.uncompared == 0
    of = dict(zip(names, texts, strict=True))
    rows = result.table.to_pylist()
    for cluster in {r["cluster"] for r in rows}:
        members = [r for r in rows if r["cluster"] == cluster]
        (representative,) = {r["representative"] for r in members}
        assert representative == min(r["pair_id"] for r in members)
        for row in members:
            assert row["jaccard"] == pytest.approx(jaccard(of[row["pair_id"]], of[representative]))
    assert [(r["cluster"], r["pair_id"]) for r in rows] == sorted((r["cluster"], r["pair_id"]) for r in rows)
    assert [r["representative"] for r in rows] == sorted(r["representative"] for r in rows)


def test_order_batches_and_memory_change_nothing(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = corpus(100, copies=4)
    names = ids(len(texts))
    whole = near_duplicates([(names, texts)], MinHash(threshold=0.6))
    order = random.Random(1).sample(range(len(texts)), len(texts))
    monkeypatch.setattr(near, "_COMPARED_AT_ONCE", 100)
    cuts = [order[:1], [], order[1:40], order[40:]]
    batches = [
        (pa.array([names[i] for i in c], pa.string()), pa.array([texts[i] for i in c], pa.string())) for c in cuts
    ]
    pieces = near_duplicates(batches, MinHash(threshold=0.6), tmp_path)
    assert pieces.table.equals(whole.table)
    assert whole.table.num_rows > 20
    assert not list(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_compiled_as_in_python(text: str) -> None:
    texts, how = [text, "", text + PART + "one two", "αΣ " + text], MinHash(shingle=2, permutations=40, bands=10)

    def all_of() -> list[list[object]]:
        keys, worded = band_keys(texts, how)
        return [x.tolist() for x in (signatures(texts, how), keys, worded, *shingle_sets(texts, how))]

    compiled = all_of()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda source: None)
        assert all_of() == compiled


def test_sets_are_those_of_words(way: str) -> None:
    texts = ["a b c d e f", "A, b c d e", "yes", "", "?!", f"yes{PART}no", f"a b c d e{PART}a b c d e", "今天天气很好"]
    sets, offsets = shingle_sets(texts)
    of = [frozenset(sets[offsets[i] : offsets[i + 1]].tolist()) for i in range(len(texts))]
    assert [len(s) for s in of] == [len(shingles(t, 5)) for t in texts] == [2, 1, 1, 0, 0, 2, 1, 2]
    assert of[1] < of[0]
    assert of[2] < of[5]
    assert of[6] == of[1]


def test_as_many_numbers_agree_as_documents_are_alike() -> None:
    """The estimate is without bias, and its spread that of 128 independent draws: sqrt(J (1 - J) / 128)."""
    rng, words_ = random.Random(0), [f"w{i}" for i in range(5000)]
    errors = []
    for _ in range(300):
        one = rng.choices(words_, k=150)
        text, other = " ".join(one), edited(" ".join(one), 0.05, rng)
        true = jaccard(text, other)
        a, b = signatures([text, other])
        errors.append(((a == b).mean() - true) / np.sqrt(true * (1 - true) / 128))
    assert abs(np.mean(errors)) < 3 / np.sqrt(len(errors))
    assert 0.9 < np.std(errors) < 1.1


def test_recall_is_as_promised() -> None:
    how = MinHash(threshold=0.6)
    assert MinHash().recall(0.8) == pytest.approx(1 - (1 - 0.8**8) ** 16)
    rng = random.Random(3)
    ones = [" ".join(f"w{rng.randrange(9999)}" for _ in range(120)) for _ in range(400)]
    others = [edited(t, 0.045, rng) for t in ones]
    alike = [jaccard(a, b) for a, b in zip(ones, others, strict=True)]
    names = ids(800)
    clusters = found(near_duplicates([(names, ones + others)], how), names)
    due = [i for i, j in enumerate(alike) if j >= how.threshold]
    expected = sum(how.recall(alike[i]) for i in due)
    spread = np.sqrt(sum(how.recall(alike[i]) * (1 - how.recall(alike[i])) for i in due))
    hit = sum(frozenset({i, 400 + i}) in clusters for i in due)
    assert abs(hit - expected) < 4 * spread
    assert len(clusters) == hit, "nothing below the threshold, nothing else"


def test_what_is_not_compared_is_told(way: str) -> None:
    """Documents that share half with each other, so that all meet in a band and none is a near-duplicate."""
    rng = random.Random(0)
    shared = " ".join(f"s{i}" for i in range(60))
    texts = [f"{shared} " + " ".join(f"w{rng.randrange(10**6)}" for _ in range(30)) for _ in range(12)]
    names = ids(len(texts))
    few, all_ = (near_duplicates([(names, texts)], MinHash(bands=128, threshold=0.9, rounds=r)) for r in (2, 64))
    assert all_.uncompared == 0 < few.uncompared
    assert few.table.num_rows == all_.table.num_rows == 0
    assert any("left out" in line for line in few.lines())
    assert not any("left out" in line for line in all_.lines())


def test_without_words_or_documents(way: str) -> None:
    result = near_duplicates([(["a", "b", "c", "d"], ["?!", "", "yes", "Yes."])])
    assert result.table.to_pylist() == [
        {"pair_id": "c", "cluster": 0, "representative": "c", "jaccard": 1.0},
        {"pair_id": "d", "cluster": 0, "representative": "c", "jaccard": 1.0},
    ]
    assert (result.documents, result.wordless) == (4, 2)
    assert near_duplicates([]).table.schema.equals(result.table.schema)
    assert near_duplicates([([], [])]).lines()[0].startswith("0 of 0 pairs")


def test_batches_must_be_the_same_twice() -> None:
    texts = corpus(20)
    names = ids(len(texts))
    with pytest.raises(ValueError, match="twice"):
        near_duplicates(iter([(names, texts)]))

    class Changing:
        turns = 0

        def __iter__(self) -> object:
            self.turns += 1
            return iter([(names[self.turns :], texts[self.turns :])])

    with pytest.raises(ValueError, match="now others"):
        near_duplicates(Changing())  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(PAIRS)
def test_a_pair_is_its_messages(pairs: list[Pair]) -> None:
    table = columns(pairs)
    expected = [
        PART.join(m.content for c in (p.prompt, *(r.messages for r in p.responses)) for m in c) for p in pairs
    ]  # fmt: skip
    assert documents(table).to_pylist() == expected
    assert documents(table.slice(1, 2)).to_pylist() == expected[1:3]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"bands": 7}, "equal size"),
        ({"shingle": 0}, "shingle"),
        ({"threshold": 0.0}, "threshold"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_impossible_settings(wrong: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MinHash(**wrong)  # type: ignore[arg-type]
