"""The study: every row's phases learn what they should, one row goes the whole way, also when it is stopped, the table
claims no more than its seeds allow, and finished tokenizers come to Compare with their own models."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rpiae.encoder import build_encoder
from rpiae.loading import WEIGHTS
from rpiae.tokenizers import compact, load, published
from rpiae.tokenizers.drawing import draw, own_model
from train.__main__ import main
from train.linear_start import collect_pictures
from train.loop import Loop
from train.study import bundle, judged, report
from train.study import representation as representation_module
from train.study import tokenizer as tokenizer_module
from train.study.budget import row_cost
from train.study.command import run, trainable
from train.study.config import CodebookSettings, load_study, settings_of
from train.study.generator import time_shift, transformer_config
from train.study.representation import KEPT, PLAN, fingerprint, plan_of, representation
from train.study.rows import ROWS, chosen, row_as_written
from train.study.run import RowRun
from train.study.stage import Plan
from train.study.tokenizer import alignment_loss
from train.study.world import WorldPictures, inhabited

PARTS = ("encoder", "bridge", "decoder")
RESULTS = Path(__file__).parents[3] / "docs" / "study"
# Studies in it, and the settings in which they differ from the config.
COMMITTED = {"stickers-128": [], "stickers-128-meaning": ["generator=null", "representation.pixels=0"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return load_study("smoke", [f"output={folder}", f"results={folder}/results"])


@pytest.fixture(scope="module")
def frozen(study):
    torch.manual_seed(0)
    return build_encoder(study.models.encoder, study.models.image_size).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ROWS)
def test_every_phase_learns_with_its_own_parts_and_losses(study, frozen, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "LATENT_PICTURES", 8)
    row, before, numbers = ROWS[name], None, []
    torch.manual_seed(0)
    with inhabited(study.world):
        for phase in row.phases:
            stage = RowRun(study, name, 0).stage(phase)
            task = RowRun(study, name, 0)._task(phase, stage, before, frozen, len(numbers))
            numbers += [int(task.dataset[i]["index"]) for i in range(len(task.dataset))]
            if task.fresh:
                task.start()
            task.train()
            batch = torch.utils.data.default_collate([task.dataset[i] for i in range(4)])
            losses = task(batch)
            losses["loss"].backward()
            for part in PARTS:
                module = getattr(task.vae, part)
                moved = module is not None and any(p.grad is not None for p in module.parameters())
                assert moved == (part in phase.trains), f"{phase.name}: {part}"
            assert ("anchor" in losses) == bool(phase.changes.get("pivot"))
            assert ("l1" in losses) == bool(stage.l1) and ("codes" in losses) == (row.latent == "codes")
            assert ("kl" in losses) == bool(stage.kl)
            before = tmp_path / phase.name
            task.eval()
            task.export(before)
    assert numbers == list(range(study.tokenizer.samples))  # no picture twice, whatever the phases
    # One scale for all: what the transformer is given has mean square one.
    with inhabited(study.world), torch.no_grad():
        x = torch.stack([task.for_latents[i]["image"] for i in range(8)]).float() / 255
        assert task.vae.normalise(task.vae.encode(x).latent_dist.mode()).square().mean().item() == pytest.approx(
            1, rel=1e-3
        )
    assert (task.vae.bridge is None) == (row.latent == "features")
    if row.start == "representation" and all("encoder" not in phase.trains for phase in row.phases):
        assert all(torch.equal(a, b) for a, b in zip(task.vae.encoder.parameters(), frozen.parameters(), strict=True))


def test_the_anchor_counts_against_pixels_alone(study, frozen):
    """Its weight is the same whatever else a row asks of its bridge."""
    weights = []
    for more in ({}, {"feature_mse": 10.0, "kl": 1.0}):
        run = RowRun(study, "rpiae-single-stage", 0)
        [phase] = run.row.phases
        with inhabited(study.world):
            torch.manual_seed(0)
            task = run._task(phase, run.stage(phase).model_copy(update=more), None, frozen, 0)
            task.start()
            with torch.no_grad():
                for parameter in task.vae.encoder.parameters():
                    parameter += 0.01 * torch.randn(parameter.shape)
            batch = torch.utils.data.default_collate([task.dataset[i] for i in range(4)])
        weights.append(float(task.train()(batch)["anchor_weight"]))
    assert weights[0] == pytest.approx(weights[1]) and weights[0] > 0


def test_seeds_do_not_share_their_noise(study, frozen):
    drawn = []
    for seed in (0, 0, 1):
        run = RowRun(study, "sd-vae", seed)
        [phase] = run.row.phases
        with inhabited(study.world):
            task = run._task(phase, run.stage(phase), None, frozen, 0)
        drawn.append(task._noise(torch.zeros(1, 8, 4, 4), torch.tensor([3]), 0))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_alignment_is_content_with_what_is_near_enough():
    torch.manual_seed(0)
    wanted = torch.randn(2, 6, 3, 3)
    assert alignment_loss(3 * wanted, wanted) == 0
    assert alignment_loss(wanted + 0.1 * torch.randn(wanted.shape), wanted) < 1e-3
    assert (
        alignment_loss(-wanted, wanted) > 1
    )  # every cell points the other way, though they are to each other as before
    turned = torch.linalg.qr(torch.randn(6, 6))[0]
    assert 0.1 < alignment_loss(torch.einsum("oc,bchw->bohw", turned, wanted), wanted) < 1


def test_every_latent_gives_the_same_tokens_and_its_own_shift(study):
    for shape, patch in (((8, 4, 4), 1), ((32, 4, 4), 1), ((2, 8, 8), 2)):
        found = transformer_config(study, shape)
        assert (found["in_channels"], found["sample_size"] // found["patch_size"], found["patch_size"]) == (
            shape[0],
            4,
            patch,
        )
    assert time_shift(study, (8, 4, 4), 3.0) == 3 and time_shift(study, (32, 4, 4), 3.0) == 6
    with pytest.raises(ValueError, match="6 rows"):
        transformer_config(study, (8, 6, 6))


def asked(study):
    """The command for a study."""
    return ["study", "smoke", f"output={study.output}", f"results={study.results}"]


@pytest.fixture(scope="module")
def finished_study(study):
    """The study with one row."""
    assert main([*asked(study), "--rows", "rae"]) == 0
    return study


def test_a_row_goes_the_whole_way_and_is_not_done_again(finished_study, capsys):
    study = finished_study
    file = study.results / "rows" / "rae-0.json"
    row = json.loads(file.read_text())
    numbers = row["numbers"]
    assert 5 < numbers["psnr"] < 60 and 0 < numbers["ssim"] < 1 and numbers["fd"] > 0 and numbers["drawn_fd"] > 0
    assert all(0 <= numbers[f"probe_{name}"] <= 1 for name in ("nouns", "colors", "places"))
    assert set(numbers["by_category"]) == {"color_alter"} and len(numbers["by_skill"]) == 6
    assert row["latent_shape"] == [32, 4, 4] and [point["samples"] for point in row["curve"]] == [2, 4]
    assert row["legs"]["decoder"]["samples"] == study.tokenizer.samples and 0 <= numbers["ceiling"] <= 1
    assert row["representation"] == hashlib.sha256((study.results / KEPT).read_bytes()).hexdigest()
    assert not list(study.output.glob("*/*/state-*"))  # they are for going on, and it is finished
    table = (study.results / "table.md").read_text()
    assert "| RAE | 32 × 4 × 4 |" in table and numbers["feature_space"] in table
    with Image.open(study.results / "curves.png") as picture:
        assert picture.width > 1000

    made = file.stat().st_mtime_ns
    assert main([*asked(study), "--rows", "rae"]) == 0
    assert table.strip() in capsys.readouterr().out
    assert file.stat().st_mtime_ns == made
    newer = json.loads(file.read_text())  # a setting that is newer than the row is at its default there
    assert newer["settings"]["generator"].pop("edit_weights") == {}
    file.write_text(json.dumps(newer))
    assert main([*asked(study), "--rows", "rae"]) == 0
    file.write_text(json.dumps(row | {"representation": "another"}))
    assert main([*asked(study), "--rows", "rae"]) == 2
    assert "rae-0.json came from another representation than" in capsys.readouterr().err
    file.write_text(json.dumps(row, indent=1))
    for name in ("rae", "sd-vae"):  # before a row is trained that would not be of the same study
        assert main([*asked(study), "measure.edits=2", "--rows", name]) == 2
        assert "rae-0.json holds this row with other settings" in capsys.readouterr().err
    assert not (study.output / "sd-vae-0").exists()


def test_a_whole_part_that_is_newer_than_a_row_is_at_its_defaults():
    study = load_study("smoke").model_copy(update={"codebook": CodebookSettings()})
    row = {"settings": study.written() | {"row": ROWS["rae"].written()}}
    older = {"settings": {name: value for name, value in row["settings"].items() if name != "codebook"}}
    assert settings_of(older) == settings_of(row) == row["settings"]


def test_a_plan_of_an_earlier_time_is_one_of_other_settings(finished_study, tmp_path):
    folder = shutil.copytree(finished_study.output / "representation", tmp_path / "representation")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan.pop("study"), **plan}))
    with pytest.raises(ValueError, match="holds a run of other settings"):
        representation(load_study("smoke", [f"output={tmp_path}", f"results={tmp_path}/results"]))


def test_a_row_is_the_same_however_it_is_told():
    """Words about it count for nothing, and what is newer than a file counts as its default."""
    now = ROWS["rpiae"].written()
    assert not now.keys() & {"title", "idea", "ablation"} and now == json.loads(json.dumps(now))
    told = now | {"title": "Another", "idea": "in other words", "ablation": True}
    older = {name: value for name, value in told.items() if name not in ("anchor", "bridge_pixels")}
    older["phases"] = [
        {name: value for name, value in phase.items() if name != "changes" or value} for phase in now["phases"]
    ]
    assert older["phases"] != now["phases"]
    assert row_as_written(told) == row_as_written(older) == now
    for other in (now | {"latent": "sample"}, now | {"bridge_pixels": 2.0}, now | {"since_removed": 1}):
        assert row_as_written(other) != now

    study = load_study("smoke")
    plan = Plan(study, study.tokenizer, 0, {"row": now, "study": study.written("world")})
    recorded = plan.written()
    assert plan.is_that_of(recorded) and plan.is_that_of(recorded | {"row": older})
    assert not plan.is_that_of(recorded | {"row": now | {"latent": "sample"}})


def test_the_representation_is_trained_once_and_kept_beside_the_rows(finished_study, tmp_path, monkeypatch):
    """Another machine, whose output is empty, takes it from there as it is."""
    (tmp_path / "results").mkdir()
    file = Path(shutil.copy(finished_study.results / KEPT, tmp_path / "results"))

    def elsewhere(*settings):
        return load_study("smoke", [f"output={tmp_path}/runs", f"results={tmp_path}/results", *settings])

    monkeypatch.setattr(representation_module, "train", lambda *_: pytest.fail("trained again"))
    trained = load_file(finished_study.output / "representation" / "result" / "encoder.safetensors")
    found = representation(elsewhere()).state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name].half().float()) for name in trained)
    with pytest.raises(ValueError, match="trained by other settings"):
        representation(elsewhere("representation.contrast=2"))
    older = plan_of(elsewhere()).written()
    assert older["settings"].pop("offset") == 2.0  # a setting that is newer than the file
    save_file(load_file(file), file, {PLAN: json.dumps(older)})
    representation(elsewhere())
    with pytest.raises(ValueError, match="trained by other settings"):
        representation(elsewhere("representation.offset=1"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        representation(elsewhere())
    file.unlink()
    (tmp_path / "results" / "rows").mkdir()
    (tmp_path / "results" / "rows" / "rae-0.json").touch()
    with pytest.raises(ValueError, match="is missing, and rows came from it"):
        representation(elsewhere())


def test_a_phase_of_another_representation_is_not_gone_on_with(finished_study, tmp_path):
    study = finished_study.model_copy(update={"results": tmp_path})
    weights = load_file(finished_study.results / KEPT)
    representation_module.keep({name: 2 * one for name, one in weights.items()}, plan_of(study), tmp_path / KEPT)
    with pytest.raises(ValueError, match="decoder holds a run of other settings"):
        RowRun(study, "rae", 0).tokenizer()


@pytest.mark.parametrize("folder, settings", COMMITTED.items())
def test_the_committed_rows_are_finished_and_their_representation_is_there(folder, settings, tmp_path):
    study = load_study("stickers-128", [f"output={tmp_path}/runs", f"results={RESULTS / folder}", *settings])
    files = sorted((study.results / "rows").glob("*.json"))
    assert len(files) >= 6
    for file in files:
        name, _, seed = file.stem.rpartition("-")
        assert RowRun(study, name, int(seed)).finished()["representation"] == fingerprint(study)
    found = representation(study).state_dict()
    rae = load("compact-rae").model.encoder.state_dict()
    bundled = all(torch.equal(found[name], rae[name]) for name in found)
    assert bundled == (folder == "stickers-128") and not (tmp_path / "runs").exists()


def test_the_bundled_tokenizers_were_trained_in_their_world():
    """Their latents have mean square one on its pictures; on those of all nouns it is another."""
    study = load_study("stickers-128")
    count = tokenizer_module.LATENT_PICTURES
    with inhabited(study.world):
        pictures = WorldPictures(study.world, 0, tokenizer_module.LATENT_TAG, count)
        x = collect_pictures(pictures, count)
    assert len(compact.names()) >= 4
    for name in compact.names():
        vae = load(name).model
        with torch.no_grad():
            latents = vae.normalise(vae.encode(x).latent_dist.mode())
        assert latents.square().mean().item() == pytest.approx(1, rel=0.01), name


class Interrupted(Exception):
    """Somebody pulls the plug."""


def test_a_row_that_was_stopped_mid_generator_goes_on_to_the_same_numbers(finished_study, tmp_path, monkeypatch):
    """What comes before the generator is taken over finished, and a state is saved at every step. The judge takes most
    of the time, so that it reads the first skill only."""
    settings = [f"output={tmp_path}", f"results={tmp_path}/results", "generator.checkpoint_minutes=0"]
    study = load_study("smoke", settings)
    shutil.copytree(finished_study.output / "rae-0" / "decoder", tmp_path / "rae-0" / "decoder")
    (tmp_path / "results").mkdir()
    shutil.copy(finished_study.results / KEPT, tmp_path / "results")
    step, stops = Loop._step, []

    def stopping(loop, parts):
        if loop.folder.name == "generator" and loop.progress.step == 1 and not stops:
            stops.append(loop.progress.step)
            raise Interrupted
        return step(loop, parts)

    monkeypatch.setattr(Loop, "_step", stopping)
    first = next(iter(judged.SKILLS))
    monkeypatch.setattr(judged, "SKILLS", {first: judged.SKILLS[first]})
    with inhabited(study.world):
        ceiling = judged.ceiling(study.world, study.measure.ceiling)
        with pytest.raises(Interrupted):
            RowRun(study, "rae", 0).run(ceiling)
        assert stops == [1] and not (tmp_path / "results" / "rows").exists()
        assert list((tmp_path / "rae-0" / "generator").glob("state-*"))
        RowRun(study, "rae", 0).run(ceiling)
    whole, stopped = (json.loads((one.results / "rows" / "rae-0.json").read_text()) for one in (finished_study, study))
    for row in (whole, stopped):
        for leg in row["legs"].values():
            del leg["minutes"]
        for point in (row["numbers"], *row["curve"]):
            del point["skills"], point["skill_checks"]
        row["numbers"]["by_skill"] = row["numbers"]["by_skill"][first]
    assert stopped == whole


def test_without_a_generator_the_tokenizers_alone_are_compared(finished_study, tmp_path):
    """The tokenizer is taken over: what draws on it decides none of its numbers."""
    study = load_study("smoke", [f"output={tmp_path}", f"results={tmp_path}/results", "generator=null"])
    shutil.copytree(finished_study.output / "rae-0" / "decoder", tmp_path / "rae-0" / "decoder")
    (tmp_path / "results").mkdir()
    shutil.copy(finished_study.results / KEPT, tmp_path / "results")
    study = study.model_copy(update={"seeds": (0,)})
    text = run(study, ["rae"])
    whole, alone = (json.loads((one.results / "rows" / "rae-0.json").read_text()) for one in (finished_study, study))
    assert {"psnr", "fd", "probe_nouns"} < alone["numbers"].keys() < whole["numbers"].keys()
    assert alone["numbers"].items() <= whole["numbers"].items()
    assert "PSNR" in text and "edits" not in text and "judge" not in text
    assert alone["curve"] == [] and not (study.results / "curves.png").exists()
    assert row_cost(study, "rae").flops < row_cost(finished_study, "rae").flops


def test_finished_tokenizers_and_their_generators_come_to_compare(finished_study, tmp_path, monkeypatch):
    study = finished_study
    folders = bundle.export(study, ["rpiae", "rae"], tmp_path, generators=True)
    assert [folder.name for folder in folders] == ["compact-rae"]
    monkeypatch.setattr(published, "ASSETS", tmp_path)
    found = load("compact-rae")
    assert found.info.latent_shape == (32, 4, 4) and found.info.licence == "cc-by-sa-4.0"
    assert "not** the published RAE" in (folders[0] / "README.md").read_text()
    half = (folders[0] / "vae" / WEIGHTS).stat().st_size
    assert half < 0.6 * (study.output / "rae-0" / "decoder" / "result" / WEIGHTS).stat().st_size
    drawn = draw(own_model(found), "a red car", seed=3).picture
    with inhabited(study.world):
        run = RowRun(study, "rae", 0)
        pipe = run.generator(run.tokenizer()).pipeline()
    wanted = pipe("a red car", generator=torch.Generator().manual_seed(3), output_type="pt").images
    torch.testing.assert_close(drawn, wanted.cpu(), atol=0.02, rtol=0)  # its weights came from float16
    assert [path.name for path in (folders[0] / "text_encoder").iterdir()] == ["config.json"]
    [alone] = bundle.export(study, ["rae"], tmp_path, generators=True, generators_limit=1000)
    assert not (alone / "transformer").exists()
    bundle.export(study, ["rae"], tmp_path, generators=True)
    [alone] = bundle.export(study, ["rae"], tmp_path)  # tokenizers alone unless asked, as they come with the repository
    assert own_model(load("compact-rae")) is None and not (alone / "transformer").exists()
    assert "generator" not in (alone / "README.md").read_text()
    # What lies there already takes its room, also of a row that was asked for and is finished elsewhere alone.
    size = (alone / "vae" / WEIGHTS).stat().st_size
    shutil.copytree(alone, tmp_path / "full" / "compact-rpiae")
    with pytest.raises(ValueError, match="no tokenizer of rae fits"):
        bundle.export(study, ["rpiae", "rae"], tmp_path / "full", limit=int(1.5 * size))
    assert bundle.export(study, ["rpiae", "rae"], tmp_path / "full", limit=int(2.5 * size))
    with pytest.raises(ValueError, match="no tokenizer of rpiae is finished"):
        bundle.export(study, ["rpiae"], tmp_path)
    with pytest.raises(ValueError, match="no tokenizer of rae fits"):  # a limit that nothing fits in
        bundle.export(study, ["rae"], tmp_path / "none", limit=1000)
    with pytest.raises(ValueError, match="ablations are not exported: rpiae-no-pivot;"):
        bundle.export(study, ["rpiae-no-pivot"], tmp_path)


def test_an_older_folder_that_stays_takes_its_room(finished_study, tmp_path):
    """rae comes before fae, whose new weights find no room beside it: its old ones are still there then."""
    study = finished_study.model_copy(update={"output": tmp_path / "output"})
    shutil.copytree(finished_study.output / "rae-0", study.output / "rae-0")
    weights = write_finished(study, "fae") / WEIGHTS
    weights.write_bytes(4 * weights.read_bytes())  # more than there is room for
    [folder] = bundle.export(study, ["rae"], tmp_path)
    size = (folder / "vae" / WEIGHTS).stat().st_size
    shutil.rmtree(folder)
    old = tmp_path / "compact-fae" / "vae" / WEIGHTS
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(size // 2))
    with pytest.raises(ValueError, match="no tokenizer of rae, fae fits"):
        bundle.export(study, ["rae", "fae"], tmp_path, limit=int(1.2 * size) - 1)
    assert old.stat().st_size == size // 2 and not folder.exists()
    assert bundle.export(study, ["rae", "fae"], tmp_path, limit=int(1.7 * size)) == [folder]
    assert bundle.export(study, ["rae"], tmp_path, limit=int(1.7 * size)) == [folder]  # in its own place
    assert old.is_file()


def write_finished(study, name):
    """The result of a row's last phase, finished by its plan, with the weights that rae's has."""
    run = RowRun(study, name, 0)
    last = run.row.phases[-1]
    folder, rae = run.folder / last.name, study.output / "rae-0" / "decoder"
    shutil.copytree(rae, folder)
    (folder / "plan.json").write_text(json.dumps(run.plan(last).written()))
    return folder / "result"


@pytest.mark.parametrize("change", ["tokenizer", "generator", "representation"])
def test_what_was_trained_by_other_settings_is_not_exported(finished_study, tmp_path, change):
    stage = getattr(finished_study, change)
    other = stage.model_copy(update={"samples": 2 * stage.samples})
    study = finished_study.model_copy(update={change: other})
    for generators in (False, True):
        if change == "generator" and not generators:  # which the tokenizer's card says nothing of
            assert bundle.export(study, ["rae"], tmp_path / "alone")
            continue
        with pytest.raises(ValueError, match="rae-0.* was trained by other settings"):
            bundle.export(study, ["rae"], tmp_path, generators)
    assert not (tmp_path / "compact-rae").exists()


def test_generators_are_exported_when_asked_for(study, monkeypatch):
    asks = []
    monkeypatch.setattr(bundle, "export", lambda study, names, generators: asks.append(generators) or [])
    assert main([*asked(study), "--export"]) == 0 and main([*asked(study), "--export", "--generators"]) == 0
    assert asks == [False, True]
    with pytest.raises(SystemExit):
        main([*asked(study), "--generators"])


def test_only_training_needs_the_gpu_of_the_full_world(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["study", "stickers-256", "--dry-run", "--rows", "rae"]) == 0
    large = capsys.readouterr().out
    assert main(["study", "stickers-128", "--dry-run", "--rows", "rae"]) == 0
    assert large != capsys.readouterr().out and "No GPU" not in large
    results = tmp_path / "rows-of-256"
    for what in ("--table", "--export"):
        assert main(["study", "stickers-256", f"results={results}", f"output={results}", what]) == 2
        said = capsys.readouterr()
        assert "rows-of-256" in said.err and "No GPU" not in said.out
    assert trainable(load_study("stickers-256"), ["threads=1"]) == load_study("stickers-128", ["threads=1"])


def test_what_it_costs_is_known_before(capsys):
    assert main(["study", "stickers-128", "--dry-run", "--rows", "rpiae,rae,vqgan"]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {cells[1].strip(): [cells[2].strip(), cells[5].strip()] for cells in lines[1:]}
    assert set(found) == {"rpiae", "rae", "vqgan", "all rows, 2 seeds"}
    assert all(0.5 < float(found[name][1]) < 15 for name in ("rpiae", "rae", "vqgan"))
    assert int(found["rae"][0]) < int(found["rpiae"][0]) < 2_000_000


def test_rows_by_name():
    assert chosen("rae, fae") == ["rae", "fae"] and chosen(None) == list(ROWS)
    for names, said in (("rae,vae", "no row vae; it has: rpiae"), (" , ", "names no row; there are: rpiae")):
        with pytest.raises(ValueError, match=said):
            chosen(names)


def finished(name, seed, psnr):
    """A row's file, with numbers as they are to be told apart."""
    numbers = {key: psnr for key, _, _ in report.COLUMNS.values()} | {"pictures": 8, "feature_space": "some space"}
    curve = [{"samples": samples} | dict.fromkeys(report.PANELS, samples / 10) for samples in (1, 2)]
    return {
        "row": name, "seed": seed, "title": ROWS[name].title, "numbers": numbers, "curve": curve,
        "latent_shape": [8, 4, 4], "legs": {"generator": {"minutes": 2.0}},
        "representation": "its SHA-256",
        "settings": {"tokenizer": {"samples": 8}, "measure": {"ceiling": 24}, "row": ROWS[name].written()},
    }  # fmt: skip


def test_no_ranking_is_claimed_inside_the_spread(tmp_path):
    values = {"rpiae": (28.0, 30.0), "rae": (29.5, 27.0), "va-vae": (20.0, 21.0)}
    (tmp_path / "rows").mkdir()
    for name, seeds in values.items():
        for seed, psnr in enumerate(seeds):
            (tmp_path / "rows" / f"{name}-{seed}.json").write_text(json.dumps(finished(name, seed, psnr)))
    lines = report.write(tmp_path).splitlines()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in lines[2:5]}
    assert [rows[title][3] for title in ("RPiAE", "RAE", "VA-VAE")] == [
        "**29.00 ± 1.00**", "**28.25 ± 1.25**", "20.50 ± 0.50"
    ]  # fmt: skip
    # Less is better for distances, and there the last row stands alone.
    assert [rows[title][6].startswith("**") for title in ("RPiAE", "RAE", "VA-VAE")] == [False, False, True]
    alone = tmp_path / "rows" / "va-vae-1.json"
    alone.rename(tmp_path / "va-vae-1.json")
    lines = (text := report.write(tmp_path)).splitlines()  # others go on being told apart
    assert ["**" in line for line in lines[2:5]] == [True, True, False] and "has no spread" in text
    (tmp_path / "rows" / "rae-1.json").rename(tmp_path / "rae-1.json")
    assert "**" not in report.write(tmp_path)
    (tmp_path / "rae-1.json").rename(tmp_path / "rows" / "rae-1.json")
    (tmp_path / "va-vae-1.json").rename(alone)
    known = finished("rae", 1, 27.0)
    known["numbers"]["ceiling"] = 23 / 24
    assert "true pictures" not in text
    (tmp_path / "rows" / "rae-1.json").write_text(json.dumps(known))
    last = report.write(tmp_path).splitlines()[-1]
    assert last.startswith("Of 24 true pictures") and "95.8%" in last
    (tmp_path / "rows" / "rae-1.json").write_text(json.dumps(known | {"representation": "another"}))
    with pytest.raises(ValueError, match="rows from different frozen representations"):
        report.write(tmp_path)
    other = finished("rae", 1, 40.0)
    other["settings"]["tokenizer"]["samples"] = 80
    (tmp_path / "rows" / "rae-1.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="rows of different settings"):
        report.write(tmp_path)
    with pytest.raises(ValueError, match="holds no finished row"):
        report.write(tmp_path / "rows")
