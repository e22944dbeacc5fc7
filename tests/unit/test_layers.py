"""Imports point one way (design): a module may import only what lies before it in this list; and names come from home."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import assay

ROOT = Path(assay.__file__).parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("installing",),
    ("errors",),
    ("records",),
    ("rollouts",),
    ("store", "native", "order", "memory", "devices"),
    ("tables", "turns"),
    ("locks",),
    ("workers", "processes"),
    ("session",),
    ("engine", "ray_engine", "ray_gang"),
    (
        "run",
        "identity",
        "llm",
        "trackers",
        "journal",
        "images",
        "templates",
        "losses",
        "head",
        "attention_cpu",
        "attention_flex",
        "encoders",
        "shortcuts",
        "statistics",
        "figures",
        "jail",
        "sandbox",
        "charts",
        "look",
    ),
    ("attention", "render", "vision"),
    ("pack", "weights"),
    ("models", "packing", "step", "body_cpu"),
    ("embedding", "frozen", "sight"),
    ("formats",),
    ("curate", "reward", "bench", "policy", "stages"),
    ("state", "telling"),
    ("judges",),
    ("pipeline", "tuning"),
    ("recipes",),
    ("examples",),
    ("web",),
    ("report", "show"),
    ("cli",),
    ("api",),
    ("__main__",),
)
SIBLINGS_APART = {"curate", "reward", "bench", "policy"}
ALLOWED = {("policy", "bench")}
"""Rewards check answers by the rules of the benchmarks."""
WITHOUT_TORCH = {
    "installing",
    "errors",
    "records",
    "rollouts",
    "store",
    "order",
    "tables",
    "turns",
    "workers",
    "engine",
    "native",
    "ray_engine",
    "ray_gang",
    "run",
    "locks",
    "llm",
    "processes",
    "render",
    "templates",
    "curate",
    "bench",
    "examples",
    "figures",
    "jail",
    "sandbox",
    "charts",
    "look",
    "report",
    "session",
    "show",
    "stages",
    "state",
    "cli",
    "api",
    "__main__",
    "web",
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """The second part of every `assay.X...` import (`everywhere`: also inside functions), and torch."""
    tree = parsed(path)
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"assay.{a.name}" for a in node.names] if node.module == "assay" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("assay.")} | {
            n for n in names if n in ("torch", "transformers")
        }
    return found


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_is_in_a_layer() -> None:
    known = {name for layer in LAYERS for name in layer}
    present = {part(p) for p in ROOT.rglob("*.py") if p.name != "__init__.py"}
    assert present <= known


def test_no_back_edge() -> None:
    level = {name: n for n, layer in enumerate(LAYERS) for name in layer}
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__init__.py":
            continue
        here = part(path)
        for there in imports(path) & level.keys():
            assert level[there] <= level[here], f"{path.relative_to(ROOT)} imports {there}: a back edge"
            if here in SIBLINGS_APART and there in SIBLINGS_APART and (here, there) not in ALLOWED:
                assert here == there, f"{path.relative_to(ROOT)} imports its sibling {there}"


def test_the_core_imports_without_torch() -> None:
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "__init__.py" and part(path) in WITHOUT_TORCH:
            assert not imports(path) & {"torch", "transformers"}, f"{path.relative_to(ROOT)} needs torch"


@cache
def made_in(module: str) -> frozenset[str] | None:
    """What a module defines, as against what it imports, and what lies in its folder; None: there is no such module."""
    place = ROOT.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not file.exists():
        return None
    beside = {p.stem for p in place.iterdir()} if place.is_dir() else set()
    return frozenset(defined(parsed(file).body) | beside)


def defined(body: Iterable[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.If | ast.Try):
            found |= defined([*node.body, *node.orelse])
    return found


def borrowed(tree: ast.Module) -> Iterator[str]:
    """Names that a file imports from one that does not define them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "assay":
            there = frozenset(assay.__all__) if node.module == "assay" else frozenset()
            there |= made_in(node.module) or frozenset()
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name not in there)


def test_names_are_imported_from_the_file_that_defines_them() -> None:
    fine = ast.parse("from assay.records import Pair\nfrom assay.curate import pool")
    lent = ast.parse("from assay.pack import Pair\nfrom assay.gone import x")
    assert list(borrowed(fine)) == []
    assert list(borrowed(lent)) == ["assay.pack.Pair", "assay.gone.x"]
    files = [*ROOT.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    assert {str(f): names for f in files if (names := list(borrowed(parsed(f))))} == {}
