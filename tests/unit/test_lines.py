"""Blocks of bytes as lines: none is lost, cut or joined wherever the blocks end, and what is too long is left out."""

from collections.abc import Iterator
from random import Random

import pytest

from assay.formats import lines
from assay.formats.lines import Broken, Lines


def cut(random: Random, data: bytes, broken: bool = False) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + random.choice((1, 2, 7, 50))
        yield data[at:end]
        at = end
    if broken:
        raise Broken("cut off")


@pytest.mark.parametrize("held", [1, 9, 60, 1 << 22])
def test_lines_are_those_of_the_whole_text(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "HELD", held)
    random = Random(held)
    for _ in range(300):
        data = b"".join(random.choice((b"a", b"bc", b"\n", b"\n", b"\r\n", b"\r", b"x" * 30)) for _ in range(20))
        wanted = [line.rstrip(b"\r") for line in data.removesuffix(b"\n").split(b"\n")] if data else []
        assert [*lines.lines(cut(random, data))] == wanted
        parts = [p for p in lines.whole(cut(random, data)) if p is not None]
        number, seen = 1, []
        for part in parts:
            some = Lines.of(part, number)
            seen += [some[n] for n in range(len(some))]
            number += len(some)
            with pytest.raises(IndexError):
                some[len(some)]
        assert seen == wanted
        found: list[bytes | None] = []
        with pytest.raises(Broken):
            found.extend(lines.lines(cut(random, data, broken=True)))
        assert found == wanted


@pytest.mark.parametrize("held", [1, 60, 1 << 22])
def test_a_line_that_is_too_long_is_left_out_and_told(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "HELD", held)
    monkeypatch.setattr(lines, "MAX_ROW", 100)
    random = Random(held)
    for _ in range(200):
        rows = [b"a" * random.choice((0, 1, 40, 400)) for _ in range(6)]
        found = [*lines.lines(cut(random, b"\n".join(rows) + b"\n"))]
        assert found == [None if len(r) > 150 else r for r in rows]
