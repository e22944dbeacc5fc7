"""The one exception that users see."""

from typing import Any

from assay.installing import install_line


class AssayError(Exception):
    """A user's mistake or a broken input: what was wrong, where, and what to do.

    The command line prints its message without a traceback and exits with code 2. Internal invariants use `assert`.
    Not a ValueError: tyro would catch those of a nested config, and print a box of its own.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Its kind with what it holds, for another process: a kind's own `__init__` is not called again."""
        return _again, (type(self), self.args, dict(self.__dict__))


def _again(kind: type[AssayError], args: tuple[Any, ...], held: dict[str, Any]) -> AssayError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(held)
    return error


class Paused(AssayError):
    """No mistake: the work waits for people, and goes on when they have answered. The exit code is 4."""


class Stopped(AssayError):
    """No mistake: the work has come to a limit that the user set, and goes on with a larger one."""


class Refused(AssayError):
    """What was asked for cannot be done as it was asked, and nothing was collected yet: a folder that was begun for it is
    taken away again (`run.nothing_left`)."""


class CannotRead(AssayError):
    """One conversation that a model cannot take as it is: callers that have others leave it out, and count the reason."""


def first_line(error: object) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def missing_extra(package: str, extra: str) -> AssayError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    return AssayError(f"this needs {package}, which is not installed; run: {install_line(extra)}")


class Elsewhere(AssayError):
    """An error of another process of this command, which says it."""
