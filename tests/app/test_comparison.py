"""Comparisons without a page: the command line's numbers, what is kept of them, and the files that they become."""

import csv
import io
import json
import uuid

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.comparison_view import comparison
from app.jobs import Jobs
from app.outcome import Outcome, Progress, Row
from app.request import CompareRequest
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
        assert getattr(row, name) == expected[name], name
    assert row.latent_map.size == picture.size and 0 < row.latent_share <= 1


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
