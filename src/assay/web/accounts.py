"""Who may log in, and who is logged in: accounts, argon2id secrets, sessions on the server, and a brake on guessing.

An account has one secret: a token made here and shown once, until its owner sets a password of their own. A session
is a random cookie of which the database keeps the SHA-256 alone; logging in always makes a new one, so that a planted cookie
gains nothing.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from assay.web.desk import ROLES, Account, Role
from assay.web.facts import note
from assay.web.schema import Database, accounts, facts, sessions, storable

SESSION_S = 12 * 3600.0
"""A session ends so long after its last request."""
WINDOW_S = 900.0
TRIES_OF_ONE, TRIES_AT_NAME, TRIES_FROM_ADDRESS = 8, 60, 60
"""Failed log-ins within a quarter of an hour: of one address at one name, of all at a name, of an address at all names."""
LEAST = 12
"""Characters of a password."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_AT_ONCE = threading.BoundedSemaphore(4)
"""Each check takes 64 MiB for a moment: a burst of them must not take all memory."""
_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash(secrets.token_urlsafe(16))


class TooMany(Exception):
    """Too many failed log-ins; try again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who a cookie belongs to, and the token that this session's forms must carry."""

    account: Account
    csrf: str


class Accounts:
    """Accounts and sessions in the database. Every change is a line of the audit log."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = database, clock

    def all(self) -> list[Account]:
        with self.database.read() as connection:
            return [_account(r) for r in connection.execute(sa.select(accounts).order_by(accounts.c.name))]

    def invite(self, name: str, role: Role, by: str) -> str:
        """A new account; returns its token. Raises ValueError where the name is taken or not allowed."""
        if not _NAME.fullmatch(name):
            raise ValueError("A name has 1 to 64 letters, digits and . _ - @, and begins with a letter or digit.")
        if role not in ROLES:
            raise ValueError(f"A role is one of {', '.join(ROLES)}.")
        token = secrets.token_urlsafe(24)
        row = {"name": name, "role": role, "active": True, "secret": _hash(token), "seen": 0.0}
        try:
            with self.database.write() as connection:
                connection.execute(accounts.insert().values(**row))
                self._log(connection, "account made", name, by, role)
        except sa.exc.IntegrityError as error:
            raise ValueError(f"There is an account {name} already.") from error
        return token

    def change(self, name: str, by: str, *, role: Role | None = None, active: bool | None = None) -> None:
        """Change a role or switch an account off, which ends its sessions. Raises ValueError for the last active admin."""
        with self.database.write() as connection:
            rows = {r.name: r for r in connection.execute(sa.select(accounts))}
            if name not in rows:
                raise ValueError(f"There is no account {name}.")
            others = [r for r in rows.values() if r.name != name and r.role == "admin" and r.active]
            if rows[name].role == "admin" and not others and (role not in (None, "admin") or active is False):
                raise ValueError("The last active admin can neither be disabled nor get another role.")
            own = accounts.c.name == name
            if role is not None:
                connection.execute(accounts.update().where(own).values(role=role))
                self._log(connection, "role changed", name, by, role)
            if active is not None:
                connection.execute(accounts.update().where(own).values(active=active))
                self._log(connection, "account enabled" if active else "account disabled", name, by)
            connection.execute(sessions.delete().where(sessions.c.name == name))

    def renew(self, name: str, by: str) -> str:
        """A new token in place of the secret; the sessions of the account end. Raises ValueError for an unknown name."""
        token = secrets.token_urlsafe(24)
        self._set_secret(name, token, by, "token renewed")
        return token

    def set_password(self, name: str, old: str, new: str, address: str) -> None:
        """Let people choose their own; all sessions of the account end. Raises ValueError, saying what is wrong, and
        TooMany, for whoever holds a session could guess the password here."""
        if len(new) < LEAST or len(new) > 1_000:
            raise ValueError(f"A password has at least {LEAST} characters.")
        if not self._proves(name, old, address):
            raise ValueError("The old password or token is not right.")
        self._set_secret(name, new, name, "password changed")

    def _set_secret(self, name: str, secret: str, by: str, action: str) -> None:
        hashed = _hash(secret)
        with self.database.write() as connection:
            done = connection.execute(accounts.update().where(accounts.c.name == name).values(secret=hashed))
            if not done.rowcount:
                raise ValueError(f"There is no account {name}.")
            connection.execute(sessions.delete().where(sessions.c.name == name))
            self._log(connection, action, name, by)

    def log_in(self, name: str, secret: str, address: str) -> str | None:
        """A new session's cookie, or None where name and secret do not belong together. Raises TooMany."""
        name = storable(name[:100])
        if not self._proves(name, secret, address):
            return None
        cookie = secrets.token_urlsafe(32)
        now = self.clock()
        row = {"key": _key(cookie), "name": name, "csrf": secrets.token_urlsafe(24), "expires": now + SESSION_S}
        with self.database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.expires < now))
            connection.execute(sessions.insert().values(**row))
            self._log(connection, "logged in", name, name, address)
        return cookie

    def _proves(self, name: str, secret: str, address: str) -> bool:
        """Whether the secret is right; a wrong one is noted before the next one in line is checked, so that guesses in
        parallel are counted as well."""
        with _AT_ONCE:
            if self._failures(name, address):
                raise TooMany
            if self._holds(name, secret):
                return True
            with self.database.write() as connection:
                note(connection, "login-failed", name, address, self.clock(), {})
            return False

    def _holds(self, name: str, secret: str) -> bool:
        """Whether the account is active and has this secret; as slow for a name that does not exist."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(accounts).where(accounts.c.name == name)).one_or_none()
        try:
            right = _HASHER.verify(row.secret if row else _NOBODY, secret[:1_000].encode("utf-8", "replace"))
        except (VerificationError, InvalidHashError):
            return False
        return bool(right and row and row.active)

    def _failures(self, name: str, address: str) -> bool:
        base = (
            sa.select(sa.func.count())
            .select_from(facts)
            .where(facts.c.kind == "login-failed", facts.c.at > self.clock() - WINDOW_S)
        )
        at_name, from_address = facts.c.target == name, facts.c.by == address
        with self.database.read() as connection:
            return any(
                connection.execute(base.where(*which)).scalar_one() >= most
                for which, most in (
                    ((at_name, from_address), TRIES_OF_ONE), ((at_name,), TRIES_AT_NAME),
                    ((from_address,), TRIES_FROM_ADDRESS),
                )
            )  # fmt: skip

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie, kept alive by being used; None where there is none, or its account is disabled."""
        if not cookie:
            return None
        now = self.clock()
        query = sa.select(accounts, sessions.c.csrf, sessions.c.expires).select_from(sessions.join(accounts))
        with self.database.read() as connection:
            row = connection.execute(query.where(sessions.c.key == _key(cookie))).one_or_none()
        if row is None or row.expires < now or not row.active:
            return None
        if row.expires < now + SESSION_S - 60:
            with self.database.write() as connection:
                own = sessions.c.key == _key(cookie)
                connection.execute(sessions.update().where(own).values(expires=now + SESSION_S))
                connection.execute(accounts.update().where(accounts.c.name == row.name).values(seen=now))
        return Session(account=_account(row), csrf=row.csrf)

    def log_out(self, cookie: str, name: str) -> None:
        with self.database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.key == _key(cookie)))
            self._log(connection, "logged out", name, name)

    def _log(self, connection: sa.Connection, action: str, target: str, by: str, detail: str = "") -> None:
        note(connection, "audit", target, by, self.clock(), {"action": action, "detail": detail})


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _account(row: sa.Row[tuple[object, ...]]) -> Account:
    return Account(name=row.name, role=row.role, active=row.active, seen=row.seen)


def _hash(secret: str) -> str:
    with _AT_ONCE:
        return _HASHER.hash(secret.encode("utf-8", "replace"))


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).hexdigest()
