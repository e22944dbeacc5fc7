"""What becomes of what people and judges say: who is asked, whose word stands, and what reaches the labels."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.bench.reward.pairs import evaluate_pairs
from assay.curate.book import Asked
from assay.curate.keep_rule import counts_frame
from assay.curate.shards import Pool, create
from assay.curate.stage1 import Train
from assay.curate.stage2 import Evidence
from assay.curate.verify import add_judgements, read_judgements, withdraw_judgements
from assay.curate.views import LabelSet
from assay.errors import AssayError
from assay.llm.outage import Loss, Unreached
from assay.order import draws
from assay.pipeline.finished import export, training_data
from assay.pipeline.own_benchmarks import own_set
from assay.pipeline.people_on_file import PeopleOnFile
from assay.pipeline.training import Streamed
from assay.records import Case, Conversation, Judgement, Label, Pair, Preference, Response, Scorer, user
from assay.tables import Table, plain
from field import curation
from in_process import assay
from pools import pairs_in, write_primes

HELD = curation.CONFIG.held_share


def held(p: Pair) -> bool:
    return bool(draws([p.question_id], "held")[0] < HELD)


@dataclass
class Judges:
    """A judge that prefers what is short, and remembers whom it was asked about; `down`: it answers the next call not."""

    asked: list[Case] = field(default_factory=list)
    down: bool = False

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        if self.down:
            self.down = False
            raise Unreached([Loss(model="m", asked=len(cases), problems=("http 503",) * len(cases), silent=True)])
        self.asked += cases
        shorter = (min(c.pair.responses, key=lambda r: (len(r.text), r.text)).id for c in cases)
        return [
            Judgement(pair_id=c.pair.id, better=b, by="llm:m", kind="llm") for c, b in zip(cases, shorter, strict=True)
        ]


def words(folder: Path) -> list[Judgement]:
    table = Table(folder / "tables/judgements", Judgement)
    return table.read(*(s for s in table.shards() if s.startswith("stage1-")))


def label(labels: Sequence[Label], p: Pair) -> Label:
    return next(x for x in labels if x.pair_id == p.id)


# -- who is asked ---------------------------------------------------------------------------------------------------


def test_no_judge_is_paid_for_a_held_question_and_held_gold_asks_for_nothing(tmp_path: Path) -> None:
    judges = Judges()
    first, _ = curation.curate(tmp_path, judges)
    silver = [c.pair for c in judges.asked if c.pair.id in curation.FIRST.pairs]
    assert silver
    assert not [p for p in silver if held(p)]
    assert all(not held(e.pair) for c in judges.asked for e in c.examples)
    gold = [x for x in first if x.tier == "gold"]
    assert sum(held(curation.PAIRS[x.pair_id]) for x in gold) > 3
    people = [curation.FIRST.pairs[j.pair_id] for j in words(tmp_path) if j.kind == "oracle"]
    later = people[curation.CONFIG.seed_gold :]
    assert {held(p) for p in later} == {True, False}, "people go on verifying held questions"
    assert sum(map(held, later)) <= 1 + HELD * len(later)
    assert {x.pair_id for x in gold} == {p.id for p in people}


def test_judges_are_not_asked_where_their_word_changes_nothing(tmp_path: Path) -> None:
    judges = Judges()
    curation.curate(tmp_path, judges)
    asked = {c.pair.id for c in judges.asked} & curation.SECOND.pairs.keys()
    evidence = Table(tmp_path / "tables/evidence", Evidence)
    rows, known = evidence.read(), evidence.frame()
    wanted = set(known.filter(counts_frame(known, curation.WILD.band))["pair_id"])
    assert asked == wanted
    unsure = {e.pair_id for e in rows if e.p_best <= 0.5 + curation.WILD.band}
    assert asked < unsure, "some are unsure, and dropped whatever the judges say"


def test_a_pair_is_asked_once_although_scores_differ_on_the_next_machine(tmp_path: Path) -> None:
    """The run stops between people and judges; on another machine the same models score otherwise."""
    people: list[str] = []

    def oracle(cases: Sequence[Case]) -> list[Judgement]:
        people.extend(c.pair.id for c in cases)
        return curation.PEOPLE(cases)

    def other_machine(salt: str) -> Train:
        def train(name: str, pairs: LabelSet, gold: Sequence[Preference]) -> Scorer:
            scorer = curation.train(name + salt, pairs, gold)

            def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
                return scorer(conversations)

            return score

        return train

    judges, labels = Judges(down=True), None
    for attempt in range(12):
        try:
            first, second = curation.curate(tmp_path, judges, oracle, other_machine(f"machine {attempt}"))
            labels = first
            break
        except Unreached:
            judges.down = attempt % 2 == 0  # at one more place, and then at the next
    assert labels is not None
    assert len(people) == len(set(people))
    ids = [c.pair.id for c in judges.asked]
    assert len(ids) == len(set(ids)), "no pair is put to judges twice"
    assert not set(people) & set(ids)
    gold = {x.pair_id: x.chosen for x in labels if x.tier == "gold"}
    assert gold == {i: curation.truth(curation.FIRST.pairs[i]) for i in people}, "people's word stands"
    assert {x.pair_id for x in second} == curation.SECOND.pairs.keys()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda cases, rows: rows[:-1], "a judge gave .* not one of each"),
        (lambda cases, rows: rows[::-1], "a judge gave .* not one of each"),
        (lambda cases, rows: [*rows[:-1], Judgement(pair_id=rows[-1].pair_id, better="x", by="odd", kind="llm")],
         "odd prefers a response that pair .* does not have"),
    ],
)  # fmt: skip
def test_a_judge_that_answers_something_else_is_refused_and_poisons_nothing(
    rows: Callable[[Sequence[Case], list[Judgement]], list[Judgement]], message: str, tmp_path: Path
) -> None:
    good = Judges()
    with pytest.raises(AssayError, match=message):
        curation.curate(tmp_path, lambda cases: rows(cases, good(cases)))
    curation.curate(tmp_path, Judges())


# -- what people say later ------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A run whose people answer in a file: `ada` knows the truth."""

    run: Path
    judges: Judges = field(default_factory=Judges)

    @property
    def file(self) -> Path:
        return self.run / "judgements.jsonl"

    def go(self, resettle: bool = False) -> list[Label]:
        people = PeopleOnFile(self.file, self.run / "queue")
        first, second = curation.curate(self.run, self.judges, people, resettle=resettle)
        return [*first, *second]

    def say(self, p: Pair, better: str | None, by: str = "ada", lead: bool = False, problem: str = "tie") -> Judgement:
        word = Judgement(
            pair_id=p.id, better=better, by=by, kind="lead" if lead else "human", problem="" if better else problem
        )
        add_judgements(self.file, [word])
        return word

    def answer(self) -> None:
        """Everything that waits in the queue."""
        known = {j.pair_id for j in read_judgements(self.file)}
        for case in Table(self.run / "queue", Case).read():
            if case.pair.id not in known:
                self.say(case.pair, curation.truth(case.pair))

    def to_the_end(self) -> list[Label]:
        while True:
            try:
                return self.go()
            except AssayError as stopped:
                if "answers missing" not in str(stopped):
                    raise
                self.answer()

    def gold(self) -> list[Pair]:
        return [curation.FIRST.pairs[j.pair_id] for j in read_judgements(self.file) if j.by == "ada"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of people on file; copies of it are changed."""
    folder = tmp_path_factory.mktemp("desk") / "run"
    Desk(folder).to_the_end()
    return folder


@pytest.fixture
def desk(ended: Path, tmp_path: Path) -> Desk:
    shutil.copytree(ended, tmp_path / "run")
    return Desk(tmp_path / "run")


def test_a_correction_and_a_decision_of_the_lead_before_the_labels_reach_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "run")
    with pytest.raises(AssayError, match="12 of 12 answers missing"):
        desk.go()
    desk.answer()
    corrected, disputed, unsure = desk.gold()[:3]
    desk.say(disputed, disputed.other(curation.truth(disputed)), by="bob")
    desk.say(unsure, None, by="bob", problem="cannot decide")
    with pytest.raises(AssayError, match="answers missing"):
        desk.go()  # the first gold is a shard now; the next waits
    desk.say(corrected, corrected.other(curation.truth(corrected)))
    desk.say(disputed, disputed.other(curation.truth(disputed)), by="lea", lead=True)
    desk.answer()
    labels = desk.to_the_end()
    assert label(labels, corrected).chosen == corrected.other(curation.truth(corrected))
    assert label(labels, disputed).chosen == disputed.other(curation.truth(disputed))
    assert label(labels, disputed).by == ("lea",)
    assert (label(labels, unsure).chosen, label(labels, unsure).tier) == (None, "gold")
    assert "cannot decide" in label(labels, unsure).reason


def test_a_correction_after_the_labels_is_told_and_resettling_makes_it_count(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    before = desk.go()
    assert "warning" not in capfd.readouterr().err
    p = next(q for q in desk.gold() if not held(q))
    other = p.other(curation.truth(p))
    desk.say(p, other, by="lea", lead=True)
    for _ in range(2):
        assert desk.go() == before, "nothing changes unasked"
        told = capfd.readouterr().err
        assert f"people have said something else of 1 pairs since the labels were made ({p.id[:12]})" in told
        assert "--resettle" in told
    asked = len(desk.judges.asked)
    after = desk.go(resettle=True)
    assert label(after, p).chosen == other
    assert label(after, p).by == ("lea",)
    changed = {x.pair_id for x, y in zip(before, after, strict=True) if x != y and x.stage == "stage1"}
    assert changed == {p.id}
    assert all(c.pair.id in curation.SECOND.pairs for c in desk.judges.asked[asked:]), "what was collected stays"
    assert (desk.run / "superseded/0/tables/labels/stage1.parquet").exists()
    asked = len(desk.judges.asked)
    capfd.readouterr()
    assert desk.go(resettle=True) == after, "there is nothing to settle anew"
    assert desk.go() == after
    assert "warning" not in capfd.readouterr().err
    assert len(desk.judges.asked) == asked


def against_machines(desk: Desk, labels: list[Label]) -> list[Pair]:
    """A person says the opposite of what judges labelled in stage 1, and of what stage 2 kept."""
    silver = next(x for x in labels if x.tier == "silver" and x.chosen)
    kept = next(x for x in labels if x.stage == "stage2" and x.fate == "kept")
    pairs = [curation.PAIRS[x.pair_id] for x in (silver, kept)]
    for p, x in zip(pairs, (silver, kept), strict=True):
        assert x.chosen is not None
        desk.say(p, p.other(x.chosen))
    return pairs


def test_a_persons_word_stands_whoever_was_asked(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    before = desk.go()
    pairs = against_machines(desk, before)
    capfd.readouterr()
    assert desk.go() == before
    assert "people have said something else of 2 pairs since the labels were made" in capfd.readouterr().err
    asked = len(desk.judges.asked)
    after = desk.go(resettle=True)
    for p in pairs:
        found = label(after, p)
        assert found.chosen == p.other(str(label(before, p).chosen))
        assert (found.tier, found.stage, found.by) == ("gold", "stage1", ("ada",))
    assert len({x.pair_id for x in after}) == len(after) == len(before), "one label of each pair"
    assert not {c.pair.id for c in desk.judges.asked[asked:]} & {p.id for p in pairs}, "nobody pays for them"
    capfd.readouterr()
    assert desk.go(resettle=True) == after
    assert desk.go() == after
    assert "warning" not in capfd.readouterr().err
    desk.say(pairs[1], label(before, pairs[1]).chosen)
    assert label(desk.go(resettle=True), pairs[1]).chosen == label(before, pairs[1]).chosen


def test_a_persons_word_of_before_a_run_reaches_its_labels(desk: Desk, tmp_path: Path) -> None:
    """Of pairs that it never puts to people as well."""
    pairs = against_machines(desk, before := desk.go())
    early = Desk(tmp_path / "early")
    for p in pairs:
        early.say(p, p.other(str(label(before, p).chosen)))
    labels = early.to_the_end()
    assert [label(labels, p).chosen for p in pairs] == [p.other(str(label(before, p).chosen)) for p in pairs]
    assert {label(labels, p).by for p in pairs} == {("ada",)}
    assert early.go() == labels


def test_no_judge_is_paid_for_a_pair_on_which_a_person_has_spoken(desk: Desk, tmp_path: Path) -> None:
    """Others take its place. Of pairs that judges would label first, and of those that they would be asked about later."""
    asked = [
        p for p in (curation.PAIRS[x.pair_id] for x in desk.go() if x.tier == "silver") if p.id in curation.FIRST.pairs
    ]
    said = asked[::2]
    early = Desk(tmp_path / "early")
    for p in said:
        early.say(p, curation.truth(p))
    early.say(asked[1], None, problem="cannot decide")
    labels = early.to_the_end()
    paid = [c.pair.id for c in early.judges.asked]
    assert not {p.id for p in said} & set(paid)
    assert asked[1].id not in paid, "no machine may label what people cannot decide"
    assert {(label(labels, p).chosen, label(labels, p).tier) for p in said} == {
        (curation.truth(p), "gold") for p in said
    }
    first = Table(early.run / "tables/asked", Asked).read("stage1-seed")
    assert sum(a.of == "judges" for a in first) == curation.CONFIG.seed_silver
    assert early.go() == labels


def test_a_second_correction_is_settled_anew_too(desk: Desk) -> None:
    p, q = desk.gold()[:2]
    desk.say(p, p.other(curation.truth(p)))
    assert label(desk.go(resettle=True), p).chosen == p.other(curation.truth(p))
    desk.say(p, curation.truth(p))
    desk.say(q, None, problem="cannot decide")
    after = desk.go(resettle=True)
    assert label(after, p).chosen == curation.truth(p)
    assert label(after, q).chosen is None
    assert (desk.run / "superseded/1").is_dir()


def test_a_run_that_stops_after_resettling_goes_on_with_the_same_command(desk: Desk) -> None:
    p = next(q for q in desk.gold() if not held(q))
    desk.say(p, p.other(curation.truth(p)))
    desk.judges.down = True
    with pytest.raises(Unreached):
        desk.go(resettle=True)
    after = desk.go(resettle=True)
    assert label(after, p).chosen == p.other(curation.truth(p))
    assert not (desk.run / "superseded/1").exists(), "settled anew once"


def test_an_answer_that_was_taken_back_drops_the_pair_until_it_is_given_anew(desk: Desk) -> None:
    p = desk.gold()[0]
    withdraw_judgements(desk.file, [j for j in read_judgements(desk.file) if j.pair_id == p.id])
    gone = label(desk.go(resettle=True), p)
    assert (gone.chosen, gone.reason) == (None, "people did not decide: taken back")
    desk.say(p, curation.truth(p), by="bob")
    assert label(desk.go(resettle=True), p).chosen == curation.truth(p)


def test_a_judgement_of_a_foreign_response_is_refused_by_its_line_and_mended(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "run")
    with pytest.raises(AssayError, match="answers missing"):
        desk.go()
    desk.answer()
    lines = desk.file.read_text().splitlines()
    row = json.loads(lines[4])
    lines[4] = json.dumps({**row, "better": curation.pair(99).responses[0].id})
    desk.file.write_text("\n".join(lines) + "\n")
    with pytest.raises(AssayError, match=r"judgements\.jsonl, line 5: the judgement by ada names a response that pair"):
        desk.go()
    lines[4] = json.dumps(row)
    desk.file.write_text("\n".join(lines) + "\n")
    assert label(desk.to_the_end(), curation.FIRST.pairs[row["pair_id"]]).chosen == row["better"]


def test_a_file_about_other_pairs_is_named_while_people_are_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "run")
    for n in range(200, 203):
        desk.say(curation.pair(n), curation.truth(curation.pair(n)))
    with pytest.raises(AssayError, match=r"; 3 pairs in .*judgements\.jsonl are none that this run waits for"):
        desk.go()


# -- pools ----------------------------------------------------------------------------------------------------------


def pool_of(place: Path, files: dict[str, list[tuple[int, str]]]) -> Path:
    """A pool of files of (question, the answer that won: "yes" or "no"), imported one by one in this order."""
    place.mkdir()
    for name, rows in files.items():
        write_primes(place / f"{name}.jsonl", rows)
        code, _, told = assay("pool", "add", f"{name}.jsonl", "--out", "pool", cwd=place)
        assert code == 0, told
    return place / "pool"


def chosen(rows: Sequence[Preference]) -> dict[str, str]:
    return {p.pair_id: p.chosen.text for p in rows}


def trained_on(pool: Path, name: str = "raw") -> tuple[list[Preference], list[Preference]]:
    """What a training reads, and the gold that chooses its checkpoint."""
    pairs, gold = training_data(pool, name, None, pool.parent / "beside")
    assert isinstance(pairs, Streamed)
    return pairs.labels.preferences(), gold


def test_a_pool_is_labelled_alike_whatever_its_files_are_called(tmp_path: Path) -> None:
    """Ten pairs on which two sources contradict each other, ten on which they agree, ten that only one has."""
    yes = [(n, "yes") for n in range(20)]
    no = [(n, "no" if n < 10 else "yes") for n in range(30)]
    found = []
    for number, files in enumerate(({"alpha": yes, "beta": no}, {"beta": no, "alpha": yes}, {"zeta": yes, "beta": no})):
        pool = pool_of(tmp_path / str(number), files)
        export(pool, tmp_path / f"out{number}", "raw")
        exported = Table(tmp_path / f"out{number}", Preference).read()
        trained, gold = trained_on(pool)
        assert chosen(exported) == chosen([*trained, *gold])
        assert len(exported) == len(chosen(exported)) == 20, "a contradicted pair has no label, and none comes twice"
        found.append(chosen(exported))
    assert found[0] == found[1] == found[2]
    assert all(text.startswith("yes") for text in found[0].values())


def test_a_pool_has_no_other_labels_to_train_on(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", {"a": [(n, "yes") for n in range(5)]})
    with pytest.raises(AssayError, match="a pool has its raw labels only"):
        trained_on(pool, "flipped")


def test_an_import_that_was_cut_off_is_told_by_all_who_read_the_pool(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", {"a": [(n, "yes") for n in range(30)], "b": [(n, "no") for n in range(40, 60)]})
    (pool / "importing").mkdir()
    (pool / "importing/plan.json").write_text("{}")  # as a killed import leaves it
    readers: list[list[object]] = [
        ["run", "pool", pool, "--out", tmp_path / "run"],
        ["reward", "train", pool, "--out", tmp_path / "model"],
        ["reward", "export", pool, "--out", tmp_path / "rows"],
        ["annotate", pool, "--judge", "m@http://127.0.0.1:9/v1", "--out", tmp_path / "votes"],
        ["attributes", pool, "--server", "m@http://127.0.0.1:9/v1", "--out", tmp_path / "attributes"],
    ]
    for reader in readers:
        code, _, told = assay(*reader)
        assert code == 2, reader
        assert "an import into this pool was cut off or is not over" in told.splitlines()[-1], told
        assert "give the same `assay pool add` again" in told


def test_duplicates_are_counted(tmp_path: Path) -> None:
    rows = [(n, "yes") for n in range(40)]
    pool = Pool.open(pool_of(tmp_path / "p", {"a": rows, "b": [*rows, (50, "no"), (50, "no")]}))
    assert (pool.pairs, pool.repeats, pool.pairs + pool.repeats) == (41, 41, 82)


def test_gold_that_names_a_foreign_response_is_refused_before_judges_are_asked(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "p", {"a": [(n, "yes") for n in range(8)]})
    pair = pairs_in(pool)[0]
    gold = tmp_path / "gold.jsonl"
    rows = [
        Judgement(pair_id=pair.id, better=better, by="ann", kind="human") for better in (pair.responses[0].id, "0" * 8)
    ]
    gold.write_text("".join(json.dumps(plain(j)) + "\n" for j in rows))
    code, _, told = assay(
        "annotate", pool, "--judge", "m@http://127.0.0.1:9/v1", "--out", tmp_path / "v", "--gold", gold
    )
    assert code == 2
    assert f"{gold}, line 2: the judgement by ann names a response" in told.splitlines()[-1]


def test_a_pool_is_measured_by_the_labels_that_training_takes(tmp_path: Path) -> None:
    """One row of five votes, four for one response, and two rows for the other: rows count, in training and in `bench`."""
    pair = Pair.of((user("a fruit?"),), Response.of("An apple."), Response.of("A chair."))
    apple, chair = Response.of("An apple.").id, Response.of("A chair.").id
    rows = [
        Judgement(pair_id=pair.id, better=apple, by="wild:a", kind="wild", votes=5, confidence=0.8),
        *(Judgement(pair_id=pair.id, better=chair, by=f"wild:{n}", kind="wild") for n in "bc"),
    ]
    create(tmp_path / "pool", [pair], rows)
    trained, gold = trained_on(tmp_path / "pool")
    (taught,) = [*trained, *gold]
    (measured,) = own_set(tmp_path / "pool").preferences
    assert (taught.chosen.id, measured.chosen.id) == (chair, chair)


def test_a_pair_that_a_run_s_model_cannot_read_is_coverage_and_ends_nothing() -> None:
    pairs = [Pair.of((user(q),), Response.of("yes"), Response.of("no")) for q in "ab"]
    chosen = [p.preferring(Response.of("yes").id) for p in pairs]

    def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([np.nan if c[0].content == "b" else float(c[-1].content == "yes") for c in conversations])

    score.may_fail = True  # type: ignore[attr-defined]
    result = evaluate_pairs(chosen, score)
    assert (result.n, result.total) == (1, 2)
    assert result.headline is not None
    assert result.headline.value == 100.0
