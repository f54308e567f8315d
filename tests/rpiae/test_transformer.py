"""The context cache is exact, static and blind to the time; null tokens stand for what is missing."""

import pytest
import torch

from rpiae.text import TextStates
from rpiae.transformer import RPiAETransformer2DModel

SMALL = {
    "in_channels": 4, "sample_size": 8, "patch_size": 2, "hidden_size": 32, "num_layers": 3, "num_heads": 2,
    "feed_forward_size": 48, "text_width": 12, "text_slots": 6,
}  # fmt: skip


def busy(**changes) -> RPiAETransformer2DModel:
    """A small transformer in which no parameter is zero: nothing can be right by accident."""
    torch.manual_seed(0)
    model = RPiAETransformer2DModel(**SMALL | changes)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch=3):
    generator = torch.Generator().manual_seed(1)
    text = TextStates(torch.randn(batch, 6, 12, generator=generator), torch.rand(batch, 6, generator=generator) > 0.4)
    source = torch.randn(batch, 4, 8, 8, generator=generator)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    return x, torch.linspace(0.95, 0.1, batch), text, source


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_a_cached_context_gives_the_same_output_as_none(prediction):
    model = busy(prediction=prediction)
    x, t, text, source = inputs()
    has_source = torch.tensor([True, False, True])
    context = model.encode_context(text, source, has_source)
    for times in (t, t.flip(0)):  # the same context at other times
        cached = model(x, times, context=context).sample
        plain = model(x, times, text=text, source=source, has_source=has_source).sample
        assert (cached - plain).abs().max() <= 1e-5
        assert cached.std() > 0.1


@torch.no_grad()
def test_the_modulation_of_a_whole_schedule_is_that_of_its_steps():
    model = busy()
    x, _, text, source = inputs()
    context = model.encode_context(text, source)
    schedule = torch.tensor([0.9, 0.5, 0.2])
    hoisted = model.encode_time(schedule)
    for step, t in enumerate(schedule):
        times = t.expand(len(x))
        torch.testing.assert_close(
            model(x, times, context=context, time=hoisted[step]).sample,
            model(x, times, context=context).sample,
            atol=1e-5, rtol=1e-5,
        )  # fmt: skip


@torch.no_grad()
def test_one_context_serves_several_draws_in_a_row():
    model = busy()
    x, t, text, source = inputs(2)
    context = model.encode_context(text, source)
    together = model(x.repeat_interleave(2, 0), t.repeat_interleave(2), context=context).sample
    torch.testing.assert_close(together[::2], model(x, t, context=context).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_context_has_the_same_length():
    model = busy()
    _, _, text, source = inputs()
    empty = TextStates(text.states, torch.zeros_like(text.mask))
    for context in (model.encode_context(text), model.encode_context(empty), model.encode_context(text, source)):
        assert {keys.shape[1] for keys in context.keys} == {6 + 16}


@torch.no_grad()
def test_masked_words_and_missing_sources_leave_no_trace():
    model = busy()
    x, t, text, source = inputs()
    changed = TextStates(torch.where(text.mask[..., None], text.states, 99.0), text.mask)
    no_source = torch.zeros(3, dtype=torch.bool)
    first = model(x, t, text=text, source=source, has_source=no_source).sample
    second = model(x, t, text=changed, source=source * 5, has_source=no_source).sample
    third = model(x, t, text=text).sample
    assert torch.equal(first, second)
    torch.testing.assert_close(first, third, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_text_source_and_time_each_matter():
    model = busy()
    x, t, text, source = inputs()
    base = model(x, t, text=text, source=source).sample
    other_text = TextStates(text.states.flip(0), text.mask)
    for changed in (
        model(x, t, text=other_text, source=source).sample,
        model(x, t, text=text, source=source.flip(0)).sample,
        model(x, t * 0.5, text=text, source=source).sample,
    ):
        assert (changed - base).abs().max() > 1e-2


@torch.no_grad()
def test_a_fresh_edit_starts_as_its_source():
    torch.manual_seed(0)
    model = RPiAETransformer2DModel(**SMALL)
    x, t, text, source = inputs()
    velocity = model(x, t, text=text, source=source).sample
    predicted = x - t.view(-1, 1, 1, 1) * velocity
    torch.testing.assert_close(predicted, source, atol=1e-5, rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="patch size 3 does not divide"):
        RPiAETransformer2DModel(**SMALL | {"patch_size": 3})
    model = busy()
    x, t, text, _ = inputs()
    with pytest.raises(ValueError, match="needs a context"):
        model(x, t)
    with pytest.raises(ValueError, match="5 slots"):
        model.encode_context(TextStates(text.states[:, :5], text.mask[:, :5]))
