"""The head at the latent's own resolution."""

import pytest
import torch

from rpiae.cell_head import CellHead
from rpiae.layers import patchify
from rpiae.text import TextStates
from rpiae.transformer import RPiAETransformer2DModel

SIZES = {
    "in_channels": 4, "sample_size": 8, "patch_size": 2, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
    "feed_forward_size": 48, "text_width": 24, "text_slots": 5,
}  # fmt: skip
TIMES = torch.tensor([0.3, 0.9])


def inputs() -> dict:
    generator = torch.Generator().manual_seed(1)
    text = TextStates(torch.randn(2, 5, 24, generator=generator), torch.ones(2, 5, dtype=torch.bool))
    return {"text": text, "source": torch.randn(2, 4, 8, 8, generator=generator)}


def with_head() -> RPiAETransformer2DModel:
    torch.manual_seed(0)
    return RPiAETransformer2DModel(**SIZES, head_layers=2, head_size=16)


def train_a_little(model: RPiAETransformer2DModel) -> None:
    """Give the parts that start at zero something to do."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_a_transformer_draws_the_same_until_its_head_is_trained(prediction):
    torch.manual_seed(0)
    plain = RPiAETransformer2DModel(**SIZES, prediction=prediction)
    train_a_little(plain)
    grown = RPiAETransformer2DModel(**SIZES, prediction=prediction, head_layers=2, head_size=16)
    missing = grown.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("head.") for name in missing)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        before = plain(x, TIMES, **inputs()).sample
        assert torch.equal(grown(x, TIMES, **inputs()).sample, before)
        torch.nn.init.normal_(grown.head.output.weight)
        assert not torch.allclose(grown(x, TIMES, **inputs()).sample, before)


def test_steps_of_a_schedule_are_those_of_a_call_each():
    model = with_head()
    train_a_little(model)
    x, given = torch.randn(2, 4, 8, 8), inputs()
    with torch.no_grad():
        context, schedule = model.encode_context(**given), model.encode_time(TIMES)
        for step, t in enumerate(TIMES):
            alone = model(x, t.expand(2), **given).sample
            cached = model(x, t.expand(2), context=context, time=schedule[step]).sample
            torch.testing.assert_close(cached, alone, atol=1e-5, rtol=0)


def test_a_cell_is_drawn_from_its_own_numbers_and_its_neighbours():
    torch.manual_seed(0)
    head = CellHead(trunk_width=12, channels=4, patch_size=2, width=8, num_layers=1, outputs=4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noisy = torch.zeros(1, 4, 8, 8, requires_grad=True)
    tokens, source = torch.randn(1, 16, 12), head.encode_source(torch.randn(1, 16, 16), (4, 4))
    drawn, changes = head(tokens, patchify(noisy, 2), source, head.encode_time(torch.randn(1, 12)), (4, 4))
    assert drawn.shape == (1, 4, 8, 8) and changes is None
    drawn[0, :, 4, 5].sum().backward()
    touched = noisy.grad[0].abs().sum(0) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[3:6, 4:7] = True
    assert torch.equal(touched, expected)


def test_changes_are_told_part_by_part():
    """Each of a cell's four parts has a logit of its own, at its own place in the picture."""
    torch.manual_seed(0)
    model = RPiAETransformer2DModel(**SIZES, head_layers=1, head_size=16, head_change_parts=2)
    torch.nn.init.zeros_(model.head.change.weight)
    with torch.no_grad():
        model.head.change.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        changes = model(torch.randn(2, 4, 8, 8), TIMES, **inputs()).changes
    assert changes.shape == (2, 1, 16, 16)
    assert torch.equal(changes[0, 0, :2, :2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(changes, changes[:, :, :2, :2].repeat(1, 1, 8, 8))
    with pytest.raises(ValueError, match="head_change_parts is 2, but there is no head"):
        RPiAETransformer2DModel(**SIZES, head_change_parts=2)
