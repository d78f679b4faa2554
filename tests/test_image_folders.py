"""Some of the random folders of images of tests/trials/test_image_folders.py."""

from pathlib import Path

import pytest

from tests.image_folders import check_seed


@pytest.mark.parametrize("seed", range(15))
def test_random_folder(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder trains with numbers that add up, or is refused in one line."""
    check_seed(seed, tmp_path, monkeypatch)
