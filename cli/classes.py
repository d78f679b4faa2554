"""Find classes by name in the project's source files, and import only requested classes."""

import ast
import difflib
import inspect
import re

from common.errors import UserError
from common.files import ROOT
from common.imports import import_object

FOLDERS = {"model": "lightning_modules", "data": "datamodules"}
BASES = {"lightning_modules": "GenerativeModule", "datamodules": "DataModule"}


def classes_in(folder: str) -> dict[str, list[str]]:
    """Return the import paths of the systems or data modules in a folder, keyed by class name.

    Base classes in `core/` and in files `base.py` are left out. The files are parsed but not
    imported; base classes are followed by name. A file with a syntax error is searched by a
    pattern, so that the error is reported if a command names one of its classes.
    """
    bases: dict[str, set[str]] = {}
    paths: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for name, parents in class_statements(path.read_bytes()).items():
            bases.setdefault(name, set()).update(parents)
            paths.setdefault(name, []).append(f"{module}.{name}")
    wanted = {BASES[folder]}
    while more := {name for name, parents in bases.items() if parents & wanted} - wanted:
        wanted |= more
    shared = re.compile(r"\.(core|base)\.")
    return {
        name: paths[name]
        for name in paths
        if name in wanted and not (name.startswith("_") or shared.search(paths[name][0]))
    }


def class_statements(source: bytes) -> dict[str, set[str]]:
    """Return the names of the base classes of each class in a source file, keyed by class name."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):  # ValueError: a null byte
        names = re.findall(r"^class +(\w+)", source.decode(errors="replace"), re.MULTILINE)
        return {name: set(BASES.values()) for name in names}
    imported = {
        alias.asname or alias.name: alias.name
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    written = {node.name: map(ast.unparse, node.bases) for node in classes}
    return {
        name: {imported.get(base, base).rpartition(".")[2] for base in bases}
        for name, bases in written.items()
    }


def full_class_paths(argv: list[str]) -> list[str]:
    """Replace short class names on a command line by full class paths.

    Class names are the values of `--model`, `--data`, `--model.help` and `--data.help`.
    `--model=VAE` becomes the two words `--model lightning_modules.vae.VAE`.

    Raises:
        UserError: If there is no class of this name, or several. The message lists class paths or
            similar names.
    """
    assigned = re.compile(r"--(config|(model|data)(\.help|\.class_path)?)=|-c=")
    words = [
        part for word in argv for part in (word.split("=", 1) if assigned.match(word) else [word])
    ]
    words = [re.sub(r"^(--model|--data)\.class_path$", r"\1", word) for word in words]
    for key, folder in FOLDERS.items():
        for i, word in enumerate(words[:-1]):
            name = words[i + 1]
            if word in (f"--{key}", f"--{key}.help") and name.isidentifier():
                words[i + 1] = full_class_path(name, folder, word)
    return words


def full_class_path(name: str, folder: str, option: str) -> str:
    """Return the full path of a class; the error message names the option that asks for it."""
    paths = classes_in(folder).get(name, [])
    if not paths:
        raise UserError(f"{option} {name}: {no_such_class(name, folder)}")
    if len(paths) > 1:
        raise UserError(
            f"{option} {name}: there are {len(paths)} classes of this name; "
            f"give one of {', '.join(paths)}"
        )
    return paths[0]


def no_such_class(name: str, folder: str) -> str:
    """Return the error message for a class name that no file of the folder defines."""
    for key, other in FOLDERS.items():
        if other != folder and name in classes_in(other):
            return f"there is no such class in {folder}/; it is in {other}/, give --{key} {name}"
    known = {one.lower(): one for one in classes_in(folder)}
    count = 1 if name.lower() in known else 3
    near = difflib.get_close_matches(name.lower(), known, n=count, cutoff=0)
    names = ", ".join(known[one] for one in near) or "none"
    return f"there is no such class in {folder}/; similar names: {names}"


def import_class(class_path: str, key: str, place: str) -> type:
    """Import a system or a data module by its path, such as `lightning_modules.vae.VAE`.

    Args:
        class_path: Path of the class.
        key: Kind of the class, "model" or "data".
        place: Option or place in a file that names the class, for the error message.

    Raises:
        UserError: If there is no class of this path, if its module fails while it is imported, or
            if it is of another kind. The message lists similar names, or the file and line of the
            failure.
    """
    folder = FOLDERS[key]
    try:
        cls: type = import_object(class_path)
    except (ModuleNotFoundError, AttributeError) as error:
        hint = no_such_class(class_path.rpartition(".")[2], folder)
        raise UserError(f"{place} {class_path}: {hint}") from error
    except UserError as error:
        raise UserError(f"{place} {class_path}: {error}") from error
    if BASES[folder] not in (base.__name__ for base in inspect.getmro(cls)):
        raise UserError(
            f"{place} {class_path}: this is not a {BASES[folder]}; give one of {folder}/"
        )
    return cls


def init_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of the `__init__` of a class, keyed by name.

    If `__init__` takes `**kwargs`, parameters of the base class's `__init__` are included.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        found = {
            p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        } | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
