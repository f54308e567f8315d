"""What the studio's tests share: a checkpoint to work with, and a picture.

The browser tests take these fixtures, too (tests/browser/conftest.py).
"""

import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "fixtures" / "scenes"


@pytest.fixture(scope="session")
def studio_checkpoint(smoke_checkpoint, tmp_path_factory) -> Path:
    """The smoke checkpoint with a transformer that takes its time, so that a job can be watched and stopped, and
    with region thresholds at which its untrained edits change a small part of a picture, as trained ones do."""
    import torch

    from rpiae.transformer import RPiAETransformer2DModel

    folder = tmp_path_factory.mktemp("studio") / "smoke-studio"
    shutil.copytree(smoke_checkpoint, folder)
    sizes = {"num_layers": 4, "patch_size": 1, "hidden_size": 256, "num_heads": 4, "feed_forward_size": 512}
    config = json.loads((folder / "transformer" / "config.json").read_text())
    settings = {key: value for key, value in config.items() if not key.startswith("_")} | sizes
    torch.manual_seed(1)
    transformer = RPiAETransformer2DModel(**settings)
    for parameter in transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    shutil.rmtree(folder / "transformer")
    transformer.half().save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["region"] |= {"high": 0.5, "low": 0.45, "full_coverage": 1.0}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def service(studio_checkpoint):
    """The studio's service with that checkpoint, loaded once."""
    from app.service import Service

    loaded = Service(studio_checkpoint)
    loaded.load()
    return loaded


@pytest.fixture
def picture() -> Image.Image:
    """A 256 x 256 sticker scene."""
    return Image.open(PICTURES / "scene_1.png").convert("RGB")


@pytest.fixture
def ended():
    """Waits for a task of the shelf, and returns it."""

    def wait(task):
        deadline = time.monotonic() + 120
        while not task.done:
            assert time.monotonic() < deadline, task.words
            time.sleep(0.02)
        return task

    return wait
