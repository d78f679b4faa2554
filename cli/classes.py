"""Find classes of the project by name in the source files, and import only the named ones."""

import ast
import difflib
import importlib
import inspect
import re

from common.errors import UserError
from common.files import ROOT

FOLDERS = {"model": "lightning_modules", "data": "datamodules"}


def classes_in(folder: str) -> dict[str, str]:
    """Import path of every public class in a folder's files, by class name; nothing is imported."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text())
        except SyntaxError:  # skip a broken file; the classes of other files stay usable
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                found[node.name] = f"{module}.{node.name}"
    return found


def full_class_paths(argv: list[str]) -> list[str]:
    """Replace the short class names of `--model`, `--data`, `--model.help` and `--data.help`.

    `--model=VAE` becomes the two words `--model lightning_modules.vae.VAE`.

    Raises:
        UserError: If there is no such class; the message names similar ones.
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
    """Error message for a class name that is in no file of the folder."""
    known = {one.lower(): one for one in classes_in(folder)}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0)
    names = ", ".join(known[one] for one in near) or "none"
    return f"there is no such class in {folder}/; similar names: {names}"


def import_class(class_path: str) -> type:
    """Import a class by its path, such as `lightning_modules.vae.VAE`.

    Raises:
        UserError: If there is no such class; the message names similar ones.
    """
    module, _, name = class_path.rpartition(".")
    try:
        cls: type = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a dependency of the module is missing
        missing = error
    except (AttributeError, ValueError) as error:  # ValueError: no module is named
        missing = error  # type: ignore[assignment]
    else:
        return cls
    hint = no_such_class(name, module.partition(".")[0] or ".")
    raise UserError(f"{class_path}: {hint}") from missing


def init_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a class' `__init__` by name.

    If it takes `**kwargs`, the parameters of the next `__init__` along the MRO are included.
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
