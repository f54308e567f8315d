"""Training configs: typed, frozen, no unknown key."""

import pytest

from train.config import CONFIG_FOLDER, load_config


@pytest.mark.parametrize("name", [path.stem for path in CONFIG_FOLDER.glob("*.yaml")])
def test_every_config_reads(name):
    config = load_config(name)
    assert config.name == name and config.stages


def test_overrides_reach_the_depth_they_name():
    config = load_config("smoke", ["seed=7", "stages.edit.samples=5", "output=/somewhere/else"])
    assert (config.seed, config.stages["edit"].samples, str(config.output)) == (7, 5, "/somewhere/else")


def test_a_config_that_extends_another_has_its_settings_where_it_has_none_of_its_own(tmp_path):
    own = "extends: smoke\nname: own\nstages: {edit: {samples: 5, optimizer: {lr: 0.5}}}\n"
    (tmp_path / "own.yaml").write_text(own)
    own, smoke = load_config(str(tmp_path / "own.yaml"), ["seed=7"]), load_config("smoke")
    assert (own.name, own.seed, own.models, own.output) == ("own", 7, smoke.models, smoke.output)
    edit, before = own.stages["edit"], smoke.stages["edit"]
    assert (edit.samples, edit.optimizer.lr) == (5, 0.5)
    assert (edit.batch_size, edit.optimizer.warmup_samples) == (before.batch_size, before.optimizer.warmup_samples)
    assert {name: stage for name, stage in own.stages.items() if name != "edit"} == {
        name: stage for name, stage in smoke.stages.items() if name != "edit"
    }


def test_a_config_that_extends_none_that_there_is_says_so(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: smok\n")
    with pytest.raises(ValueError, match="no training config 'smok'"):
        load_config(str(tmp_path / "own.yaml"))


def test_configs_that_extend_each_other_say_so(tmp_path):
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path / 'b.yaml'}\n")
    (tmp_path / "b.yaml").write_text(f"extends: {tmp_path / 'a.yaml'}\n")
    with pytest.raises(ValueError, match="a.yaml extends itself: a.yaml -> b.yaml -> a.yaml"):
        load_config(str(tmp_path / "a.yaml"))


def test_no_is_a_precision_not_a_falsehood():
    assert load_config("stickers-256", ["stages.edit.precision=no"]).stages["edit"].precision == "no"


def test_an_override_is_for_one_stage_where_yaml_shares_settings():
    stages = load_config("smoke", ["stages.pivot.optimizer.lr=0.5"]).stages
    assert stages["pivot"].optimizer.lr == 0.5 and stages["bridge"].optimizer.lr == 1e-3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.edit.sample=5", "sample"),
        ("seed=many", "seed"),
        ("stages.pivot.trains=[everything]", "trains"),
        ("seed", "key=value"),
        ("seed.deeper=1", "holds a value"),
    ],
)
def test_mistakes_are_named(override, said):
    with pytest.raises(ValueError, match=said):
        load_config("smoke", [override])


def test_an_unknown_config_lists_those_there_are():
    with pytest.raises(ValueError, match="there are: .*smoke"):
        load_config("no-such")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config("smoke").seed = 1
