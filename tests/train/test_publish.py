"""From finished stages to the folder that the app reads."""

import json
import os

import pytest
import torch

from rpiae import AutoencoderRPiAE, RPiAEPipeline
from train import stages
from train.__main__ import main
from train.card import model_card, parameters
from train.config import load_config
from train.evaluate import calibrate
from train.evaluate.command import BEGIN, END, write_between_markers
from train.progress import Progress
from train.publish import read_legs, write_checkpoint

LEG = {"stage": "edit", "samples": 24, "minutes": 0.1, "machine": "a test"}


def test_legs_are_kept_and_settings_survive_a_new_leg(smoke_checkpoint, tmp_path):
    config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint"])
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG})
    settings = calibrate.RegionSettings(latent_threshold=0.123)
    calibrate.store(config.checkpoint, settings)
    (config.checkpoint / "tables.md").write_text("measured on the old weights")
    write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG | {"samples": 48}})
    assert [leg["samples"] for leg in read_legs(config.checkpoint)["edit"]] == [24, 48]
    again = RPiAEPipeline.from_pretrained(config.checkpoint)
    assert again.config.region["latent_threshold"] == 0.123
    assert not (config.checkpoint / "tables.md").exists()
    assert "Not measured yet" in (config.checkpoint / "README.md").read_text()
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.old"))


def test_a_tokenizer_alone_is_handed_on(smoke_checkpoint, tmp_path):
    config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint"])
    write_checkpoint(config, RPiAEPipeline.from_pretrained(smoke_checkpoint).vae, None, {})
    assert (config.checkpoint / "vae" / "config.json").is_file()
    with pytest.raises(ValueError, match="model_index.json is missing"):
        RPiAEPipeline.from_pretrained(config.checkpoint)
    assert AutoencoderRPiAE.from_pretrained(config.checkpoint / "vae")


def test_a_tokenizer_that_the_checkpoint_has_does_not_cost_it_its_transformer(smoke_checkpoint, tmp_path):
    config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint"])
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    decoder = LEG | {"stage": "decoder"}
    write_checkpoint(config, pipe.vae, pipe.transformer, {"decoder": decoder, "edit": LEG})
    write_checkpoint(config, pipe.vae, None, {"decoder": decoder})
    assert RPiAEPipeline.from_pretrained(config.checkpoint)
    write_checkpoint(config, pipe.vae, None, {"decoder": decoder | {"samples": 9}})  # another tokenizer: it must go
    assert not (config.checkpoint / "transformer").exists()
    # Nor does a later run take the transformer for finished.
    assert list(read_legs(config.checkpoint)) == ["decoder"]


def test_the_legs_of_init_come_first(smoke_checkpoint, tmp_path):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    first = load_config("smoke", [f"checkpoint={tmp_path}/first"])
    write_checkpoint(first, pipe.vae, pipe.transformer, {"edit": LEG})
    second = load_config("smoke", [f"checkpoint={tmp_path}/second", f"init={tmp_path}/first"])
    write_checkpoint(second, pipe.vae, pipe.transformer, {"edit": LEG | {"samples": 7}})
    assert [leg["samples"] for leg in read_legs(tmp_path / "second")["edit"]] == [24, 7]


@pytest.fixture
def finished(smoke_checkpoint, tmp_path):
    """The settings of a run that finished every stage and published nothing, and its config."""
    settings = [f"output={tmp_path}/run", f"checkpoint={tmp_path}/checkpoint"]
    config, pipe = load_config("smoke", settings), RPiAEPipeline.from_pretrained(smoke_checkpoint)
    for name in config.stages:
        (pipe.transformer if name == "edit" else pipe.vae).save_pretrained(config.output / name / "result")
        finish(config, name)
    return settings, config


def finish(config, name, seconds=60.0):
    progress = Progress()
    progress.seconds = seconds
    mark = config.output / name / "finished.json"
    mark.write_text(json.dumps(stages.Stages(config)._leg(name, progress)))
    return mark


def edit_minutes(config):
    return [leg["minutes"] for leg in read_legs(config.checkpoint)["edit"]]


def test_a_run_that_was_killed_before_it_published_does_so_the_next_time(finished):
    settings, config = finished
    assert main(["smoke", "all", *settings]) == 0
    assert edit_minutes(config) == [1.0]
    finish(config, "edit", 120)  # trained anew, then killed: the folder is there, and does not have it
    assert main(["smoke", "all", *settings]) == 0
    assert edit_minutes(config) == [1.0, 2.0]
    before = (config.checkpoint / "training.json").stat()
    assert main(["smoke", "all", *settings]) == 0
    old = finish(config, "edit", 180)
    os.utime(old, (0, 0))  # a folder that another run wrote since is its own
    assert main(["smoke", "all", *settings]) == 0
    assert (config.checkpoint / "training.json").stat() == before


def test_a_checkpoint_survives_a_kill_in_the_middle_of_its_swap(finished):
    settings, config = finished
    assert main(["smoke", "all", *settings]) == 0
    calibrate.store(config.checkpoint, calibrate.RegionSettings(latent_threshold=0.123))
    os.rename(config.checkpoint, config.checkpoint.with_name("checkpoint.old"))
    empty = load_config("smoke", [*settings, f"output={config.output}-other"])
    assert stages.Stages(empty).finished("edit") is not None
    os.rename(config.checkpoint, config.checkpoint.with_name("checkpoint.old"))
    pipe = RPiAEPipeline.from_pretrained(config.checkpoint.with_name("checkpoint.old"))
    write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG})
    assert len(read_legs(config.checkpoint)["edit"]) == 2
    assert RPiAEPipeline.from_pretrained(config.checkpoint).config.region["latent_threshold"] == 0.123


def test_no_run_replaces_a_transformer_that_it_does_not_go_on_from(finished, tmp_path, capsys):
    settings, config = finished
    assert main(["smoke", "all", *settings]) == 0
    before = (config.checkpoint / "training.json").read_bytes()
    other = [f"output={tmp_path}/other", f"checkpoint={config.checkpoint}", "stages.edit.samples=4"]
    for stage, change in (("all", []), ("edit", []), ("decoder", ["stages.decoder.samples=8"])):
        assert main(["smoke", stage, *other, *change]) == 2
        assert "holds a transformer of 0 samples of training" in capsys.readouterr().err
    assert (config.checkpoint / "training.json").read_bytes() == before and not (tmp_path / "other").exists()
    further = ["smoke", "edit", *other, f"init={config.checkpoint}"]
    assert main(further) == 2  # the samples of the first leg again
    assert "seed=0 would show the edit stage" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert main([*further, "seed=1"]) == 0
    assert [leg["samples"] for leg in read_legs(config.checkpoint)["edit"]] == [0, 4]


def test_a_checkpoints_tokenizer_is_finished_whole_or_not_at_all(finished, tmp_path):
    """It keeps nothing that a single stage left, from which the next one could be trained."""
    settings, config = finished
    stages.Stages(config).publish()

    def missing(*more):
        other = stages.Stages(load_config("smoke", [*settings, f"output={tmp_path}/other", *more]))
        return [name for name in config.stages if other.finished(name) is None]

    assert missing() == []
    assert missing("stages.edit.samples=4") == ["edit"]
    assert missing("stages.decoder.samples=8") == missing("stages.pivot.samples=8") == list(config.stages)


def test_half_a_result_is_no_result(finished):
    _, config = finished
    whole = stages.Stages(config)
    assert whole.result("pivot").is_dir() and whole.result("decoder").is_dir()
    for name in ("pivot", "decoder"):  # killed while they were exported
        (config.output / name / "finished.json").unlink()
        with pytest.raises(ValueError, match=rf"{name}.finished.json is missing.*python -m train smoke {name}"):
            whole.result(name)
    with pytest.raises(ValueError, match="'decoder' of smoke is not finished"):
        whole.vae()


def test_the_card_counts_what_is_in_the_files(smoke_checkpoint):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    counts = parameters(smoke_checkpoint)
    assert counts["transformer"] == sum(p.numel() for p in pipe.transformer.parameters())
    card = model_card(load_config("smoke"), smoke_checkpoint, {"edit": [LEG]}, "| a | table |")
    assert f"{counts['vae']:,}" in card and "| edit | 24 | 0 | a test |" in card and "| a | table |" in card


OWN = [f"stages.{name}.data.sources=[{{kind: folder, path: some/where/my-{name}}}]" for name in ("decoder", "edit")]


@pytest.mark.parametrize(("name", "more"), [("smoke", []), ("smoke", OWN), ("paper-256", [])])
def test_a_tokenizers_card_promises_a_tokenizer(name, more, smoke_checkpoint, tmp_path):
    config = load_config(name, [f"checkpoint={tmp_path}/checkpoint", *more])
    vae = AutoencoderRPiAE.from_pretrained(smoke_checkpoint / "vae")
    write_checkpoint(config, vae, None, dict.fromkeys(config.stages, LEG))
    card = (config.checkpoint / "README.md").read_text()
    assert "tags: [image-tokenizer]\n" in card and "An RPiAE tokenizer" in card and "| decoder | 24 |" in card
    assert "measure-reconstruction" in card  # which needs no transformer
    promises = ("LightningDiT", "diffusion transformer", "text encoder", "measure-samples", "train evaluate", "my-edit")
    for other in (*promises, "| guide |", "| class |", "| edit |"):
        assert other not in card, other
    assert ("where/my-decoder" in card) == (more == OWN)


def test_a_card_says_how_to_measure_what_was_trained(smoke_checkpoint, tmp_path):
    """`evaluate` draws and judges sticker scenes: on a model of own data its table would say nothing."""
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    for more, said, unsaid in ([], "train evaluate smoke", "train export"), (OWN, "train export", "train evaluate"):
        config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint", *more])
        write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG})
        card = (config.checkpoint / "README.md").read_text()
        assert said in card and unsaid not in card and "diffusion transformer" in card
        assert ("sticker scenes" in card) == (more == []) and ("where/my-edit" in card) == (more == OWN)


def test_tables_go_between_the_markers_and_nowhere_else(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_markers(file, "new")
    assert file.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    file.write_text("no markers")
    with pytest.raises(ValueError, match="tables:begin"):
        write_between_markers(file, "new")


@torch.no_grad()
@pytest.mark.parametrize(("size", "rate"), [(0.06, None), (0.6, 0.3)])
def test_calibration_prefers_what_keeps_enough_and_covers_most(monkeypatch, size, rate):
    """Against a planted world: noise of some size on every pixel, changes of 0.5. Only a high threshold tells them
    apart; or, where the noise is larger, only what the transformer tells, at a rate that it is sure of."""
    noise = torch.Generator().manual_seed(0)

    def planted(pipe, edits, sources, seed):
        targets = torch.stack([calibrate.to_chw(calibrate.draw(edit.target)) for edit in edits]).float() / 255
        changed = (sources != targets).any(1, keepdim=True)
        before = torch.full_like(sources, 0.5)
        after = before + torch.where(changed, 0.5, size * torch.rand(sources.shape, generator=noise))
        told = None if rate is None else (changed.float() * rate).clamp(0.01, 1)
        return before * 10, after * 10, told  # far above every latent threshold: pixels alone decide

    monkeypatch.setattr(calibrate, "_latents", planted)
    monkeypatch.setattr(calibrate, "_decode", lambda pipe, latents: latents / 10)
    best, trials = calibrate.calibrate(None, per_category=2)
    assert best.kept > 0.97 and best.covered > 0.99
    assert best.settings.high > 0.06 if rate is None else 0.01 < best.settings.change_probability <= 0.3
    assert best.kept + best.covered == max(trial.kept + trial.covered for trial in trials)


def test_calibration_does_not_undo_edits_to_keep_the_rest():
    timid, bold, careful, better = (
        calibrate.Trial(calibrate.RegionSettings(), kept, covered)
        for kept, covered in ((0.98, 0.13), (0.93, 0.97), (0.95, 0.92), (0.96, 0.92))
    )
    assert calibrate.choose([timid, bold]) is bold
    assert calibrate.choose([timid, bold, careful]) is careful
    assert calibrate.choose([timid, bold, careful, better]) is better


def test_a_transformer_is_carried_only_between_latents_of_one_size(smoke_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "CARRY_PICTURES", 4)
    narrow = load_config("smoke", [f"init={smoke_checkpoint}", f"output={tmp_path}", "models.bridge.latent_channels=4"])
    vae = AutoencoderRPiAE(narrow.models.encoder, narrow.models.decoder, narrow.models.bridge, narrow.models.image_size)
    with pytest.raises(ValueError, match=r"for latents \(8, 16, 16\), this tokenizer's are \(4, 16, 16\)"):
        stages.Stages(narrow)._transformer("edit", vae)
