"""The layout that a reader relies on: no import circles, and no part larger than can be held in one's head."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "geosiam").rglob("*.py"), *(ROOT / "cli" / "geosiam_cli").rglob("*.py")])
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("cli.").removesuffix(".__init__"): path
    for path in SOURCES
}
RECORDED_COMMANDS = {"geosiam.training.api", "geosiam.paper.api"}
MOST_MODULES, MOST_LINES, MOST_BODY_LINES = 140, 450, 60


def runs(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes but those that only a type checker sees."""
    nodes = [tree]
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += runs(node)
    return nodes


def imported(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in runs(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of an import circle, in order; none if there is none."""
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return trail[trail.index(module) :]
        if module in finished:
            return []
        for other in sorted(graph[module]):
            if way := visit(other, [*trail, module]):
                return way
        finished.add(module)
        return []

    return next((way for module in sorted(graph) if (way := visit(module, []))), [])


def test_no_module_imports_itself_through_others_not_even_inside_functions() -> None:
    # The package itself hands out public names of every room when they are asked for, and its version.
    graph = {module: imported(path) - {"geosiam", module} for module, path in MODULES.items()}
    assert circle(graph) == []


def test_circles_are_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_nothing_but_its_command_imports_the_papers_experiments() -> None:
    importers = {
        module for module, path in MODULES.items() if any(name.startswith("geosiam.paper") for name in imported(path))
    }
    assert {module for module in importers if not module.startswith("geosiam.paper")} == {"geosiam_cli.paper"}


def test_there_are_few_modules() -> None:
    assert (
        len([path for path in SOURCES if "geosiam_cli" not in path.parts and path.stem != "__init__"]) <= MOST_MODULES
    )


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_the_library_names_options_by_their_fields_not_by_flags() -> None:
    """The commands that a training and an experiment record for others to repeat are the exception."""
    flags = []
    for module, path in MODULES.items():
        if module.startswith("geosiam_cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        flags += [
            f"{module}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
            if re.search(r"[ '(]--[a-z]", f" {node.value}") and module not in RECORDED_COMMANDS
        ]
    assert flags == []


def test_no_private_module_of_rasterio_is_imported() -> None:
    private = [
        f"{module}: {node.module}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and re.match(r"rasterio\._", node.module or "")
    ]
    assert private == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_and_functions_can_be_seen_at_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = node.end_lineno - body[0].lineno + 1
            assert length <= MOST_BODY_LINES, f"{node.name} has {length} lines"
