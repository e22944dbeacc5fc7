"""A user's own pool: import, a run that stops for people, their answers, and a report that claims no truth."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from commands import Done
from small_job import small_config, small_pool

from assay.curate.annotate import shown_order
from assay.curate.settle import wild_choice
from assay.curate.verify import add_judgements, oracle, read_judgements
from assay.errors import AssayError
from assay.pipeline.job import run_job
from assay.pipeline.people_on_file import PeopleOnFile, read_queue
from assay.records import Case, Judgement, Label
from assay.tables import Table
from in_process import assay_here
from loopback import Loopback, completion
from shares import naked

SMALL = (
    "--presentations=16", "--evaluation-gold=6", "--stage1-share=0.8",
    "--stage1.iterations=1", "--stage1.seed-gold=16", "--stage1.seed-silver=8",
    "--stage1.per-iteration=8", "--stage1.gold-share=0.5", "--stage1.held-share=0.4", "--train.layers=1",
    "--train.max-tokens=48", "--train.batch-pairs=8", "--train.lr=4e-4", "--train.checks=1", "--train.epochs=2",
)  # fmt: skip


def import_pool(place: Path) -> Path:
    """A pool folder imported from a JSONL file of 60 pairs; the source chose as the wild votes of the embedded pool do."""
    source = small_pool(prompts=60, per_prompt=1)
    rows = []
    for pair in source.pairs.values():
        chosen = wild_choice([j for j in source.wild if j.pair_id == pair.id])
        assert chosen is not None
        chosen_text, rejected_text = pair.response(chosen).text, pair.response(pair.other(chosen)).text
        rows.append({"prompt": pair.prompt[0].content, "chosen": chosen_text, "rejected": rejected_text})
    (place / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = assay_here("pool", "add", "mine.jsonl", "--out", "pool", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "60 pairs, 0 rejected" in done.stdout
    return place / "pool"


@pytest.fixture
def pool(place: Path) -> Path:
    return import_pool(place)


def run_pool(pool: Path, *more: object) -> Done:
    return assay_here("run", "pool", "pool", "--out", "run", *SMALL, *more, cwd=pool.parent)


def waiting(done: Done) -> int:
    """How many pairs the stopped run says that it waits for."""
    found = re.search(r"paused: (\d+) of \d+ answers missing; assay verify run", done.stderr.splitlines()[-1])
    assert found, done.stderr
    return int(found[1])


def answers(run: Path, name: str) -> list[str]:
    """What a person who knows the truth types for every pair in the queue that `name` has not answered, in order."""
    truth = small_pool(prompts=60, per_prompt=1).truth
    known = {j.pair_id for j in read_judgements(run / "judgements.jsonl") if j.by == name}
    todo = [case.pair for case in read_queue(run / "queue") if case.pair.id not in known]
    return [str(shown_order(pair, 0, name).index(truth[pair.id]) + 1) for pair in todo]


def verify(run: Path, typed: list[str]) -> Done:
    return assay_here("verify", "run", "--annotator", "ada", cwd=run.parent, stdin="".join(f"{x}\n" for x in typed))


def test_people_answer_until_the_run_is_done(pool: Path) -> None:
    run = pool.parent / "run"
    first = run_pool(pool)
    assert first.returncode == 4
    assert waiting(first) == 16 + 6, "the first gold, and what is to measure only"

    typed = answers(run, "ada")
    some = verify(run, [*typed[:3], "what?", "s", "q"])
    assert some.returncode == 0, some.stderr
    assert "3 judged, 0 ties, 0 discarded, 1 skipped" in some.stdout
    assert "19 of 22 answers missing; assay verify run, or assay web run" in some.stdout
    assert len(read_judgements(run / "judgements.jsonl")) == 3
    again = run_pool(pool)
    assert again.returncode == 4
    assert waiting(again) == 19

    asked = 1
    while True:
        typed = answers(run, "ada")
        verified = verify(run, ["t", "u", *typed] if len(typed) > 1 else typed)  # the last answer ends the session
        assert verified.returncode == 0, verified.stderr
        assert f"{len(typed)} judged, 0 ties, 0 discarded, 0 skipped" in verified.stdout
        assert "answers are there; assay resume run" in verified.stdout
        done = run_pool(pool)
        if done.returncode == 0:
            break
        assert done.returncode == 4, done.stderr
        assert waiting(done) == len(answers(run, "ada"))
        asked += 1
        assert asked < 6
    assert asked == 2  # the first gold, and what the one iteration retrieved
    assert_report(run, done)

    truth = small_pool(prompts=60, per_prompt=1).truth
    labels = Table(run / "seed-0/tables/labels", Label).read()
    gold = [label for label in labels if label.tier == "gold"]
    asked = {j.pair_id for j in read_judgements(run / "judgements.jsonl")}
    measure = {j.pair_id for j in Table(run / "tables/measured", Judgement).stream()}
    assert len(measure) == 6
    assert {label.pair_id for label in gold} == asked - measure
    assert len(gold) > 16
    assert not measure & {label.pair_id for label in labels}, "what measures is used for nothing else"
    machines = [label for label in labels if label.tier != "gold"]
    assert {label.fate for label in machines} <= {"kept", "dropped"}, (
        "no judge was asked for, and none turned a label round"
    )
    assert all(label.chosen == truth[label.pair_id] and label.by == ("ada",) for label in gold)
    assert {label.tier for label in machines} == {"wild"}
    human = [j for j in Table(run / "seed-0/tables/judgements", Judgement).stream() if j.kind == "human"]
    assert all(len(j.shown) == 2 for j in human)
    assert {j.shown.index(j.better or "") for j in human} == {0, 1}


def assert_report(run: Path, done: Done) -> None:
    assert done.stdout.splitlines()[-1] == "report: run/report.html"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Measured on 6 pairs that people decided, of 6 which they verified to measure only" in page
    assert "Too few to say whether it is better than raw labels" in page
    assert "paper A3" not in page, "the papers are for --claims"
    assert "NOT ACCOUNTED FOR" not in page
    assert naked(page) == ([], naked(page)[1])
    models = {p.parent.name for p in run.glob("seed-0/models/*/training.json")}
    assert models <= {"stage1-it0", "best-rm", "gold-rm", "raw-more", "filtered", "flipped", "final"}
    assert "The people of this run are simulated" not in page
    assert "true labels (ceiling)" not in page
    assert "not known" in page


class FakeModel(Loopback):
    """An OpenAI-compatible server on loopback; its model always prefers the shorter candidate."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body["messages"][-1]["content"]
        self.asked.append(text)
        if text == "Say yes.":
            return web.json_response(completion("Yes.", tokens=(0, 0)))
        first, second = (re.findall(rf"<candidate_{n}>\n(.*?)\n</candidate_{n}>", text, re.DOTALL)[-1] for n in (1, 2))
        words = f"It is shorter.\n\nVerdict: {1 if (len(first), first) < (len(second), second) else 2}"
        return web.json_response(completion(words, tokens=(100, 7)))


@pytest.fixture
def model() -> Iterator[FakeModel]:
    with FakeModel() as fake:
        yield fake


def test_an_llm_judges_and_is_asked_once(pool: Path, model: FakeModel) -> None:
    """People answer what they are asked; the same command again asks the server nothing."""
    run = pool.parent / "run"
    truth = small_pool(prompts=60, per_prompt=1).truth
    options = ("--judge", f"short@{model.url}", "--samples", "2")
    while (done := run_pool(pool, *options)).returncode == 4 and "answers missing" in done.stderr:
        asked_about = [c.pair.id for c in read_queue(run / "queue")]
        words = [Judgement(pair_id=i, better=truth[i], by="ada", kind="human") for i in asked_about]
        add_judgements(run / "judgements.jsonl", words)
    assert done.returncode == 0, done.stderr
    assert_report(run, done)
    assert "No judge labelled anything" not in (run / "report.html").read_text(encoding="utf-8")
    assert "Judges: llm:short." in (run / "report.html").read_text(encoding="utf-8")

    judged = [j for j in Table(run / "seed-0/tables/judgements", Judgement).stream() if j.kind == "llm"]
    checks = Table(run / "seed-0/tables/checks", Judgement).read()
    gold = {label.pair_id for label in Table(run / "seed-0/tables/labels", Label).stream() if label.tier == "gold"}
    assert {j.pair_id for j in checks} < gold, "judges are compared with people on gold that is not held"
    assert len(checks) > 8
    assert len(model.asked) == 2 * (len(judged) + len(checks)) + 1, "the first is the probe"
    assert model.asked[0] == "Say yes."
    assert {(j.by, j.votes, j.tokens) for j in judged} == {("llm:short", 2, 214)}
    assert all(j.better for j in judged)
    assert any("## Example 1" in text for text in model.asked)
    silver = [label for label in Table(run / "seed-0/tables/labels", Label).stream() if label.tier == "silver"]
    assert silver
    assert all(label.by == ("llm:short",) for label in silver)

    asked = len(model.asked)
    again = run_pool(pool, *options)
    assert again.returncode == 0, again.stderr
    assert len(model.asked) == asked


def test_a_word_about_a_pair_that_the_pool_does_not_have_is_refused(place: Path) -> None:
    pool, run = small_pool(prompts=60), place / "strange"
    people = PeopleOnFile(run / "judgements.jsonl", run / "queue")
    with pytest.raises(AssayError, match="16 of 16 answers missing"):
        run_job(run, small_config(), pool, people)
    of_run, of_pool = next(iter(Table(run / "queue", Case).stream())).pair, list(pool.pairs.values())[-1]
    for known in (of_run, of_pool):
        add_judgements(
            people.judgements, [Judgement(pair_id=known.id, better=None, by="ada", kind="human", problem="tie")]
        )
    with pytest.raises(AssayError, match="15 of 16 answers missing"):
        run_job(run, small_config(), pool, people)
    strange = Judgement(pair_id="f" * 32, better=None, by="ada", kind="human", problem="tie")
    add_judgements(people.judgements, [strange])
    with pytest.raises(AssayError, match=r"judgements.jsonl: 1 pairs that people judged here are not in .*f{32}"):
        run_job(run, small_config(), pool, people)


def test_a_pool_of_which_people_would_get_all_is_told_before_anybody_is_asked(place: Path) -> None:
    people = PeopleOnFile(place / "few" / "judgements.jsonl", place / "few" / "queue")
    with pytest.raises(AssayError, match=r"none of them is left for judges to label .* a smaller --stage1.seed-gold"):
        run_job(place / "few", small_config(), small_pool(prompts=8, per_prompt=1), people)
    assert not (place / "few" / "queue").exists()


def test_a_run_that_stopped_for_people_goes_on_in_the_same_process(place: Path) -> None:
    """As in a notebook, where the exception that stopped it is kept."""
    pool, run = small_pool(prompts=60), place / "run"
    people = PeopleOnFile(run / "judgements.jsonl", run / "queue")
    with pytest.raises(AssayError, match="16 of 16 answers missing") as kept:
        run_job(run, small_config(), pool, people)

    def stopped(cases: list[Case]) -> list[Judgement]:
        assert len(oracle(pool.truth)(cases)) == 16
        raise AssayError("reached the people again")

    with pytest.raises(AssayError, match="reached the people again"):
        run_job(run, small_config(), pool, stopped)  # type: ignore[arg-type]
    assert kept.value
