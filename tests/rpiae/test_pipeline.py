"""The public pipeline on a tiny real checkpoint: seeds, sizes, masks, guidance, callbacks and bad arguments."""

import copy
import io

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from rpiae import RPiAEPipeline, images


@pytest.fixture(scope="module")
def pipe(smoke_checkpoint):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def photo(width=200, height=120, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


class Away(ModelHook):
    """Weights that are there from the first call on, as `enable_model_cpu_offload` has them, without an accelerator."""

    def init_hook(self, module):
        self.state = {name: one.clone() for name, one in module.state_dict().items()}
        for one in module.parameters():
            one.data.fill_(torch.nan)
        return module

    def pre_forward(self, module, *given, **named):
        module.load_state_dict(self.state)
        return given, named


def test_weights_that_are_elsewhere_until_they_are_needed_draw_the_same(pipe):
    models = {name: copy.deepcopy(one) for name, one in pipe.components.items() if isinstance(one, torch.nn.Module)}
    assert set(models) == set(pipe.model_cpu_offload_seq.split("->"))
    for model in models.values():
        add_hook_to_module(model, Away())
    offloaded = RPiAEPipeline(**pipe.components | models)
    offloaded.set_progress_bar_config(disable=True)
    settings = {"image": photo(), "num_inference_steps": 2, "guidance_scale": 2.0}
    assert same(*(some("a red car", generator=seeds(7), **settings).images[0] for some in (offloaded, pipe)))


def test_a_seed_is_a_picture_whatever_the_batch(pipe):
    alone = [pipe("a cat", generator=one, output_type="pt").images[0] for one in seeds(3, 4)]
    together = pipe(["a cat", "a cat"], generator=seeds(3, 4), output_type="pt").images
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_the_same_seed_twice_is_the_same_picture_to_the_byte(pipe):
    first, second = (pipe("a cat", generator=seeds(5)).images[0] for _ in range(2))
    assert same(first, second) and first.size == (256, 256)


@pytest.mark.parametrize("size", [(256, 256), (200, 120), (77, 301), (1024, 768)])
def test_an_edit_has_the_inputs_size_and_keeps_its_pixels_where_the_mask_is_zero(pipe, size):
    picture = photo(*size)
    painted = Image.new("L", size, 0)
    painted.paste(255, (0, 0, size[0] // 2, size[1]))
    out = pipe("make it blue", image=picture, mask_image=painted, generator=seeds(1))
    mask = np.asarray(out.change_masks[0])
    assert out.images[0].size == out.change_masks[0].size == size
    assert mask.any() and not mask[:, size[0] // 2 :].any()
    assert np.array_equal(np.asarray(out.images[0])[mask == 0], np.asarray(picture)[mask == 0])


def test_without_preserving_there_is_no_mask_but_paint_still_holds(pipe):
    picture, painted = photo(), Image.new("L", (200, 120), 0)
    painted.paste(255, (0, 0, 100, 120))
    everywhere = pipe("make it blue", image=picture, preserve_unchanged=False, generator=seeds(1))
    held = pipe("make it blue", image=picture, mask_image=painted, preserve_unchanged=False, generator=seeds(1))
    assert everywhere.change_masks == held.change_masks == [None]
    assert not same(everywhere.images[0].crop((100, 0, 200, 120)), picture.crop((100, 0, 200, 120)))
    assert same(held.images[0].crop((100, 0, 200, 120)), picture.crop((100, 0, 200, 120)))
    assert not same(held.images[0], picture)


def test_one_prompt_serves_many_pictures_and_one_picture_many_prompts(pipe):
    assert len(pipe("make it blue", image=[photo(), photo(64, 64, 1)]).images) == 2
    assert len(pipe(["make it blue", "make it red"], image=photo()).images) == 2


def test_a_picture_by_several_seeds_is_encoded_once_and_comes_out_as_by_each(pipe, monkeypatch):
    rows, encode, decode = [], pipe.vae.encode, pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "encode", lambda x: rows.append(len(x)) or encode(x))
    monkeypatch.setattr(pipe.vae, "decode", lambda x: rows.append(len(x)) or decode(x))
    one, other = photo(), photo(seed=1)
    together = pipe("make it blue", image=[one, other, one], generator=seeds(1, 2, 3)).images
    assert rows == [2, 2 + 3]  # both pictures; both again beside the three results
    for picture, image, number in zip(together, (one, other, one), (1, 2, 3), strict=True):
        alone = pipe("make it blue", image=image, generator=seeds(number)).images[0]
        assert (np.abs(np.asarray(picture, int) - np.asarray(alone)) <= 1).mean() > 0.99


def test_guidance_scales_and_negative_prompts_change_the_picture(pipe):
    def draw(**settings):
        return pipe("a cat", generator=seeds(2), output_type="pt", **settings).images

    plain = draw(guidance_scale=1.0)
    assert (draw(guidance_scale=4.0) - plain).abs().max() > 1e-3
    assert (draw(guidance_scale=4.0, negative_prompt="a dog") - draw(guidance_scale=4.0)).abs().max() > 1e-4


@pytest.fixture
def rows(pipe, monkeypatch):
    """How many rows the transformer saw in each step."""
    seen, forward = [], pipe.transformer.forward

    def watching(hidden_states, *arguments, **keywords):
        seen.append(len(hidden_states))
        return forward(hidden_states, *arguments, **keywords)

    monkeypatch.setattr(pipe.transformer, "forward", watching)
    return seen


def test_guidance_is_on_in_its_interval_and_costs_nothing_elsewhere(pipe, rows):
    def edited(low, high, guidance_scale=3.0):
        rows.clear()
        scales = {"guidance_scale": guidance_scale, "image_guidance_scale": 1.5, "num_inference_steps": 4}
        settings = {"generator": seeds(2), "output_type": "latent", "guidance_interval": (low, high)}
        return pipe("make it blue", image=photo(), **scales, **settings).images, list(rows)

    always, counts = edited(0, 1)
    assert counts == [3, 3, 3, 3]
    late, counts = edited(0, 0.9)  # the first step is at t = 1
    assert counts == [1, 3, 3, 3] and (late - always).abs().max() > 1e-4
    never, counts = edited(0, 0)
    plain = pipe(
        "make it blue", image=photo(), guidance_scale=1.0, image_guidance_scale=1.0, num_inference_steps=4,
        generator=seeds(2), output_type="latent",
    ).images  # fmt: skip
    assert counts == [1, 1, 1, 1]
    torch.testing.assert_close(never, plain, atol=1e-5, rtol=0)
    # A scale of zero leaves the words out inside the interval; outside they count.
    assert torch.equal(edited(0, 0, guidance_scale=0.0)[0], never)


class Waits(TorchDispatchMode):
    """Counts operations whose result a program has to wait for, and how many it had seen at each step."""

    def __init__(self):
        super().__init__()
        self.count, self.at_steps = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(pipe):
    for image in (None, photo()):
        with Waits() as waits:
            forward = pipe.transformer.register_forward_pre_hook(lambda *_: waits.at_steps.append(waits.count))
            try:
                pipe("make it blue", image=image, num_inference_steps=4, output_type="latent", generator=seeds(1))
            finally:
                forward.remove()
        assert len(waits.at_steps) == 4 and len(set(waits.at_steps)) == 1
        assert waits.count == waits.at_steps[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("image", [None, "photo"])
def test_cuda_sees_no_step_wait_either(smoke_checkpoint, image):
    """PyTorch itself raises at whatever waits, from the first step's end to the last one's."""
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint).to("cuda")
    pipe.set_progress_bar_config(disable=True)

    def callback(running, step, timestep, state):
        torch.cuda.set_sync_debug_mode("error" if step < 3 else "default")
        return state

    settings = {"num_inference_steps": 4, "output_type": "latent", "callback_on_step_end": callback}
    try:
        pipe("make it blue", image=image and photo(), **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_callback_sees_every_step_and_can_stop(pipe):
    seen = []

    def callback(running, step, timestep, state):
        seen.append((step, state["latents"].shape, state["prediction"].shape))
        if step == 1:
            running.interrupt()
        return state

    out = pipe("a cat", num_inference_steps=6, callback_on_step_end=callback)
    assert [step for step, *_ in seen] == [0, 1] and len(out.images) == 1
    assert pipe.decode_preview(torch.zeros(1, 8, 16, 16))[0].size == (256, 256)
    assert len(seen) == 2


def test_the_last_step_ends_at_the_prediction(pipe):
    """The sampler goes down to t = 0, where x is the predicted data itself."""
    last = {}

    def remember(running, step, timestep, state):
        last.update(state)
        return state

    pipe("a cat", num_inference_steps=3, callback_on_step_end=remember, generator=seeds(1))
    torch.testing.assert_close(last["latents"], last["prediction"], atol=1e-4, rtol=1e-4)


def test_given_latents_are_where_it_starts(pipe):
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(7))
    by_latents = pipe("a cat", latents=noise, output_type="latent").images
    by_seed = pipe("a cat", generator=seeds(7), output_type="latent").images
    assert torch.equal(by_latents, by_seed)


def test_reconstruct_keeps_the_size(pipe):
    assert pipe.reconstruct(photo(77, 301)).size == (77, 301)


def in_mode(mode):
    if mode == "I;16":
        return photo().convert("L").convert("I").point(lambda value: value * 257).convert("I;16")
    picture = photo().convert(mode)
    if "A" in mode:  # from nothing to all
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def as_file(picture, form, **settings):
    file = io.BytesIO()
    picture.save(file, form, **settings)
    return file.getvalue()


def turned():
    """A JPEG that lies on its side, with an EXIF note how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_file(photo(120, 200), "JPEG", exif=exif)


PICTURES = {
    **{mode: lambda mode=mode: in_mode(mode) for mode in ("L", "RGBA", "P", "CMYK", "1", "LA", "I;16")},
    "JPEG turned by EXIF": turned,
    "CMYK JPEG": lambda: as_file(in_mode("CMYK"), "JPEG"),
    "palette PNG": lambda: as_file(in_mode("P"), "PNG"),
    "palette PNG, one colour transparent": lambda: as_file(in_mode("P"), "PNG", transparency=3),
    "12 megapixels": lambda: photo(4000, 3000),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_is_edited_and_keeps_its_untouched_pixels(pipe, kind):
    given = PICTURES[kind]()
    shown = images.load(given)
    width, height = shown.size
    assert shown.size == ((4000, 3000) if kind == "12 megapixels" else (200, 120))
    painted = Image.new("L", shown.size, 0)
    painted.paste(255, (0, 0, width // 2, height))
    out = pipe("make it blue", image=given, mask_image=painted, num_inference_steps=1)
    (result,), (mask,) = out.images, out.change_masks
    assert result.mode == "RGB" and result.size == shown.size
    kept, before, after = np.asarray(mask) == 0, np.asarray(shown), np.asarray(result)
    assert kept[:, width // 2 :].all() and not kept.all()
    assert np.array_equal(after[kept], before[kept]) and not np.array_equal(after, before)


def test_an_edit_that_overflows_says_so_and_does_not_hand_the_input_back(smoke_checkpoint):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.output.bias.data.fill_(float("nan"))
    for output_type in ("pil", "pt"):
        with pytest.raises(ValueError, match="values that are no numbers"):
            pipe("make it blue", image=photo(), num_inference_steps=1, output_type=output_type)


def test_parts_that_were_not_made_for_each_other_are_no_pipeline(pipe):
    vae = copy.deepcopy(pipe.vae)
    vae.register_to_config(image_size=128)
    with pytest.raises(ValueError, match="latent has 8 rows, the transformer wants 16"):
        RPiAEPipeline(vae, pipe.transformer, pipe.text_encoder, pipe.scheduler)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  ", "image": photo()}, "instruction is empty"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": "a", "negative_prompt": ["blurry"]}, "negative_prompt must be a text, one for all"),
        ({"prompt": 7}, "prompt must be a text or a list of texts, it is 7"),
        ({"prompt": "a", "guidance_scale": "2"}, "guidance_scale must be a number from 0 to 100, it is '2'"),
        ({"prompt": "a", "num_inference_steps": "6"}, "whole number from 1 to 1000, it is '6'"),
        ({"prompt": "word " * 80}, "82 word pieces and this model reads 64"),
        ({"prompt": "a", "image": photo(8, 200)}, "8"),
        ({"prompt": ["a", "b"], "image": [photo()] * 3}, "2 prompts for 3 pictures"),
        ({"prompt": "a", "mask_image": photo()}, "mask needs a picture"),
        ({"prompt": "a", "image": photo(), "mask_image": Image.new("L", (5, 5), 255)}, "mask"),
        ({"prompt": "a", "image": [photo()] * 3, "mask_image": [None] * 2}, "2 masks for 3 pictures"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "a", "num_inference_steps": 2.5}, "num_inference_steps"),
        ({"prompt": "a", "guidance_scale": -1}, "guidance_scale must be a number from 0 to 100, it is -1"),
        ({"prompt": "a", "output_type": "jpeg"}, "output_type is 'jpeg'"),
        ({"prompt": "a", "latents": torch.zeros(1, 4, 16, 16)}, "latents must be"),
        ({"prompt": ["a", "b"], "generator": seeds(1)}, "1 generators for 2 pictures"),
        ({"prompt": "a", "generator": 7}, "must be a torch.Generator, not 7"),
        ({"prompt": "a", "num_inference_steps": float("inf")}, "whole number from 1 to 1000, it is inf"),
        ({"prompt": "a", "guidance_interval": 0.5}, "a guidance interval is (low, high)"),
    ],
)
def test_bad_arguments_are_sentences(pipe, arguments, said):
    with pytest.raises(ValueError) as error:
        pipe(**arguments)
    assert said in str(error.value)
