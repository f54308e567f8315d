"""Fixtures that several rooms share."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.chromium import CHROMIUM
from tests.smoke import write_smoke

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
SCENES = Path(__file__).parent / "fixtures" / "scenes"
BROWSER = Path(__file__).resolve().parent / "browser"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Among several workers the tests of one file stay together, since they share what was dear to make; all that need
    a browser share one, and a server."""
    for item in items:
        in_browser = BROWSER in Path(item.path).parents
        item.add_marker(pytest.mark.xdist_group("browser" if in_browser else str(item.path)))
        if in_browser:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="Chromium is missing"))


def pytest_terminal_summary(terminalreporter):
    if CHROMIUM is None:
        terminalreporter.write_sep("!", "THE BROWSER TESTS DID NOT RUN: Chromium is missing (apt-get install chromium)")


class Golden:
    """Tensors that the authors' code computed, with the tolerances of their manifest (`tests/fixtures/golden`)."""

    folder = GOLDEN
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    config = json.loads((GOLDEN / "config.json").read_text())
    facts = json.loads((GOLDEN / "facts.json").read_text())

    def path(self, name: str) -> Path:
        return self.folder / name

    @functools.cache  # noqa: B019 (one instance a session)
    def tensors(self, file: str) -> dict:
        from safetensors.torch import load_file

        return load_file(self.path(file))

    def check(self, file: str, name: str, ours) -> None:
        """Our tensor is the authors', within the entry's own tolerance."""
        theirs, entry = self.tensors(file)[name], self.manifest["files"][file]["tensors"][name]
        assert ours.shape == theirs.shape
        if entry.get("tolerance_rel") is not None:
            assert abs(float(ours / theirs) - 1) <= entry["tolerance_rel"]
        else:
            assert (ours.double() - theirs.double()).abs().max().item() <= entry["tolerance_abs"]


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


@pytest.fixture(scope="session")
def smoke_checkpoint(tmp_path_factory) -> Path:
    """A tiny, untrained but real checkpoint folder: every component of a pipeline, float16 on disk."""
    return write_smoke(tmp_path_factory.mktemp("smoke") / "checkpoint")


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
def class_checkpoint(tmp_path_factory) -> Path:
    """A tiny, untrained class-conditional checkpoint with as many classes as ImageNet; its pictures are 64 x 64."""
    import torch

    from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel

    folder = tmp_path_factory.mktemp("classes") / "smoke-classes"
    torch.manual_seed(0)
    vae = AutoencoderRPiAE.from_official(GOLDEN / "rpiae_stage3_1_c8_ema.pt", 3, 4)
    transformer = LightningDiT2DModel(8, 4, 1, 32, 2, 2, 64, 1000, 16)
    # Untrained blocks are the identity and the label would change nothing: give every part something to do.
    for parameter in transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    ClassConditionalPipeline(vae=vae, transformer=transformer).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return folder


@pytest.fixture
def picture() -> Image.Image:
    """A 256 x 256 sticker scene."""
    return Image.open(SCENES / "scene_1.png").convert("RGB")
