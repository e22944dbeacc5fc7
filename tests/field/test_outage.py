"""Judges' servers that fail for a while: the same labels as from one that never failed, and no question answered twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import assay as package
from assay.bench.benchmark import Choice
from assay.bench.verdicts import PairJudge
from assay.curate.annotate import llm_judge, llm_votes
from assay.curate.attributes import llm_attributes
from assay.curate.rules import rule_attributes
from assay.curate.shards import create
from assay.curate.verify import read_judgements
from assay.engine import Here
from assay.images import ImageStore
from assay.judges.annotate import JudgeConfig, annotate
from assay.judges.asking import AskConfig
from assay.judges.attributes import AttributesConfig, describe
from assay.judges.embedders import Encoder
from assay.llm.chat import ChatConfig
from assay.llm.client import Server
from assay.llm.outage import Unreached
from assay.pipeline.flow import FlowConfig, prepared
from assay.records import Attributes, Case, Conversation, Judgement, Label, assistant, user
from assay.run import Run
from assay.tables import Table, read_shard, records
from assay.tuning.best_of_n import best_of_n, chat_answers
from field import curation
from in_process import assay
from outage_server import OutageServer

ASKING = AskConfig(concurrency=4, tries=2, backoff_s=0.001)
HOWS = ("503", "429", "401", "402", "404", "400-key", "html", "drop")


def judged(folder: Path, url: str) -> list[Label]:
    first, second = curation.curate(folder, llm_judge([curation.server(folder, url)], samples=2))
    return [*first, *second]


def once_each(server: OutageServer) -> bool:
    return set(server.answered.values()) == {1}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Label], int]:
    """The labels when no server fails, and how many questions they take."""
    with OutageServer() as server:
        labels = judged(tmp_path_factory.mktemp("unbroken"), server.url)
        assert once_each(server)
        assert {label.fate for label in labels} == {"kept", "relabelled", "flipped", "dropped"}
        return labels, len(server.answered)


def test_stage_1_and_2_wait_out_every_outage(tmp_path: Path, unbroken: tuple[list[Label], int]) -> None:
    """The server fails again and again, each time in another way, and the same command goes on from where it was."""
    labels, questions = unbroken
    with OutageServer() as server:
        stopped: list[bool] = []
        told: list[str] = []
        for attempt in range(questions):
            server.fail(HOWS[attempt % len(HOWS)], after=11)
            try:
                found = judged(tmp_path, server.url)
                break
            except Unreached as error:
                told.append(str(error))
            stopped.append(Table(tmp_path / "tables/labels", Label).done("stage1"))
        assert found == labels
        assert all(t.startswith(f"m at {server.url}") and "give this command again" in t for t in told)
        assert once_each(server), server.answered.most_common(3)
        assert len(server.answered) == questions
        assert {True, False} == set(stopped), "it failed in both stages"
        assert set(server.refused) == set(HOWS)


def test_a_kill_in_the_middle_and_then_an_outage(tmp_path: Path, unbroken: tuple[list[Label], int]) -> None:
    labels, questions = unbroken
    path = os.pathsep.join([str(Path(package.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    with OutageServer() as server:
        server.fail("hold", after=questions // 3)  # it cannot end before it is killed
        line = [sys.executable, curation.__file__, str(tmp_path), server.url]
        with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) as process:
            while not server.refused["hold"] and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert len(server.answered) == questions // 3
        server.fail("503", after=9)
        with pytest.raises(Unreached, match="http 503"):
            judged(tmp_path, server.url)
        server.recover()
        assert judged(tmp_path, server.url) == labels
        twice = [n for n in server.answered.values() if n > 1]
        assert len(twice) <= 4, "only what was in flight at the kill"
        assert len(server.answered) == questions


@pytest.mark.slow
def test_twenty_kills_at_random_instants(tmp_path: Path, unbroken: tuple[list[Label], int]) -> None:
    """Each life is a little longer than the last one; what was answered before a kill is not asked again."""
    labels, questions = unbroken
    path = os.pathsep.join([str(Path(package.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    chance, kills, answered = random.Random(19), 0, [0]
    with OutageServer() as server:
        line = [sys.executable, curation.__file__, str(tmp_path), server.url]
        for _ in range(20):
            more = answered[-1] + chance.randrange(1, max(2, questions // 12))
            with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) as process:
                while len(server.answered) < min(more, questions) and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.3))
                process.kill()
            kills += process.returncode == -signal.SIGKILL
            answered.append(len(server.answered))
        assert kills >= 10, "the run ended before"
        assert judged(tmp_path, server.url) == labels
        assert len(server.answered) == questions
        assert sum(n - 1 for n in server.answered.values()) <= 4 * kills, "only what was in flight at a kill"


def test_a_server_that_is_not_there_decides_nothing(tmp_path: Path, unbroken: tuple[list[Label], int]) -> None:
    with OutageServer() as server:
        server.stop()
        with pytest.raises(Unreached, match=r"answered none of .* requests .*connection"):
            judged(tmp_path, server.url)
        assert not [j for j in Table(tmp_path / "tables/judgements", Judgement).read() if j.kind == "llm"]
        server.up()
        assert judged(tmp_path, server.url) == unbroken[0]
        assert once_each(server)


# -- annotate and attributes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    create(folder, [curation.pair(n) for n in range(60)], [])
    return folder


def votes(source: Path, out: Path, url: str, *more: str) -> list[Judgement]:
    config = JudgeConfig(samples=2, guidance="none", embedder="hash")
    annotate(source, out, [f"m@{u}" for u in (url, *more)], [], config, ASKING)
    found = Table(out / "tables/votes", Judgement).read()
    assert len(read_judgements(out / "judgements.jsonl")) == 60
    return sorted(found, key=lambda v: (v.pair_id, v.by, v.shown))


def plain(rows: list[Judgement]) -> list[tuple[str, str | None, tuple[str, ...], str]]:
    return [(v.pair_id, v.better, v.shown, v.problem) for v in rows]


@pytest.fixture(scope="module")
def voted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Judgement]:
    with OutageServer() as server:
        return votes(source, tmp_path_factory.mktemp("whole"), server.url)


@pytest.mark.parametrize("how", ["503", "401", "html", "drop"])
def test_annotate_asks_only_what_failed(how: str, source: Path, voted: list[Judgement], tmp_path: Path) -> None:
    with OutageServer() as server:
        server.fail(how, after=50)
        with pytest.raises(Unreached, match=r"did not answer 70 of 120 requests"):
            votes(source, tmp_path, server.url)
        assert not Table(tmp_path / "tables/votes", Judgement).read(), "a shard whose judges failed is not done"
        assert len(server.answered) == 50
        server.recover()
        assert plain(votes(source, tmp_path, server.url)) == plain(voted)
        assert once_each(server)
        assert len(server.answered) == 120
        votes(source, tmp_path, server.url)
        assert once_each(server), "a finished command asks nothing"


def test_the_failures_of_one_judge_of_two_hold_back_the_shard(source: Path, tmp_path: Path) -> None:
    with OutageServer() as good, OutageServer() as bad:
        bad.fail("503", after=7)
        with pytest.raises(Unreached) as told:
            votes(source, tmp_path, good.url, bad.url)
        assert bad.url in str(told.value)
        assert good.url not in str(told.value)
        bad.recover()
        assert len(votes(source, tmp_path, good.url, bad.url)) == 240
        assert once_each(good)
        assert once_each(bad)


@pytest.mark.parametrize("how", ["too-long", "filtered"])
def test_one_request_that_is_refused_is_a_counted_problem(how: str, source: Path, tmp_path: Path) -> None:
    """It would be refused for ever; the pair has no verdict, and the others go on."""
    with OutageServer() as server:
        server.refuses["It is 17."] = how
        found = votes(source, tmp_path, server.url)
        failed = [v for v in found if v.problem]
        assert {v.pair_id for v in failed} == {curation.pair(17).id}
        assert all(v.problem.startswith(("http 400", "refused")) and v.better is None for v in failed)
        (merged,) = [j for j in read_judgements(tmp_path / "judgements.jsonl") if j.problem]
        assert merged.pair_id == curation.pair(17).id


def test_a_server_that_refuses_everything_is_a_mistake(source: Path, tmp_path: Path) -> None:
    with OutageServer() as server:
        server.refuses["What is"] = "too-long"
        with pytest.raises(Unreached, match=r"answered none of 120 requests \(http 400: .*maximum context"):
            votes(source, tmp_path, server.url)
        assert not Table(tmp_path / "tables/votes", Judgement).read()


def test_the_last_request_of_a_folder_may_be_the_refused_one(tmp_path: Path) -> None:
    """Nothing else is asked beside it, but the model has answered before."""
    case = [Case(pair=p, attributes=rule_attributes(p)) for p in (curation.pair(1), curation.pair(2))]
    with OutageServer() as server:
        chat = Server(ChatConfig(url=server.url, model="m", tries=1), tmp_path / "replies.sqlite")
        server.refuses["It is 2."] = "too-long"
        with pytest.raises(Unreached):
            llm_votes([chat], case[1:], samples=1)
        assert [v.problem for v in llm_votes([chat], case[:1], samples=1)] == [""]
        (vote,) = llm_votes([chat], case[1:], samples=1)
        assert vote.problem.startswith("http 400")


def test_attributes_wait_for_the_server_that_describes_them(source: Path, tmp_path: Path) -> None:
    with OutageServer() as one, OutageServer() as other:
        servers = [f"m@{one.url}", f"m@{other.url}"]
        one.fail("503", after=10)
        with pytest.raises(Unreached, match="did not answer"):
            describe(source, tmp_path, servers, AttributesConfig(), ASKING)
        assert not Table(tmp_path / "tables/attributes", Attributes).read(), "no rule stood in for an outage"
        one.recover()
        told = describe(source, tmp_path, servers, AttributesConfig(), ASKING)
        assert told is not None
        share = Counter(int(curation.pair(n).id[:8], 16) % 2 for n in range(60))
        hosts = [s.url.split("//")[1].split("/")[0] for s in (one, other)]
        assert told["by"] == {f"llm:m@{hosts[n]}": share[n] for n in (0, 1)}
        assert told["problems"] == {}
        assert once_each(one)
        assert once_each(other)


def test_the_command_line_says_what_to_do(source: Path, tmp_path: Path) -> None:
    line = [
        "annotate",
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--samples",
        "1",
        "--embedder",
        "hash",
        "--tries",
        "1",
    ]
    with OutageServer() as server:
        server.fail("401", after=20)
        code, _, told = assay(*line, "--judge", f"m@{server.url}")
        assert code == 2
        assert "Traceback" not in told
        last = told.splitlines()[-1]
        assert last.startswith(f"error: m at {server.url} did not answer 40 of 60 requests (http 401")
        assert last.endswith("it asks only what failed")
        server.recover()
        code, _, told = assay(*line, "--judge", f"m@{server.url}")
        assert code == 0, told
        assert once_each(server)


# -- the others that ask --------------------------------------------------------------------------------------------


def test_a_run_does_not_describe_its_pool_by_rules_while_the_server_is_away(tmp_path: Path) -> None:
    config = FlowConfig(recipe="x", embedder="hash")
    pool = create(tmp_path / "pool", [curation.pair(n) for n in range(40)], [], parts=2)
    with OutageServer() as server, closing(Run(tmp_path / "run", {})) as run:
        chat = curation.server(tmp_path, server.url)
        server.fail("503", after=30)
        with pytest.raises(Unreached, match=r"did not answer \d+ of \d+ requests"):
            prepared(run, config, pool, Encoder(config), Here(), chat, "m")
        server.recover()
        material = prepared(run, config, pool, Encoder(config), Here(), chat, "m")
        described = [a for part in material.slices for a in records(Attributes, read_shard(part.attributes))]
        assert {a.by for a in described} == {"llm:m"}
        told = [r for name, r in run.results().items() if name.startswith("prepare/described/")]
        assert sum(r["asked"] for r in told) == len(described) == 40
        assert all(r["problems"] == {} for r in told)
        assert once_each(server)


def test_best_of_n_keeps_no_candidate_that_an_outage_took(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("".join(f'{{"question": "What is {n}?"}}\n' for n in range(20)))
    line = (tmp_path / "questions.jsonl", tmp_path / "best.jsonl", 3)

    def scorer(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([float(len(c[-1].content)) for c in conversations])

    with OutageServer() as server:
        answers = chat_answers(curation.server(tmp_path, server.url))
        server.fail("drop", after=50)
        with pytest.raises(Unreached):
            best_of_n(*line, answers, scorer, ImageStore(tmp_path / "images"), say=lambda _: None)
        assert len((tmp_path / "best.jsonl").read_text().splitlines()) == 16, "the part that was whole"
        server.recover()
        told = best_of_n(*line, answers, scorer, ImageStore(tmp_path / "images"), say=lambda _: None)
        assert told.startswith("20 questions")
        assert "0 candidates without a reward" in told
        assert once_each(server)


def test_a_benchmark_is_no_measure_of_an_outage(tmp_path: Path) -> None:
    def duel(n: int) -> Choice:
        prompt = (user(f"What is {n}?"),)
        right, wrong = ((*prompt, assistant(text)) for text in (f"It is {n}.", "No."))
        return Choice(id=str(n), source="x", stratum="", prompt=prompt, best=right, losers=(wrong,))

    items = [duel(n) for n in range(30)]
    with OutageServer() as server:
        server.fail("429", after=40)
        with pytest.raises(Unreached, match="did not answer 20 of 60 requests"):
            PairJudge(curation.server(tmp_path, server.url)).verdicts(items)
        server.recover()
        found = PairJudge(curation.server(tmp_path, server.url)).verdicts(items)
        assert not found.failed
        assert len(found.sums) == 30
        assert once_each(server)


def test_single_failures_let_a_long_command_go_on(tmp_path: Path) -> None:
    """Two of 700 requests never get through today; everything else is asked, and kept."""
    pairs = [curation.pair(n) for n in range(700)]
    with OutageServer() as server:
        server.refuses |= {pairs[3].prompt[0].content: "503", pairs[500].prompt[0].content: "drop"}
        chat = curation.server(tmp_path, server.url)
        with pytest.raises(Unreached, match=r"did not answer 2 of \d+ requests"):
            llm_attributes(chat, pairs)
        assert len(server.answered) == 698
        server.refuses.clear()
        assert len(llm_attributes(chat, pairs)) == 700
        assert once_each(server)
