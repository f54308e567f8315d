"""From finished stages to the folder that the app reads."""

import pytest
import torch

from rpiae import RPiAEPipeline
from train.config import load_config
from train.evaluate import calibrate
from train.evaluate.card import model_card, parameters
from train.evaluate.command import BEGIN, END, write_between_markers
from train.publish import read_legs, write_checkpoint

LEG = {"stage": "edit", "samples": 24, "minutes": 0.1, "machine": "a test"}


def test_legs_are_kept_and_settings_survive_a_new_leg(smoke_checkpoint, tmp_path):
    config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint"])
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG})
    settings = calibrate.RegionSettings(latent_threshold=0.123)
    calibrate.store(config.checkpoint, settings)
    (config.checkpoint / "README.md").write_text("card")
    write_checkpoint(config, pipe.vae, pipe.transformer, {"edit": LEG | {"samples": 48}})
    assert [leg["samples"] for leg in read_legs(config.checkpoint)["edit"]] == [24, 48]
    again = RPiAEPipeline.from_pretrained(config.checkpoint)
    assert again.config.region["latent_threshold"] == 0.123
    assert (config.checkpoint / "README.md").read_text() == "card"
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.old"))


def test_a_tokenizer_alone_is_handed_on(smoke_checkpoint, tmp_path):
    config = load_config("smoke", [f"checkpoint={tmp_path}/checkpoint"])
    write_checkpoint(config, RPiAEPipeline.from_pretrained(smoke_checkpoint).vae, None, {})
    assert (config.checkpoint / "vae" / "config.json").is_file()
    with pytest.raises(ValueError, match="model_index.json is missing"):
        RPiAEPipeline.from_pretrained(config.checkpoint)


def test_the_card_counts_what_is_in_the_files(smoke_checkpoint):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    counts = parameters(smoke_checkpoint)
    assert counts["transformer"] == sum(p.numel() for p in pipe.transformer.parameters())
    card = model_card(load_config("smoke"), smoke_checkpoint, {"edit": [LEG]}, "| a | table |")
    assert f"{counts['vae']:,}" in card and "| edit | 24 | 0 | a test |" in card and "| a | table |" in card


def test_tables_go_between_the_markers_and_nowhere_else(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_markers(file, "new")
    assert file.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    file.write_text("no markers")
    with pytest.raises(ValueError, match="tables:begin"):
        write_between_markers(file, "new")


@torch.no_grad()
def test_calibration_finds_settings_that_keep_what_did_not_change(smoke_checkpoint, monkeypatch):
    """With "edits" that are the encoded truth, some settings keep nearly all and cover the change."""
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)

    def truth(pipe, edits, sources, seed):
        targets = torch.stack([calibrate.to_chw(calibrate.draw(edit.target)) for edit in edits]).float() / 255
        return tuple(pipe.vae.encode(x).latent_dist.mode() for x in (sources, targets))

    monkeypatch.setattr(calibrate, "_latents", truth)
    monkeypatch.setattr(calibrate, "_decode", lambda pipe, x: torch.nn.functional.interpolate(x[:, :3], scale_factor=16))
    best, trials = calibrate.calibrate(pipe, per_category=1)
    assert best in trials and best.kept == max(t.kept for t in trials) or best.kept >= calibrate.KEPT
    assert len({trial.settings for trial in trials}) == len(trials) > 10
