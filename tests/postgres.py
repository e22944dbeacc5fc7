"""A real PostgreSQL server for tests and benchmarks: started in a folder of its own, on loopback, stopped afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs, the newest installed one."""
    found = BINARIES[-1].with_name(name) if BINARIES else None
    return str(found) if found and found.exists() else shutil.which(name)


def reason_to_skip() -> str:
    """Why no server can be started here; empty where one can."""
    if not program("initdb"):
        return "PostgreSQL is not installed (apt install postgresql)"
    if os.geteuid() == 0 and not _user():
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _user() -> str:
    """The user that the server runs as: ourselves, or postgres where we are root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return next((u.pw_name for u in pwd.getpwall() if u.pw_name == "postgres"), "")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a database on a fresh server whose files are in `folder`."""
    user = _user()
    data = folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    as_user = {"user": user} if os.geteuid() == 0 else {}
    if as_user:
        for parent in (folder, *folder.parents):  # the server's user must reach its files
            if (
                parent != Path("/")
                and parent.stat().st_uid == 0
                and parent.is_relative_to("/tmp")
                and parent != Path("/tmp")
            ):
                parent.chmod(parent.stat().st_mode | 0o711)
        shutil.chown(folder, user)
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **as_user}
    subprocess.run(
        [program("initdb") or "", "-D", data, "-U", "assay", "-A", "trust", "-E", "UTF8"], check=True, **quiet
    )  # type: ignore[call-overload]
    options = ["-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen([program("postgres") or "", *options], **quiet)  # type: ignore[call-overload]
    try:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            ready = subprocess.run([program("pg_isready") or "", "-h", "127.0.0.1", "-p", str(port)], **quiet)  # type: ignore[call-overload]
            if ready.returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("PostgreSQL did not start")
        yield f"postgresql://assay@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # at once, whoever is still connected
        process.wait(300)
