"""The load benchmark's own code, short: annotators over HTTP while the server is killed, on each database."""

from pathlib import Path

import pytest
import web_load

import postgres


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_killed_server_loses_nothing_and_doubles_nothing(database: str) -> None:
    if database == "postgres" and (reason := postgres.reason_to_skip()):
        pytest.skip(reason)
    plan = web_load.Plan(seconds=8, annotators=5, kills=1, seed=0, think_s=0.3)
    with web_load.databases(database) as places:
        ((_, folder, url),) = places
        told = web_load.load(Path(folder), url, plan)
    log = told["log"]
    assert log.odd == []
    assert {k: told[k] for k in ("lost", "double", "beyond", "unasked")} == dict.fromkeys(
        ("lost", "double", "beyond", "unasked"), 0
    )
    assert len(log.downs) == 1
    assert log.counts["errors while down"] > 0
    assert len(log.given) >= 10
