"""Run files: what a command writes, it reads; an unknown or wrong setting is refused by its name."""

import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from assay.cli import run_file
from assay.cli.arguments import named
from assay.cli.run_file import COMMANDS, prepared, read, written
from assay.errors import AssayError
from in_process import assay_here

NEEDED = {"pool": "p", "data": Path("d"), "model": "m", "prompts": Path("q"), "pairs": Path("q"), "captions": Path("c"),
          "source": "s", "run": Path("r"), "out": Path("o"), "judge": ("m@http://x/v1",)}  # fmt: skip


def values(command: str) -> dict[str, Any]:
    parameters = inspect.signature(COMMANDS[command]).parameters.values()
    return {p.name: NEEDED[p.name] if p.default is p.empty else p.default for p in parameters if p.name != "run_file"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_what_a_command_writes_it_reads(command: str, tmp_path: Path) -> None:
    call, given = COMMANDS[command], values(command)
    file = tmp_path / "run.toml"
    file.write_text(written(command, call, given))
    assert prepared([*command.split(), "--config", str(file)]) == command.split()
    after = {n: p.default for n, p in inspect.signature(call).parameters.items() if n not in run_file.MOMENTARY}
    assert after == {n: v for n, v in given.items() if n not in run_file.MOMENTARY}
    as_json = tmp_path / "run.json"
    as_json.write_text(json.dumps(tomllib.loads(file.read_text())))
    prepared([*command.split(), f"--config={as_json}"])
    assert {n: inspect.signature(call).parameters[n].default for n in after} == after
    prepared(["--help"])
    assert inspect.signature(call) == call.asked  # type: ignore[attr-defined]


def test_settings_have_a_word_on_what_they_are() -> None:
    text = written("run pool", COMMANDS["run pool"], values("run pool"))
    assert "[stage1]" in text
    assert "seed_gold = 200  # Pairs that people verify before the first iteration\n" in text
    assert 'pool = "p"  # A pool folder made by `assay pool add`, or its URL (s3' in text
    assert 'layers = "None"' in text
    assert "resettle" not in text
    grpo = written("policy grpo", COMMANDS["policy grpo"], values("policy grpo"))
    assert 'PROMPTS = "q"  # Questions as JSON lines' in grpo, "the file, as against the number of prompts of a step"
    assert "\nprompts = 8" in grpo


@pytest.mark.parametrize(("text", "why"), [
    ("[stage1]\niteration = 2", "no setting is called stage1.iteration; did you mean stage1.iterations?"),
    ("seed = 2", "no setting is called seed; did you mean seeds?"),
    ("[train]\nlr = \"fast\"", "lr is not of type float; it is 'fast'"),
    ("[stage1]\niterations = 0", "stage1.iterations must be at least 1, got 0"),
    ("train = 3", "train is a table of settings, [train]"),
    ("judge = 3", "judge is a list; it is 3"),
    ("price = [1.0]", "price is a list of 2; it is [1.0]"),
    ("x = ", "not TOML"),
    ('command = "run tiny"', "is a run file of `assay run tiny`, and this is `assay run pool`"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises((AssayError, TypeError)) as error:
        prepared(["run", "pool", "--config", str(tmp_path / "a.toml")])
    assert why in str(error.value)


def test_flags_win_and_what_they_change_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('seeds = 2\n[stage1]\niterations = 3\nseed-gold = 7\n[train]\nlayers = "None"\n')
    line = ("run", "pool", "p", "--config", "a.toml", "--dry-run", "--stage1.iterations", "4", "--train.layers", "2")
    done = assay_here(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["seeds"], told["stage1"]["iterations"], told["stage1"]["seed_gold"], told["train"]["layers"]) == (
        2,
        4,
        7,
        2,
    )
    assert done.stderr.splitlines() == [
        "a.toml says stage1.iterations: 3 -> 4 (the command line)", "a.toml says train.layers: None -> 2 (the command line)"
    ]  # fmt: skip
    again = assay_here("run", "pool", "p", "--dry-run", cwd=tmp_path)
    assert json.loads(again.stdout)["seeds"] == 1, "a file is of one call"


def test_the_file_that_a_run_keeps_for_itself_is_no_run_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"inputs": {}}')
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(AssayError, match=r"its run file is .*run\.toml"):
        read(tmp_path / "config.json")


def test_a_run_is_resumed_where_it_was_begun_and_where_it_lies_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, moved = tmp_path / "begun", tmp_path / "moved" / "mine"
    begun.mkdir()
    moved.mkdir(parents=True)
    monkeypatch.chdir(begun)
    (moved / "run.toml").write_text(
        written("run pool", COMMANDS["run pool"], {**values("run pool"), "out": Path("runs/a")})
    )
    monkeypatch.chdir(tmp_path)
    assert prepared(["resume", "moved/mine", "--budget", "5"]) == ["run", "pool", "--budget", "5"]
    assert Path.cwd() == begun
    parameters = inspect.signature(COMMANDS["run pool"]).parameters
    assert (parameters["pool"].default, parameters["out"].default) == ("p", moved)
    monkeypatch.chdir(tmp_path)
    begun.rename(tmp_path / "gone")
    with pytest.raises(AssayError, match=r"was begun in .*begun, which is not there"):
        prepared(["resume", "moved/mine"])


FOLDERS = (
    "resume .", "compare . ..", "delete . --yes", "verify .", "web .", "web-user . ann", "show . ab", "report .", "serve .",
    "bench . --data .", "bench compare . ..", "reward export . --out x", "reward push . a/b", "policy report .",
    "judgements agreement .", "judgements export . --to jsonl --out y", "pool near-duplicates . --out z",
)  # fmt: skip


@pytest.mark.parametrize("line", FOLDERS)
def test_a_folder_may_be_named_by_a_dot(line: str, tmp_path: Path) -> None:
    """In an empty folder it is told, by its name, that nothing is there."""
    (tmp_path / "here" / "empty").mkdir(parents=True)
    done = assay_here(*line.split(), cwd=tmp_path / "here" / "empty")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "empty" in done.stderr or "here" in done.stderr
    assert not list((tmp_path / "here" / "empty").iterdir()), "and nothing is made"


def test_a_run_is_resumed_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`assay resume .` is the run's command, and `assay runs .` shows it by its name."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "run.toml").write_text(f'command = "run tiny"\ndirectory = "{tmp_path}"\nout = "runs/mine"\n')
    (run / "config.json").write_text('{"recipe": "tiny"}')
    monkeypatch.chdir(run)
    assert "mine" in assay_here("runs", ".").stdout
    said = prepared(named(["resume", "."]))
    assert said[:2] == ["run", "tiny"]
