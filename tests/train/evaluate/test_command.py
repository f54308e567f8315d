"""`evaluate` leaves thresholds and tables of one measurement in a folder, whenever it is stopped."""

import json
import shutil

import pytest

from rpiae.region import RegionSettings
from train.__main__ import main
from train.evaluate import calibrate, report


@pytest.fixture
def checkpoint(smoke_checkpoint, tmp_path, monkeypatch):
    """A folder whose calibration, which takes its time, finds one threshold of 0.123."""
    best = calibrate.Trial(RegionSettings(latent_threshold=0.123), 1.0, 1.0)
    monkeypatch.setattr(calibrate, "calibrate", lambda pipe, seed: (best, [best]))
    return shutil.copytree(smoke_checkpoint, tmp_path / "checkpoint")


def test_thresholds_are_stored_beside_their_tables(checkpoint, monkeypatch):
    command = ["evaluate", "smoke", "--checkpoint", str(checkpoint), "seed=1"]
    index, card = checkpoint / "model_index.json", checkpoint / "README.md"
    before = index.read_bytes(), card.read_bytes()

    def killed(pipe, folder, **_):
        assert pipe.config.region["latent_threshold"] == 0.123  # they are what is measured
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert (index.read_bytes(), card.read_bytes()) == before
    monkeypatch.setattr(report, "run", lambda pipe, folder, **_: {})
    monkeypatch.setattr(report, "markdown", lambda tables: "| a | table |")
    assert main(command) == 0
    assert json.loads(index.read_text())["region"]["latent_threshold"] == 0.123
    assert "| a | table |" in card.read_text()
