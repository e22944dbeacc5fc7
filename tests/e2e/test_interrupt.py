"""Ctrl-C in `assay verify`: it ends at once, with what was answered kept."""

import os
import pty
import select
import sys
import time
from pathlib import Path

from assay.curate.rules import rule_attributes
from assay.pipeline.pools import constraint_pool
from assay.records import Case
from assay.tables import Table


def test_ctrl_c_ends_a_wait_for_an_answer(tmp_path: Path) -> None:
    pairs = list(constraint_pool().pairs.values())[:2]
    Table(tmp_path / "queue", Case).write("asked", [Case(pair=p, attributes=rule_attributes(p)) for p in pairs])
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "assay", "verify", str(tmp_path), "--annotator", "ann"])
    read, pressed, ends = b"", False, time.monotonic() + 600
    while time.monotonic() < ends:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            read += os.read(terminal, 65_536)
        except OSError:  # the other side is closed: the process has ended
            break
        if not pressed and b"q(uit) > " in read:
            while (
                Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "S" and time.monotonic() < ends
            ):
                time.sleep(0.05)  # the question is there before the process waits for its answer
            os.write(terminal, b"\x03")
            pressed = True
    else:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    assert pressed, read.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 0, read.decode(errors="replace")
    assert b"0 judged" in read
    assert b"2 of 2 answers missing" in read
    assert b"Traceback" not in read
