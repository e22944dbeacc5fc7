"""Imports point one way (design): a module may import only what lies before it in this list."""

import ast
from pathlib import Path

import assay

ROOT = Path(assay.__file__).parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("records",),
    ("rollouts",),
    ("store", "native", "order", "memory", "devices"),
    ("tables",),
    ("engine", "ray_engine", "ray_gang"),
    (
        "run",
        "identity",
        "budget",
        "batches",
        "batch_client",
        "replies",
        "chat",
        "chat_client",
        "completion",
        "dialect",
        "parsing",
        "processes",
        "replay",
        "outage",
        "journal",
        "images",
        "templates",
        "losses",
        "head",
        "attention_cpu",
        "encoders",
        "shortcuts",
        "statistics",
        "figures",
    ),
    ("attention", "render", "vision"),
    ("pack", "weights"),
    ("models", "packing", "step"),
    ("embedding", "frozen", "sight"),
    ("curate", "reward", "bench", "policy"),
    ("recipes",),
    ("web",),
    ("examples",),
    ("report_run",),
    ("report_arms",),
    ("report_claims", "report_counts"),
    ("report", "show"),
    ("cli",),
    ("__main__",),
)
SIBLINGS_APART = {"curate", "reward", "bench", "policy"}
ALLOWED = {("policy", "bench")}
"""Rewards check answers by the rules of the benchmarks."""
WITHOUT_TORCH = {
    "errors",
    "records",
    "rollouts",
    "store",
    "order",
    "tables",
    "engine",
    "native",
    "ray_engine",
    "ray_gang",
    "run",
    "budget",
    "batches",
    "batch_client",
    "replies",
    "chat",
    "chat_client",
    "completion",
    "dialect",
    "parsing",
    "processes",
    "replay",
    "outage",
    "render",
    "templates",
    "curate",
    "bench",
    "examples",
    "figures",
    "report",
    "report_claims",
    "report_counts",
    "report_run",
    "show",
    "cli",
    "__main__",
    "web",
}


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """The second part of every `assay.X...` import (`everywhere`: also inside functions), and torch."""
    tree = ast.parse(path.read_text())
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
