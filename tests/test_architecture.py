"""Layout of DESIGN.md: imports go one way, without cycles, and files are short.

Sources are parsed, not imported, so the test of a broken file fails under its name.
"""

import ast
import tokenize
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from common.files import ROOT

# A package imports only from packages after it, and from itself.
ORDER = {
    "programs": ("cli", "callbacks", "lightning_modules", "metrics", "datamodules", "common"),
    "cli": ("callbacks", "lightning_modules", "metrics", "datamodules", "common"),
    "callbacks": ("lightning_modules", "metrics", "datamodules", "common"),
    "lightning_modules": ("metrics", "datamodules", "common"),
    "metrics": ("common",),
    "datamodules": ("common",),
    "common": (),
}
# Parts of `lightning_modules` that import no system, and the parts that each may import.
PARTS = {"core": ("nn", "decoding"), "nn": ("decoding",), "decoding": (), "optim": ()}
MAX_LINES = 350
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for name in ORDER for path in ROOT.glob(f"{name}/**/*.py"))]
)


def module_name(path: Path) -> str:
    """Dotted name of a source file; for `__init__.py`, the name of its package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}
PROGRAMS = {name for name in MODULES if "." not in name and name not in ORDER}


def package(module: str) -> str:
    """Key of `ORDER` that a module belongs to."""
    top = module.partition(".")[0]
    return "programs" if top in PROGRAMS else top


@cache
def imports(module: str, top_level: bool = False) -> frozenset[str]:
    """Modules of this project that a module imports, anywhere or only at its top level."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(found & MODULES.keys())


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    own = package(module)
    for other in imports(module):
        assert package(other) in (*ORDER[own], own), f"{module} imports {other}"


def test_shared_parts_import_no_system() -> None:
    """And only the other parts that docs/architecture.md names."""
    for module in MODULES:
        part = module.split(".")[1] if module.startswith("lightning_modules.") else ""
        for other in imports(module) if part in PARTS else ():
            if other.startswith("lightning_modules."):
                assert other.split(".")[1] in (*PARTS[part], part), f"{module} imports {other}"


def test_there_is_no_import_cycle() -> None:
    graph = {module: imports(module, top_level=True) for module in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def lines_of_code(path: Path) -> int:
    """Number of lines of code, without docstrings, comments and blank lines."""
    lines: set[int] = set()
    blank = (
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    )
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in blank:
                lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        documented = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        if documented and ast.get_docstring(node) is not None:  # type: ignore[arg-type]
            docstring = node.body[0]  # type: ignore[attr-defined]
            lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module: str) -> None:
    """Docstrings, comments and blank lines of a system file do not count."""
    path = MODULES[module]
    name = path.relative_to(ROOT).as_posix()
    system = path.parent == ROOT / "lightning_modules"
    count = lines_of_code(path) if system else len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_LINES, f"{name} has {count} lines"


def test_lines_of_configurations_are_short() -> None:
    """Configurations have at most 100 columns; `ruff` checks the code."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(ROOT.glob("configs/*/*.yaml"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []


@pytest.mark.parametrize("folder", [*ORDER, "benchmarks", "tests"])
def test_text_has_an_encoding(folder: str) -> None:
    """`ruff` checks `open`, but only some calls of the methods of paths, and no subprocess."""
    paths = ROOT.glob("*.py") if folder == "programs" else ROOT.glob(f"{folder}/**/*.py")
    without = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert without == []


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the locale."""
    words = {keyword.arg for keyword in call.keywords}
    name = getattr(call.func, "attr", "")
    process = name in ("run", "Popen", "check_output") and "text" in words
    return (name in ("read_text", "write_text") or process) and "encoding" not in words
