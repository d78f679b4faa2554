"""README.md is up to date: its table, and the files and options of its commands."""

import re

import readme
import train
from common.files import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_systems_is_current() -> None:
    assert readme.with_table(TEXT) == TEXT, "run `make readme`"


def test_files_and_recipes_it_names_exist() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(
        r"(configs/[\w/]+\.yaml)", TEXT.replace("configs/mine/openmoji.yaml", "")
    )
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_commands_parse(capsys) -> None:  # type: ignore[no-untyped-def]
    """The parser accepts every `train.py fit` line, apart from its checkpoints."""
    lines = re.findall(r"^python train\.py (fit[^#\n]*)", TEXT, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        if re.fullmatch(r"fit --run_dir \S+ --ckpt_path last\s*", line):
            continue  # uses the configuration of its run
        words = re.sub(r"--(ckpt_path|init_from) \S+", "", line.replace(" --dry_run", "")).split()
        assert train.main([*words, "--print_config"]) == 0, capsys.readouterr().err
