"""docs/recipes.md has one row per recipe: settings of paper, released code and ours; sources."""

import re

import pytest
import yaml

from cli.recipes import purpose, recipes
from common.files import ROOT
from tests.tracked import relative, skip_untracked, tracked_recipes

COLUMNS = ["config", "paper", "released code", "ours", "source"]
TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
PLACE = re.compile(
    r"Table|Figure|[Ss]ection|[Aa]ppendix|Eq\.|Algorithm|`[\w.-]+/[\w.-]+`"
)  # place in a paper, or `owner/repository`
QUOTES = re.compile(r"published|paper|release|against|Table|et al\.", re.IGNORECASE)


def rows() -> dict[str, dict[str, str]]:
    """Cells of every row by column name, by config path; each section holds one directory."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        system = section.partition("\n")[0].strip()
        for line in re.findall(r"^\| \[.*$", section, re.MULTILINE):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == len(COLUMNS), line
            match = re.fullmatch(rf"\[(\w+)\]\(\.\./(configs/{system}/\1\.yaml)\)", cells[0])
            assert match, f"{cells[0]} in section {system}"
            assert match[2] not in found, f"two rows for {match[2]}"
            found[match[2]] = dict(zip(COLUMNS, cells, strict=True))
    return found


ROWS = rows()
RECIPES = [relative(path) for path in tracked_recipes()]


def test_one_row_per_recipe() -> None:
    missing, extra = sorted(set(RECIPES) - set(ROWS)), sorted(set(ROWS) - set(RECIPES))
    assert not missing, f"docs/recipes.md has no row for {', '.join(missing)}"
    assert not extra, f"docs/recipes.md has rows for missing files: {', '.join(extra)}"


def test_tables_have_the_named_columns() -> None:
    headers = re.findall(r"^\| config \|.*$", TEXT, re.MULTILINE)
    assert headers == ["| " + " | ".join(COLUMNS) + " |"] * len(
        {recipe.split("/")[1] for recipe in RECIPES}
    )


def test_private_recipes_need_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that git does not track is in no document, and its tests are skipped."""
    private = [ROOT / "configs/mine/openmoji.yaml", ROOT / "configs/va/openmoji.yaml"]
    monkeypatch.setattr("tests.tracked.recipes", lambda: [*recipes(), *private])
    assert [relative(path) for path in tracked_recipes()] == RECIPES
    for place in ("configs/mine/openmoji.yaml", "configs/va"):
        with pytest.raises(pytest.skip.Exception, match=f"git does not track {place}"):
            skip_untracked(place)
    skip_untracked("configs/vae")


@pytest.mark.parametrize("recipe", map(relative, recipes()))
def test_row_is_complete(recipe: str) -> None:
    skip_untracked(recipe)
    row = ROWS.get(recipe, {})
    assert row, f"docs/recipes.md has no row for {recipe}"
    assert all(row.values()), row
    if QUOTES.search(purpose(ROOT / recipe)):
        assert PLACE.search(row["source"]), (
            f"{recipe} names a paper or its result, but its row has no table, section or repository"
        )


def test_published_figures_stand_in_the_row_of_their_config() -> None:
    """Every published value of a trained model in RESULTS.md is in the row of its config."""
    checked = 0
    for path in sorted(ROOT.glob("configs/_reproduce/*.yaml")):
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
        value = re.search(r"^published: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if value and "function" not in plan:
            assert (
                value[1] in ROWS[plan["config"]]["paper"] + ROWS[plan["config"]]["released code"]
            ), path.name
            assert PLACE.search(ROWS[plan["config"]]["source"]), path.name
            checked += 1
    assert checked >= 9
