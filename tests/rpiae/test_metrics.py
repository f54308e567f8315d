"""Metrics against closed forms and plain numpy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from rpiae import metrics


def pictures(count: int = 3, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, side, side, generator=generator)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_psnr_of_a_constant_difference():
    x = torch.full((3, 3, 32, 32), 0.5)
    y = x + torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)
    assert metrics.psnr(x, y).tolist() == pytest.approx([20, 40, float("inf")], abs=1e-3)


def test_psnr_is_per_picture_as_numpy_has_it():
    x, y = pictures()
    expected = -10 * np.log10(((x - y) ** 2).mean(dim=(1, 2, 3)).numpy())
    assert metrics.psnr(x, y).numpy() == pytest.approx(expected, abs=1e-4)
    assert metrics.psnr(x[:1], y[:1]).shape == (1,)


def ssim_by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 on one channel, an 11 px Gaussian window, mirrored at the borders."""

    def smooth(values):
        return gaussian_filter(values, 1.5, truncate=5 / 1.5, mode="mirror")

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


def test_ssim_as_scipy_has_it():
    x, y = pictures()
    expected = [
        np.mean(
            [ssim_by_scipy(a, b) for a, b in zip(one.double().numpy(), two.double().numpy(), strict=True)]
        )
        for one, two in zip(x, y, strict=True)
    ]
    assert metrics.ssim(x, y).numpy() == pytest.approx(np.array(expected), abs=1e-4)
    assert metrics.ssim(x, x).tolist() == pytest.approx([1, 1, 1])
    assert metrics.ssim(x[:1], y[:1]).shape == (1,)


def test_ssim_of_a_picture_that_is_too_thin_for_it_is_refused():
    x, y = (one[:, :, : metrics.SSIM_SIDE] for one in pictures(1))
    assert 0 < metrics.ssim(x, y).item() < 1
    with pytest.raises(ValueError, match="at least 6 pixels a side"):
        metrics.ssim(x[:, :, 1:], y[:, :, 1:])


def test_numbers_are_about_what_is_shown():
    x = torch.ones(1, 3, 32, 32)
    assert metrics.psnr(x, x + 0.5).item() == float("inf")


def test_error_map():
    x = torch.zeros(1, 3, 8, 8)
    y = x.clone()
    y[0, 0, 0, 0], y[0, 1, 1, 1] = 0.1, 0.9
    shown = metrics.error_map(x, y, gain=5)
    assert shown[0, 0, 0, 0] == pytest.approx(0.5) and shown[0, 1, 1, 1] == 1 and shown.count_nonzero() == 2


def test_lpips_without_its_weights_says_so_and_does_not_download(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    value, reason = metrics.lpips(*pictures(1))
    assert value is None and "vgg16-397923af.pth" in reason and str(tmp_path) not in reason
    assert not list(tmp_path.rglob("*"))


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_lpips_with_a_backbone_on_the_disk(tmp_path, monkeypatch):
    """A backbone of random weights in the real file's place: distances are 0 for equal pictures and grow."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    torch.save(alexnet().state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    metrics._lpips_network.cache_clear()
    x, y = pictures(2, 64)
    try:
        same, reason = metrics.lpips(x, x, backbone="alex")
        near, _ = metrics.lpips(x, (x + y) / 2, backbone="alex")
        far, _ = metrics.lpips(x, y, backbone="alex")
    finally:
        metrics._lpips_network.cache_clear()
    assert reason is None and same.tolist() == [0, 0]
    assert (near > 0).all() and (near < far).all()


def test_mistakes():
    x, y = pictures()
    for compare in (metrics.psnr, metrics.ssim, metrics.lpips, metrics.error_map):
        with pytest.raises(ValueError, match="must both be"):
            compare(x, y[:, :, :10])
    with pytest.raises(ValueError, match="squeeze"):
        metrics.lpips(x, y, backbone="squeeze")
