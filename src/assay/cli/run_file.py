"""Run files: a command with all its settings, written by what it runs and read by `--config FILE` and `assay resume RUN`.

A file is TOML or JSON. A setting has the name of its flag, with underscores; a dotted flag (`--train.lr`) lies in a table
(`[train]`). What is given on the command line wins, and what that changes is said. `command` and `directory` say what was
called, and where: paths that are not absolute are meant from there when a run is resumed.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import os
import re
import sys
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from assay import __version__
from assay.cli.arguments import Flat
from assay.errors import AssayError
from assay.run import changes, jsonable
from assay.session import RUN_FILE, called
from assay.tables import check

ABOUT = ("command", "directory", "assay")
"""Of a run file, what is no setting."""
MOMENTARY = frozenset({"dry_run", "resettle", "servers_moved", "wait", "web", "run_file"})
"""Flags of one call, which the next one is not to repeat."""
COMMANDS: dict[str, Callable[..., Any]] = {}
"""The commands that leave a run file, by their words."""
_FILE = inspect.Parameter(
    "run_file", inspect.Parameter.KEYWORD_ONLY, default=None,
    annotation=Annotated[Path | None, tyro.conf.arg(
        name="config", help="Read settings from this file, as OUT/run.toml is one; flags win. `assay resume OUT` needs none."
    )],
)  # fmt: skip
Command = typing.TypeVar("Command", bound=Callable[..., Any])
_given: dict[str, Any] = {}
"""What the run file of this call says."""


def kept(command: str, costs: Callable[..., None] = lambda **_: None, told: str = "") -> Callable[[Command], Command]:
    """A command that leaves `run.toml` and how it ended in its folder `out`, and takes `--config` and `--dry-run`.

    `costs` is called by a dry run with all settings, and `told` says in its help what it tells. A command that has a dry run
    of its own keeps it.
    """
    dry = inspect.Parameter(
        "dry_run", inspect.Parameter.KEYWORD_ONLY, default=False,
        annotation=Annotated[bool, tyro.conf.arg(help=f"Print all settings, as --config reads them, and stop.{told}")],
    )  # fmt: skip

    def made(function: Command) -> Command:
        signature = inspect.signature(function)
        own = "dry_run" in signature.parameters
        more = [_FILE] if own else [dry, _FILE]

        @functools.wraps(function)
        def call(*args: Any, run_file: Path | None = None, **kwargs: Any) -> Any:
            dry_run = not own and kwargs.pop("dry_run", False)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if run_file is not None:
                raise AssayError(f"--config {run_file}: give it once")
            values = bound.arguments
            _tell(function, values)
            if dry_run:
                print(json.dumps(settings_of(function, values), indent=2))
                return costs(**values)
            if values.get("dry_run") or os.environ.get("RANK", "0") != "0":
                return function(*args, **kwargs)
            with called(command, Path(values["out"]), written(command, function, values)):
                return function(*args, **kwargs)

        parameters = [*signature.parameters.values(), *more]
        call.__signature__ = call.asked = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {**function.__annotations__, **{p.name: p.annotation for p in more}}
        del call.__wrapped__  # tyro would read its hints
        COMMANDS[command] = call
        return typing.cast(Command, call)

    return made


def prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, with `assay resume RUN` as the command it stands for, and settings of `--config` as
    that command's defaults. Raises AssayError for a file that cannot be read, is another command's, or says what no setting
    is called."""
    args = list(arguments)
    _given.clear()
    for call in COMMANDS.values():
        call.__signature__ = call.asked  # type: ignore[attr-defined]
    if args[:1] == ["resume"] and len(args) > 1 and not args[1].startswith("-"):
        return _resumed(Path(args[1]), args[2:])
    words = next((w for n in (2, 3) if (w := " ".join(args[:n])) in COMMANDS), None)
    rest = args[len(words.split()) :] if words else []
    file = _named(rest)
    if words is None or file is None or not {"-h", "--help"}.isdisjoint(rest):
        return args
    settings = read(Path(file))
    said = settings.get("command", words)
    if said != words:
        raise AssayError(f"{file} is a run file of `assay {said}`, and this is `assay {words}`")
    _set_defaults(Path(file), words, settings)
    return [*words.split(), *rest]


def _named(rest: list[str]) -> str | None:
    """The file of `--config`, which is taken out of the arguments."""
    for n, text in enumerate(rest):
        if text == "--config" and n + 1 < len(rest):
            file = rest[n + 1]
            del rest[n : n + 2]
            return file
        if text.startswith("--config="):
            del rest[n]
            return text.removeprefix("--config=")
    return None


def _resumed(run: Path, rest: list[str]) -> list[str]:
    file = next((f for f in (run / RUN_FILE, run.with_name(run.name + ".partial") / RUN_FILE) if f.exists()), None)
    if file is None:
        what = "an earlier version began it, or it was begun from Python" if run.exists() else "there is no such folder"
        raise AssayError(f"{run}: no {RUN_FILE} to resume by ({what}); give the run's command again, as it was")
    settings = read(file)
    command = str(settings.get("command", ""))
    if command not in COMMANDS:
        what = f"command = {command!r} is none of {', '.join(sorted(COMMANDS))}" if command else "it names no command"
        raise AssayError(f"{file}: {what}; give the run's command again, as it was")
    run, directory = run.absolute(), Path(str(settings.get("directory", ".")))
    if not directory.is_dir():
        raise AssayError(
            f"{file}: the run was begun in {directory}, which is not there; correct `directory` in the file"
        )
    os.chdir(directory)
    if Path(str(settings.get("out", ""))).absolute() != run:
        settings["out"] = str(run)
    _set_defaults(file.absolute(), command, settings)
    print(f"assay {command}, begun in {directory}", file=sys.stderr)
    return [*command.split(), *rest]


def read(file: Path) -> dict[str, Any]:
    """What a run file says."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise AssayError(f"--config {file}: {error.strerror}") from error
    except ValueError as error:
        raise AssayError(f"--config {file}: not {'JSON' if file.suffix == '.json' else 'TOML'}: {error}") from error
    if not isinstance(found, dict):
        raise AssayError(f"--config {file}: write an object of settings")
    if "inputs" in found and (file.parent / RUN_FILE).exists():
        raise AssayError(
            f"--config {file}: this is what the run keeps for itself; its run file is {file.parent / RUN_FILE}"
        )
    return found


def _set_defaults(file: Path, command: str, settings: Mapping[str, Any]) -> None:
    call = COMMANDS[command]
    given = {_plain(k): v for k, v in settings.items() if k not in ABOUT}
    changed, known = {}, dict[str, Any]()
    parameters = dict(inspect.signature(call).parameters)
    hints = typing.get_type_hints(call, include_extras=True)
    for name, parameter in parameters.items():
        if name == "run_file":
            continue
        hint = _bare(hints[name])
        if _flat(parameter):
            own = {f.name for f in dataclasses.fields(hint)}
            part = {k: given.pop(k) for k in list(given) if k in own}
            known |= dict.fromkeys(own)
            value = _filled(file, hint, parameter.default, part, "")
        elif (key := _key(call, name)) in given:
            value = _value(file, hint, parameter.default, given.pop(key), key)
            known[key] = None
        else:
            known[key] = None
            continue
        changed[name] = parameter.replace(default=value)
    if given:
        raise _unknown(file, next(iter(given)), known)
    call.__signature__ = inspect.signature(call).replace(  # type: ignore[attr-defined]
        parameters=_ordered([changed.get(n, p) for n, p in parameters.items()])
    )
    _given.update({"file": str(file), "settings": {k: v for k, v in settings.items() if k not in ABOUT}})


def _ordered(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Parameters with a default may come before some without: by keyword alone, then, which tyro does not mind."""
    late = False
    for n, p in enumerate(parameters):
        late = late or p.default is not inspect.Parameter.empty
        if late and p.default is inspect.Parameter.empty:
            return [q.replace(kind=inspect.Parameter.KEYWORD_ONLY) if m >= n else q for m, q in enumerate(parameters)]
    return parameters


def _filled(file: Path, record: type, default: Any, given: Mapping[str, Any], at: str) -> Any:
    """The default of a dataclass with what the file says of it."""
    base = record() if default is inspect.Parameter.empty else default
    hints, values = typing.get_type_hints(record), dict[str, Any]()
    for key, value in given.items():
        name = _plain(key)
        if name not in hints:
            raise _unknown(file, f"{at}{key}", {f"{at}{h}": None for h in hints})
        values[name] = _value(file, _bare(hints[name]), getattr(base, name), value, f"{at}{name}")
    try:
        return dataclasses.replace(base, **values)
    except AssayError as error:
        raise AssayError(f"--config {file}: {error}") from error


def _value(file: Path, hint: Any, default: Any, value: Any, at: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise AssayError(f"--config {file}: {at} is a table of settings, [{at}]")
        return _filled(file, typing.cast(type, hint), default, value, f"{at}.")
    found = _typed(hint, value)
    if typing.get_origin(hint) is tuple and not isinstance(found, tuple):
        args = typing.get_args(hint)
        many = "" if args[-1] is Ellipsis else f" of {len(args)}"
        raise AssayError(f"--config {file}: {at} is a list{many}; it is {value!r}")
    try:
        check(hint, found, at)
    except TypeError as error:
        raise AssayError(f"--config {file}: {error}; it is {value!r}") from error
    return found


def _typed(hint: Any, value: Any) -> Any:
    """A value of TOML or JSON as its hint has it: paths, tuples, None (which TOML writes as a text)."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = next(a for a in args if a is not types.NoneType)
        return None if value in (None, "None") else _typed(inner, value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        each = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_typed(h, v) for h, v in zip(each, value, strict=False)) if len(each) == len(value) else value
    if hint is Path and isinstance(value, str):
        return Path(value)
    return float(value) if hint is float and isinstance(value, int) and not isinstance(value, bool) else value


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _flat(parameter: inspect.Parameter) -> bool:
    return Flat in getattr(parameter.annotation, "__metadata__", ())


def _key(function: Callable[..., Any], name: str) -> str:
    """What a parameter is called in a run file: in capitals, as its help has it, where a setting has its name already (the
    file PROMPTS and --prompts of `policy grpo`)."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    taken = {f.name for n, p in parameters.items() if _flat(p) for f in dataclasses.fields(hints[n])}
    return name.upper() if name in taken else name


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _unknown(file: Path, name: str, known: Mapping[str, Any]) -> AssayError:
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
    return AssayError(f"--config {file}: no setting is called {name}{hint}")


# -- writing --------------------------------------------------------------------------------------------------------


def settings_of(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call as a run file has them."""
    found = dict[str, Any]()
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in MOMENTARY:
            value = jsonable(values[name])
            found |= value if _flat(parameter) else {_key(function, name): value}
    return {k: v for k, v in found.items() if k not in MOMENTARY}


def written(command: str, function: Callable[..., Any], values: Mapping[str, Any]) -> str:
    """The run file of a call: every setting, with a word on what it is."""
    settings, told = settings_of(function, values), _docs(function)
    about = {"command": command, "directory": str(Path.cwd()), "assay": __version__}
    lines = [
        f"# assay {command}: every setting of this run. `assay resume` goes on by it; with other values it begins another:",
        f"# assay {command} --config THIS_FILE --out ANOTHER_FOLDER. Flags win over the file.",
        *(f"{k} = {_toml(v)}" for k, v in about.items()), "",
        *_lines(settings, told, ""),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _lines(settings: Mapping[str, Any], told: Mapping[str, str], at: str) -> Iterator[str]:
    for name, value in settings.items():
        if not isinstance(value, dict):
            about = told.get(f"{at}{name}", "")
            line = f"{name} = {_toml(value)}"
            yield f"{line}  # {about}" if about else line
    for name, value in settings.items():
        if isinstance(value, dict):
            yield ""
            yield f"[{at}{name}]"
            yield from _lines(value, told, f"{at}{name}.")


def _toml(value: Any) -> str:
    if value is None:
        return '"None"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _docs(function: Callable[..., Any]) -> dict[str, str]:
    """The first sentence about each setting, by its dotted name."""
    found = dict[str, str]()
    text = inspect.getdoc(function) or ""
    for name, about in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text.partition("Args:")[2], re.MULTILINE):
        found[_key(function, name)] = _sentence(about)
    for name, hint in typing.get_type_hints(function).items():
        if dataclasses.is_dataclass(hint):
            flat = _flat(inspect.signature(function).parameters[name])
            found |= _docs_of(typing.cast(type, hint), "" if flat else f"{name}.")
    return found


def _docs_of(record: type, at: str) -> dict[str, str]:
    found = dict[str, str]()
    for kind in reversed(record.__mro__[:-1]):
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
        for field, after in itertools.pairwise(body):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found[f"{at}{field.target.id}"] = _sentence(str(after.value.value))  # type: ignore[attr-defined]
    for name, hint in typing.get_type_hints(record).items():
        if dataclasses.is_dataclass(hint):
            found |= _docs_of(typing.cast(type, hint), f"{at}{name}.")
    return found


def _sentence(text: str) -> str:
    whole = " ".join(text.split())
    first = re.split(r"(?<=[.;:])\s", whole)[0].rstrip(".;:")
    return first if len(first) <= 120 else f"{first[:117]}..."


def _tell(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Say what the command line changes of what the run file says."""
    if not _given or os.environ.get("RANK", "0") != "0":
        return
    now = settings_of(function, values)

    def part(said: Mapping[str, Any], of: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the file says and what holds, of the settings that the file names."""
        before, after = dict[str, Any](), dict[str, Any]()
        for key, value in ((_plain(k), v) for k, v in said.items()):
            inner = isinstance(value, dict) and isinstance(of[key], dict)
            before[key], after[key] = part(value, of[key]) if inner else (None if value == "None" else value, of[key])
        return before, after

    file, said = _given["file"], _given["settings"]
    _given.clear()  # it was said to this call, and to no other of this process
    for change in changes(*part(said, now)):
        print(f"{file} says {change} (the command line)", file=sys.stderr)
