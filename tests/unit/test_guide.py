"""Help that guides: what each command's `--help` shows, by what names, and what it says of other tools' flags."""

import re
from collections.abc import Iterator

import pytest

from assay import cli
from assay.cli import guide
from assay.cli.arguments import App
from in_process import assay_here


def commands(app: App, before: str = "") -> Iterator[str]:
    for name, spec in app._subcommands.items():
        if isinstance(spec.target, App):
            yield from commands(spec.target, f"{before} {name}".strip())
        else:
            yield f"{before} {name}".strip()


NAMES = list(commands(cli.app))


def test_every_command_has_an_example_that_begins_with_it() -> None:
    assert set(guide.EXAMPLES) >= set(NAMES)
    for name, example in guide.EXAMPLES.items():
        written = example.replace("bench runs", "bench run runs").replace("annotate pool", "annotate run pool")
        assert written.startswith(f"{name} ") or written == name
    assert set(guide.FIRST) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_is_short_named_and_has_an_example(name: str) -> None:
    """One call of tyro for each command: all of its help, of which the short one is chosen."""
    text = guide.helped([*name.split(), "--help-all"], cli._command)
    assert text is not None
    flags = re.findall(r"^│ (?:-\w, )?--([\w.-]+)", text, re.MULTILINE)
    box = text.partition("positional arguments")[2].partition("╰")[0]
    assert not re.search(r"^│ .?(STR|PATH)\b", box, re.MULTILINE), "positionals are named"
    if name in guide.FIRST:
        assert set(guide.FIRST[name]) <= set(flags), f"{name} has no such flags: {set(guide.FIRST[name]) - set(flags)}"
    short = guide.page(text, everything=False)
    shown = re.findall(r"^│ (?:-\w, )?--([\w.-]+)", short, re.MULTILINE)
    assert len(shown) <= guide.FEW + 4
    assert (f"assay {name} --help-all" in short) == (len(shown) < len(flags))
    assert f"example: assay {guide.EXAMPLES[name]}" in short
    used = re.findall(r" --([\w.-]+)", guide.EXAMPLES[name])
    assert set(used) <= set(flags), "an example's flags are the command's"
    assert set(re.findall(r"^│ --([\w.-]+).*\(required\)", text, re.MULTILINE)) <= set(shown)


def test_the_list_of_commands_has_one_sentence_each() -> None:
    text = guide.page(assay_here("--help").stdout, everything=False)
    assert "The pairs are dealt out over the servers" not in text
    assert all(f"• {name.split()[0]} " in text for name in NAMES)


def test_what_others_call_a_flag_is_told() -> None:
    done = assay_here("reward", "train", "pool", "--out", "x", "--learning-rate", "1e-3")
    assert done.returncode == 2
    assert "hint: --learning-rate is --lr here" in done.stderr
    done = assay_here("run", "pool", "pool", "--num_train_epochs=3")
    assert "hint: --num-train-epochs is --train.epochs here" in done.stderr
    assert "hint" not in assay_here("report", "x", "--learning-rate", "1").stderr, "there is nothing like it"
