"""Decontamination of Arrow columns, compiled and in Python, against the definition over words; and what workers are sent."""

import pickle
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import native
from assay.curate import decontaminate
from assay.curate.decontaminate import Hit, Index, hits_of
from assay.curate.words import hashes, runs, whole, words
from assay.records import Pair, Response, assistant, user
from assay.tables import arrow_type, plain

LATIN = (
    "a B z 9 _ . , \n \x1e \u00a0 é e\u0301 E\u0323\u0301 ﬁ ½ ² ™ … ¨ ´ ß İ i\u0307 \u0344 \u0308 Ⓐ Ⅷ ǆ ŉ 𝒜 🙂 \u200d"
)
OTHERS = "Σ ΑΣ Σα σ ς 𝚺 Ω नि क\u093c ก\u0e34\u0e48 ท\u0e48\u0e34 שׁ ש\u05c1\u05bc ب\u064e\u0651 ব\u09be"
EASTERN = "今 天 々 Ａ Ａ\u0301 Å ア ｱ ｶ\uff9e か\u3099 ゛ ・ 한 \u1112\u1161\u11ab ㅎ ㅏ ｶ ﾡￂ 𠀀 你"
HARD = f"{LATIN} {OTHERS} {EASTERN}".split(" ")
PIECES = st.sampled_from(HARD) | st.sampled_from(["a", "b", " ", " "]) | st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(PIECES, max_size=30).map("".join)


@pytest.fixture(params=["compiled", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in Python":
        monkeypatch.setattr(native, "library", lambda source: None)
    elif native.library(decontaminate._SOURCE) is None:
        pytest.skip("no C++ compiler here")
    return str(request.param)


def definition(pair: Pair, benchmarks: dict[str, list[str]], n: int, fields: str) -> list[Hit]:
    """What is said in a pair against every prompt, word by word."""
    conversations = [pair.prompt, *([r.messages for r in pair.responses] if fields == "all" else [])]
    hits = []
    for name, prompts in benchmarks.items():
        for number, prompt in enumerate(prompts):
            theirs, found = words(prompt), None
            grams = {tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)}
            for said in (words(m.content) for c in conversations for m in c):
                if said and said == theirs:
                    found = (" ".join(said), True)
                shared = [
                    " ".join(said[i : i + n]) for i in range(len(said) - n + 1) if tuple(said[i : i + n]) in grams
                ]
                if shared and found is None:
                    found = (shared[0], False)
            if found:
                hits.append(Hit(pair_id=pair.id, benchmark=name, prompt=number, span=found[0], whole=found[1]))
    return hits


def columns(pairs: list[Pair]) -> pa.Table:
    conversation = arrow_type(tuple[type(user("")), ...])
    return pa.table({
        "pair_id": [p.id for p in pairs],
        "prompt": pa.array([plain(p.prompt) for p in pairs], conversation),
        "responses": pa.array([plain(p.responses) for p in pairs], arrow_type(tuple[Response, ...])),
    })  # fmt: skip


def pair_of(turns: list[str], one: str, other: str) -> Pair:
    said = tuple(assistant(t) if i % 2 else user(t) for i, t in enumerate(turns))
    return Pair.of(said, Response.of(one), Response.of(other if other != one else other + "!"))


PAIRS = st.lists(st.builds(pair_of, st.lists(TEXTS, min_size=1, max_size=3), TEXTS, TEXTS), max_size=6)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.lists(TEXTS, max_size=5), st.integers(1, 4), st.sampled_from(["prompt", "all"]), st.data())
@pytest.mark.parametrize("compiled", [True, False])
def test_as_the_definition(
    compiled: bool, pairs: list[Pair], prompts: list[str], n: int, fields: str, data: st.DataObject
) -> None:
    said = [m.content for p in pairs for c in (p.prompt, *(r.messages for r in p.responses)) for m in c]
    if said:  # texts that are shared: by chance few are
        prompts = [*prompts, *data.draw(st.lists(st.sampled_from(said), max_size=3))]
    benchmarks = {"x": prompts[::2], "y": prompts[1::2]}
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(native, "library", lambda source: None)
        index = pickle.loads(pickle.dumps(Index.of(benchmarks, n)))
        expected = [hit for p in pairs for hit in definition(p, benchmarks, n, fields)]
        assert hits_of(columns(pairs), index, fields) == expected  # type: ignore[arg-type]
        assert [h for _, hits in decontaminate.matched_by(index, pairs, fields) for h in hits] == expected  # type: ignore[arg-type]


def test_no_text_that_shares_words_escapes_and_hardly_another_is_suspected(way: str) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 5000, 60)) for _ in range(600)]
    index = Index.of({"b": texts[:300]})
    parts = [" ".join(t.split()[20:33]) for t in texts]
    suspected = index.suspects(pa.array([*parts, *(p.rsplit(" ", 1)[0] for p in parts)], pa.large_string()))
    assert suspected[:300].all()
    assert not suspected[300:].any(), "of another text, or of 12 words"


def test_every_character_is_read_as_python_reads_it() -> None:
    """Beside letters and alone; of those that are not assigned one in 97. The number tells the texts apart."""
    if native.library(decontaminate._SOURCE) is None:
        pytest.skip("no C++ compiler here")
    codes = [
        c for c in range(0x110000)
        if not 0xD800 <= c < 0xE000 and (c % 97 == 0 or unicodedata.category(chr(c)) not in ("Cn", "Co", "Lo"))
    ]  # fmt: skip
    texts = [f"{code} x{chr(code)}y {chr(code)}" for code in codes]
    index = Index.of({"b": texts}, n=9)
    assert index.suspects(pa.array(texts, pa.large_string())).all()


def test_arrow_of_every_shape(way: str) -> None:
    """Slices, chunks, 32-bit offsets, nulls, rows without messages."""
    pairs = [
        pair_of([f"say the word {i} now", "yes", "and again the word ten"], "no", "never the word") for i in range(9)
    ]
    index = Index.of({"b": ["say the word 3", "word ten", "never the word"]}, n=3)
    table = columns(pairs)
    expected = hits_of(table, index, "all")
    assert {h.prompt for h in expected} == {0, 2}
    chunked = pa.concat_tables([table.slice(0, 2), table.slice(2, 1), table.slice(3)])
    assert hits_of(chunked, index, "all") == expected
    assert hits_of(table.slice(3, 2), index, "all") == [h for h in expected if h.pair_id in {p.id for p in pairs[3:5]}]
    assert hits_of(table.slice(0, 0), index) == []
    assert hits_of(table, Index.of({}), "all") == []
    empty = pa.table({"pair_id": ["e", "f"], "prompt": pa.array([[], None], table.schema.field("prompt").type)})
    assert hits_of(empty, index) == []
    assert hits_of(table.to_batches()[0], index, "all") == expected


def test_hashes_are_the_same_everywhere() -> None:
    """Written down once: an index may be made on one machine and read on another."""
    of = hashes(["a", "lighthouse", "今"])
    assert of.tolist() == [0x45D6E40FBD022E11, 0x72AD9D165A5C99D5, 0x117748ECD55B22AD]
    assert (int(runs(of, 2)[1]), whole(of)) == (0x991FCBF7D67B0B80, 0xE01DCE5FFDFE886F)


def test_an_index_is_small_to_send() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 5000, 60)) for _ in range(500)]
    index = Index.of({"b": texts})
    index.suspects(pa.array(texts, pa.large_string()))
    assert len(pickle.dumps(index)) < 20 * index.grams.size + sum(map(len, texts)) + 40 * len(texts)


def test_halves_of_characters_are_gaps() -> None:
    """JSON can hold them, Arrow cannot."""
    pair = pair_of(["say\ud800the word"], "a", "b")
    assert decontaminate.decontaminate([pair], {"b": ["say the word"]}).removed == [pair]


def test_pairs_read_twice_have_their_hits_twice() -> None:
    pair = pair_of(["say the word"], "a", "b")
    result = decontaminate.decontaminate([pair, pair], {"b": ["say the word"]})
    assert len(result.hits) == len(result.removed) == 2
