"""`assay web`, `assay web-user`: the verification page, and who may use it."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from assay.cli.arguments import chat_config
from assay.errors import AssayError, missing_extra
from assay.llm.client import Server
from assay.processes import take_port

if TYPE_CHECKING:
    from assay.web.schema import Database


def _database(run: Path, url: str) -> "Database":
    try:
        from assay.web.schema import Database
    except ImportError as error:
        raise missing_extra(str(error.name), "web") from error
    return Database(url or f"sqlite:///{run / 'web.sqlite'}")


def web(
    run: Positional[Path], host: str = "127.0.0.1", port: int = 8010, database: str = "", assistant: str = "",
    traps: Path | None = None, margins: Path | None = None, verdicts: Path | None = None, images: Path | None = None,
    allow_host: tuple[str, ...] = (), https: bool = False,
) -> None:  # fmt: skip
    """Serve the page on which people judge the pairs that a run waits for. What is answered in `assay verify` is there at
    once, and what is answered here at once in RUN/judgements.jsonl.

    Args:
        run: The run folder that asked for people.
        host: Where to listen. On another address than loopback other machines reach the page: use a TLS proxy and --https.
        port: Where to listen.
        database: sqlite:///PATH or postgresql://USER@HOST/NAME (default: RUN/web.sqlite).
        assistant: MODEL@URL of a server that annotators may ask, with its key in $OPENAI_API_KEY.
        traps: Pairs with known answers (JSON lines of `assay judgements export`).
        margins: A reward model's margins (JSON lines: pair_id, margin): pairs it is unsure of come first.
        verdicts: Verdicts of a machine on single responses (JSON lines: pair_id, response_id, text, right, by).
        images: The folder of pictures that conversations name.
        allow_host: Further names under which the page is addressed, such as label.example.org.
        https: The page is behind TLS: cookies are sent over TLS alone.
    """
    from assay.curate.waiting import waits
    from assay.pipeline.people_on_file import read_queue

    if not database and not (run / "web.sqlite").exists():
        read_queue(run / "queue")  # a folder that is no run's is refused before anything is written there
    store_base = _database(run, database)
    from assay.web.app import WebConfig, make_app, serve
    from assay.web.loading import Syncing, load_run, load_traps, load_verdicts

    hosts = dict.fromkeys(
        ("127.0.0.1", "localhost", "[::1]", *((host,) if host not in ("0.0.0.0", "::") else ()), *allow_host)
    )
    at = take_port(host, port)
    chat = Server(chat_config(assistant, "assistant"), run / "assistant.sqlite") if assistant else None
    app = make_app(
        WebConfig(database=store_base, assistant=chat, images=images, run=run, hosts=tuple(hosts), https=https)
    )
    syncing = Syncing(app.state.store, run, margins)
    new = load_run(app.state.store, run, margins)
    if traps:
        print(f"{load_traps(app.state.store, traps)} traps added")
    if verdicts:
        print(f"{load_verdicts(app.state.store, verdicts)} verdicts added")
    print(f"{new} new pairs; {app.state.store.size():,} in all")
    if not app.state.accounts.all():
        token = app.state.accounts.invite("admin", "admin", "assay web")
        print(f"first account: name admin, token {token} (shown this once; more people: the page Lead, People)")
    if host not in ("127.0.0.1", "localhost", "::1") and not https:
        print("warning: the page is open to other machines without TLS; passwords can be read on the way")
    at.listen()  # who comes by the next line is heard
    print(f"page: http://{host}:{port}", flush=True)
    try:
        with syncing:
            serve(app, at)
    finally:
        told = waits(run)
        print(f"{told}" if told is not None else f"{run} waits for no answers", flush=True)


def watch(places: Positional[tuple[Path, ...]], port: int = 8011) -> None:
    """Watch runs and trainings in a browser while they go: stages, curves, people, costs, sampled answers, changed pairs.

    It reads the files of the runs and writes nothing; runs that begin later appear by themselves. The page is for this
    machine alone; from another one use a tunnel: ssh -L 8011:localhost:8011 HOST

    Args:
        places: Run folders, folders of trainings (`assay reward train`, `policy grpo`, ...), or folders that hold such.
        port: Where to listen, on 127.0.0.1.
    """
    if not places:
        raise AssayError("say which runs: assay watch runs/mine, or assay watch runs for all in it")
    partial = [p.with_name(p.name + ".partial") for p in places]
    if missing := [str(p) for p, q in zip(places, partial, strict=True) if not p.exists() and not q.exists()]:
        raise AssayError(f"{', '.join(missing)}: there is no such folder")
    try:
        from assay.web.app import make_watch_app, serve
    except ImportError as error:
        raise missing_extra(str(error.name), "web") from error
    at = take_port("127.0.0.1", port)
    app = make_watch_app([p.absolute() for p in places])
    at.listen()
    print(f"runs: {len(app.state.board.list()):,}; page: http://127.0.0.1:{port}", flush=True)
    serve(app, at)


def web_user(
    run: Positional[Path], name: Positional[str], role: Literal["annotator", "lead", "admin"] = "annotator",
    renew: bool = False, database: str = "",
) -> None:  # fmt: skip
    """Make an account for the page, or give one a new token; the token is printed once.

    Args:
        run: The run folder.
        name: Letters, digits and . _ - @.
        role: annotator, lead or admin.
        renew: Give the existing account a new token.
        database: As for `assay web`.
    """
    if not (run / "config.json").exists() and not (run / "queue").is_dir():
        raise AssayError(f"{run}: no run here; accounts are of a run: assay runs lists those that are")
    store_base = _database(run, database)
    from assay.web.accounts import Accounts

    accounts = Accounts(store_base)
    try:
        token = accounts.renew(name, "assay web-user") if renew else accounts.invite(name, role, "assay web-user")
    except ValueError as error:
        raise AssayError(str(error)) from error
    print(f"name {name}, token {token}")
