"""Simulated annotators: each a browser's user over HTTP, with what the clients saw kept in a log."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
from web_check import Given

from assay.web.task import ANSWERS

_FIELD = re.compile(r'name="(csrf|submission|pair_id)" value="([^"]*)"')
_REASON = re.compile(r'<textarea id="reason"[^>]*>([^<]*)</textarea>')


@dataclass
class Log:
    """What the clients saw. `given` are answers acknowledged and not taken back, by submission; times are in seconds."""

    until: float
    """When people stop, in monotonic seconds; later by each time that the server was away."""
    given: dict[str, Given] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=lambda: {"page": [], "answer": [], "other": []})
    counts: Counter[str] = field(default_factory=Counter)
    downs: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """What must not happen: another status than the page has, a draft that is gone, another pair after a reload."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What an annotator reads off a task page; without a submission there is nothing to do."""

    csrf: str
    submission: str
    pair_id: str
    reason: str

    @staticmethod
    def of(html: str) -> Shown:
        fields, reason = dict(_FIELD.findall(html)), _REASON.search(html)
        return Shown(
            fields.get("csrf", ""), fields.get("submission", ""), fields.get("pair_id", ""), reason[1] if reason else ""
        )


class Annotator:
    """One simulated person with a browser: does things in turn, and finishes what it has begun."""

    def __init__(self, url: str, name: str, token: str, log: Log, rng: random.Random, think_s: float) -> None:
        self.name, self.token, self.log, self.rng, self.think_s = name, token, log, rng, think_s
        self.client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False)
        self.mine: list[Given] = []

    async def work(self) -> None:
        """Come within the first tenth of the time, and work until the log says that it is over."""
        await asyncio.sleep(self.rng.uniform(0, 0.1) * (self.log.until - time.monotonic()))
        async with self.client:
            await self.send("other", "/login", {"name": self.name, "secret": self.token}, (303,))
            shown = await self.look()
            while time.monotonic() < self.log.until:
                shown = await self.turn(shown)

    async def turn(self, shown: Shown) -> Shown:
        """Read, do one thing, and look at the page that comes then."""
        await asyncio.sleep(self.rng.expovariate(1 / self.think_s))
        if not shown.submission:
            return await self.look()
        chance = self.rng.random()
        for share, act in (
            (0.15, self.draft), (0.08, self.compare), (0.08, self.reload), (0.03, self.skip), (0.03, self.flag),
            (0.05, self.undo), (0.01, self.python), (1.0, self.answer),
        ):  # fmt: skip
            if chance < share:
                return await act(shown)
            chance -= share
        raise AssertionError

    async def draft(self, shown: Shown) -> Shown:
        text = f"{self.name} thinks {self.rng.random()}"
        form = self.form(shown, do="draft", reason=text)
        await self.send("other", "/task", form, (204,), {"x-assay": "quiet"})
        again = await self.reload(shown)
        if again.reason != text:
            self.log.odd.append(f"{self.name}: a saved draft is gone")
        return again

    async def compare(self, shown: Shown) -> Shown:
        await self.send("other", "/task", self.form(shown, do="opened", tool="protocol"), (204,), {"x-assay": "quiet"})
        await self.send("other", "/task", self.form(shown, do="difference"), (303,))
        return await self.reload(shown)

    async def python(self, shown: Shown) -> Shown:
        await self.send("other", "/task", self.form(shown, do="python", code="print(6 * 7)"), (303,))
        return await self.reload(shown)

    async def reload(self, shown: Shown) -> Shown:
        again = await self.look()
        if again.submission != shown.submission:
            self.log.odd.append(f"{self.name}: another pair after a reload")
        return again

    async def skip(self, shown: Shown) -> Shown:
        await self.send("other", "/task", self.form(shown, do="skip", note="not mine"), (303, 409))
        return await self.look()

    async def flag(self, shown: Shown) -> Shown:
        await self.send("other", "/task", self.form(shown, do="flag", note="odd"), (303,))
        return await self.reload(shown)

    async def undo(self, shown: Shown) -> Shown:
        """Where the answer to an undo got lost, the second one is refused; the page shows whether the first was done."""
        if not self.mine:
            return shown
        done = await self.send("other", "/task", self.form(shown, do="undo"), (303, 409))
        again = await self.look()
        last = self.mine[-1]
        if again.pair_id == last.pair_id and again.submission not in (last.submission, shown.submission):
            del self.log.given[self.mine.pop().submission]
            self.log.counts["undone"] += 1
        elif done.status_code == 303:
            self.log.odd.append(f"{self.name}: an undo gave another pair back")
        return again

    async def answer(self, shown: Shown) -> Shown:
        said = self.rng.choice(list(ANSWERS))
        form = self.form(shown, answer=said, seconds=f"{self.think_s:.1f}")
        sends = 2 if self.rng.random() < 0.1 else 1
        self.log.counts["sent twice at once"] += sends - 1
        for done in await asyncio.gather(*(self.send("answer", "/task", form, (303, 409)) for _ in range(sends))):
            if done.status_code == 303 and shown.submission not in self.log.given:
                given = Given(shown.submission, shown.pair_id, self.name, said)
                self.log.given[given.submission] = given
                self.mine.append(given)
            self.log.counts["refused"] += done.status_code == 409
        return await self.look()

    def form(self, shown: Shown, **more: str) -> dict[str, str]:
        return {"csrf": shown.csrf, "submission": shown.submission, "pair_id": shown.pair_id, "reason": shown.reason,
                "seconds": "", "code": "", "question": "", "note": "", **more}  # fmt: skip

    async def look(self) -> Shown:
        return Shown.of((await self.send("page", "/task", None, (200,))).text)

    async def send(
        self, kind: str, path: str, form: dict[str, str] | None, expected: tuple[int, ...],
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:  # fmt: skip
        """The same request until it is answered, as a person presses reload while the server is away."""
        method = "GET" if form is None else "POST"
        while True:
            start = time.perf_counter()
            try:
                done = await self.client.request(method, path, data=form, headers=headers)
            except httpx.TransportError:
                self.log.counts["errors while down"] += 1
                await asyncio.sleep(self.rng.uniform(0.2, 0.6))
                continue
            self.log.times[kind].append(time.perf_counter() - start)
            if done.status_code == 429:
                self.log.counts["told to wait"] += 1
                await asyncio.sleep(2)
                continue
            if done.status_code not in expected:
                self.log.odd.append(f"{self.name}: {path} {form and (form.get('do') or 'answer')}: {done.status_code}")
            return done
