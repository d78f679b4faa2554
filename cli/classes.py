"""Classes of the project by name, found by reading the sources."""

import ast

from common.files import ROOT


def classes_in(folder: str) -> dict[str, str]:
    """Class name to import path of every public class in a folder's files, read as text and not
    imported.
    """
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text())
        except SyntaxError:  # a broken file hides its own classes and no others
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                found[node.name] = f"{module}.{node.name}"
    return found
