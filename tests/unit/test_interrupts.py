"""Ctrl-C ends a command once, be it pressed twice, or while Python would ignore it."""

import subprocess
import sys

import pytest

HEARD = """
import signal, sys, time
from assay import __main__ as entry
{before}
interrupts = entry.Interrupts()
interrupts.hear()
press = lambda: signal.raise_signal(signal.SIGINT)
class Deleted:
    def __del__(self):
        press()
        len("the signal is heard here")
try:
    try:
        {do}
        time.sleep(30)
    finally:
        {clear}
        print("cleared")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("before", "do", "clear", "said"),
    [
        ("", "press()", "", ["cleared", "interrupted"]),
        ("", "press()", "press(); press()", ["cleared", "interrupted"]),
        ("", "Deleted()", "Deleted()", ["cleared", "interrupted"]),
        ("entry.AGAIN_S = 0", "press()", "press()", ["interrupted"]),
    ],
    ids=["once", "twice at once", "while an object is deleted", "again, later"],
)
def test_one_ctrl_c(before: str, do: str, clear: str, said: list[str]) -> None:
    code = HEARD.format(before=before, do=do, clear=clear or "pass")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert (done.stdout.split(), done.stderr) == (said, "")
