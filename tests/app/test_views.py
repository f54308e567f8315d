"""What the page says of a job in each of its states, and that nobody's words become markup."""

from dataclasses import replace

import pytest

from app.comparison_view import comparison, table
from app.jobs import Snapshot
from app.store import Record
from app.views import duration, percent, recipe, result, status, working

ID = "8d1f0e4c-0000-4000-8000-000000000000"
EVIL = '<img src=x onerror="alert(1)">'
SOURCE = {"file": "source.png", "view": "source.png", "width": 40, "height": 30}
PICTURE = {
    "file": "a.png", "view": "a.png", "width": 40, "height": 30, "seed": 7, "partial": False,
    "mask": "m.png", "overlay": "t.png", "changed": 0.125, "recipe": {"prompt": EVIL, "seed": 7},
}  # fmt: skip
RECORD = Record(id=ID, request={"kind": "edit", "prompt": EVIL}, source=SOURCE)
ROW = {
    "name": "rpiae", "error": None, "psnr": float("inf"), "ssim": 0.91234, "lpips": None, "latent_shape": (8, 16, 16),
    "compression": 96.0, "encode_ms": 12.3, "decode_ms": 45.6, "parameters": 12_345_678,
    "reconstruction": "r.png", "error_map": "e.png",
}  # fmt: skip


def running(**settings) -> Snapshot:
    return Snapshot(replace(RECORD, state="running"), **settings)


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (Snapshot(RECORD), "Yours is next."),
        (Snapshot(RECORD, ahead=2), "2 ahead of you."),
        (Snapshot(RECORD, ahead=2, eta=42), "2 ahead of you, about 42 s."),
        (running(), "Starting"),
        (running(loading=True), "Loading the model"),
        (running(step=3, steps=20, eta=8.5), "Step 3 of 20 · 8.5 s left"),
        (running(step=3, steps=20, stopping=True), "Stopping…"),
        (
            Snapshot(replace(RECORD, state="done", seconds=3.14, pictures=(PICTURE,))),
            "Done in 3.1 s. Seed 7. 12 % of the picture changed.",
        ),
        (
            Snapshot(replace(RECORD, state="done", seconds=3, pictures=(PICTURE | {"changed": 0.0},))),
            "The edit changed nothing.",
        ),
        (
            Snapshot(replace(RECORD, state="stopped", stopped_at=4, pictures=(PICTURE,)), steps=20),
            "Stopped at step 4 of 20. This is what it had so far.",
        ),
    ],
)
def test_the_status_line_says_how_a_job_stands(snapshot, words):
    assert words in status(snapshot)


def test_numbers_that_change_with_every_step_are_not_read_aloud():
    line = status(running(step=3, steps=20))
    assert 'aria-hidden="true" data-percent="15"' in line and '<progress max="20" value="3"' in line


@pytest.mark.parametrize(
    ("state", "why"), [("failed", "Because of"), ("stopped", "Because of"), ("interrupted", "server was restarted")]
)
def test_a_job_without_pictures_says_why_in_their_place(state, why):
    record = replace(RECORD, state=state, message=f"Because of {EVIL}.")
    assert status(Snapshot(record)) == ""
    assert 'role="alert"' in result(record) and why in result(record)


def test_words_of_people_stay_words():
    done = replace(RECORD, state="done", pictures=(PICTURE,))
    rows = (ROW, ROW | {"name": EVIL, "error": EVIL, "reconstruction": None})
    several = replace(done, source=None, pictures=(PICTURE, PICTURE))
    pages = [
        result(done),
        result(several),
        result(replace(RECORD, state="failed", message=EVIL)),
        status(Snapshot(replace(done, notes=(EVIL,)))),
        working(running()),
        comparison(replace(RECORD, state="done", rows=rows)),
        recipe(PICTURE["recipe"]),
    ]
    assert not [page for page in pages if "<img src=x" in page]
    assert sum("&lt;img src=x" in page for page in pages) >= 5


def test_a_comparison_has_a_row_for_each_tokenizer_and_a_view_for_those_that_worked():
    rows = (ROW, ROW | {"name": "sd-vae", "error": "no weights here", "reconstruction": None})
    page = comparison(replace(RECORD, state="done", rows=rows))
    assert page.count('<th scope="row">') == 2 and page.count('class="divider"') == 1
    for cell in ("∞", "0.9123", "–", "8 × 16 × 16", "96 ×", "12.3 M", "no weights here", "SD-VAE"):
        assert cell in page
    assert table([]).count("<td") == 0


def test_lpips_has_a_column_once_somebody_has_it():
    assert "LPIPS" not in table([ROW, ROW])
    assert "LPIPS" in table([ROW, ROW | {"lpips": 0.1234}]) and "0.1234" in table([ROW, ROW | {"lpips": 0.1234}])


def test_pictures_are_named_by_address_never_by_folder():
    page = result(replace(RECORD, state="done", pictures=(PICTURE,)))
    for name in ("source.png", "a.png", "m.png", "t.png"):
        assert f"results/{ID}/{name}" in page


def test_what_was_set_in_one_jobs_view_is_not_set_in_the_next():
    """Gradio changes elements of the same tag in place, so each job's view is an element of a name of its own."""
    jobs = ("8d1f0e4c", "1a2b3c4d")
    done = [replace(RECORD, id=ID.replace("8d1f0e4c", job), state="done", pictures=(PICTURE,)) for job in jobs]
    compared = [replace(record, pictures=(), rows=(ROW,)) for record in done]
    for records, show in ((done, result), (compared, comparison)):
        outer = [show(record).split(">")[0] for record in records]
        assert outer == [f'<job-{job} style="display:contents"' for job in jobs]


def test_numbers_in_few_words():
    assert [duration(seconds) for seconds in (0.42, 9.96, 42.4, 240)] == ["0.4 s", "10.0 s", "42 s", "4 min"]
    assert [percent(part) for part in (0, 0.0004, 0.0123, 0.5, 1)] == [
        "0.0 %", "less than 0.1 %", "1.2 %", "50 %", "100 %"
    ]  # fmt: skip
