"""Commands of README and docs are accepted by their programs; the sources of the site are whole."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from cli.pages import gallery, links, option_pages, site, source_code, systems
from common.errors import UserError
from common.files import ROOT
from lightning_modules.vae import VAE, standard_normal_kl
from tests.commands import COMMANDS, check, reason
from tests.tracked import skip_untracked

pytestmark = pytest.mark.usefixtures("tracked_systems")

CHECKED = [line for line in COMMANDS if reason(line) is None]


def test_commands_were_found() -> None:
    assert len(CHECKED) > 60
    assert {line.split()[0] for line in CHECKED} <= {"python", "make", "srun", "torchrun"}


@pytest.mark.parametrize("line", CHECKED)
def test_command_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    check(line, monkeypatch)


def test_a_wrong_option_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (
        "python train.py fit --config configs/vae/openmoji.yaml --model.latent 3",
        "python sample.py runs/vae/checkpoints/best.ckpt --mode dream",
        "python reproduce.py run nothing",
        "make nothing",
    ):
        with pytest.raises((AssertionError, UserError, SystemExit)):
            check(line, monkeypatch)


def test_files_that_pages_name_exist() -> None:
    named = {
        name
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for name in re.findall(r"\bconfigs/\w+/\w+\.yaml", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 40
    placeholders = re.compile("mine|NAME")
    missing = [name for name in named if not (ROOT / name).exists()]
    assert [name for name in missing if not placeholders.search(name)] == []


@pytest.mark.parametrize("system", systems.system_names())
def test_every_system_has_notes_with_equations_and_pitfalls(system: str) -> None:
    skip_untracked(f"configs/{system}")
    text = (ROOT / f"docs/systems/{system}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {systems.title(system)[0]}\n")
    assert text.count("$$") >= 2
    for section in ("What to watch while it trains", "Pitfalls", "Examples"):
        assert f"## {section}\n" in text, f"docs/systems/{system}.md lacks {section}"


def test_pages_of_the_site(tmp_path: Path) -> None:
    """All pages are written, and no link leads to a missing file or line."""
    assert site.write_site(tmp_path / "pages") > 100
    vae = (tmp_path / "pages/systems/vae.md").read_text(encoding="utf-8")
    assert "L_k = E[log 1/k sum_i w_i]" in vae  # docstring
    line = source_code.line_of(ROOT / "lightning_modules/vae.py", "standard_normal_kl")
    assert f'id="L{line}"' in vae  # code
    assert "vae-mnist-nll" in vae
    assert "source/configs/vae/openmoji.yaml.md" in vae
    lecture = (tmp_path / "pages/lecture.md").read_text(encoding="utf-8")
    assert f'href="systems/vae.html#L{line}"' in lecture
    index = (tmp_path / "pages/index.md").read_text(encoding="utf-8")
    for system in systems.system_names():
        assert f"\nsystems/{system}\n" in index


def test_a_broken_link_is_named() -> None:
    rewrite, file = links.Links().rewrite, ROOT / "docs/lecture.md"
    with pytest.raises(UserError, match="the link to nothing"):
        rewrite("[x](nothing.md)", file, Path("lecture.md"))
    with pytest.raises(UserError, match=r"has no VAE\.dream"):
        rewrite("[x](../lightning_modules/vae.py#VAE.dream)", file, Path("lecture.md"))
    code = "`[x](nothing.md)`\n```\n[x](nothing.md)\n```"
    assert rewrite(code, file, Path("lecture.md")) == code


def test_equations_are_tooltips_of_comments() -> None:
    code = source_code.with_equations(
        '<span class="c1"># Eq. 4; Burda et al. 2016, Eq. 3</span> Eq. 4',
        source_code.equations(
            "Title.\n\n    KL = 1/2 sum_j\n      (mu_j^2)      (4)\n\n    a = b  (3)"
        ),
    )
    assert (
        'title="KL = 1/2 sum_j&#10;  (mu_j^2)">Eq. 4</a>; Burda et al. 2016, Eq. 3</span>' in code
    )
    assert code.count("<a ") == 1


def test_option_pages_have_every_option() -> None:
    page = option_pages.option_page("model", "lightning_modules.vae.VAE")
    assert "`--model.beta`\n: Weight of the KL term" in page
    assert page.count("\n: ") == page.count("\n`--model.") > 15
    assert "## Network" in page


def test_walk_between_two_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/howto/sample.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[-1]
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 30), colour).save(name)
    exec(code, {"vae": VAE(image_shape=[3, 8, 8], hidden=[8], latent_dim=2)})
    assert Image.open("from_a_to_b.png").size == (9 * 9 + 1, 10)


def test_values_of_kl_in_the_table() -> None:
    text = (ROOT / "docs/concepts/latent_space.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for sigma, forward, backward in rows:
        log_var = 2 * torch.tensor([[float(sigma)]]).log()
        assert standard_normal_kl(0 * log_var, log_var).item() == pytest.approx(
            float(forward), abs=0.005
        )
        reverse = standard_normal_kl(0 * log_var, -log_var).item()  # scale x by 1 / sigma
        assert reverse == pytest.approx(float(backward), abs=0.005)


def test_gallery_is_current() -> None:
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    assert page == gallery.gallery_page(), "run `make gallery`"


def test_gallery_makes_images_of_checkpoints_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is sampled with the options and prompts of its entry, or copied; others stay."""
    (tmp_path / "a.ckpt").touch()
    Image.new("RGB", (300, 20)).save(tmp_path / "samples-0000010.png")
    (tmp_path / "prompts.txt").write_text("red apple\nblue heart\n", encoding="utf-8")
    shared = {"system": "dalle", "what": "Images.", "train": "make dalle", "took": "an hour"}
    made = {"image": "a.png", "checkpoint": "a.ckpt", "prompts": "prompts.txt"}
    listed = [
        {**shared, **made, "sample": "--num 2"},
        {**shared, "image": "b.png"},
        {**shared, "image": "c.png", "preview": "samples-0000010.png"},
        {**shared, "image": "d.png", "preview": "samples-0000020.png"},
        {**shared, "text": "a\n  > b\n", "checkpoint": "a.ckpt", "sample": "--num 3"},
    ]
    seen = []

    def run(words: list[str]) -> None:
        seen.extend(words[:-2])
        Image.new("RGB", (200, 50)).save(Path(words[-1], "grid.png"))

    monkeypatch.setattr("cli.sampling.command.run", run)
    monkeypatch.setattr(gallery, "entries", lambda: listed)
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    monkeypatch.setattr(gallery, "DOCS", tmp_path)
    assert gallery.rebuild() == ["a.png", "c.png"]
    assert seen[1:] == ["--num", "2", "--prompt=red apple", "--prompt=blue heart"]
    assert Image.open(tmp_path / "a.png").size == (600, 150)
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert "python sample.py a.ckpt --num 2 --prompt - < prompts.txt" in page
    assert "![Images](b.png)" in page
    assert Image.open(tmp_path / "c.png").size == (300, 20)
    assert "(an hour); a preview of the run, `samples-0000020.png`." in page
    assert "```text\na\n  > b\n```\n" in page


def test_papers_and_first_commands_come_from_the_files() -> None:
    assert systems.paper("vae") == "Kingma and Welling 2014"
    assert systems.paper("seq2seq") == "Sutskever et al. 2014"
    assert systems.first_command("dalle") == "make dalle"
    assert systems.compared("vae").startswith("nll ↓ 88.00 (86.76)")
    assert all(systems.paper(system) for system in systems.system_names())
