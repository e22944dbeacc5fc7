"""The one exception that users see."""


class AssayError(ValueError):
    """A user's mistake or a broken input: what was wrong, where, and what to do.

    The command line prints its message without a traceback and exits with code 2. Internal invariants use `assert`.
    """


def missing_extra(package: str, extra: str) -> AssayError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    return AssayError(f"this needs {package}, which is not installed; run: pip install 'assay[{extra}]'")
