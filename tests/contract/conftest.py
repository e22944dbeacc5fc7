"""For the verification page: SQLite and a real PostgreSQL (one for the whole session), and the page without a server.

What the page needs is imported where it is used: samplers are tested in environments without it (`make test-lowest`).
"""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from assay.reward.scorer import LocalScorer
    from web_site import Site


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL server; skips, saying why, where there is none."""
    import postgres

    if reason := postgres.reason_to_skip():
        pytest.skip(reason)
    # Not in pytest's own folder: every pytest that starts closes that one to other users, such as the server's.
    with tempfile.TemporaryDirectory(prefix="assay-postgres-") as folder, postgres.server(Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    import sqlalchemy as sa

    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'web.sqlite'}"
    server = request.getfixturevalue("postgres_url")
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., "Site"]]:
    """Makes sites of three pairs, with secrets that are hashed cheaply."""
    from argon2 import PasswordHasher

    from assay.web import accounts
    from web_site import Site, case

    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(accounts, "_HASHER", cheap)
    monkeypatch.setattr(accounts, "_NOBODY", cheap.hash("nobody's"))
    made: list[Site] = []

    def make(url: str = "", **options: Any) -> "Site":
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Site(folder, options, url))
        made[-1].store.load([case("one?", "1", "2"), case("two?", "1", "2"), case("three?", "1", "2")])
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., "Site"]) -> "Site":
    return make_site()


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> "LocalScorer":
    """A small reward model."""
    import tiny_models
    from assay.reward.scorer import LocalScorer, load_scorer

    made = load_scorer(tiny_models.reward(tmp_path_factory.mktemp("reward")), 256)
    assert isinstance(made, LocalScorer)
    return made
