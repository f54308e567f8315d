"""The discriminator: what it looks at, how pictures are augmented, and how it trains against a tokenizer."""

import copy

import pytest
import torch

from tests.train.paper import DINO, overrides, write_dino
from train.config import AutoencoderStage, DinoSettings, DiscriminatorSettings, load_config
from train.discriminator import DRAWS, DinoFeatures, Discriminator, augmented, draws, quantised
from train.losses import generator_loss
from train.opponent import Opponent

SIDE = 48


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> DiscriminatorSettings:
    weights = write_dino(tmp_path_factory.mktemp("dino") / "dino.pth")
    return DiscriminatorSettings(weights=weights, network=DinoSettings(**DINO), learns_from=4)


@pytest.fixture(scope="module")
def stage(settings, tmp_path_factory) -> AutoencoderStage:
    stage = load_config("paper-256", overrides(tmp_path_factory.mktemp("paper"))).stages["pivot"]
    return stage.model_copy(update={"discriminator": settings})


def pictures(count=2, seed=0) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_are_the_patch_tokens_after_the_taps_the_last_one_twice(settings):
    features = Discriminator.from_file(settings).features
    seen = {}
    for k, block in enumerate(features.network.blocks):
        block.register_forward_hook(lambda _, inputs, output, k=k: seen.__setitem__(k, output))
    found = features(pictures())
    tokens = (DINO["input_size"] // 8) ** 2
    assert [one.shape for one in found] == [(2, DINO["hidden_size"], tokens)] * 3
    for one, block in zip(found, (2, 0, 2), strict=True):
        assert torch.equal(one, seen[block][:, 1:].transpose(1, 2))


def test_the_networks_own_size_is_not_resized_and_black_is_black(settings):
    features = DinoFeatures(settings.network)
    seen = []
    features.network.patch_embed.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    features(torch.full((1, 3, 32, 32), -1.0))
    assert torch.allclose(seen[0], (-features.mean / features.std).expand(1, 3, 32, 32))


def test_every_picture_is_judged_by_itself(settings):
    torch.manual_seed(0)
    discriminator = Discriminator.from_file(settings).eval()
    x = pictures(3)
    together, alone = discriminator(x), torch.cat([discriminator(one[None]) for one in x])
    assert together.shape == (3, 3 * 16) and together.std() > 0
    assert torch.allclose(together, alone, atol=1e-5)


def test_only_heads_learn_and_they_are_spectrally_normalised(settings):
    discriminator = Discriminator.from_file(settings).train()
    assert not any(p.requires_grad for p in discriminator.features.parameters())
    assert not discriminator.features.network.training
    for _ in range(30):
        discriminator(pictures())
    for head in discriminator.heads:
        for convolution in (head.each[0], head.among[0], head.out):
            assert torch.linalg.matrix_norm(convolution.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_neutral_draws_change_nothing():
    x = pictures()
    assert torch.allclose(augmented(x, torch.full((2, DRAWS), 0.5)), x, atol=1e-6)


def test_the_smallest_draws_move_darken_and_take_the_colour():
    x = pictures()
    most = round(SIDE / 8)
    moved = augmented(x, torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.5]]).expand(2, -1))
    assert torch.allclose(moved[:, :, :-most, :-most], x[:, :, most:, most:], atol=1e-6)
    assert moved[:, :, -most:].abs().max() < 1e-6 and moved[:, :, :, -most:].abs().max() < 1e-6
    dark = augmented(x, torch.tensor([[0.5, 0.5, 0.0, 0.5, 0.5]]).expand(2, -1))
    assert torch.allclose(dark, x - 0.5, atol=1e-6)
    grey = augmented(x, torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.5]]).expand(2, -1))
    assert torch.allclose(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)
    flat = augmented(x, torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.0]]).expand(2, -1))
    middle = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(flat, middle + (x - middle) / 2, atol=1e-6)


def test_draws_belong_to_the_seed_the_picture_and_the_purpose():
    both, swapped = draws(torch.tensor([3, 8]), 0, 0), draws(torch.tensor([8, 3]), 0, 0)
    assert torch.equal(both, swapped.flip(0)) and not torch.equal(both[0], both[1])
    for purpose, seed in (1, 0), (0, 1):
        assert not torch.isclose(both, draws(torch.tensor([3, 8]), purpose, seed)).any()


def test_fakes_are_rounded_as_a_file_is():
    x = quantised(torch.tensor([-3.0, -1.0, 0.001, 0.5, 2.0]))
    assert x.min() == -1 and x.max() == 1
    levels = (x + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (x[2:4] - torch.tensor([0.001, 0.5])).abs().max() <= 1 / 255


def test_missing_and_foreign_weights_are_told(settings, tmp_path):
    missing = settings.model_copy(update={"weights": tmp_path / "none.pth"})
    with pytest.raises(ValueError, match="dino_vit_small_patch8_224.pth .*discriminator.weights"):
        Discriminator.from_file(missing)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth does not hold the discriminator's network: .*missing"):
        Discriminator.from_file(settings.model_copy(update={"weights": tmp_path / "other.pth"}))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth is damaged"):
        Discriminator.from_file(settings.model_copy(update={"weights": tmp_path / "text.pth"}))


def test_the_generators_loss_reaches_the_pictures_alone(stage):
    opponent = Opponent(stage, 0)
    x = ((pictures() + 1) / 2).requires_grad_(True)
    generator_loss(opponent.judge(x, torch.tensor([0, 1]))).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in opponent.network.heads.parameters())


def test_it_learns_to_tell_pictures_from_grey_ones_and_goes_on_from_its_state(stage):
    torch.manual_seed(0)
    fast = stage.optimizer.model_copy(update={"lr": 5e-3, "warmup_samples": 0, "decay_between": None})
    opponent = Opponent(stage.model_copy(update={"optimizer": fast, "samples": 10**6}), 0)

    def grey(x):
        return torch.full_like(x, 0.5)

    def step(who, k):
        index = torch.arange(4) + 4 * k
        return who.step([((pictures(4, k) + 1) / 2, index)], grey, first=4 * k)

    losses = [float(step(opponent, 1 + k)["discriminator"]) for k in range(40)]
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    other = Opponent(opponent.stage, 0)
    other.load_state_dict(copy.deepcopy(opponent.state_dict()))  # as from a file
    assert float(step(opponent, 50)["discriminator"]) == float(step(other, 50)["discriminator"])
    for ours, theirs in zip(opponent.network.heads.parameters(), other.network.heads.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_parts_of_a_batch_teach_what_the_whole_batch_does(stage):
    def taught(parts):
        torch.manual_seed(0)
        opponent = Opponent(stage.model_copy(update={"samples": 10**6}), 0)
        x, index = (pictures(4) + 1) / 2, torch.arange(4, 8)
        opponent.step(list(zip(x.chunk(parts), index.chunk(parts), strict=True)), lambda x: 1 - x, first=4)
        return torch.cat([p.detach().flatten() for p in opponent.network.heads.parameters()])

    # Adam's first step goes by signs, so gradients next to nothing may differ; another batch would differ in half.
    assert ((taught(1) - taught(2)).abs() < 1e-5).float().mean() > 0.95


@pytest.mark.parametrize(("schedule", "first_rate"), [("own", 0.5), ("shared", 1.0)])
def test_its_own_rate_warms_up_when_it_begins(stage, schedule, first_rate):
    own = stage.discriminator.model_copy(update={"schedule": schedule})
    opponent = Opponent(stage.model_copy(update={"discriminator": own, "samples": 10**6}), 0)
    assert not opponent.learns(2) and opponent.learns(4)
    opponent.step([((pictures() + 1) / 2, torch.tensor([4, 5]))], lambda x: x, first=4)
    # The tiny config warms up over four samples, two a step; its decay begins with sample 4.
    assert opponent.optimizer.param_groups[0]["lr"] == pytest.approx(2e-4 * first_rate)
