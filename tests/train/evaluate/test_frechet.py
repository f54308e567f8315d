"""Fréchet distance against closed forms and torch-fidelity, precision and recall against every pair looked at."""

import json

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import nn
from torch_fidelity import metric_fid
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import _compute_fid
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize, to_pil_image, to_tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from train.__main__ import main
from train.evaluate.features import DINOv2, Inception, collect, open_space
from train.evaluate.frechet import Statistics, frechet_distance, inception_score, precision_recall, statistics


def normal(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_distance_of_known_gaussians():
    mean, spread = np.array([3.0, 0.0, 4.0]), np.array([1.0, 4.0, 9.0])
    one = Statistics(np.zeros(3), np.diag(spread))
    other = Statistics(mean, np.diag([4.0, 4.0, 1.0]))
    # Commuting covariances: squared distance of the means and of the standard deviations.
    assert frechet_distance(one, other) == pytest.approx(25 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    rotation = stats.ortho_group.rvs(3, random_state=0)
    turned = [Statistics(rotation @ side.mean, rotation @ side.covariance @ rotation.T) for side in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(30)


def test_distance_by_the_matrix_root():
    """The formula as it is written, and torch-fidelity's and torchmetrics' numbers for the same features."""
    one, other = normal(60, 8, 3), normal(50, 8, 4) @ normal(8, 8, 5) + 1
    a, b = statistics(one), statistics(other)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6) and expected > 1
    sides = (metric_fid.fid_features_to_statistics(side) for side in (one, other))
    theirs = metric_fid.fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-4)
    tensors = (torch.from_numpy(part) for side in (a, b) for part in (side.mean, side.covariance))
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*tensors).item(), rel=1e-6)


def test_statistics_are_those_of_the_features():
    x = normal(40, 5, 0)
    found = statistics(x)
    np.testing.assert_allclose(found.mean, x.double().mean(0))
    np.testing.assert_allclose(found.covariance, torch.cov(x.double().T))
    with pytest.raises(ValueError, match="at least 2"):
        statistics(x[:1])
    with pytest.raises(ValueError, match="5 and 4"):
        frechet_distance(found, statistics(x[:, :4]))


def test_score_of_known_classes():
    """Every picture sure of its class and ten classes alike: ten. No picture knows anything: one."""
    sure = 100 * nn.functional.one_hot(torch.arange(10).repeat(5), 10).float()
    assert inception_score(sure)[0] == pytest.approx(10)
    assert inception_score(torch.zeros(50, 10)) == pytest.approx((1, 0))
    # Parts are consecutive: one class a part scores one in each, although there are two classes.
    parts = 100 * nn.functional.one_hot(torch.arange(2).repeat_interleave(5000), 2).float()
    assert inception_score(parts)[0] == pytest.approx(1)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_by_every_pair(neighbours):
    generated, real = 0.7 * normal(30, 4, 1), normal(25, 4, 2) + torch.tensor([1.0, 0, 0, 0])

    def share(points, centres):
        """Of points within the ball of any centre, whose radius is its distance to its k-th nearest other centre."""
        inside = 0
        for point in points:
            for index, centre in enumerate(centres):
                others = [(centre - one).norm().item() for j, one in enumerate(centres) if j != index]
                if (point - centre).norm().item() <= sorted(others)[neighbours - 1]:
                    inside += 1
                    break
        return inside / len(points)

    precision, recall = precision_recall(generated, real, neighbours)
    assert precision == pytest.approx(share(generated, real)) and recall == pytest.approx(share(real, generated))
    assert 0.3 < recall < precision < 1  # generated ones are fewer kinds
    with pytest.raises(ValueError, match="30 and 1"):
        precision_recall(generated, real[:1], neighbours)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A weights file of Inception's layout with random weights that keep signals alive."""

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    network = Blank("blank", ["2048"], str(folder / "empty.pth"))
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"


def test_inceptions_features(inception_file):
    """What the score is taken from are the classes' weights times what the distance is taken from, without a bias."""
    pictures = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    space = Inception(inception_file)
    found = collect(space, pictures.split(2), 3, "")
    assert found.pooled.shape == (3, 2048) and found.logits.shape == (3, 1008)
    torch.testing.assert_close(found.logits, found.pooled @ space.network.fc.weight.T, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.pooled[2:], space(pictures[2:]).pooled, atol=1e-3, rtol=1e-3)
    assert space.network.fc.bias.abs().max() > 0 and (found.pooled[0] - found.pooled[1]).abs().max() > 0.01
    # Spatial features: seven channels of 17 x 17 places, channels last, after the rectifier.
    assert found.spatial.shape == (3, 7 * 17 * 17) and found.spatial.min() == 0 < found.spatial.max()
    turned, straight = (one.view(3, 17, 17, 7) for one in (space(pictures.flip(-1)).spatial, found.spatial))
    torch.testing.assert_close(turned.mean((1, 2)), straight.mean((1, 2)), atol=1, rtol=0.5)
    assert (turned - straight).abs().max() > 0.1


def test_inception_says_what_is_missing_or_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"torch hub's checkpoints.*weights-inception-2015-12-05.*--inception"):
        Inception()
    with pytest.raises(ValueError, match="'mine.pth' is not there"):
        Inception(tmp_path / "mine.pth")
    for content, words in (({"x": torch.zeros(1)}, "not Inception's"), (nn.Linear(1, 1), "holds code")):
        torch.save(content, tmp_path / "mine.pth")
        with pytest.raises(ValueError, match=words):
            Inception(tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="inception, efficientnet-lite0, dinov2"):
        open_space("vgg")


def test_offline_space_tells_pictures_apart():
    space = open_space("efficientnet-lite0")
    pictures = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = space(pictures)
    assert features.pooled.shape == (3, 1280) and features.logits.shape == (3, 1000)
    assert torch.allclose(space(pictures[:1]).pooled, features.pooled[:1], atol=1e-4)
    assert (features.pooled[0] - features.pooled[1]).abs().max() > 0.01
    x = nn.functional.interpolate(pictures / 127.5 - 1, (224, 224), mode="bilinear", antialias=True)
    assert torch.allclose(space.network(x), features.logits, atol=1e-3)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    """A small DINOv2 with random weights, as transformers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2") / "dinov2-small"
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(folder)
    return folder


def random_pictures(count, side):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_dinov2s_features_are_transformers_pooled_output(dinov2_folder):
    space, network = open_space("dinov2", str(dinov2_folder)), Dinov2Model.from_pretrained(dinov2_folder).eval()

    def pooled(x):
        with torch.no_grad():
            return network(normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).pooler_output

    assert space.name == "DINOv2 (dinov2-small), class token, 224 px bicubic"
    exact = random_pictures(3, 224)
    found = collect(space, exact.split(2), 3, "")
    assert found.pooled.shape == (3, 32) and found.logits is None and found.spatial is None
    torch.testing.assert_close(found.pooled, pooled(exact / 255), atol=1e-5, rtol=1e-4)
    assert (found.pooled[0] - found.pooled[1]).abs().max() > 0.01
    # Larger ones: as the authors resize, with Pillow, but for its rounding and clamping.
    larger = random_pictures(3, 32).repeat_interleave(8, 2).repeat_interleave(8, 3)
    theirs = [resize(to_pil_image(one), [224, 224], InterpolationMode.BICUBIC) for one in larger]
    distance = (space(larger).pooled - pooled(torch.stack([to_tensor(one) for one in theirs]))).abs().max()
    assert distance < 0.1 * (space(larger[:1]).pooled - space(larger[1:2]).pooled).abs().max()


def test_commands_measure_with_dinov2(dinov2_folder, smoke_checkpoint, tmp_path, capsys):
    array = random_pictures(12, 32).permute(0, 2, 3, 1).numpy()
    real = {"arr_0": array[6:], "mu": np.zeros(2048), "sigma": np.eye(2048)}  # which are Inception's
    np.savez(tmp_path / "made.npz", array[:6])
    np.savez(tmp_path / "real.npz", **real)
    dinov2 = ["--features", "dinov2", "--dinov2", str(dinov2_folder), "--out", str(tmp_path / "rows.json")]
    assert main(["measure-samples", str(tmp_path / "made.npz"), str(tmp_path / "real.npz"), *dinov2]) == 0
    row = json.loads((tmp_path / "rows.json").read_text())
    space = open_space("dinov2", dinov2_folder)
    sides = (statistics(space(torch.from_numpy(one).movedim(-1, 1)).pooled) for one in (array[:6], array[6:]))
    assert row["gfid"] == pytest.approx(frechet_distance(*sides), rel=1e-3) and row["gfid"] > 0
    assert row["inception score"] is None and row["recall"] is not None
    shown = capsys.readouterr().out
    assert "| DINOv2 (dinov2-small), class token, 224 px bicubic |" in shown and "against its 6 pictures" in shown
    (tmp_path / "rows.json").unlink()
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        to_pil_image(random_pictures(2, 40)[index]).save(tmp_path / "pictures" / f"{index}.png")
    tokenizer = ["--tokenizer", f"rpiae={smoke_checkpoint}"]
    assert main(["measure-reconstruction", str(tmp_path / "pictures"), *tokenizer, *dinov2]) == 0
    assert "rFID (DINOv2 (dinov2-small), class token, 224 px bicubic)" in capsys.readouterr().out


def test_dinov2_says_what_is_missing_or_wrong(dinov2_folder, tmp_path):
    with pytest.raises(ValueError, match="--dinov2 hf:facebook/dinov2-large"):
        open_space("dinov2")
    with pytest.raises(ValueError, match="no checkpoint folder .*nowhere"):
        DINOv2(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a DINOv2: config.json is missing"):
        DINOv2(tmp_path)
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL)).save_pretrained(tmp_path / "registers")
    with pytest.raises(ValueError, match="registers holds a dinov2_with_registers, wanted is a dinov2 "):
        DINOv2(tmp_path / "registers")
    small = Dinov2Model.from_pretrained(dinov2_folder)
    weights = {name: one for name, one in small.state_dict().items() if not name.startswith("layernorm")}
    small.save_pretrained(tmp_path / "part", state_dict=weights)
    with pytest.raises(ValueError, match="part is no whole DINOv2: layernorm.bias, layernorm.weight missing"):
        DINOv2(tmp_path / "part")
    for content in (b"", (dinov2_folder / "model.safetensors").read_bytes()[:-100]):
        (tmp_path / "part" / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="part holds no DINOv2 that can be loaded"):
            DINOv2(tmp_path / "part")
    (tmp_path / "part" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="part holds no DINOv2 that can be loaded"):
        DINOv2(tmp_path / "part")
