"""People of a real run answer on the page: what waits appears there, and the run takes their answers up and goes on."""

import asyncio
import re
from pathlib import Path

import httpx
from browser import start
from small_job import small_pool
from test_pool_recipe import SMALL, import_pool
from web_people import Shown

from assay.curate.annotate import shown_order
from assay.curate.verify import read_judgements
from assay.pipeline.people_on_file import read_queue
from in_process import assay_here
from ports import free_port


async def answer_all(url: str, name: str, token: str, truth: dict[str, str], sides: dict[str, tuple[str, str]]) -> int:
    """Log in and choose the right response of every pair that the page gives."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
        assert (await client.post("/login", data={"name": name, "secret": token})).status_code == 303
        count = 0
        while (shown := Shown.of((await client.get("/task")).text)).submission:
            side = sides[shown.pair_id].index(truth[shown.pair_id]) + 1
            form = {"csrf": shown.csrf, "submission": shown.submission, "pair_id": shown.pair_id, "answer": str(side)}
            assert (await client.post("/task", data=form)).status_code == 303
            count += 1
        return count


def waiting(stderr: str) -> int:
    found = re.search(r"(\d+) of \d+ answers missing", stderr)
    assert found, stderr
    return int(found[1])


def test_a_run_goes_on_with_what_people_said_on_the_page(place: Path) -> None:
    pool = import_pool(place)
    run = pool.parent / "run"
    command = ("run", "pool", "pool", "--out", "run", *SMALL)
    first = assay_here(*command, cwd=pool.parent)
    assert first.returncode == 4
    asked = {case.pair.id: case.pair for case in read_queue(run / "queue")}
    assert waiting(first.stderr) == len(asked) == 16 + 6

    process = start(run, port := free_port())
    token = assay_here("web-user", run, "ada").stdout.split()[-1]
    truth = small_pool(prompts=60, per_prompt=1).truth
    sides = {i: shown_order(pair, "web", "ada") for i, pair in asked.items()}
    assert asyncio.run(answer_all(f"http://127.0.0.1:{port}", "ada", token, truth, sides)) == 22
    process.terminate()
    assert process.wait(300) == 0

    said = read_judgements(run / "judgements.jsonl")
    assert {j.pair_id: (j.by, j.kind, j.better, j.shown) for j in said} == {
        i: ("ada", "human", truth[i], sides[i]) for i in asked
    }
    again = assay_here(*command, cwd=pool.parent)
    assert again.returncode == 4
    new = {case.pair.id for case in read_queue(run / "queue")} - asked.keys()
    assert waiting(again.stderr) == len(new) > 0  # it went on: gold, a reward model, and new pairs for people
