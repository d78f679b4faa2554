"""Isolation of tests: each starts in the repository root, with a fixed seed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tracked import tracked_recipes

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the working directory, seed and environment, and restore the signal handler."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("MAQUETTE_RUN_DIR", raising=False)
    monkeypatch.delenv("DEBUG", raising=False)
    torch.manual_seed(0)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    os.environ.pop("MAQUETTE_RUN_DIR", None)


@pytest.fixture
def tracked_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the pages to the systems and recipes that git tracks."""
    monkeypatch.setattr("cli.pages.systems.recipes", tracked_recipes)
