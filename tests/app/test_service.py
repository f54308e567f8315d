"""The service on a real, tiny checkpoint: edits, pictures from text, comparisons, and what it says of mistakes."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from app import checkpoint, follower
from app import service as services
from app.outcome import Progress, Stopped
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest
from app.service import Service
from app.texts import speaking

ROOT = Path(__file__).resolve().parents[2]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_the_page_knows_the_checkpoints_settings_before_it_is_loaded(studio_checkpoint):
    waiting = Service(studio_checkpoint)
    assert waiting.state == "waiting"
    assert waiting.defaults == {"num_inference_steps": 4, "guidance_scale": 2.0, "image_guidance_scale": 1.5}
    assert waiting.side == 256


def test_without_settings_of_its_own_a_checkpoint_has_the_pipelines():
    from rpiae.pipeline import FALLBACK_DEFAULTS  # imports torch: so the page, which comes before it, has a copy

    assert services.FALLBACK_DEFAULTS == FALLBACK_DEFAULTS


def test_what_is_loaded_can_be_told(service):
    assert service.state == "ready"
    assert service.facts.name == "smoke-studio"
    assert service.facts.dtype == "float32"
    assert len(service.facts.sha256) == 64


def test_an_edit_keeps_size_and_untouched_pixels(service, picture):
    source = picture.resize((333, 210))
    outcome = service.run(EditRequest(source, "make the car blue", seed=5))
    [result] = outcome.pictures
    assert result.image.size == result.change_mask.size == (333, 210)
    untouched = pixels(result.change_mask) == 0
    assert 0.3 < untouched.mean() < 1  # the untrained model changes something, the thresholds keep it local
    assert (pixels(result.image)[untouched] == pixels(source)[untouched]).all()
    assert (pixels(result.image) != pixels(source)).any()
    assert outcome.seconds > 0 and outcome.stopped_at is None


def test_it_is_said_when_a_large_picture_was_redrawn_as_a_whole(service, picture):
    large = picture.resize((400, 300))
    [note] = service.run(EditRequest(large, "make it blue", seed=5, preserve_unchanged=False)).notes
    assert "256 × 256" in note
    assert service.run(EditRequest(large, "make it blue", seed=5)).notes == ()
    assert service.run(EditRequest(picture, "make it blue", seed=5, preserve_unchanged=False)).notes == ()


def test_a_mask_narrows_an_edit(service, picture):
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, 128, 256))
    [result] = service.run(EditRequest(picture, "make it blue", seed=5, mask=mask)).pictures
    assert (pixels(result.image)[:, 140:] == pixels(picture)[:, 140:]).all()
    assert (pixels(result.image)[:, :128] != pixels(picture)[:, :128]).any()
    assert result.recipe.mask_sha256


def test_a_recipe_names_all_that_was_used(service, picture):
    [result] = service.run(EditRequest(picture, "make it blue", seed=5, guidance_scale=3.5)).pictures
    recipe = result.recipe
    assert (recipe.kind, recipe.prompt, recipe.seed) == ("edit", "make it blue", 5)
    assert (recipe.num_inference_steps, recipe.guidance_scale, recipe.image_guidance_scale) == (4, 3.5, 1.5)
    assert (recipe.width, recipe.height, recipe.preserve_unchanged) == (256, 256, True)
    assert recipe.checkpoint == "smoke-studio" and recipe.checkpoint_sha256 == service.facts.sha256
    assert recipe.device == "cpu" and "torch" in recipe.versions and recipe.source_sha256


def test_what_a_request_came_with_is_summed_once_for_all_its_pictures(service, picture, monkeypatch):
    from rpiae import recipe

    summed, real = [], recipe.pixels_sha256
    monkeypatch.setattr(recipe, "pixels_sha256", lambda image: summed.append(image.mode) or real(image))
    request = EditRequest(picture, "make it blue", count=2, mask=Image.new("L", picture.size, 255))
    recipes = [made.recipe for made in service.run(request).pictures]
    assert summed == ["RGB", "L"] and {made.source_sha256 for made in recipes} == {real(picture)}
    assert {made.mask_sha256 for made in recipes} == {real(request.mask)}


def test_a_seed_repeats_a_picture_and_belongs_to_it_in_any_number_of_pictures(service):
    one = service.run(GenerateRequest("a cat", seed=11)).pictures[0].image
    same = service.run(GenerateRequest("a cat", seed=11)).pictures[0].image
    other = service.run(GenerateRequest("a cat", seed=12)).pictures[0].image
    assert one.tobytes() == same.tobytes() != other.tobytes()
    both = service.run(GenerateRequest("a cat", seed=11, count=2)).pictures
    assert [found.seed for found in both] == [11, 12]
    for found, alone in zip(both, (one, other), strict=True):
        difference = np.abs(pixels(found.image).astype(int) - pixels(alone))
        assert (difference <= 1).mean() >= 0.999


def test_steps_and_previews_are_reported(service, monkeypatch):
    monkeypatch.setattr(follower, "PREVIEW_EVERY", 0.0)
    seen = []
    progress = Progress(report=lambda done, total, preview: seen.append((done, total, preview)))
    service.run(GenerateRequest("a cat", seed=1, num_inference_steps=12), progress)
    assert [(done, total) for done, total, _ in seen] == [(step, 12) for step in range(1, 13)]
    previews = [preview for _, _, preview in seen if preview is not None]
    assert len(previews) == 11 and previews[0].size == (256, 256)
    assert seen[-1][2] is None


def test_a_stop_ends_the_work_within_a_step_and_keeps_what_there_was(service):
    progress = Progress()
    steps = []

    def report(done, total, preview):
        steps.append(done)
        if done == 3:
            progress.stop.set()

    progress.report = report
    outcome = service.run(GenerateRequest("a cat", seed=1, num_inference_steps=50), progress)
    assert steps[-1] <= 4 and outcome.stopped_at == steps[-1]
    [partial] = outcome.pictures
    assert partial.partial and partial.image.size == (256, 256)
    with pytest.raises(Stopped):
        service.run(GenerateRequest("a cat", seed=1), progress)


def test_a_picture_goes_through_the_tokenizer_and_back(service, picture):
    [result] = service.run(ReconstructRequest(picture.resize((100, 60)))).pictures
    assert result.image.size == (100, 60) and result.recipe.kind == "reconstruct" and result.seed is None


def test_a_comparison_measures_the_loaded_checkpoint(service, picture):
    from rpiae import images, metrics

    wide = picture.crop((0, 0, 256, 128))
    outcome = service.run(CompareRequest(wide, ("rpiae",)))
    [row] = outcome.rows
    assert row.error is None and row.source == "smoke-studio"
    assert outcome.reference.size == row.reconstruction.size == row.error_map.size == (256, 128)
    assert row.latent_shape == (8, 16, 16) and row.compression == 3 * 256 * 256 / (8 * 16 * 16)
    x, y = images.to_tensor(outcome.reference), images.to_tensor(row.reconstruction)
    assert row.psnr == pytest.approx(metrics.psnr(x, y).item(), abs=0.05)  # the row's is from unrounded numbers
    assert row.ssim == pytest.approx(metrics.ssim(x, y).item(), abs=0.01)
    shown = np.abs(pixels(outcome.reference).astype(int) - pixels(row.reconstruction))
    assert np.abs(shown - pixels(row.error_map)).max() <= 1
    assert row.encode_ms > 0 and row.decode_ms > 0


def test_a_tokenizer_that_fails_keeps_its_row(service, picture, monkeypatch, tmp_path):
    from rpiae.tokenizers import published, sd_vae

    (tmp_path / "sd-vae").mkdir()
    (tmp_path / "sd-vae" / sd_vae.PUBLISHED.file).write_text("{}")
    monkeypatch.setattr(published, "ASSETS", tmp_path)  # weights seem to be there, and are none
    ours, other = service.run(CompareRequest(picture, ("rpiae", "sd-vae"))).rows
    assert ours.error is None and ours.psnr
    assert "damaged" in other.error and str(tmp_path.parent) not in other.error
    with pytest.raises(ValueError, match="no tokenizer called nothing"):
        service.run(CompareRequest(picture, ("nothing",)))


def test_a_tokenizer_that_nobody_knows_is_refused_before_it_waits(service, picture):
    service.check(CompareRequest(picture, ("rpiae", "sd-vae=random")))
    for name in ("nothing", "\ud83d", "x" * 1000):
        with pytest.raises(ValueError, match="no tokenizer called") as refused:
            service.check(CompareRequest(picture, ("rpiae", name)))
        assert len(str(refused.value).encode()) < 500  # and can be sent


def test_an_upload_is_described_and_a_bad_one_refused(service, picture, tmp_path):
    turned = picture.resize((60, 40)).convert("RGB")
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "phone.jpg", exif=exif)
    words = service.describe(tmp_path / "phone.jpg", editing=True)
    assert words.startswith("40 × 60, turned upright.") and "256 × 256" in words
    (tmp_path / "notes.png").write_text("not a picture")
    for broken in ("notes.png", "missing.png"):
        with pytest.raises(ValueError):
            service.describe(tmp_path / broken)
    with pytest.raises(ValueError, match="no picture yet"):
        service.picture(None)
    with pytest.raises(ValueError, match="no longer on this server.*Choose it again"):
        service.picture(tmp_path / "deleted.png")  # as Gradio does with uploads a day later


def test_a_folder_that_is_no_checkpoint_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="make checkpoint"):
        checkpoint.check(str(tmp_path))
    checkpoint.check("hf:org/name")  # is looked for when it is loaded
    golden = ROOT / "tests" / "fixtures" / "golden"
    checkpoint.check(str(golden))  # the authors' files
    checkpoint.check(str(golden / "rpiae_stage3_1_c8_ema.pt"))


def truncate(folder):
    weights = next(folder.glob("transformer/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])


def remove(folder):
    next(folder.glob("vae/*.safetensors")).unlink()


def scramble(folder):
    (folder / "model_index.json").write_text("[1, 2")


def rename_key(folder):
    path = next(folder.glob("transformer/*.safetensors"))
    weights = load_file(path)
    weights["odd.weight"] = weights.pop(sorted(weights)[0])
    save_file(weights, path)


def exchange(folder):
    shutil.copy(next(folder.glob("vae/*.safetensors")), next(folder.glob("transformer/*.safetensors")))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "damaged"), (remove, "has no weights"), (scramble, "model_index.json"),
        (rename_key, "unexpected: odd.weight"), (exchange, "missing"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_sentence_each_time(studio_checkpoint, tmp_path, damage, said):
    folder = tmp_path / "broken"
    shutil.copytree(studio_checkpoint, folder)
    damage(folder)
    broken = Service(folder)
    assert broken.defaults  # the page comes up all the same
    for _ in range(2):
        with pytest.raises(ValueError) as fault:
            broken.run(GenerateRequest("a cat"))
        assert said in str(fault.value) and "\n" not in str(fault.value).strip()
    assert broken.state == "failed" and str(tmp_path) not in broken.failure


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (httpx.ReadError("reset by peer at /srv/secret"), "reset by peer"),
        (httpx.ProxyError("503"), "503"),
        (RuntimeError("in the middle of a file"), "in the middle"),
        (OSError("no route"), "no route"),
    ],
)
def test_a_download_that_breaks_off_is_a_sentence_and_can_be_tried_again(fault, said, monkeypatch):
    def broken(*names, **settings):
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    service = Service("hf:org/name")
    for _ in range(2):
        with pytest.raises(ValueError, match=f"could not fetch 'org/name' from the hub: .*{said}"):
            service.load()
    assert service.state == "failed" and said in service.failure and "/srv" not in service.failure
    with speaking("zh"):
        assert "无法从模型库获取 'org/name'" in service.failure and said in service.failure


def test_why_nothing_is_loaded_is_said_in_each_readers_language(tmp_path):
    (tmp_path / "empty").mkdir()
    service = Service(tmp_path / "empty")
    with pytest.raises(ValueError, match="no checkpoint at “empty”"):
        service.load()
    with speaking("zh"):
        assert "“empty”处没有模型权重" in service.failure
    assert "no checkpoint at “empty”" in service.failure


def test_whatever_keeps_a_checkpoint_from_being_found_is_a_sentence(monkeypatch, tmp_path):
    def broken(*names, **settings):
        raise ImportError("no module at /srv/secret")

    monkeypatch.setattr(checkpoint, "find", broken)
    service = Service(tmp_path)
    with pytest.raises(ValueError, match="Something went wrong"):
        service.load()
    assert service.state == "failed" and "/srv" not in service.failure


def test_the_page_may_ask_while_the_worker_imports(studio_checkpoint, picture, tmp_path):
    """Diffusers' lazy imports fail in two threads at once; a fresh process shows whether ours ever meet there."""
    picture.save(tmp_path / "picture.png")
    code = """
import sys, threading
from app.service import Service
from app.texts import speaking
service, faults = Service(sys.argv[1]), []
def ask(work):
    try:
        work()
    except BaseException as fault:
        faults.append(repr(fault))
works = [service.load, service.tokenizers, lambda: service.describe(sys.argv[2]), lambda: service.picture(sys.argv[2])]
threads = [threading.Thread(target=ask, args=(work,)) for work in works * 2]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(str(faults) if faults else 0)
"""
    command = [sys.executable, "-c", code, str(studio_checkpoint), str(tmp_path / "picture.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
