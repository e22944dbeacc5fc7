"""The command line as users meet it: help, mistakes in one line, dry runs and reports without torch, Ctrl-C."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Done, assay_line, environment, run_assay

import assay
from assay import cli
from assay.recipes import presets
from assay.records import Label
from assay.run import jsonable
from assay.tables import Table
from in_process import assay_here

ROW = '{"prompt": "Say hi.", "chosen": "hi", "rejected": "no"}\n'
COMMANDS = (
    "",
    "run",
    "run tiny",
    "run human",
    "run pool",
    "pool",
    "pool add",
    "show",
    "verify",
    "attributes",
    "annotate",
    "annotate run",
    "annotate report",
    "guidance",
    "web",
    "web-user",
    "watch",
    "judgements",
    "judgements export",
    "judgements import",
    "judgements agreement",
    "bench",
    "best-of-n",
    "serve",
    "bench run",
    "bench fetch",
    "bench compare",
    "bench correlate",
    "reward",
    "reward train",
    "reward export",
    "reward push",
    "reward sweep",
    "reward paper",
    "report",
)


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch and transformers cannot be imported."""
    for name in ("torch", "transformers"):
        (tmp_path / "blocked").mkdir(exist_ok=True)
        (tmp_path / "blocked" / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    env = environment()
    return {**env, "PYTHONPATH": f"{tmp_path / 'blocked'}:{env['PYTHONPATH']}"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`assay ARGUMENTS` in this process: a start costs two seconds, and there are a hundred of them below."""
    monkeypatch.delenv("ASSAY_BENCH_DATA", raising=False)
    return assay_here


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(here: Callable[..., Done], command: str) -> None:
    done = here(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: assay {command}".strip() in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_each_command_says_what_it_does() -> None:
    silent = [name for name, spec in commands_of(cli.app) if not (spec.help or spec.target.__doc__)]
    assert not silent
    assert all(spec.help for _, spec in commands_of(cli.app) if isinstance(spec.target, type(cli.app)))


def commands_of(app: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, spec in app._subcommands.items():
        yield f"{before} {name}".strip(), spec
        if isinstance(spec.target, type(app)):
            yield from commands_of(spec.target, f"{before} {name}")


def test_a_mistake_in_a_process_of_its_own_and_a_reader_that_has_enough(tmp_path: Path) -> None:
    assert_mistake(run_assay("report", "nowhere", cwd=tmp_path), "nowhere: not a run folder")
    with subprocess.Popen(
        assay_line("run", "tiny", "--help"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "", "as if piped into `head`"
        assert process.wait(300) == 141


def test_the_version() -> None:
    assert run_assay("--version").stdout == f"assay {assay.__version__}\n"


@pytest.fixture(scope="module")
def bad_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mistakes are made about: an empty file, a broken one, a pool, an empty folder."""
    place = tmp_path_factory.mktemp("mistakes")
    (place / "empty.jsonl").write_text("")
    (place / "strange.jsonl").write_text('{"colour": "red"}\n')
    (place / "rows.jsonl").write_text(ROW)
    (place / "folder").mkdir()
    assert run_assay("pool", "add", "rows.jsonl", "--out", "pool", cwd=place).returncode == 0
    return place


MISTAKES = (
    ("run pool nowhere --out run", "nowhere: no pairs here; make a pool with: assay pool add"),
    ("run pool nowhere --out run --engine rays", "--engine rays: give local, cores, cores:N, ray or ray://HOST:PORT"),
    ("run pool pool --out run --processes -1", "--processes -1: give 1 or more"),
    ("run pool folder --out run", "folder: no pairs here"),
    (
        "run pool pool --out run --judge m@http://localhost:1/v1 --offline-judge",
        "--judge and --offline-judge: choose one",
    ),
    ("run pool pool --out run --judge gpt", "--judge gpt: write MODEL@URL"),
    ("run pool pool --out run --judge gpt@localhost:80", "must start with http:// or https://"),
    ("run human nowhere --out run", "nowhere"),
    ("run tiny --out run --stage2.band 0.9", "stage2.band must lie in [0, 0.5), got 0.9"),
    ("run tiny --out run --stage1.gold-share 1", "stage1.gold_share must lie between 0 and 1"),
    ("run tiny --out run --train.lr 0", "train.lr must be above 0"),
    ("run tiny --out run --seeds 0", "seeds must be at least 1, got 0"),
    ("run tiny --out run --eval-share 1.5 --dry-run", "eval_share must lie between 0 and 1"),
    ("pool add nowhere.jsonl --out new", "nowhere.jsonl: there is no such file or folder"),
    ("pool add rows.jsonl --out new --layout wat", "'wat' is not a layout; use one of chosen-rejected"),
    ("pool add folder --out new", "folder: no data files in this folder"),
    ("pool add pool --out new", "pool: Assay made this (a pool or a run)"),
    ("pool add rows.jsonl --out memory://pool", "memory://pool: what is in memory is gone when this command ends"),
    ("pool add rows.jsonl --out s3://", "s3://: name a bucket or a folder in it"),
    ("run pool pool --out pool", "pool: this is the pool; a run has a folder of its own"),
    ("pool add rows.jsonl --out rows.jsonl", "rows.jsonl"),
    ("pool add rows.jsonl --out .", "no pool, and other things are in it"),
    ("judgements agreement folder", "folder: Is a directory; correct the path"),
    ("pool add empty.jsonl --out new", "no usable pair in empty.jsonl"),
    ("pool add strange.jsonl --out new", "no usable pair in strange.jsonl"),
    ("reward train nowhere --out new", "nowhere: no such folder"),
    ("reward train pool --out new --lr 0", "train.lr must be above 0"),
    (
        "bench model --data folder --only wat",
        "unknown benchmark 'wat'; known: rewardbench, rewardbench-2, ppe-preference",
    ),
    ("bench model", "no benchmark data: give --data DIR or set ASSAY_BENCH_DATA"),
    ("bench model --data nowhere", "nowhere: there is no such file or folder"),
    ("report folder", "folder: not a run folder (no config.json)"),
    ("report nowhere", "nowhere: not a run folder"),
    ("verify folder", "no pairs wait here; start a run first"),
    ("web folder", "no pairs wait here; start a run first"),
    ("show folder abc", "folder: no pairs here"),
    ("web-user nowhere ann", "nowhere: no run here"),
    ("show pool zzz", "no pair's id starts with 'zzz'"),
)


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[c for c, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    here: Callable[..., Done], bad_place: Path, command: str, message: str
) -> None:
    assert_mistake(here(*command.split(), cwd=bad_place), message)
    assert not (bad_place / "run").exists()
    assert not list((bad_place / "folder").iterdir())


def test_a_disk_that_cannot_be_written_on_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Wherever it is met."""

    def full(*_: object, **__: object) -> None:
        with Path("/dev/full").open("w") as file:
            file.write("x")

    monkeypatch.setattr(cli.app, "cli", full)
    monkeypatch.setattr(sys, "argv", ["assay", "run", "tiny"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: a file: No space left on device; what was done before is kept")


@pytest.mark.parametrize("command", ["run", "wat", "run tiny --seeds x", "run tiny --wat 1", "show pool"])
def test_a_command_that_cannot_be_parsed_says_so(here: Callable[..., Done], bad_place: Path, command: str) -> None:
    done = here(*command.split(), cwd=bad_place)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--help" in done.stderr


def test_no_command_is_the_help(here: Callable[..., Done], bad_place: Path) -> None:
    done = here(cwd=bad_place)
    assert done.returncode == 0
    assert "begin with: assay run tiny" in done.stdout


def test_a_dry_run_prints_the_config_and_does_nothing(tmp_path: Path, without_torch: dict[str, str]) -> None:
    options = ("--stage2.band", "0.25", "--train.layers", "None", "--seeds", "3")
    done = run_assay("run", "tiny", "--dry-run", "--out", "run", *options, cwd=tmp_path, env=without_torch)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    expected = jsonable(presets.tiny())
    expected["stage2"]["band"], expected["train"]["layers"], expected["seeds"] = 0.25, None, 3
    assert {k: told[k] for k in expected} == expected
    assert (told["out"], told["people"], told["engine"]) == ("run", "erring", "local")
    assert not (tmp_path / "run").exists()
    (tmp_path / "told.json").write_text(done.stdout)
    again = run_assay("run", "tiny", "--config", "told.json", "--dry-run", cwd=tmp_path, env=without_torch)
    assert json.loads(again.stdout) == told, "what it prints is a run file"


@pytest.mark.parametrize("recipe", ["human", "pool"])
def test_every_recipe_has_a_dry_run(tmp_path: Path, without_torch: dict[str, str], recipe: str) -> None:
    done = run_assay("run", recipe, "nowhere", "--dry-run", cwd=tmp_path, env=without_torch)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == recipe


def test_a_pool_is_made_and_shown_without_torch(tmp_path: Path, without_torch: dict[str, str]) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW + "not json\n")
    done = run_assay("pool", "add", "rows.jsonl", "--out", "pool", cwd=tmp_path, env=without_torch)
    assert done.returncode == 0, done.stderr
    assert "1 pairs, 1 rejected (pool/rejections) -> pool" in done.stdout
    again = run_assay("pool", "add", "rows.jsonl", "--out", "pool", cwd=tmp_path, env=without_torch)
    assert again.returncode == 0, again.stderr
    assert "already in the pool" in again.stdout
    shown = run_assay("show", "pool", "", cwd=tmp_path, env=without_torch)
    assert shown.returncode == 0, shown.stderr
    assert "user: Say hi." in shown.stdout
    assert "wild:rows" in shown.stdout


def test_show_and_report_need_no_torch(finished: Path, without_torch: dict[str, str]) -> None:
    label = next(Table(finished / "seed-0/tables/labels", Label).stream())
    shown = run_assay("show", finished, label.pair_id, env=without_torch)
    assert shown.returncode == 0, shown.stderr
    assert label.reason in shown.stdout
    (finished / "report.html").unlink(missing_ok=True)
    done = run_assay("report", finished, env=without_torch)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == finished / "report.html"
    assert (finished / "report.html").stat().st_size > 10_000


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        assay_line("run", "tiny", "--out", "run"), cwd=tmp_path, env=environment(), text=True, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "stage 1 of 7: preparing the pool" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(300) == 130
    assert said.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert "Traceback" not in said


PRESSED = """
import os, runpy, signal, sys

class Press:
    \"\"\"Ctrl-C while the first module is looked for that is loaded after Assay's own errors.\"\"\"

    def find_spec(self, *_):
        if "assay.errors" in sys.modules:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
runpy.run_module("assay", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_while_modules_load_is_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, "pool", "add", "x"], cwd=tmp_path, env=environment(), text=True, capture_output=True,
        check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr == "interrupted; run the same command again to resume\n"


def assert_mistake(done: Done, message: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
