"""Pictures by class: the authors' numbers from model to decoded picture, and what the pipeline promises besides."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from torch.nn import functional as F

from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel, class_conditional, flow
from rpiae.guidance import Schedule
from rpiae.imagenet import class_names

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
FILE = "dit.safetensors"
TENSORS = json.loads((GOLDEN / "manifest.json").read_text())["files"][FILE]["tensors"]
CASES = list(json.loads((GOLDEN / "facts.json").read_text())["guidance_cases"])
INPUTS = {
    "x", "t", "y", "guid_x", "guid_y", "fm_data", "fm_noise", "fm_t", "time_u", "ode_noise", "ode_labels",
    "ode_plain_decoded_uint8",
}  # fmt: skip
POINTS, SHIFT, CFG, AUTOGUIDANCE = 10, 2.0, 1.5, 2.05


@pytest.fixture(scope="module")
def pipe() -> ClassConditionalPipeline:
    pipe = ClassConditionalPipeline(
        vae=AutoencoderRPiAE.from_official(GOLDEN / "rpiae_stage3_1_c8_ema.pt", 3, 4),
        transformer=LightningDiT2DModel.from_official(GOLDEN / "dit_ep-0000800.pt", 4),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def weak() -> LightningDiT2DModel:
    return LightningDiT2DModel.from_official(GOLDEN / "dit_guidance_ep-0000020.pt", 2)


# --- the authors' numbers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
@torch.no_grad()
def numbers(pipe, weak, golden) -> dict[str, torch.Tensor]:
    given, dit = golden.tensors(FILE), pipe.transformer
    data, noise, t = given["fm_data"], given["fm_noise"], given["fm_t"]
    x_t, target = flow.interpolate(data, noise, t), flow.velocity(data, noise)
    predicted = dit(x_t, t, given["y"]).sample
    losses = F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
    plain = trajectory(pipe, given)
    made = {
        "out": dit(given["x"], given["t"], given["y"]).sample,
        "out_guidance_model": weak(given["x"], given["t"], given["y"]).sample,
        "fm_xt": x_t,
        "fm_target": target,
        "fm_pred": predicted,
        "fm_loss": losses,
        "fm_loss_mean": losses.mean(),
        "time_t": flow.logit_normal_time(given["time_u"], SHIFT),
        "ode_time_grid": flow.shift_time(flow.official_times(POINTS), SHIFT).float(),
        "ode_plain_trajectory": plain,
        "ode_cfg_final": final(pipe, given, guidance_scale=CFG),
        "ode_cfg_interval01_final": final(pipe, given, guidance_scale=CFG, official_interval=[(0.0, 1.0)]),
        "ode_autoguidance_final": final(pipe, given, guidance_scale=AUTOGUIDANCE, weak_transformer=weak),
        "ode_plain_decoded": pipe.vae.decode(plain[-1][:1]).sample,
    }
    for name, case in golden.facts["guidance_cases"].items():
        made[name] = guided(pipe, given, case, weak if name.startswith("autoguidance") else None)
    return made


def final(pipe, given, **settings) -> torch.Tensor:
    settings = {"num_inference_steps": POINTS, "time_shift": SHIFT, "output_type": "latent"} | settings
    return pipe(class_labels=given["ode_labels"], latents=given["ode_noise"], **settings).images


def trajectory(pipe, given) -> torch.Tensor:
    states = [given["ode_noise"]]
    final(pipe, given, callback_on_step_end=lambda pipe, step, t, state: states.append(state["latents"]))
    return torch.stack(states)


def guided(pipe, given, case, weak) -> torch.Tensor:
    """The velocity of one of the authors' guidance cases, with their interval at its default scales."""
    reduced_scale = case.get("interval_cfg", 0.0 if weak is None else 1.42)
    pairs = tuple(tuple(pair) for pair in case["cfg_interval"])
    schedule = Schedule(case["cfg_scale"], reduced=pairs, reduced_scale=reduced_scale)
    t = torch.full((2,), case["t"])
    return pipe.velocity(given["guid_x"][:2], t, given["guid_y"][:2], schedule.at(case["t"]), weak)


@pytest.mark.parametrize("name", [name for name in TENSORS if name not in INPUTS])
def test_every_number_is_the_authors(name, golden, numbers):
    golden.check(FILE, name, numbers[name])


def test_every_guidance_case_is_among_them():
    assert CASES and set(CASES) <= set(TENSORS)


def test_the_saved_picture_is_theirs_within_one_level(pipe, golden):
    """They truncate to 8 bits, we round."""
    given = golden.tensors(FILE)
    picture = np.asarray(final(pipe, given, output_type="pil")[0]).astype(int)
    assert np.abs(picture - given["ode_plain_decoded_uint8"][0].numpy().astype(int)).max() <= 1


# --- guidance by time ----------------------------------------------------------------------------------------------


def test_guidance_is_on_inside_the_interval_and_at_both_ends():
    schedule = Schedule(3.0, interval=(0.2, 0.6))
    scales = {t: schedule.at(t) for t in (0.0, 0.19, 0.2, 0.4, 0.6, 0.61, 1.0)}
    assert scales == {0.0: 1.0, 0.19: 1.0, 0.2: 3.0, 0.4: 3.0, 0.6: 3.0, 0.61: 1.0, 1.0: 1.0}
    assert Schedule(3.0).at(1.0) == Schedule(3.0).at(0.0) == 3.0


def test_an_end_that_is_a_step_is_met_after_all_rounding():
    times = flow.shift_time(flow.sampling_times(10), 1.0).float()
    assert [Schedule(3.0, interval=(0.3, 0.6)).at(t) for t in times] == [1.0] * 4 + [3.0] * 4 + [1.0] * 2


def test_the_authors_interval_is_where_guidance_is_reduced():
    schedule = Schedule(3.0, reduced=((0.2, 0.4), (0.8, 1.0)), reduced_scale=1.5)
    assert [schedule.at(t) for t in (0.1, 0.2, 0.4, 0.9, 1.0)] == [3.0, 1.5, 3.0, 1.5, 3.0]
    assert Schedule(3.0, reduced=((0.0, 1.0),), reduced_scale=0.0).at(0.5) == 1.0
    assert Schedule(1.0, reduced=((0.0, 1.0),), reduced_scale=1.42).at(0.5) == 1.0


@torch.no_grad()
def test_predictions_that_drop_out_are_not_computed(pipe, weak, golden):
    given, rows = golden.tensors(FILE), []
    handle = pipe.transformer.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    for scale, guide in ((1.0, None), (3.0, None), (0.0, None), (1.0, weak), (0.0, weak), (2.0, weak)):
        pipe.velocity(given["ode_noise"], torch.full((2,), 0.5), given["ode_labels"], scale, guide)
    handle.remove()
    assert rows == [2, 4, 2, 2, 2]


def test_guidance_scale_zero_is_the_picture_without_a_class(pipe, golden):
    given = golden.tensors(FILE)
    nothing = given | {"ode_labels": torch.full((2,), 10)}
    torch.testing.assert_close(final(pipe, given, guidance_scale=0.0), final(pipe, nothing), atol=1e-5, rtol=1e-5)


def test_an_empty_interval_is_no_guidance(pipe, golden):
    given = golden.tensors(FILE)
    guided_nowhere = final(pipe, given, guidance_scale=5.0, guidance_interval=(0.0005, 0.001))
    assert torch.equal(guided_nowhere, final(pipe, given))
    assert not torch.equal(final(pipe, given, guidance_scale=5.0), final(pipe, given))


@pytest.mark.parametrize("guidance", ["own", "weak"])
def test_however_many_steps_are_prepared_at_once_the_picture_is_the_same(guidance, pipe, weak, golden, monkeypatch):
    settings = {"guidance_scale": 3.0, "guidance_interval": (0.3, 0.7), "num_inference_steps": 6}
    settings |= {"weak_transformer": weak} if guidance == "weak" else {}
    given = golden.tensors(FILE)
    monkeypatch.setattr(class_conditional, "ROWS_AT_ONCE", 1)
    one_by_one = final(pipe, given, **settings)
    for rows in (8, 64):  # two steps, and all
        monkeypatch.setattr(class_conditional, "ROWS_AT_ONCE", rows)
        torch.testing.assert_close(final(pipe, given, **settings), one_by_one, atol=1e-5, rtol=1e-5)


# --- times ---------------------------------------------------------------------------------------------------------


def steps(pipe, **settings) -> list[float]:
    seen = []
    settings["callback_on_step_end"] = lambda pipe, step, t, state: seen.append(float(t) / 1000)
    pipe(3, output_type="latent", **settings)
    return seen


def test_the_authors_grid_makes_one_update_fewer_and_ours_goes_to_zero(pipe):
    assert len(steps(pipe, num_inference_steps=7)) == 6
    ours = steps(pipe, num_inference_steps=4, schedule="to_zero", time_shift=3.0)
    assert ours == pytest.approx([1.0, 0.9, 0.75, 0.5])


def test_to_zero_ends_in_the_data(pipe, monkeypatch, golden):
    """With the true velocity towards one latent every step count ends in it exactly."""
    data = golden.tensors(FILE)["fm_data"][:1]
    monkeypatch.setattr(pipe, "velocity", lambda x, t, *_: (x - data) / t.view(-1, 1, 1, 1))
    for count in (1, 3, 8):
        made = pipe(3, num_inference_steps=count, schedule="to_zero", output_type="latent").images
        torch.testing.assert_close(made, data, atol=1e-5, rtol=1e-5)


def test_a_call_leaves_the_scheduler_as_it_was(pipe, golden):
    given = golden.tensors(FILE)
    before = vars(pipe.scheduler).copy()
    first = final(pipe, given)
    final(pipe, given, num_inference_steps=4, schedule="to_zero", time_shift=1.0)
    assert torch.equal(final(pipe, given), first)
    assert vars(pipe.scheduler).keys() == before.keys() and pipe.scheduler._step_index is None


def test_the_schedulers_own_shift_is_not_used(pipe, golden):
    from diffusers import FlowMatchEulerDiscreteScheduler

    shifted = FlowMatchEulerDiscreteScheduler(shift=5.0)
    other = ClassConditionalPipeline(vae=pipe.vae, transformer=pipe.transformer, scheduler=shifted)
    other.set_progress_bar_config(disable=True)
    given = golden.tensors(FILE)
    assert torch.equal(final(other, given), final(pipe, given))


# --- where weights are ---------------------------------------------------------------------------------------------


def test_weights_that_are_elsewhere_until_they_are_needed_draw_the_same(pipe):
    settings = {"num_inference_steps": 3, "output_type": "latent"}
    wanted = pipe([1, 2], generator=seeded(7, 8), **settings).images
    offloaded = ClassConditionalPipeline(vae=copy.deepcopy(pipe.vae), transformer=copy.deepcopy(pipe.transformer))
    offloaded.set_progress_bar_config(disable=True)
    for model in (offloaded.vae, offloaded.transformer):  # what `enable_sequential_cpu_offload` does, for which it
        cpu_offload(model, torch.device("cpu"))  # wants an accelerator
        assert all(one.is_meta for one in model.parameters())
    assert torch.equal(offloaded([1, 2], generator=seeded(7, 8), **settings).images, wanted)


def test_bfloat16_draws_nearly_the_same(pipe):
    settings = {"num_inference_steps": 10, "output_type": "latent"}
    wanted = pipe([1, 2], generator=seeded(7, 8), **settings).images
    fast = ClassConditionalPipeline(vae=pipe.vae, transformer=copy.deepcopy(pipe.transformer).to(torch.bfloat16))
    fast.set_progress_bar_config(disable=True)
    found = fast([1, 2], generator=seeded(7, 8), **settings).images.float()
    assert 0 < (found - wanted).norm() < 0.02 * wanted.norm()


# --- seeds, outputs, interruption ----------------------------------------------------------------------------------


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_seed_belongs_to_a_picture(pipe):
    settings = {"num_inference_steps": 3, "output_type": "latent"}
    together = pipe([1, 2, 3], generator=seeded(7, 8, 9), **settings).images
    alone = pipe([2], generator=seeded(8), **settings).images
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[1], pipe([2], generator=seeded(9), **settings).images[0], atol=1e-2)


def test_output_types(pipe):
    settings = {"num_inference_steps": 2}
    (picture,) = pipe(3, generator=seeded(0), **settings).images
    pixels = pipe(3, generator=seeded(0), output_type="pt", **settings).images
    assert picture.size == (64, 64) and pixels.shape == (1, 3, 64, 64)
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert np.array_equal(np.asarray(picture), (pixels[0] * 255).round().byte().permute(1, 2, 0).numpy())
    latent = pipe(3, generator=seeded(0), output_type="latent", return_dict=False, **settings)[0]
    assert latent.shape == (1, 8, 4, 4)
    assert np.array_equal(np.asarray(pipe.decode_preview(latent)[0]), np.asarray(picture))


def test_a_callback_may_change_the_latents_and_stop(pipe):
    seen = []

    def stop_at_two(pipe, step, t, state):
        seen.append(step)
        if step == 1:
            pipe.interrupt()
        return {"latents": torch.zeros_like(state["latents"])}

    result = pipe(3, num_inference_steps=9, output_type="latent", callback_on_step_end=stop_at_two).images
    assert seen == [0, 1] and not result.any()
    assert pipe(3, num_inference_steps=3, output_type="latent").images.any()


@pytest.mark.parametrize("labels", [5, [5, 6], (5,), torch.tensor([5, 6]), np.array([5, 6])])
def test_labels_of_every_kind(pipe, labels):
    count = torch.as_tensor(labels).numel()
    assert pipe(labels, num_inference_steps=2, output_type="latent").images.shape == (count, 8, 4, 4)


# --- mistakes ------------------------------------------------------------------------------------------------------

MISTAKES = {
    "label": ({"class_labels": [3, 11]}, "class_labels must be numbers from 0 to 9"),
    "negative label": ({"class_labels": -1}, "from 0 to 9"),
    "no labels": ({"class_labels": []}, "from 0 to 9"),
    "words": ({"class_labels": ["dog"]}, "from 0 to 9"),
    "half a label": ({"class_labels": 0.5}, "from 0 to 9"),
    "steps": ({"num_inference_steps": 1}, "from 2 to 1000, it is 1"),
    "no steps": ({"num_inference_steps": 0, "schedule": "to_zero"}, "from 1 to 1000, it is 0"),
    "schedule": ({"schedule": "karras"}, "use one of official, to_zero"),
    "shift": ({"time_shift": 0}, "time shift must be a positive number"),
    "scale": ({"guidance_scale": -1}, "guidance_scale must be a number from 0 to 100"),
    "interval": ({"guidance_interval": (0.6, 0.2)}, "low <= high"),
    "their interval": ({"official_interval": [(0.0, 2.0)]}, "low <= high"),
    "no interval": ({"guidance_interval": 0.5}, "low <= high"),
    "their interval, flat": ({"official_interval": (0.0, 0.3)}, "low <= high"),
    "their scale": ({"official_interval": [(0, 1)], "official_interval_scale": -2}, "from 0 to 100, it is -2"),
    "output": ({"output_type": "np"}, "use one of pil, pt, latent"),
    "latents": ({"latents": torch.zeros(2, 8, 4, 4)}, "latents must be (1, 8, 4, 4)"),
    "generators": ({"generator": seeded(1, 2)}, "2 generators for 1 pictures"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_sentences(name, pipe):
    changed, said = MISTAKES[name]
    with pytest.raises(ValueError) as error:
        pipe(**{"class_labels": 3, "num_inference_steps": 2} | changed)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_components_that_do_not_fit_are_refused(pipe, weak):
    other = LightningDiT2DModel(in_channels=4, sample_size=4, hidden_size=16, num_layers=1, num_heads=2, num_classes=10)
    with pytest.raises(ValueError, match="the transformer wants \\(4, 4, 4\\)"):
        ClassConditionalPipeline(vae=pipe.vae, transformer=other)
    with pytest.raises(ValueError, match="its in_channels is 4, the transformer's is 8"):
        pipe(3, num_inference_steps=2, weak_transformer=other)


# --- folders -------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_again_draws_the_same(pipe, golden, tmp_path):
    pipe.save_pretrained(tmp_path / "a")
    again = ClassConditionalPipeline.from_pretrained(tmp_path / "a")
    again.set_progress_bar_config(disable=True)
    given = golden.tensors(FILE)
    assert torch.equal(final(again, given, guidance_scale=CFG), final(pipe, given, guidance_scale=CFG))


def test_a_damaged_folder_is_a_sentence(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "a")
    weights = tmp_path / "a" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        ClassConditionalPipeline.from_pretrained(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "transformer")
    with pytest.raises(ValueError, match="there is no checkpoint folder .*transformer"):
        ClassConditionalPipeline.from_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="does not take revision"):
        ClassConditionalPipeline.from_pretrained(tmp_path / "a", revision="main")


def test_another_pipelines_folder_is_refused(smoke_checkpoint):
    with pytest.raises(ValueError, match="holds a RPiAEPipeline, wanted is a ClassConditionalPipeline"):
        ClassConditionalPipeline.from_pretrained(smoke_checkpoint)


def test_class_names_are_imagenets():
    names = class_names()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[88], names[207], names[999]) == ("tench", "macaw", "golden retriever", "toilet tissue")
