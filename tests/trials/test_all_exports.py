"""Every system is exported to each format, with the bits or outputs of the checkpoint."""

from pathlib import Path

import pytest

from cli.exporting.graphs import write_networks
from lightning_modules import load
from tests.runs import ROOT
from tests.test_exports import check_bits, trained

SYSTEMS = sorted(path.stem for path in (ROOT / "lightning_modules").glob("[a-z]*.py"))
WITHOUT_NETWORKS = {"dalle", "diffusion"}  # docs/howto/export.md says why


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_exported(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained(tmp_path, system)
    check_bits(path, tmp_path, capsys)
    model = load(path)
    if system in WITHOUT_NETWORKS:
        assert not model.networks()
        return
    assert write_networks(model, tmp_path / "onnx", "onnx")
    lines = write_networks(model, tmp_path / "pt2", "pt2")
    written = [line for line in lines if "not written" not in line]
    assert len(written) == len(lines) - (system == "seq2seq")
