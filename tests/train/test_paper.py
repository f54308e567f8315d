"""`paper-256`: at full size exactly the parts, groups and rates of the authors' training; in tiny, every stage through
the real command."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel
from rpiae.encoder import build_encoder
from tests.train.paper import CLASSES, ENCODER, SIDE, official_rate, overrides, write_classes, write_dinov2
from train import failures
from train.__main__ import main
from train.config import load_config
from train.data.reader import names
from train.loop import Loop
from train.official_start import load_dinov2, start_bridge_at_random
from train.optim import build_optimizers, rate
from train.perceptual import LpipsDistance
from train.stages import Stages
from train.tasks.autoencoder import AutoencoderTask

EPOCH = 1_281_024
# Reference facts (a): what trains in each stage, in parameters.
TRAINS = {"pivot": 501_933_952, "bridge": 47_403_392, "decoder": 415_352_704}
TOTAL, DIT = 549_338_112, 675_629_696


@pytest.fixture(scope="module")
def paper():
    return load_config("paper-256")


@pytest.fixture(scope="module")
def whole(paper) -> AutoencoderRPiAE:
    """The tokenizer at full size, without memory."""
    models = paper.models
    with torch.device("meta"):
        return AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)


@pytest.mark.parametrize("name", TRAINS)
def test_a_full_size_step_trains_exactly_the_parts_of_the_reference(name, paper, whole, tmp_path):
    write_classes(tmp_path / "pictures")
    data = paper.stages[name].data
    here = data.sources[0].model_copy(update={"path": str(tmp_path / "pictures")})
    stage = paper.stages[name].model_copy(
        # Their networks need weights that are not here.
        update={"data": data.model_copy(update={"sources": (here,)}), "perceptual": 0, "gan": 0, "pivot": 0}
    )
    bridge, whole.bridge = whole.bridge, None if name == "pivot" else whole.bridge
    try:
        task = AutoencoderTask(whole, stage, seed=0)
        x = torch.rand(1, 3, 256, 256, device="meta")
        reconstruction = whole(x)
        F.l1_loss(reconstruction, x).backward()
        assert reconstruction.shape == x.shape
        parameters = dict(task.named_parameters())
        reached = {key for key, one in parameters.items() if one.grad is not None}
        assert reached == {key for key, one in parameters.items() if one.requires_grad}
        assert sum(parameters[key].numel() for key in reached) == TRAINS[name]
        assert {key.split(".")[1] for key in reached} == set(stage.trains)
        (adamw,) = build_optimizers(task, stage.optimizer)
        (group,) = adamw.param_groups
        assert {id(one) for one in group["params"]} == {id(parameters[key]) for key in reached}
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.9, 0.95), 0.0)
        table = "vae.decoder.position_table"
        assert (table in reached) == ("decoder" in stage.trains)  # it is trained, not computed
        for one in parameters.values():
            one.grad = None
    finally:
        whole.bridge = bridge
    assert sum(one.numel() for one in whole.parameters()) == TOTAL


def test_one_group_with_the_references_optimiser(paper):
    for name in (*TRAINS, "guide", "class"):
        settings = paper.stages[name].optimizer
        (adamw,) = build_optimizers(torch.nn.Linear(2, 2), settings)
        (group,) = adamw.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (2e-4, (0.9, 0.95), 0.0, 1e-8)
        assert settings.clip_norm == (None if name in TRAINS else 1.0)


def test_the_transformer_of_classes_trains_whole(paper):
    with torch.device("meta"):
        model = LightningDiT2DModel(**paper.models.class_transformer)
        model(torch.zeros(1, 64, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.int64)).sample.sum().backward()
    (adamw,) = build_optimizers(model, paper.stages["class"].optimizer)
    assert sum(one.numel() for one in adamw.param_groups[0]["params"]) == DIT and len(adamw.param_groups) == 1
    reached = {name: one.numel() for name, one in model.named_parameters() if one.grad is not None}
    assert sum(reached.values()) == DIT
    assert {"position_table", "frequencies"} <= reached.keys()  # reference facts (c) 16


@pytest.mark.parametrize("name", ["pivot", "bridge", "decoder", "guide", "class"])
def test_the_rate_is_the_authors_at_full_length(name, paper):
    stage = paper.stages[name]
    batch, peak = stage.batch_size, stage.optimizer.lr
    each = EPOCH // batch
    assert each * batch == EPOCH and each == {256: 5004, 512: 2502, 1024: 1251}[batch]
    shape = {"decay": (1, 16), "shape": "cosine", "warmup_epochs": 1}
    if name in ("guide", "class"):
        shape = {"decay": (40, 800), "shape": "linear"}
    for epoch in (0, 0.5, 1, 3.3, 8, 15.9, 16, 17, 31.9, 39, 41, 500, 800, 1399):
        for step in (int(epoch * each), int(epoch * each) + 1):
            ours = peak * rate(step * batch, stage.samples, stage.optimizer, batch)
            assert ours == pytest.approx(official_rate(step, each, **shape), rel=1e-9)


def test_epochs_and_quirks_are_the_references(paper):
    stages = paper.stages
    epochs = {name: stage.samples / EPOCH for name, stage in stages.items()}
    assert epochs == {"pivot": 16, "bridge": 32, "decoder": 16, "guide": 20, "class": 800}
    for name in ("pivot", "decoder"):
        assert (stages[name].gan_from, stages[name].discriminator.learns_from) == (8 * EPOCH, 6 * EPOCH)
        assert stages[name].discriminator.schedule == "own" and stages[name].gan == 0.75
    assert (stages["pivot"].pivot_parameter, stages["pivot"].pivot_constant_steps) == ("layer_scale", 1000)
    assert [stages[name].result for name in TRAINS] == ["trained", "trained", "average"]
    assert [stages[name].noise_tau for name in TRAINS] == [0.8, 0.8, 0.0]
    assert stages["bridge"].posterior == "mode" and not stages["bridge"].normalise_latents
    weights = stages["bridge"]
    assert (weights.feature_mse, weights.kl, weights.l1, weights.perceptual) == (1.0, 1e-3, 0.05, 0.0)
    assert [stages[name].ema_decay for name in stages] == [0.9978] * 3 + [0.9995] * 2
    assert not any(stages[name].ema_warmup for name in stages)


def test_pictures_times_and_dropped_labels_are_the_references(paper):
    for name in TRAINS:
        data = paper.stages[name].data
        assert (data.crop, data.resize, data.flip) == ("random", 384, False)
    for name in ("guide", "class"):
        stage = paper.stages[name]
        assert (stage.data.crop, stage.data.flip) == ("center", True)
        assert (stage.drop_label, stage.time_shift, stage.logit_mean, stage.logit_std) == (0.1, 2.0, 0.0, 1.0)


# --- in tiny, through the real command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups():
    """By stage of the run below: the names of the parameters in each group of the loop's optimisers."""
    return {}


@pytest.fixture(scope="module")
def run(tmp_path_factory, groups):
    """Every stage of the config in tiny; its folder and its overrides."""
    folder = tmp_path_factory.mktemp("paper")
    settings = overrides(folder)
    train = Loop._train

    def remembering(loop):
        names = {id(parameter): name for name, parameter in loop.task.named_parameters()}
        found = [group["params"] for optimizer in loop.optimizers for group in optimizer.param_groups]
        groups[loop.folder.name] = [sorted(names[id(parameter)] for parameter in group) for group in found]
        train(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_train", remembering)
        assert main(["paper-256", "all", *settings]) == 0
    return folder / "run", settings


def log(folder, stage):
    lines = (folder / stage / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.parametrize("stage", ["pivot", "bridge", "decoder", "guide", "class"])
def test_every_stage_that_reads_logs_what_it_skipped(stage, run):
    lines = map(json.loads, (run[0] / stage / "log.jsonl").read_text().splitlines())
    checks = [record for record in lines if "loss" not in record]
    assert checks and all(record["skipped"] == 0 for record in checks)


def result(folder, stage):
    return load_file(folder / stage / "result" / "diffusion_pytorch_model.safetensors")


def trained(folder, stage):
    state = sorted((folder / stage).glob("state-*"))[-1]
    weights = load_file(state / "model.safetensors")
    return {name.removeprefix("vae."): one for name, one in weights.items() if name.startswith("vae.")}


@pytest.mark.parametrize(
    ("stage", "parts"),
    {
        "pivot": ("vae.encoder.", "vae.decoder."), "bridge": ("vae.bridge.",), "decoder": ("vae.decoder.",),
        "guide": ("transformer.",), "class": ("transformer.",),
    }.items(),
)  # fmt: skip
def test_the_one_group_of_the_optimiser_holds_exactly_what_trains(stage, parts, run, groups):
    whole = "transformer." if stage in ("guide", "class") else "vae."
    wanted = sorted(whole + name for name in result(run[0], stage) if (whole + name).startswith(parts))
    # Reference facts (a), stage 1, and (b): the rotary tables are buffers.
    untrained = {"vae.encoder.model.embeddings.mask_token", "transformer.rope_cos", "transformer.rope_sin"}
    (group,) = groups[stage]
    assert group == [name for name in wanted if name not in untrained]


def test_the_discriminator_begins_before_the_generator_hears_it(run):
    for stage in ("pivot", "decoder"):
        records = log(run[0], stage)
        assert ["discriminator" in record for record in records] == [False, True, True, True]
        assert ["gan" in record for record in records] == [False, False, True, True]
        assert all(record["gan_weight"] > 0 for record in records[2:])


def test_the_pivot_weight_is_constant_for_its_first_steps(run):
    weights = [record["pivot_weight"] for record in log(run[0], "pivot")]
    assert weights[:2] == [0.75, 0.75] and all(weight != 0.75 for weight in weights[2:])


def test_losses_are_those_of_the_stage(run):
    assert {"l1", "perceptual", "pivot"} <= log(run[0], "pivot")[0].keys()
    record = log(run[0], "bridge")[0]
    assert record["loss"] == pytest.approx(record["feature_mse"] + 1e-3 * record["kl"] + 0.05 * record["l1"], abs=2e-6)
    assert "pivot" not in log(run[0], "decoder")[0]


def test_a_stage_hands_on_weights_or_their_average(run):
    pivot, bridge, decoder = (result(run[0], stage) for stage in ("pivot", "bridge", "decoder"))
    assert all(torch.equal(pivot[name], one) for name, one in trained(run[0], "pivot").items())
    last = trained(run[0], "decoder")
    head = "decoder.head.weight"
    assert not torch.equal(decoder[head], last[head]) and not torch.equal(decoder[head], pivot[head])
    # What does not train is passed on bit for bit.
    assert all(torch.equal(bridge[name], one) for name, one in pivot.items())
    kept = [name for name in bridge if not name.startswith("decoder.")]
    assert kept and all(torch.equal(decoder[name], bridge[name]) for name in kept)


def test_the_encoder_began_as_the_pretrained_one_and_moved_but_for_its_mask_token(run):
    start = build_encoder(load_config("paper-256", run[1]).models.encoder, SIDE)
    load_dinov2(start, str(run[0].parent / "dinov2"))
    now = result(run[0], "pivot")
    moved = {name: (one - now[f"encoder.{name}"]).abs().max() for name, one in start.state_dict().items()}
    assert moved.pop("model.embeddings.mask_token") == 0
    assert 0 < moved["model.encoder.layer.0.mlp.fc1.weight"] < 0.01 and max(moved.values()) < 0.01


def test_the_checkpoint_draws_classes_and_keeps_the_latent_as_it_is(run):
    folder = run[0] / "checkpoint"
    pipe = ClassConditionalPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    weak = LightningDiT2DModel.from_pretrained(run[0] / "guide" / "result")
    images = pipe(
        class_labels=[0, CLASSES - 1], num_inference_steps=3, weak_transformer=weak, guidance_scale=2.05,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert [image.size for image in images] == [(SIDE, SIDE)] * 2
    assert pipe.vae.config.latents_scale is None and pipe.vae.config.latents_mean is None
    assert pipe.vae.dtype == torch.float32
    card = (folder / "README.md").read_text()
    assert "| class | 8 |" in card and "sticker" not in card
    assert list((run[0] / "class").glob("sheet-*.png"))


def test_a_loss_that_is_not_finite_names_the_rows_behind_it(run, tmp_path):
    more = (f"output={tmp_path}", "stages.pivot.optimizer.lr=1e30")
    stages = Stages(load_config("paper-256", [*run[1], *more]))
    dataset = stages._task("pivot").dataset
    with pytest.raises(ValueError, match=r"not finite at step 1 \(samples 2 to 3; ") as raised:
        stages.run("pivot")
    pictures = run[0].parent / "pictures"
    assert f"{pictures}: {', '.join(names(dataset, (2, 3))[str(pictures)])})" in str(raised.value)
    named = re.findall(r"class-\d/\d\.png", str(raised.value))
    assert len(named) == 2 and all((pictures / name).is_file() for name in named)


def test_more_rows_than_a_message_holds_are_in_a_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "NAMED", 1)
    stages = Stages(load_config("paper-256", [*run[1], f"output={tmp_path}", "stages.pivot.optimizer.lr=1e30"]))
    with pytest.raises(ValueError, match=r"class-\d/\d\.png, \.\.\.; all of them: .*rows-00000001.json\)"):
        stages.run("pivot")
    dataset = stages._task("pivot").dataset
    assert json.loads((tmp_path / "pivot" / "rows-00000001.json").read_text()) == names(dataset, (2, 3))


class Stopped(Exception):
    pass


def test_a_run_against_a_discriminator_resumes_bit_for_bit(run, tmp_path, monkeypatch):
    config = load_config("paper-256", [*run[1], f"output={tmp_path}", "stages.pivot.checkpoint_minutes=60"])
    step = Loop._step

    def stopping(loop, parts):
        if loop.progress.step == 3:
            loop._save()
            raise Stopped
        return step(loop, parts)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_step", stopping)
        Stages(config).run("pivot")
    Stages(config).run("pivot")
    again, before = result(tmp_path, "pivot"), result(run[0], "pivot")
    assert all(torch.equal(again[name], one) for name, one in before.items())


# --- what the parts begin with ------------------------------------------------------------------------------------


def test_another_encoders_weights_are_told(tmp_path):
    source = str(write_dinov2(tmp_path / "dinov2"))
    sizes = {**ENCODER, "patch_size": 14, "native_size": 70, "input_size": 56, "output_grid": 4}
    encoder = build_encoder({"kind": "dinov2", "num_register_tokens": 4, **sizes, "num_hidden_layers": 3}, SIDE)
    with pytest.raises(ValueError, match="does not fit models.encoder: .*missing"):
        load_dinov2(encoder, source)
    encoder = build_encoder({"kind": "dinov2", "num_register_tokens": 4, **sizes, "num_attention_heads": 4}, SIDE)
    with pytest.raises(ValueError, match="num_attention_heads=2, models.encoder 4"):
        load_dinov2(encoder, source)
    with pytest.raises(ValueError, match="there is no checkpoint folder"):
        load_dinov2(encoder, str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no DINOv2"):
        load_dinov2(encoder, str(tmp_path / "empty"))


def test_the_bridges_attention_begins_as_pytorchs_own(whole):
    attention = whole.bridge.encoder.attention
    small = type(attention)(16, 2)
    holder = torch.nn.ModuleList([small])
    torch.manual_seed(0)
    start_bridge_at_random(holder)
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(16, 2)
    torch.manual_seed(0)
    theirs._reset_parameters()
    assert torch.equal(small.qkv.weight, theirs.in_proj_weight)
    assert not small.qkv.bias.any() and not small.out.bias.any()


def test_lpips_without_its_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="vgg16-397923af.pth .*perceptual_network=efficientnet-lite0"):
        LpipsDistance()


def test_lpips_reads_torch_hubs_folder(tmp_path, monkeypatch):
    """With a made-up VGG: its classifier, which LPIPS drops, takes no room in the file."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {name: one.shape for name, one in vgg16(weights=None).state_dict().items()}
    made_up = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=made_up) * (2 / shape[1:].numel()) ** 0.5
        if name.startswith("features.") and len(shape) == 4
        else torch.zeros(1).expand(shape)
        for name, shape in shapes.items()
    }
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(weights, tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    distance = LpipsDistance().train()
    assert not distance.network.training and not any(p.requires_grad for p in distance.parameters())
    x = torch.rand(2, 3, SIDE, SIDE, generator=made_up)
    y = (x + 0.2 * torch.rand(x.shape, generator=made_up)).requires_grad_(True)
    assert distance(x, x).abs().max() < 1e-6
    found = distance(x, y)
    assert found.shape == (2,) and torch.allclose(found, distance.network(x * 2 - 1, y * 2 - 1).flatten())
    found.sum().backward()
    assert y.grad.abs().sum() > 0 and torch.equal(distance.network.net.slice1[0].weight, weights["features.0.weight"])
