"""Comparisons without a page: the command line's numbers, what is kept of them, and the files that they become."""

import csv
import io
import json
import shutil
import sys
import threading
import uuid
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.comparison_files import content
from app.comparison_view import comparison
from app.jobs import Jobs
from app.outcome import Outcome, Progress, Row, Stopped
from app.request import CompareRequest, from_json
from app.room import source_path
from app.service import Service
from app.store import Record, Store
from app.studio import routes
from app.texts import tokenizer_label


@pytest.fixture
def narrow(monkeypatch):
    """SD-VAE's own blocks, narrow."""
    from rpiae.tokenizers import sd_vae

    monkeypatch.setitem(sd_vae.ARCHITECTURE, "block_out_channels", [8, 8, 16, 16])
    monkeypatch.setitem(sd_vae.ARCHITECTURE, "norm_num_groups", 4)


@pytest.fixture
def compact(tmp_path, monkeypatch):
    """The folder of a compact tokenizer with its own model: untrained, 64 px, named compact-rae."""
    import torch

    from rpiae import AutoencoderRPiAE, RPiAEPipeline
    from rpiae.pipeline import make_scheduler
    from rpiae.text import TextEncoder
    from rpiae.tokenizers import published
    from rpiae.transformer import RPiAETransformer2DModel

    monkeypatch.setattr(published, "ASSETS", tmp_path / "tokenizers")
    torch.manual_seed(0)
    encoder = {"kind": "vit", "hidden_size": 32, "num_layers": 1, "num_heads": 2}
    decoder = {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "position": "rope",
        "final_norm": False, "norm_eps": 1e-6,
    }  # fmt: skip
    text_encoder = TextEncoder("sentence-transformers/all-MiniLM-L6-v2", layers=[6])
    transformer = RPiAETransformer2DModel(
        in_channels=32, sample_size=4, patch_size=1, hidden_size=32, num_layers=1, num_heads=2, feed_forward_size=64,
        text_width=text_encoder.width, text_slots=64,
    )  # fmt: skip
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0, "image_guidance_scale": 1.0}
    vae = AutoencoderRPiAE(encoder, decoder, None, 64)
    folder = tmp_path / "tokenizers" / "compact-rae"
    RPiAEPipeline(vae, transformer, text_encoder, make_scheduler(2.0), settings).save_pretrained(folder)
    return folder


@pytest.fixture
def jobs(studio_checkpoint, tmp_path):
    return Jobs(Service(studio_checkpoint), Store(tmp_path))


def kept(jobs, outcome, picture, fit="pad") -> Record:
    """A finished comparison in the output folder."""
    request = CompareRequest(picture, [row.name for row in outcome.rows], fit)
    record = jobs.store.begin(Record(id=str(uuid.uuid4()), request=request.to_json(), created=1.0), picture)
    return jobs.store.finish(record, outcome)


def test_the_numbers_are_the_command_lines(service, picture, studio_checkpoint):
    from rpiae.tokenizers import load
    from rpiae.tokenizers.comparison import COLUMNS, compare

    [row] = service.run(CompareRequest(picture, ("rpiae",))).rows
    expected = compare(load("rpiae", studio_checkpoint), picture).numbers()
    for name in set(COLUMNS) - {"encode_ms", "decode_ms", "error"}:
        assert getattr(row, name, None) == expected[name], name  # what is of drawings only a row with one has
    assert row.latent_map.size == picture.size and 0 < row.latent_share <= 1


def command(monkeypatch, *arguments):
    """python -m rpiae compare, in this process."""
    from rpiae import __main__ as command_line

    monkeypatch.setattr(sys, "argv", ["rpiae", "compare", "-o", "sheet.png", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert not ended.value.code


def test_the_tabs_csv_is_what_the_command_writes(
    service, jobs, picture, compact, studio_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    picture.save("in.png")
    command(monkeypatch, "in.png", "--tokenizers", f"rpiae={studio_checkpoint},compact-rae", "--table", "x.csv")
    record = kept(jobs, service.run(CompareRequest(picture, ("rpiae", "compact-rae"))), picture)
    ours = list(csv.DictReader(io.StringIO(content(jobs.store, record, "csv"))))
    theirs = list(csv.DictReader((tmp_path / "x.csv").open()))
    for row in (*ours, *theirs):
        assert float(row.pop("encode_ms")) > 0 and float(row.pop("decode_ms")) > 0
    assert ours == theirs and [row["image_size"] for row in ours] == ["256", "64"]


def test_numbers_are_pointed_out_within_one_size_only(service, jobs, picture, compact):
    shutil.copytree(compact, compact.with_name("compact-fae"))  # of equal numbers, so both are the best
    outcome = service.run(CompareRequest(picture, ("rpiae", "compact-rae", "compact-fae")))
    page = comparison(kept(jobs, outcome, picture))
    assert "at its own size, 64, 256 pixels a side" in page and "the same" not in page.split("<figure")[0]
    first, *others = page.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")[:3]
    assert "256 × 256" in first and "<strong>" not in first
    for row in others:
        assert "64 × 64" in row and f"<strong>{outcome.rows[1].psnr:.2f}</strong>" in row
    small = service.run(CompareRequest(picture, ("compact-rae", "compact-fae")))
    assert small.reference.size == (64, 64)  # what both were given, whatever is loaded
    assert "All tokenizers were given the same 64 × 64 pixels." in comparison(kept(jobs, small, picture))


def test_own_models_edit_the_picture_or_draw_without_one(service, picture, compact, narrow, tmp_path, monkeypatch):
    from rpiae import images
    from rpiae.tokenizers import load
    from rpiae.tokenizers.drawing import draw, own_model

    wide = picture.resize((200, 100))
    asked = CompareRequest(wide, ("compact-rae", "sd-vae=random"), prompt=" make it\nblue ", seed=5)
    assert from_json(json.loads(json.dumps(asked.to_json())), wide) == asked and asked.prompt == "make it blue"
    edited, without = service.run(asked).rows
    pipe = own_model(load("compact-rae"))
    expected = images.to_pil(draw(pipe, "make it blue", wide, seed=5).picture)[0]
    assert expected.size == (64, 32) and np.array_equal(np.asarray(edited.drawn), np.asarray(expected))
    assert (edited.seed, edited.steps, edited.draw_error) == (5, 3, None) and edited.psnr > 0
    assert (without.drawn, without.draw_error) == (None, "has no model of its own here") and without.psnr > 0

    outcome = service.run(CompareRequest(None, ("compact-rae",), prompt="a cat"))
    [drawn] = outcome.rows
    assert drawn.drawn.size == (64, 64) and drawn.drawn.tobytes() != edited.drawn.resize((64, 64)).tobytes()
    assert (drawn.psnr, drawn.reconstruction, outcome.reference) == (None, None, None) and outcome.sheet is not None
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "--tokenizers", "compact-rae", "--prompt", "a cat", "--table", "x.json")
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["picture"] is None and told["tokenizers"][0]["drawn_sha256"] == drawn.drawn_sha256
    with pytest.raises(ValueError, match="no picture yet"):
        CompareRequest(None, ("compact-rae",), prompt="  ")

    (compact / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    [broken] = service.run(CompareRequest(picture, ("compact-rae",), prompt="a cat")).rows
    assert broken.psnr > 0 and broken.drawn is None
    assert "damaged" in broken.draw_error and str(compact.parent) not in broken.draw_error


def test_a_stop_ends_a_drawing_within_a_step(service, picture, compact):
    class Third(threading.Event):
        """Is set from the third look on: at the first step of the first drawing's."""

        looks = 0

        def is_set(self):
            self.looks += 1
            return self.looks > 2

    outcome = service.run(
        CompareRequest(picture, ("compact-rae", "rpiae"), prompt="a cat"), Progress(stop=Third())
    )
    [row] = outcome.rows
    assert outcome.stopped_at == 1 and row.psnr > 0
    assert (row.drawn, row.draw_error) == (None, "stopped before it was ready")
    with pytest.raises(Stopped):
        service.run(CompareRequest(None, ("compact-rae",), prompt="a cat"), Progress(stop=Third()))


def test_the_page_shows_what_own_models_made(service, picture, compact):
    [row] = service.run(CompareRequest(None, ("compact-rae",), prompt="a <b>cat")).rows
    plain = asdict(replace(row, drawn=None)) | {"drawn": "compact_rae_drawn.png"}
    record = Record(id=str(uuid.uuid4()), request={"kind": "compare", "prompt": "a <b>cat", "seed": 0}, state="done")
    alone = comparison(replace(record, rows=(plain,)))
    assert alone.count("<figure>") == 1 and "/compact_rae_drawn.png" in alone and "a &lt;b&gt;cat" in alone
    assert ">PSNR" not in alone and "3 steps, " in alone and 'class="panel slide"' not in alone
    source = {"file": "source.png", "view": "source.png", "width": 64, "height": 64}
    reconstructed = {"reconstruction": "r.png", "psnr": 20.0, "ssim": 0.9, "encode_ms": 1.0, "decode_ms": 1.0}
    rows = (plain | reconstructed, plain | {"drawn": None, "draw_error": "has no model of its own here"})
    both = comparison(replace(record, rows=rows, source=source))
    names = ["Original", "Compact, after RAE", "Compact, after RAE, edited"]
    assert all(f">{name}<" in both for name in names) and both.count("<figure>") == 3
    assert ">PSNR" in both and "has no model of its own here" in both


def test_without_weights_a_tokenizer_is_compared_with_random_ones(service, picture, narrow):
    outcome = service.run(CompareRequest(picture, ("sd-vae=random",)))
    [row] = outcome.rows
    assert (row.name, row.source, row.error) == ("sd-vae=random", "random weights", None)
    assert row.latent_shape == (4, 32, 32) and tokenizer_label(row.name) == "SD-VAE (random)"
    for name in ("sd-vae=hf:org/name", "sd-vae=/etc", "sd-vae=", "nothing=random"):
        with pytest.raises(ValueError, match="There is no tokenizer called"):
            service.run(CompareRequest(picture, (name,)))


def test_a_picture_that_is_no_square_is_given_bars_or_cut(service, jobs, picture):
    wide = picture.resize((200, 100))
    padded = service.run(CompareRequest(wide, ("rpiae",)))
    cut = service.run(CompareRequest(wide, ("rpiae",), fit="crop"))
    assert padded.reference.size == padded.rows[0].reconstruction.size == (256, 128)
    assert cut.reference.size == cut.rows[0].reconstruction.size == (256, 256)
    # The middle of the picture, and the numbers are those of the middle alone.
    [alone] = service.run(CompareRequest(wide.crop((50, 0, 150, 100)), ("rpiae",))).rows
    assert (cut.rows[0].sha256, cut.rows[0].psnr) == (alone.sha256, alone.psnr)
    assert padded.rows[0].psnr != alone.psnr
    record = kept(jobs, cut, wide, fit="crop")
    assert "cut to a square" in comparison(record)
    asked = TestClient(Starlette(routes=routes(jobs)))
    report = asked.get(f"/compare/{record.id}/rpiae_compare_{record.id[:8]}.json").json()
    assert report["fit"] == "crop" and report["picture"]["width"] == 200
    assert Image.open(source_path(jobs, record)).size == (200, 100)  # what the form takes to compare again
    with pytest.raises(ValueError, match="Use pad or crop"):
        CompareRequest(wide, ("rpiae",), fit="stretch")


def test_what_was_done_before_a_stop_is_kept(service, picture, narrow):
    progress = Progress()
    progress.report = lambda done, total, preview: progress.stop.set() if preview is not None else None
    outcome = service.run(CompareRequest(picture, ("rpiae", "sd-vae=random")), progress)
    assert outcome.stopped_at == 1 and [row.name for row in outcome.rows] == ["rpiae"]
    assert outcome.sheet.width < 3 * 256  # a column for the input and one for what was done


def test_the_sheet_and_the_pictures_are_kept_and_served_losslessly(service, jobs, picture):
    outcome = service.run(CompareRequest(picture, ("rpiae",)))
    record = kept(jobs, outcome, picture)
    asked = TestClient(Starlette(routes=routes(jobs)))
    got = asked.get(f"/results/{record.id}/{record.sheet}")
    assert record.sheet == f"rpiae_compare_{record.id[:8]}.png"
    sheet = np.asarray(Image.open(io.BytesIO(got.content)))
    assert np.array_equal(sheet, np.asarray(outcome.sheet))
    assert np.array_equal(sheet[20:276, 20:276], np.asarray(picture))
    assert np.array_equal(sheet[20:276, 292:548], np.asarray(outcome.rows[0].reconstruction))
    latent = asked.get(f"/results/{record.id}/{record.rows[0]['latent_map']}")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(latent.content))), np.asarray(outcome.rows[0].latent_map))


def test_csv_and_json_hold_every_row_also_after_a_restart(service, jobs, picture):
    from rpiae.recipe import pixels_sha256

    done = service.run(CompareRequest(picture, ("rpiae",)))
    rows = (*done.rows, Row("sd-vae", error="no weights, here"))
    record = kept(jobs, Outcome(rows=rows, reference=done.reference), picture)
    asked = TestClient(Starlette(routes=routes(Jobs(jobs.service, Store(jobs.store.folder)))))
    stem = f"rpiae_compare_{record.id[:8]}"

    got = asked.get(f"/compare/{record.id}/{stem}.csv")
    assert got.headers["content-type"].startswith("text/csv")
    assert got.headers["content-disposition"] == f'attachment; filename="{stem}.csv"'
    ours, other = csv.DictReader(io.StringIO(got.text))
    assert float(ours["psnr"]) == rows[0].psnr and ours["sha256"] == pixels_sha256(rows[0].reconstruction)
    assert (other["name"], other["error"], other["ssim"]) == ("sd-vae", "no weights, here", "")

    report = json.loads(asked.get(f"/compare/{record.id}/{stem}.json").content)
    assert report["job"] == record.id and report["created"] == "1970-01-01T00:00:01+00:00"
    assert report["picture"] == {"width": 256, "height": 256, "sha256": pixels_sha256(picture)}
    assert report["tokenizers"][0]["encode_ms"] == rows[0].encode_ms

    for path in (
        f"{record.id}/{stem}.png",
        f"{record.id}/other.csv",
        f"{record.id}/..%2Fjob.json",
        f"{uuid.uuid4()}/{stem}.csv",
        f"../{stem}.csv",
        f"x/{stem}.json",
    ):
        assert asked.get(f"/compare/{path}").status_code == 404


def test_the_page_offers_the_files_and_a_blind_test_for_two(service, jobs, picture, narrow):
    record = kept(jobs, service.run(CompareRequest(picture, ("rpiae", "sd-vae=random"))), picture)
    page = comparison(record)
    for name in (record.sheet, f"rpiae_compare_{record.id[:8]}.csv", f"rpiae_compare_{record.id[:8]}.json"):
        assert f'/{name}"' in page
    assert 'class="panel blind"' in page and page.count("<option") == 2 * 3
    one = kept(jobs, service.run(CompareRequest(picture, ("rpiae",))), picture)
    assert 'class="panel blind"' not in comparison(one)


def test_what_own_models_made_is_kept_with_the_rest(service, jobs, picture, compact):
    from rpiae.recipe import pixels_sha256
    from rpiae.tokenizers.drawing import draw

    asked = CompareRequest(picture, ("rpiae", "compact-rae"), prompt="make it blue", seed=5)
    outcome = service.run(asked)
    record = jobs.store.begin(Record(id=str(uuid.uuid4()), request=asked.to_json(), created=1.0), picture)
    record = jobs.store.finish(record, outcome)
    ours = draw(service._held.pipeline, "make it blue", picture, seed=5)  # the loaded checkpoint is RPiAE's own model
    assert outcome.rows[0].drawn_sha256 == ours.numbers()["drawn_sha256"]
    rows = list(csv.DictReader(io.StringIO(content(jobs.store, record, "csv"))))
    for row, stored, made in zip(rows, jobs.store.load(record.id).rows, outcome.rows, strict=True):
        kept_picture = Image.open(jobs.store.file(record.id, stored["drawn"]))
        assert row["drawn_sha256"] == pixels_sha256(kept_picture) == pixels_sha256(made.drawn)
        assert (row["prompt"], row["seed"], row["draw_error"]) == ("make it blue", "5", "")
    page = comparison(record)
    assert page.count("<figure>") == 1 + 2 * 2 + 3  # three of them for the blind test
    assert "“make it blue”, seed 5" in page
    assert str(jobs.store.folder) not in page + content(jobs.store, record, "json")

    words = CompareRequest(None, ("rpiae",), prompt="a cat")
    begun = jobs.store.begin(Record(id=str(uuid.uuid4()), request=words.to_json(), created=1.0), None)
    drawn = jobs.store.finish(begun, service.run(words))
    assert comparison(drawn).count("<figure>") == 1 and "a cat" in content(jobs.store, drawn, "json")
    assert source_path(jobs, drawn) is None
