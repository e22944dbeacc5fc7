"""Cores: workers die and are replaced, errors come home as themselves, and nothing is left running."""

import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from assay.engine import Cores, Here, Replicas, engine_of, make
from assay.errors import AssayError, CannotRead
from assay.llm.outage import Loss, Unreached
from assay.store import Place
from assay.turns import TRIES
from assay.workers import Beside
from descendants import runs

LOSS = Loss(model="judge", asked=3, problems=("http 503: busy",) * 3, silent=True)


def once(item: tuple[str, str, int]) -> tuple[int, int]:
    """Die at the first attempt at one item. Attempts are counted in a folder."""
    folder, fatal, n = item
    attempts = Path(folder) / str(n)
    with attempts.open("a") as file:
        file.write("x")
    if str(n) == fatal and attempts.stat().st_size == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return n, os.getpid()


def test_a_dead_workers_item_and_no_other_is_begun_again(tmp_path: Path) -> None:
    engine = Cores(2)
    results = list(engine.map(once, [(str(tmp_path), "5", n) for n in range(20)]))
    engine.close()
    assert [n for n, _ in results] == list(range(20)), "in order"
    assert os.getpid() not in {pid for _, pid in results}
    assert {f.name: f.stat().st_size for f in tmp_path.iterdir()} == {str(n): 1 + (n == 5) for n in range(20)}


def die(item: tuple[str, int]) -> int:
    folder, n = item
    if n == 3:
        with (Path(folder) / "3").open("a") as file:
            file.write("x")
        os._exit(9)
    return n


def test_an_item_that_kills_every_worker_ends_the_run_and_is_named(tmp_path: Path) -> None:
    engine = Cores(2)
    with pytest.raises(AssayError, match=rf", 3\).* lost {TRIES} times \(exit code 9\).*--engine cores:N"):
        list(engine.map(die, [(str(tmp_path), n) for n in range(8)]))
    assert (tmp_path / "3").stat().st_size == TRIES
    assert list(engine.map(die, [(str(tmp_path), n) for n in range(3)])) == [0, 1, 2], "the engine can be used again"
    engine.close()


def slow_first(item: tuple[str, int]) -> int:
    """The first of all is as slow as half a hundred others."""
    folder, n = item
    (Path(folder) / str(n)).touch()
    while n == 0 and len(list(Path(folder).iterdir())) <= 50:
        time.sleep(0.01)
    return n


def test_a_slow_item_does_not_hold_up_the_others(tmp_path: Path) -> None:
    engine = Cores(2)
    assert list(engine.map(slow_first, [(str(tmp_path), n) for n in range(100)])) == list(range(100))
    engine.close()


ERRORS = {"assay": AssayError("no such thing"), "one": CannotRead("too long"), "server": Unreached([LOSS])}


def fail(kind: str) -> None:
    if kind == "own":
        raise OSError(28, "No space left on device")
    if kind == "unpicklable":
        raise Held
    raise ERRORS[kind]


class Held(Exception):
    def __init__(self) -> None:
        super().__init__("held")
        self.lock = open(os.devnull)  # noqa: SIM115, PTH123 - a thing that cannot be pickled


def test_errors_come_home_as_themselves() -> None:
    engine = Cores(1)
    for kind, error in ERRORS.items():
        with pytest.raises(type(error)) as caught:
            list(engine.map(fail, [kind]))
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert not hasattr(caught.value, "__notes__"), "a user's mistake has no traceback"
    with pytest.raises(Unreached) as unreached:
        list(engine.map(fail, ["server"]))
    assert unreached.value.losses == (LOSS,)
    assert unreached.value.silent
    with pytest.raises(OSError, match="No space left") as own:
        list(engine.map(fail, ["own"]))
    assert "in fail" in own.value.__notes__[0], "others say where they came from"
    with pytest.raises(RuntimeError, match="Held: held"):
        list(engine.map(fail, ["unpicklable"]))
    engine.close()


def test_every_assay_error_survives_pickling() -> None:
    for error in ERRORS.values():
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


def numbers(n: int) -> pa.Table:
    if n < 0:
        raise CannotRead(f"shard {n}")
    return pa.table({"n": [n]})


def test_a_failure_keeps_what_is_done(tmp_path: Path) -> None:
    place, engine = Place.of(tmp_path / "out"), Cores(2)
    told: list[tuple[int, int]] = []
    with pytest.raises(CannotRead, match="shard -1"):
        make(engine, place, numbers, {"a": 1, "b": 2, "c": -1}, told=lambda *n: told.append(n))
    assert told == [(1, 3), (2, 3)][: len(told)]
    make(engine, place, numbers, {"a": 1, "b": 2, "d": 4}, told=lambda *n: told.append(n))
    assert place.names() == ["a.parquet", "b.parquet", "d.parquet"]
    assert told[-1][0] == told[-1][1]
    engine.close()


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    old, new = tmp_path / "a.parquet.0123.tmp", tmp_path / "b.parquet.4567.tmp"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    make(Here(), Place.of(tmp_path), numbers, {"a": 1})
    assert not old.exists()
    assert new.exists(), "another may be writing it"
    assert Place.of(tmp_path).names() == ["a.parquet"]


def one_after_another(n: int) -> pa.Table:
    time.sleep(0.05)
    return pa.table({"n": [n]})


def test_two_drivers_of_one_folder_agree(tmp_path: Path) -> None:
    """Two processes make the same shards at the same time: each ends well, and no file is another's part."""
    line = (
        "import sys; from pathlib import Path; from assay.engine import Here, make; from assay.store import Place; "
        "import test_workers as t; make(Here(), Place.of(sys.argv[1]), t.one_after_another, {str(n): n for n in range(20)})"
    )
    drivers = [
        subprocess.Popen([sys.executable, "-c", line, str(tmp_path / "out")], env=environment()) for _ in range(2)
    ]
    assert [d.wait(300) for d in drivers] == [0, 0]
    make(Here(), Place.of(tmp_path / "alone"), one_after_another, {str(n): n for n in range(20)})
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "alone").iterdir()
    }


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


def test_an_engine_is_named_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(engine_of("local"), Here)
    assert engine_of("cores").workers == os.cpu_count()
    assert engine_of("cores:3").workers == 3
    for text in ("", "core", "cores:many", "ray:8", "rays"):
        with pytest.raises(AssayError, match="give local, cores, cores:N, ray or ray://HOST:PORT"):
            engine_of(text)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AssayError, match=r"pip install 'assay-rm\[ray\]'"):
        engine_of("ray")


def test_a_place_is_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps([Place.of("pool"), Place.of("memory://pool")])
    monkeypatch.chdir("/")
    assert pickle.loads(sent) == [Place(str(tmp_path / "pool")), Place("memory://pool")]


@functools.cache
def device() -> str:
    """What a process finds where it loads a model."""
    return os.environ["DEVICE"]


def whose(item: tuple[str, int]) -> tuple[str, int]:
    folder, n = item
    mark = Path(folder) / str(n)
    if n == 7 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()
    while n < 2 and len(list(Path(folder).iterdir())) < 2:  # the other one has the other item
        time.sleep(0.01)
    return device(), os.getpid()


def test_each_replica_has_its_device_and_ends_with_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "of the driver")
    engine = Replicas([{"DEVICE": "first"}, {"DEVICE": "second"}])
    found = list(engine.map(whose, [(str(tmp_path), n) for n in range(20)]))
    assert {where for where, _ in found} == {"first", "second"}
    pids = {pid for _, pid in found}
    assert 2 <= len(pids) <= 3, "one was killed, and another came for its device"
    assert os.environ["DEVICE"] == "of the driver"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def linger(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(3_600)


def blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_worker_hears_ctrl_c(tmp_path: Path) -> None:
    """The first one neither, which a fresh process starts together with multiprocessing's own helper."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import test_workers\nfrom assay.engine import Cores\n"
        "if __name__ == '__main__':\n    print(list(Cores(2).map(test_workers.blocked, range(2))))\n"
    )
    told = subprocess.run([sys.executable, str(script)], env=environment(), capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[True, True]"


DRIVER = """
import sys
import test_workers
from assay.engine import Cores
if __name__ == "__main__":
    try:
        list(Cores(2).map(test_workers.linger, [sys.argv[1]] * 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_driver(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C reaches the whole group; a kill reaches the driver alone."""
    script, pids = tmp_path / "driver.py", tmp_path / "pids"
    script.write_text(DRIVER)
    pids.mkdir()
    with subprocess.Popen(
        [sys.executable, str(script), str(pids)], env=environment(), start_new_session=True, stderr=subprocess.PIPE
    ) as driver:
        while len(list(pids.iterdir())) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
        if how is signal.SIGINT:
            os.killpg(driver.pid, how)
            assert driver.wait(300) == 130
            assert driver.stderr is not None
            assert driver.stderr.read() == b"", "no traceback, of workers neither"
        else:
            driver.kill()
            driver.wait(300)
    end = time.monotonic() + 300
    while (left := [p.name for p in pids.iterdir() if runs(int(p.name))]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def note(item: tuple[Path, str]) -> None:
    """Who does it, with how many threads; "die" dies but here, "fail" raises."""
    folder, what = item
    if what == "fail":
        raise CannotRead("no such thing")
    if what == "die" and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / what).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def test_one_process_beside_this_one_works_fails_and_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    other = Beside(3)
    other.wait()
    other.begin(note, (tmp_path, "one"))
    with pytest.raises(RuntimeError, match="wait for it"):
        other.begin(note, (tmp_path, "meanwhile"))
    other.wait()
    who, threads = (tmp_path / "one").read_text().split()
    assert (who != str(os.getpid()), threads) == (True, "3"), "its own threads, whatever this process has"
    other.begin(note, (tmp_path, "fail"))
    with pytest.raises(CannotRead, match="no such thing"):
        other.wait()
    other.begin(note, (tmp_path, "die"))
    other.wait()
    assert (tmp_path / "die").read_text() == f"{os.getpid()} 8", "what a lost process was at is done here"
    other.begin(note, (tmp_path, "again"))
    other.wait()
    assert (tmp_path / "again").read_text().split()[0] not in (str(os.getpid()), who)
    other.close()
    assert not multiprocessing.active_children()
    none = Beside(0)
    none.begin(note, (tmp_path, "here"))
    assert (tmp_path / "here").read_text().split()[0] == str(os.getpid()), "at once, with no other process"
    none.wait()
