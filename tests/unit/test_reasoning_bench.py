"""`assay policy bench` without its libraries: questions, environments, servers, resume, budget, what is not here."""

import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import reasoning_sets
from answer_server import AnswerServer, post, words
from assay.bench import table
from assay.bench.reasoning.drivers import Library, library_of
from assay.bench.reasoning.environments import MARK, environment
from assay.bench.reasoning.measure import Measured, Settings, Teller, measure
from assay.bench.reasoning.recorder import Tally
from assay.bench.reasoning.rows import Absent, Answered, Job
from assay.bench.reasoning.serving import ON_CPU, Endpoint, cause, deciding, served
from assay.bench.reasoning.tasks import TASKS
from assay.bench.results import BenchmarkResult, Failed, Skipped
from assay.cli.policy_bench import _end
from assay.errors import AssayError
from assay.llm.budget import BudgetSpent
from assay.locks import alone
from descendants import gone
from in_process import assay


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reasoning_sets.write(tmp_path_factory.mktemp("sets"))


def test_a_window_is_of_the_dated_questions_alone(data: Path, tmp_path: Path) -> None:
    """Others beside them are asked as they are; a window that can be read in two ways, or that nothing has, is refused."""
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        settings = Settings(window="2025-02:")
        found = measure(end, data, tmp_path, settings, tmp_path, say=lambda _: None, library=little)
        assert [r.name for r in found.results if isinstance(r, BenchmarkResult)] == ["aime24"]
        named = Settings(only=("aime24", "livecodebench"), window="2025-02:")
        with pytest.raises(AssayError, match="livecodebench: not here"):
            measure(end, data, tmp_path, named, tmp_path, say=lambda _: None, library=little)
    for wrong in ("2025-2:", "2025-02", "2025:2026:2027", "02/2025:"):
        with pytest.raises(AssayError, match="write FIRST:LAST, ISO dates or their beginnings"):
            Settings(window=wrong)
    with pytest.raises(AssayError, match="one is named twice"):
        Settings(only=("aime24", "aime24"))
    with pytest.raises(AssayError, match="--window is of livecodebench's questions"):
        Settings(only=("aime24",), window="2025-02:")


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_a_temperature_is_a_number_from_0(temperature: float) -> None:
    with pytest.raises(AssayError, match="--temperature must be a number from 0"):
        Settings(temperature=temperature)


def test_an_environment_is_whole_or_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with pytest.raises(
        AssayError, match=r"lib: there is no environment of it in .*; give --install to make it \(2 MB\)"
    ):
        environment("lib", [], tmp_path, False, size="2 MB")
    python = environment("lib", [], tmp_path, True, size="2 MB", say=told.append) if _bare(monkeypatch) else None
    assert python is not None
    assert python.exists()
    assert "2 MB" in told[0]
    assert environment("lib", [], tmp_path, False) == python
    with pytest.raises(AssayError, match="is of other versions; give --install"):
        environment("lib", ["x==1"], tmp_path, False)
    (tmp_path / "lib" / MARK).unlink()
    with pytest.raises(AssayError, match="is half made; give --install"):
        environment("lib", [], tmp_path, False)
    (tmp_path / "lib" / "left").touch()
    assert environment("lib", [], tmp_path, True, say=told.append) == python
    assert not (tmp_path / "lib" / "left").exists(), "made from nothing"


def _bare(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Environments without pip, which takes seconds to unpack; pip is asked for nothing here."""
    from assay.bench.reasoning import environments

    whole = environments.subprocess.run

    def run(line: list[str], **more: Any) -> Any:
        return whole([*line[:3], "--without-pip", *line[3:]] if line[2] == "venv" else ["true"], **more)

    monkeypatch.setattr(environments.subprocess, "run", run)
    return True


def test_pips_failure_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.bench.reasoning import environments

    whole = environments.subprocess.run

    def run(line: list[str], **more: Any) -> Any:
        failing = [sys.executable, "-c", "import sys; print('ERROR: no such version', file=sys.stderr); sys.exit(1)"]
        return whole([*line[:3], "--without-pip", *line[3:]] if line[2] == "venv" else failing, **more)

    monkeypatch.setattr(environments.subprocess, "run", run)
    with pytest.raises(AssayError, match=r"lib: .*pip install.* x==1 failed: ERROR: no such version"):
        environment("lib", ["x==1"], tmp_path, True, say=lambda _: None)
    assert not (tmp_path / "lib").exists()


def boxed(job: Job) -> Iterator[Answered]:
    """A library in few lines: it asks, and reads the last box."""
    task = TASKS[job.benchmark]
    some = task.questions(job.data)[: job.limit]
    for question in some:
        for repeat in range(job.repeats):
            body = {"model": job.model, "messages": [{"role": "user", "content": question.text}],
                    "temperature": job.temperature, "max_tokens": job.max_tokens}  # fmt: skip
            _, told = post(f"{job.url}/chat/completions", body)
            answer = told["choices"][0]["message"]["content"]
            boxes = re.findall(r"\\boxed\{(\w+)\}", answer)
            yield Answered(
                benchmark=job.benchmark, question=question.id, repeat=repeat, answer=answer, reply=told["id"],
                score=float(boxes[-1:] == [question.expected]), extracted=(boxes or [""])[-1], expected=question.expected,
                text=question.text,
            )  # fmt: skip


def little(name: str, *_: object) -> Library:
    if name != "aime24":
        raise Absent(f"{name}: not here")
    return Library(driver=boxed, name="little 1.0")


def run(server: AnswerServer, data: Path, out: Path, **more: Any) -> Any:
    end = Endpoint(url=server.url, model="m", identity="m", by="a test")
    settings = Settings(only=("aime24",), repeats=3, **more)
    return measure(end, data, out, settings, out, say=lambda _: None, library=little)[:2]


def test_a_run_from_a_server_to_a_number(data: Path, tmp_path: Path) -> None:
    """All right is 100, all wrong 0; the same command asks nothing again, and more repeats only what is new."""
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        (found,), short = run(server, data, tmp_path / "out")
        assert (found.headline.value, short) == (100.0, [])
        assert server.asked.total() == 9
        again, _ = run(server, data, tmp_path / "out")
        assert again == [found]
        assert server.asked.total() == 9
        rows = [json.loads(line) for line in (tmp_path / "out" / "answers" / "aime24.jsonl").read_text().splitlines()]
        assert [(r["question"], r["repeat"]) for r in rows] == [(str(q), k) for q in range(3) for k in range(3)]
        told = json.loads((tmp_path / "out" / "cards.json").read_text())["aime24"]
        assert told["library"] == "little 1.0"
        assert told["temperature"] == 0.6


def test_libraries_work_in_folders_of_their_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run elsewhere than the command: a relative OUT, as the default is, or DATA or environment is none to them."""
    jobs = list[Job]()

    def noted(job: Job) -> Iterator[Answered]:
        jobs.append(job)
        return boxed(job)

    (tmp_path / "data").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        measure(
            end, Path("data"), Path("out"), Settings(only=("aime24",)), Path("made"), say=lambda _: None,
            library=lambda *_: Library(driver=noted, name="little 1.0"),
        )  # fmt: skip
    assert [(j.data, j.work) for j in jobs] == [(tmp_path / "data", tmp_path / "out" / "work" / "aime24")]
    assert _bare(monkeypatch)
    assert environment("lib", [], Path("made"), True, say=lambda _: None).is_relative_to(tmp_path / "made")


def crossed(name: str, *_: object) -> Library:
    """aime24 as above; ifeval's library ends without a word, and mathvision's gives no row a score."""

    def broken(job: Job) -> Iterator[Answered]:
        raise AssayError("ifeval: its library ended with 1: no space left")
        yield

    def silent(job: Job) -> Iterator[Answered]:
        yield Answered(benchmark=name, question="1", repeat=0, answer="", score=None, fault="it excludes all")

    driver = {"aime24": boxed, "ifeval": broken, "mathvision": silent}[name]
    return Library(driver=driver, name="little 1.0")


def test_one_without_a_score_takes_nothing_from_the_others(data: Path, tmp_path: Path) -> None:
    """Failed ones are lines with their reasons, before and after one that has its number; alone they are the error."""
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        settings = Settings(only=("ifeval", "aime24", "mathvision"))
        found = measure(end, data, tmp_path, settings, tmp_path, say=lambda _: None, library=crossed)
        assert [type(r).__name__ for r in found.results] == ["Failed", "BenchmarkResult", "Failed"]
        assert [str(r) for r in found.failed] == [
            "ifeval: failed: its library ended with 1: no space left",
            "mathvision: failed: none of 1 answers has a score (it excludes all); see to that, then run it again",
        ]
        assert [row[:3] for row in table.rows(found.results)] == [
            ("ifeval", "failed", "0"), ("aime24", "pass@1, mean of 1", "3"), ("mathvision", "failed", "0")
        ]  # fmt: skip
        assert list(json.loads((tmp_path / "cards.json").read_text())) == ["aime24"]
        with pytest.raises(AssayError, match=r"^ifeval: its library ended with 1: no space left$"):
            measure(end, data, tmp_path, Settings(only=("ifeval",)), tmp_path, say=lambda _: None, library=crossed)


def test_named_ones_are_looked_at_before_anything_is_asked(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data" / "ifeval"
    broken.mkdir(parents=True)
    (broken / "input_data.jsonl").write_text('{"key": 1}')
    (tmp_path / "data" / "aime24.jsonl").write_text((data / "aime24" / "test.jsonl").read_text())
    with AnswerServer(lambda body: "no") as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        with pytest.raises(AssayError, match=r"input_data.jsonl, row 1, field 'prompt'"):
            measure(
                end, tmp_path / "data", tmp_path / "out", Settings(only=("aime24", "ifeval")), tmp_path, library=crossed
            )
        assert server.asked.total() == 0


@pytest.mark.parametrize(
    ("failed", "short", "undone", "error", "message"),
    [
        (True, ["aime24"], [], AssayError, r"mmmu has no number \(why\)\. What the others came to is kept"),
        (False, [], ["aime24: judge j is gone"], AssayError, "judge j is gone"),
        (
            False,
            [],
            ["aime24: 3 answers could not be had (http 503)"],
            AssayError,
            r"503\)\. What .* asks only what failed",
        ),
        (False, ["aime24"], [], BudgetSpent, "the budget of tokens ended in aime24"),
    ],
)
def test_how_a_run_ends(
    failed: bool, short: list[str], undone: list[str], error: type[AssayError], message: str
) -> None:  # fmt: skip
    told = Measured([Failed(name="mmmu", reason="why")] if failed else [], short, undone)
    with pytest.raises(AssayError, match=message) as found:
        _end(told)
    assert type(found.value) is error


def test_a_judge_that_is_gone_takes_nothing_from_the_rule(data: Path, tmp_path: Path) -> None:
    class Gone:
        name = "gone"

        def complete(self, requests: Any) -> Any:
            raise AssayError("gone: no answer")

    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        found = measure(
            end,
            data,
            tmp_path,
            Settings(only=("aime24",)),
            tmp_path,
            judges=[Gone()],
            say=lambda _: None,
            library=little,
        )
        (result,) = found.results
        assert isinstance(result, BenchmarkResult)
        assert (result.headline and result.headline.value) == 100.0
        assert result.diagnostics == ()
        assert "no numbers of judge gone: gone: no answer" in result.notes
        assert found.undone == ["aime24: judge gone: gone: no answer"]
        assert "the rule alone, for no judge answered" in result.protocol


def test_a_full_disk_is_told_whatever_the_library_died_of(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A library writes to the same disk, and ends with a line that says nothing."""
    from assay.bench.reasoning.recorder import Recorder

    def dies(job: Job) -> Iterator[Answered]:
        yield from boxed(job)
        raise AssayError("aime24: its library ended with 1: File")

    monkeypatch.setattr(Recorder, "broken", property(lambda _: "asked.sqlite: full", lambda *_: None), raising=False)
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        with pytest.raises(AssayError, match=r"^aime24: asked\.sqlite: full: make room there"):
            measure(
                end, data, tmp_path, Settings(only=("aime24",)), tmp_path, say=lambda _: None,
                library=lambda *_: Library(driver=dies, name="little 1.0"),
            )  # fmt: skip


def test_what_a_run_writes_is_never_read_as_data(data: Path) -> None:
    with (
        AnswerServer(lambda body: "no") as server,
        pytest.raises(AssayError, match=r"--out .* lies within --data .*choose another"),
    ):
        run(server, data, data / "out")


def test_a_dead_server_is_an_error_and_no_zero(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.bench.reasoning import upstream

    monkeypatch.setattr(upstream, "TRIES", 1)
    with (
        AnswerServer(lambda body: 503) as server,
        pytest.raises(AssayError, match=r"aime24: none of 9 answers has a score \(http 503: told so\)"),
    ):
        run(server, data, tmp_path)


def test_a_wrong_key_ends_the_command_at_once(data: Path, tmp_path: Path) -> None:
    """One request and one line, not ten benchmarks of faults; what has a number keeps it."""
    server = AnswerServer(lambda body: (401, "Incorrect API key provided"))
    end = Endpoint(url=server.url, model="m", identity="m", by="a test")
    three = Settings(only=("aime24", "ifeval", "mathvision"), at_once=1)
    try:
        with pytest.raises(
            AssayError, match=r"^m at http.*/v1 takes no request: http 401: Incorrect .*\$OPENAI_API_KEY"
        ):
            measure(end, data, tmp_path, three, tmp_path, say=lambda _: None, library=crossed)
        assert server.asked.total() == 1
        server.answer = lambda body: reasoning_sets.reply(words(body))
        run(server, data, tmp_path)
    finally:
        server.stop()


def test_what_a_server_does_otherwise_is_on_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A number with a temperature or a limit of the server's own is told so; lost answers end the command with their
    reason."""
    from assay.bench.reasoning import upstream

    monkeypatch.setattr(upstream, "TRIES", 1)

    def own(body: dict[str, Any]) -> str | int | tuple[int, str]:
        if "temperature" in body:
            return 400, "temperature is not supported"
        return 503 if "ten squared" in words(body) else reasoning_sets.reply(words(body))

    server = AnswerServer(own, "length")
    end = Endpoint(url=server.url, model="m", identity="m", by="a test")
    try:
        found = measure(
            end, data, tmp_path, Settings(only=("aime24",)), tmp_path, say=lambda _: None, library=little
        )  # fmt: skip
        (result,) = found.results
        assert isinstance(result, BenchmarkResult)
        assert "; the model's own temperature, at most 4,096 tokens" in result.protocol
        assert "; the server cuts before 4,096 tokens, by a limit of its own" in result.protocol
        cut = "2 of 3 answers were cut at 4,096 tokens, or at a limit of the server, and scored as they stand"
        assert cut in result.notes
        assert json.loads((tmp_path / "cards.json").read_text())["aime24"]["temperature"] is None
        assert found.undone == ["aime24: 1 answer could not be had (http 503: told so)"]
    finally:
        server.stop()


def test_a_wrong_reasoning_parser_makes_no_model_0(data: Path, tmp_path: Path) -> None:
    """Everything stands in the field for thoughts, and every answer ended by itself: that is no number of the model."""
    server = AnswerServer(lambda body: {"content": None, "reasoning": reasoning_sets.reply(words(body))})
    try:
        with pytest.raises(
            AssayError, match=r"all 9 answers that ended by themselves .* the model's own reasoning parser"
        ):
            run(server, data, tmp_path)
        server.answer = lambda body: (
            {"content": None, "reasoning": "on and on"} if "ten" in words(body) else reasoning_sets.reply(words(body))
        )
        (found,), _ = run(server, data, tmp_path / "some")
        assert found.headline.value == pytest.approx(200 / 3)
        assert any(note.startswith("answers that ended by themselves came whole") for note in found.notes)
    finally:
        server.stop()


def test_half_finished_is_coverage(data: Path, tmp_path: Path) -> None:
    with AnswerServer(
        lambda body: 400 if "ten squared" in words(body) else reasoning_sets.reply(words(body))
    ) as server:
        (found,), _ = run(server, data, tmp_path)
        assert (found.headline.value, found.n, found.failed) == (100.0, 2, 1)
        assert "coverage 66.7%: 6 of 9 answers have a score" in found.notes
        assert "without a score, 3 times: http 400: told so" in found.notes


def test_a_spent_budget_is_told_and_more_goes_on(data: Path, tmp_path: Path) -> None:
    with AnswerServer(lambda body: reasoning_sets.reply(words(body))) as server:
        (found,), short = run(server, data, tmp_path, budget=170, max_tokens=64)
        assert short == ["aime24"]
        asked = server.asked.total()
        assert 0 < asked < 9
        assert isinstance(found, BenchmarkResult)
        assert not found.whole
        (found,), short = run(server, data, tmp_path, budget=100_000, max_tokens=64)
        assert (short, server.asked.total(), found.whole) == ([], 9, False)
        assert found.failed == 0


def test_what_cannot_run_here_is_a_line(data: Path, tmp_path: Path) -> None:
    with AnswerServer(lambda body: "no") as server:
        end = Endpoint(url=server.url, model="m", identity="m", by="a test")
        found, *_ = measure(end, data, tmp_path, Settings(), tmp_path, say=lambda _: None, library=little)
        assert [r.name for r in found] == [*("aime24", "livecodebench", "livebench", "ifeval", "bfcl", "mmmu", "mathvista"),
                                           *("olympiadbench", "mathvision", "mmmu-pro")]  # fmt: skip
        assert str(found[1]) == "livecodebench: skipped: not here"
        assert all(isinstance(r, Skipped) for r in found[1:])
        with pytest.raises(AssayError, match="ifeval: not here"):
            measure(end, data, tmp_path, replace(Settings(), only=("ifeval",)), tmp_path, library=little)


def test_a_missing_library_is_one_line_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(
        AssayError, match=r"^evalscope: there is no environment .*give --install to make it \(1.2 GB, 114"
    ):
        library_of("aime24", tmp_path, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: neither a folder, nor a hub id (OWNER/NAME), nor NAME@URL"),
        (("m@http://127.0.0.1:9/v1", "--only", "gsm8k"), "no benchmark is called gsm8k"),
        (("m@http://127.0.0.1:9/v1", "--data", "gone"), "--data gone: no such folder"),
        (("m@http://127.0.0.1:9/v1", "--judge", "o4"), "--judge o4: write MODEL@URL"),
        (("m@http://127.0.0.1:9/v1", "--only", "aime24", "--environments", "."), "give --install to make it"),
    ],
)
def test_a_users_mistake_is_a_line(arguments: tuple[str, ...], message: str, data: Path, tmp_path: Path) -> None:
    more = () if "--data" in arguments else ("--data", data)
    code, _, err = assay("policy", "bench", *arguments, *more, cwd=tmp_path)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"config\.json is missing"), served(str(tmp_path), tmp_path / "log"):
        pass


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    words_ = "the model's server did not come up: .*log"
    with pytest.raises(AssayError, match=words_), served(
        str(tmp_path), tmp_path / "log", vllm_python=Path("/bin/false"), by="vllm", say=lambda _: None
    ):  # fmt: skip
        pass


def test_nothing_of_a_server_outlives_it(tmp_path: Path) -> None:
    """vLLM's engines are processes of their own, which end of themselves only where their server has the time to say so."""
    (tmp_path / "config.json").write_text("{}")
    engine = tmp_path / "engine"
    stub = tmp_path / "python"
    stub.write_text(
        f"#!/bin/sh\n[ $1 = -c ] && exit\nsh -c 'echo $$ > {engine}; exec sleep 3600' &\n"
        f"while [ ! -s {engine} ]; do sleep 0.05; done\n"
    )
    stub.chmod(0o755)
    with pytest.raises(AssayError, match="did not come up"), served(
        str(tmp_path), tmp_path / "log", vllm_python=stub, by="vllm", say=lambda _: None
    ):  # fmt: skip
        pass
    assert gone({int(engine.read_text())}, 300), "the engine is still there"


def test_how_far_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of one whose number of answers is not known beforehand."""
    for asked in (4, 0):
        teller = Teller("bfcl", asked, every_s=0.0)
        teller(Tally(answered=1))
        teller(Tally(answered=2, cut=1, tokens_out=1_200))
    first, known, _, unknown = capsys.readouterr().err.splitlines()
    assert first == "bfcl: 1 of 4 answers, 0 cut, 0 failed, 0 tokens", "how long the library took to begin says nothing"
    assert known.startswith("bfcl: 2 of 4 answers, 1 cut, 0 failed, 1,200 tokens, left ")
    assert unknown == "bfcl: 2 answers, 1 cut, 0 failed, 1,200 tokens"


def test_a_servers_first_error_is_what_is_told() -> None:
    """vLLM's last line says that an earlier one ended it."""
    log = (
        "INFO started\n(Worker pid=1) ERROR [executor.py:9] ValueError: Available memory 18/23 GiB is less than desired\n"
        "Traceback (most recent call last):\nRuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert cause(log) == "ValueError: Available memory 18/23 GiB is less than desired"
    warned = "WARNING 11-30 [utils.py:1] this can cause `OSError: [Errno 24] Too many open files`. Consider ulimit -n\n"
    assert cause(f"{warned}{log}") == cause(log), "what might happen is not what did"
    assert cause("a\n  killed  \n\n") == "killed"
    assert cause("") == "no word"


DIES = """#!{python}
import http.server, os, sys

class Once(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"data": [1]}}')

if sys.argv[1] != "-c":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Once).handle_request()
    print("process", os.getpid(), flush=True)
    sys.exit("RuntimeError: Generator does not use offset")
"""


def has_ended(log: Path) -> bool:
    """Whether the process that said its number in a log has ended (and waits for whoever started it)."""
    found = re.search(r"process (\d+)", log.read_text())
    if found is None:
        return False
    try:
        return Path(f"/proc/{found[1]}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_server_that_ends_in_the_middle_says_why(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "python").write_text(DIES.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    said: list[str] = []
    with served(str(tmp_path / "model"), tmp_path / "log", "vllm", tmp_path / "python", say=said.append):
        while not has_ended(tmp_path / "log"):
            time.sleep(0.05)
    assert said[1:] == [
        f"model: its server ended by itself: RuntimeError: Generator does not use offset ({tmp_path / 'log'})"
    ]


def test_options_of_a_server_reach_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" usage $VLLM_NO_USAGE_STATS\n')
    python.chmod(0o755)
    code, _, err = assay(
        "policy", "bench", tmp_path / "model", "--data", data, "--served-by", "vllm", "--vllm-python", python,
        "--server-options=--max-model-len 8192 --enforce-eager", cwd=tmp_path,
    )  # fmt: skip
    assert code == 2
    assert "--generation-config vllm --max-model-len 8192 --enforce-eager usage 1" in err
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && echo True || echo "$@"\n')
    code, _, err = assay(
        "policy", "bench", tmp_path / "model", "--data", data, "--served-by", "vllm", "--vllm-python", python,
        "--server-options=--gpu-memory-utilization 0.3", cwd=tmp_path,
    )  # fmt: skip
    assert code == 2
    assert f"vllm {' '.join(ON_CPU)} --gpu-memory-utilization 0.3" in err, "the user's comes last, and counts"


def test_answers_under_other_options_of_a_server_are_others() -> None:
    given = [
        "--max-model-len",
        "8192",
        "--dtype",
        "float32",
        "--gpu-memory-utilization=0.5",
        "--enforce-eager",
        "--rows",
        "2",
    ]
    assert deciding([*given, "--chat-template", "x.jinja"]) == ["--dtype", "float32", "--chat-template", "x.jinja"]


def test_a_judge_that_is_not_there_is_told_before_anything_is_asked(data: Path, tmp_path: Path) -> None:
    with AnswerServer(lambda body: 401) as server:
        code, _, err = assay(
            "policy", "bench", f"m@{server.url}", "--data", data, "--out", tmp_path / "out", "--only", "aime24",
            "--environments", tmp_path, "--judge", f"j@{server.url}",
        )  # fmt: skip
    assert code == 2
    assert "answers nothing (http 401: told so): see to the server" in err
    assert [b["model"] for b in server.bodies] == ["j"]


def test_two_runs_into_one_folder_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The second would empty the first one's working folders."""
    monkeypatch.setattr("assay.locks.WAIT_S", 0.0)
    with alone(tmp_path / "out"):
        code, _, err = assay(
            "policy", "bench", "m@http://127.0.0.1:9/v1", "--data", data, "--out", tmp_path / "out", "--only", "aime24",
            "--environments", tmp_path,
        )  # fmt: skip
    assert code == 2
    assert "another process is working in it" in err
