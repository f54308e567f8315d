"""A further leg goes on from the models that the checkpoint has, with samples that they have not seen."""

import json
import shutil

import pytest
import torch

from rpiae.tokenizers.rpiae import BUNDLED
from rpiae.transformer import RPiAETransformer2DModel
from train import further_leg
from train.config import load_config
from train.loop import Loop
from train.stages import Stages

HEAD = ("transformer.head_layers=1", "transformer.head_size=16", "transformer.head_change_parts=2")


def models(*settings):
    return load_config("smoke", [f"models.{setting}" for setting in settings]).models


@pytest.fixture
def seen(smoke_checkpoint, tmp_path):
    """A checkpoint with legs of several seeds, an early one without; and stages that go on from it with a seed."""
    init = shutil.copytree(smoke_checkpoint, tmp_path / "init")
    legs = {"edit": [{"samples": 24}, {"samples": 24, "seed": 3}], "decoder": [{"samples": 48, "seed": 5}]}
    (init / "training.json").write_text(json.dumps(legs))
    return lambda seed: Stages(load_config("smoke", [f"init={init}", f"output={tmp_path}/run", f"seed={seed}"]))


def test_a_seed_of_an_earlier_leg_is_refused(seen):
    for seed in (0, 3):
        with pytest.raises(ValueError, match=f"seed={seed} would show the edit stage .* seeds 0, 3; .*seed=4"):
            seen(seed).check_seed(["edit"])
    seen(5).check_seed(["edit"])  # one of another stage's


def test_what_has_begun_or_is_finished_goes_on_with_its_seed(seen):
    folder = seen(3).config.output / "edit"
    state = folder / "state-00000002"
    state.mkdir(parents=True)
    seen(3).check_seed(["edit"])
    state.rmdir()
    with pytest.raises(ValueError, match="would show the edit stage"):
        seen(3).check_seed(["edit"])
    (folder / "finished.json").write_text("{}")
    seen(3).check_seed(["edit"])


def test_a_tokenizer_that_is_trained_anew_may_have_any_seed(seen):
    stages = seen(5)
    stages.check_seed(stages.names("all"))
    for name in ("decoder", "bridge"):
        assert stages._goes_on(name, [name])
    with pytest.raises(ValueError, match="the decoder stage .* had the seeds 5;"):
        stages.check_seed(["decoder"])
    with pytest.raises(ValueError, match="the decoder stage"):
        stages.check_seed(["bridge", "decoder"])  # the bridge goes on from there, and the decoder after it


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("transformer.num_layers=1", r"models\.transformer\.num_layers is 1, there 2"),
        ("transformer.num_layers=4", r"models\.transformer\.num_layers is 4, there 2"),
        ("transformer.num_heads=4", r"num_heads is 4, there 2"),  # no shape tells
        ("text_encoder.layers=[0, 6]", r"models\.text_encoder\.layers is \[0, 6\], there \[3, 6\]"),
        ("text_encoder.model=hf:another/model", r"models\.text_encoder\.model is hf:another/model, there sentence-"),
    ],
)
def test_another_transformer_is_refused(setting, said, smoke_checkpoint):
    for more in ((), HEAD):
        with pytest.raises(ValueError, match=said):
            further_leg.load_transformer(smoke_checkpoint, models(setting, *more))


def test_a_transformer_may_grow_a_head_and_more_of_it(smoke_checkpoint, tmp_path):
    before = RPiAETransformer2DModel.from_pretrained(smoke_checkpoint / "transformer").state_dict()
    for more in ((), ("transformer.head_layers=2",)):
        grown = further_leg.load_transformer(smoke_checkpoint if not more else tmp_path, models(*HEAD, *more))
        grown.save_pretrained(tmp_path / "transformer")
        after = grown.state_dict()
        assert all(torch.equal(after[name], one) for name, one in before.items()) and len(after) > len(before)
        before = after
    assert grown.config.head_layers == 2
    assert further_leg.load_transformer(tmp_path, models()).config.head_layers == 2  # what is not said may be anything
    with pytest.raises(ValueError, match="models.transformer.head_size is 8, there 16"):
        further_leg.load_transformer(tmp_path, models(*HEAD, "transformer.head_layers=2", "transformer.head_size=8"))


def test_another_tokenizer_is_refused(smoke_checkpoint, tmp_path):
    for setting, said in (
        ("decoder.num_layers=2", r"models\.decoder\.num_layers is 2, there 1"),
        ("decoder.patch_size=8", r"models\.decoder\.patch_size is 8, there 16"),  # there it was never said
        ("encoder.num_heads=4", r"models\.encoder\.num_heads is 4, there 2"),
        ("bridge.latent_channels=4", r"models\.bridge\.latent_channels is 4, there 8"),
        ("image_size=128", r"models\.image_size is 128, there 256"),
    ):
        with pytest.raises(ValueError, match=said):
            further_leg.load_tokenizer(smoke_checkpoint, models(setting))
    further_leg.load_tokenizer(smoke_checkpoint, models("decoder.patch_size=16"))
    leg = [f"init={smoke_checkpoint}", f"output={tmp_path}", "stages.decoder.perceptual=0"]
    assert Stages(load_config("smoke", leg))._task("decoder")
    with pytest.raises(ValueError, match="has other models than this config"):
        Stages(load_config("smoke", [*leg, "models.decoder.num_layers=2"]))._task("decoder")


@pytest.mark.parametrize("name", ["stickers-256", "stickers-256-gpu"])
def test_the_bundled_checkpoint_is_of_its_own_configs(name):
    own = load_config(name).models
    assert further_leg.load_tokenizer(BUNDLED, own).latent_shape == (64, 16, 16)
    assert further_leg.load_transformer(BUNDLED, own).config.num_layers == 12


def test_a_run_that_reads_other_layers_of_the_text_encoder_is_another_one(tmp_path):
    one, other = (
        Stages(load_config("smoke", [f"output={tmp_path}", *more]))
        for more in ([], ["models.text_encoder.layers=[0, 6]"])
    )
    settings, now = one.config.stages["edit"].model_dump(mode="json"), one._models("edit")
    before = {"transformer": now["transformer"]}  # as it was written down when nothing was said of texts
    basis = {"models": other._models("edit")}
    loop = Loop(torch.nn.Identity(), other.config.stages["edit"], tmp_path / "edit", basis=basis)
    for recorded, is_others in ((now, False), (before, True)):
        assert one._is_ours("edit", {"settings": settings, "models": recorded})
        assert other._is_ours("edit", {"settings": settings, "models": recorded}) == is_others
        differing = loop._compare({"seed": 0, "models": recorded} | settings, {"seed": 0} | basis | settings)
        assert differing == ([] if is_others else ["models"])


def test_a_leg_does_not_say_where_a_text_encoder_lay(tmp_path):
    config = load_config("smoke", [f"output={tmp_path}", "models.text_encoder.model=/disk/of/somebody/models/qwen"])
    assert Stages(config)._models("edit")["text_encoder"]["model"] == "models/qwen"
