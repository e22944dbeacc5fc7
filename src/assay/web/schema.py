"""The tables of the verification page, on SQLite or PostgreSQL, and the steps that bring an older database up to date.

Facts are appended: pairs, judgements, and `facts` (withdrawals, edits of attributes, panels and tools, flags, skips,
settings, the audit log). Only what coordinates is changed in place: accounts, sessions, and `seats`. A seat is a
person's place at a pair; (pair, seat) is the primary key and seats are numbered below the overlap, so the database
itself keeps a pair from being given to, or judged by, more people than were asked for.

Bodies are JSON in ASCII, for PostgreSQL's text takes neither NUL nor half a surrogate pair, and responses may hold both.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from assay.errors import AssayError, first_line, missing_extra

METADATA = sa.MetaData()
_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")

pairs = sa.Table(
    "pairs", METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),   # the Case
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("place", sa.Float, nullable=False),   # the order of the queue
    sa.Column("words", sa.Integer, nullable=False),
    sa.Column("truth", sa.Text),   # a trap's right response; NULL for other pairs
    sa.Column("open", sa.Boolean, nullable=False),   # still has a free seat: a hint for the queue, the seats decide
    sa.Column("verdicts", sa.Text, nullable=False),   # {response id: [{"text", "right", "by"}]}
    sa.Index("pairs_queue", "open", "place"),
)  # fmt: skip
seats = sa.Table(
    "seats", METADATA,
    sa.Column("pair_id", sa.Text, sa.ForeignKey("pairs.id"), primary_key=True),
    sa.Column("seat", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("submission", sa.Text, nullable=False, unique=True),   # the id that this seat's judgement will have
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("judged", sa.Boolean, nullable=False),
    sa.Column("draft", sa.Text, nullable=False),
    # held for whom reads another pair, and not on their screen yet (`ahead`)
    sa.Column("ahead", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("pair_id", "name"),
    sa.Index("seats_name", "name", "judged"),
)  # fmt: skip
judgements = sa.Table(
    "judgements", METADATA,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),   # the submission
    sa.Column("pair_id", sa.Text, sa.ForeignKey("pairs.id"), nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),   # {"judgement", "strength", "words", "panels", "hint"}
    sa.Index("judgements_pair", "pair_id"),
    sa.Index("judgements_by", "by", "seq"),
)  # fmt: skip
facts = sa.Table(
    "facts", METADATA,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),   # a pair, an account, a setting
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("facts_target", "kind", "target", "by"),
    sa.Index("facts_time", "kind", "at"),
)  # fmt: skip
accounts = sa.Table(
    "accounts", METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),   # argon2id
    sa.Column("seen", sa.Float, nullable=False),
)  # fmt: skip
sessions = sa.Table(
    "sessions", METADATA,
    sa.Column("key", sa.Text, primary_key=True),   # SHA-256 of the cookie
    sa.Column("name", sa.Text, sa.ForeignKey("accounts.name"), nullable=False),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)  # fmt: skip
_migrations = sa.Table(
    "migrations", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True, autoincrement=False)
)


def storable(text: str) -> str:
    """What a text column of both databases can hold: no NUL, no half surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def as_body(value: object) -> str:
    """A body as both databases can hold it."""
    return json.dumps(value, ensure_ascii=True)


def _first(connection: sa.Connection) -> None:
    METADATA.create_all(connection)


def _index_of_sessions(connection: sa.Connection) -> None:
    """Ending all sessions of an account, and the expired ones, without a scan."""
    connection.execute(sa.text("CREATE INDEX IF NOT EXISTS sessions_name ON sessions (name)"))
    connection.execute(sa.text("CREATE INDEX IF NOT EXISTS sessions_expires ON sessions (expires)"))


def _index_of_open_pairs(connection: sa.Connection) -> None:
    """The number of open pairs, which every page shows, without reading the pairs."""
    connection.execute(sa.text("CREATE INDEX IF NOT EXISTS pairs_open ON pairs (open, truth)"))


def _seats_ahead(connection: sa.Connection) -> None:
    """The pair that is held while its holder reads the one before it."""
    if "ahead" not in {column["name"] for column in sa.inspect(connection).get_columns("seats")}:
        connection.execute(sa.text("ALTER TABLE seats ADD COLUMN ahead BOOLEAN DEFAULT false NOT NULL"))


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    _first,
    _index_of_sessions,
    _index_of_open_pairs,
    _seats_ahead,
)
"""In order; a database's version is the number of those that it has had. Never change one that was released: add one."""


class Database:
    """An engine with two ways in: `read`, and `write`, a transaction that other writers wait for.

    SQLite has one writer at a time; PostgreSQL is made to have one too, by an advisory lock, so that both behave the same
    and no two writers can wait for each other. Writes take milliseconds and hold no request to a model or a program.

    `url` is SQLAlchemy's: sqlite:///PATH or postgresql://USER@HOST/NAME. Raises AssayError where it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.sqlite = self.engine.dialect.name == "sqlite"
        try:
            with self.write() as connection:
                self._migrate(connection)
        except sa.exc.OperationalError as error:
            where = self.engine.url.render_as_string(hide_password=True)
            raise AssayError(f"database {where}: {first_line(error.orig)}") from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection, connection.begin():
            if not self.sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7254)"))
            yield connection

    def _migrate(self, connection: sa.Connection) -> None:
        _migrations.create(connection, checkfirst=True)
        done = connection.execute(sa.select(sa.func.count()).select_from(_migrations)).scalar_one()
        if done > len(MIGRATIONS):
            raise AssayError(f"the database has version {done}, this assay knows {len(MIGRATIONS)}: update assay")
        for number in range(done, len(MIGRATIONS)):
            MIGRATIONS[number](connection)
            connection.execute(_migrations.insert().values(number=number + 1))

    def close(self) -> None:
        self.engine.dispose()


def _engine(url: str) -> sa.Engine:
    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.split("://", 1)[1]
    try:
        address = sa.make_url(url)
        dialect = address.get_dialect().name
        if dialect not in ("sqlite", "postgresql"):
            raise AssayError(f"database {dialect}: SQLite and PostgreSQL are supported")
        if dialect == "sqlite" and address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(address, pool_size=20, max_overflow=20, pool_pre_ping=dialect != "sqlite")
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise AssayError("--database: write sqlite:///PATH or postgresql://USER@HOST/NAME") from error
    except OSError as error:
        raise AssayError(f"database {url}: {error}") from error
    except ImportError as error:
        raise missing_extra("psycopg (for PostgreSQL)", "web") from error
    if dialect == "sqlite":
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _: Any) -> None:
    """What was acknowledged is on the disk (FULL), readers do not wait for writers (WAL), writers wait their turn."""
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    """Take the write lock at once: a lock that is upgraded later can fail although it waited."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
