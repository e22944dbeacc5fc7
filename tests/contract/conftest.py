"""Databases for the verification page: SQLite and a real PostgreSQL, one server for the whole session."""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL server; skips, saying why, where there is none."""
    if reason := postgres.reason_to_skip():
        pytest.skip(reason)
    # Not in pytest's own folder: every pytest that starts closes that one to other users, such as the server's.
    with tempfile.TemporaryDirectory(prefix="assay-postgres-") as folder, postgres.server(Path(folder)) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'web.sqlite'}"
    server = request.getfixturevalue("postgres_url")
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.rsplit("/", 1)[0] + f"/{name}"
