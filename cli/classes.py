"""Find classes by name in the project's source files, and import only requested classes."""

import ast
import difflib
import importlib
import inspect
import re

from common.errors import UserError
from common.files import ROOT

FOLDERS = {"model": "lightning_modules", "data": "datamodules"}


def classes_in(folder: str) -> dict[str, str]:
    """Return the import paths of the public classes in a folder, keyed by class name.

    The files are parsed but not imported.
    """
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:  # skip a broken file; the classes of other files stay usable
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                found[node.name] = f"{module}.{node.name}"
    return found


def full_class_paths(argv: list[str]) -> list[str]:
    """Replace short class names on a command line by full class paths.

    Class names are the values of `--model`, `--data`, `--model.help` and `--data.help`.
    `--model=VAE` becomes the two words `--model lightning_modules.vae.VAE`.

    Raises:
        UserError: If there is no class of this name. The message lists similar names.
    """
    assigned = re.compile(r"--(config|(model|data)(\.help)?)=")
    words = [
        part for word in argv for part in (word.split("=", 1) if assigned.match(word) else [word])
    ]
    for key, folder in FOLDERS.items():
        for i, word in enumerate(words[:-1]):
            name = words[i + 1]
            if word in (f"--{key}", f"--{key}.help") and "." not in name and name[0] != "-":
                known = classes_in(folder)
                if name not in known:
                    raise UserError(f"{word} {name}: {no_such_class(name, folder)}")
                words[i + 1] = known[name]
    return words


def no_such_class(name: str, folder: str) -> str:
    """Return the error message for a class name that no file of the folder defines."""
    known = {one.lower(): one for one in classes_in(folder)}
    count = 1 if name.lower() in known else 3
    near = difflib.get_close_matches(name.lower(), known, n=count, cutoff=0)
    names = ", ".join(known[one] for one in near) or "none"
    return f"there is no such class in {folder}/; similar names: {names}"


def import_class(class_path: str) -> type:
    """Import a class by its path, such as `lightning_modules.vae.VAE`.

    Raises:
        UserError: If there is no class of this path. The message lists similar names.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls: type = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a dependency of the module is missing
        missing = error
    except (AttributeError, ValueError) as error:  # ValueError: the path has no module
        missing = error  # type: ignore[assignment]
    else:
        return cls
    hint = no_such_class(name, module.partition(".")[0] or ".")
    raise UserError(f"{class_path}: {hint}") from missing


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
