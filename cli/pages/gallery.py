"""The gallery docs/gallery.md: images and texts of the systems, and the commands that made them."""

import io
import shlex
import shutil
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from cli.pages.systems import system_names, title
from common.files import ROOT

DOCS = ROOT / "docs"
HEAD = """# Gallery

Images and texts that this code generated, with the command that trained the model and its duration.

`make gallery` writes this page from `docs/gallery.yaml`, and makes images anew from runs on disk.
"""
OPENMOJI = " Derived from [OpenMoji](https://openmoji.org), CC BY-SA 4.0."


def entries() -> list[dict[str, Any]]:
    """Return the entries of docs/gallery.yaml, sorted in the order of the systems."""
    order = system_names()
    found = yaml.safe_load((DOCS / "gallery.yaml").read_text(encoding="utf-8"))
    return sorted(found, key=lambda entry: order.index(entry["system"]))


def gallery_page() -> str:
    """Return the Markdown of docs/gallery.md."""
    lines, system = [HEAD], ""
    shown = entries()
    for entry in shown:
        if entry["system"] != system:
            system = entry["system"]
            lines.append(f"## {title(system)[0]}\n\n[The system](systems/{system}.md)\n")
        if "image" in entry:
            short = entry["what"].partition(". ")[0].rstrip(".").replace("`", "")
            lines.append(f"![{short}]({entry['image']})\n")
        elif "\n" in entry["text"].strip():
            lines.append(f"```text\n{entry['text'].rstrip()}\n```\n")
        else:
            lines.append(f"> {entry['text']}\n")
        sampled = f"; a preview of the run, `{entry['preview']}`" if "preview" in entry else ""
        if "sample" in entry:
            read = f" --prompt - < {entry['prompts']}" if "prompts" in entry else ""
            sampled = f", then `python sample.py {entry['checkpoint']} {entry['sample']}{read}`"
        lines.append(
            f"{entry['what']} Trained with `{entry['train']}` ({entry['took']}){sampled}."
            f"{OPENMOJI if entry.get('emoji') else ''}\n"
        )
    without = [title(name)[0] for name in system_names() if name not in _systems(shown)]
    if without:
        lines.append(f"Systems without an entry: {', '.join(without)}.\n")
    return "\n".join(lines)


def _systems(shown: list[dict[str, Any]]) -> set[str]:
    return {entry["system"] for entry in shown}


def save_enlarged(source: Path, target: Path) -> None:
    """Copy an image; one that is narrower than 500 pixels is enlarged by an integer factor."""
    from PIL import Image

    with Image.open(source) as image:
        factor = -(-500 // image.width)
        size = (image.width * factor, image.height * factor)
        image.resize(size, Image.Resampling.NEAREST).save(target, optimize=True)


def sample_image(entry: dict[str, Any]) -> bool:
    """Sample the image of an entry anew; return False if its checkpoint does not exist."""
    checkpoint = ROOT / entry["checkpoint"]
    if not checkpoint.is_file():
        return False
    from cli.sampling.command import run  # imports torch

    words = shlex.split(entry["sample"])
    if "prompts" in entry:
        prompts = (ROOT / entry["prompts"]).read_text(encoding="utf-8").splitlines()
        words += [f"--prompt={prompt}" for prompt in prompts]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        run([str(checkpoint), *words, "--out", folder])
        save_enlarged(Path(folder, "grid.png"), DOCS / entry["image"])
    return True


def rebuild() -> list[str]:
    """Make images anew from runs on disk, and write the page; return the names of these images.

    An entry whose checkpoint or preview does not exist keeps its image.
    """
    made = []
    for entry in entries():
        if "image" not in entry:
            continue
        if "preview" in entry and (ROOT / entry["preview"]).is_file():
            shutil.copyfile(ROOT / entry["preview"], DOCS / entry["image"])
            made.append(entry["image"])
        elif "checkpoint" in entry and sample_image(entry):
            made.append(entry["image"])
    (DOCS / "gallery.md").write_text(gallery_page(), encoding="utf-8")
    return made
