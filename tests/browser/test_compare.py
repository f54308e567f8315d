"""The Compare tab in a browser: labels, numbers, one place in all pictures, any two behind a divider, unnamed pairs,
downloads.

A server of its own, whose SD-VAE paints everything red, whose VA-VAE has a broken file, and whose others have random
weights: the real code with narrow layers.
"""

import csv
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.tiny_hub import TinyHub
from tests.browser.narrow_app import NARROW
from tests.browser.server import Studio

NAMES = ["RPiAE", "SD-VAE", "VA-VAE", "LlamaGen VQ (random)"]
WORKING = [NAMES[0], NAMES[1], NAMES[3]]
CHOSEN = ["rpiae", "sd-vae", "va-vae", "llamagen-vq=random"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> Path:
    """A folder of weights: an SD-VAE whose answer is red whatever it is shown, and a VA-VAE that cannot be read."""
    import torch
    from diffusers import AutoencoderKL

    from rpiae.tokenizers import sd_vae, va_vae

    folder = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    model = AutoencoderKL(**(sd_vae.ARCHITECTURE | NARROW), sample_size=256)
    torch.nn.init.zeros_(model.decoder.conv_out.weight)
    model.decoder.conv_out.bias.data = torch.tensor([1.0, -1.0, -1.0])
    model.save_pretrained(folder / "sd-vae")
    (folder / "va-vae").mkdir()
    (folder / "va-vae" / va_vae.PUBLISHED.file).write_bytes(b"these are no weights")
    return folder


@pytest.fixture(scope="module")
def tiny_hub(tmp_path_factory):
    """A hub on which MaskGIT's weights lie; they need not be good ones to be fetched."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "maskgit-vqgan-imagenet-f16-256.bin").write_bytes(b"no weights" * 200_000)
    server = TinyHub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def studio(studio_checkpoint, tokenizers, tiny_hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare-server")
    running = Studio(studio_checkpoint, folder)
    running.runner = Path(__file__).with_name("narrow_app.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS", str(tokenizers))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("HF_ENDPOINT", tiny_hub.address)
        running.start()
    yield running
    running.close()


@pytest.fixture
def compared(page, upload, picture):
    """The page with a finished comparison of four, one of which has failed."""
    run(page, upload, picture)
    return page


def run(page, upload, picture) -> None:
    page.get_by_role("tab", name="Compare").click()
    upload(page, "compare", picture)
    for name in CHOSEN:
        page.locator(f'#compare-tokenizers input[name="{name}"]').check()
    page.locator("#compare-run").click()
    page.locator("#compare-view .compare").wait_for()


def look(page, kind: str, value: str) -> None:
    """Presses one of the radio buttons."""
    page.locator(f'#compare-view .{kind}-choice[value="{value}"]').check(force=True)


def pixels_of(page, locator) -> np.ndarray:
    """What an image or a canvas holds, as the browser has it."""
    values = locator.evaluate(
        """async (shown) => {
          if (shown.tagName === 'IMG') await shown.decode();
          const width = shown.naturalWidth || shown.width, height = shown.naturalHeight || shown.height;
          const canvas = Object.assign(document.createElement('canvas'), {width, height});
          const brush = canvas.getContext('2d');
          brush.drawImage(shown, 0, 0);
          return [width, height, ...brush.getImageData(0, 0, width, height).data];
        }"""
    )
    width, height = values[:2]
    return np.array(values[2:], dtype=np.uint8).reshape(height, width, 4)[..., :3]


def download(page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as begun:
        page.get_by_role("link", name=name, exact=True).click()
    return begun.value.suggested_filename, Path(begun.value.path()).read_bytes()


def is_red(pixels: np.ndarray) -> bool:
    return (pixels == (255, 0, 0)).all()


def test_labels_numbers_and_a_row_for_the_one_that_failed(compared, picture, tmp_path):
    rows = compared.locator("#compare-view tbody tr")
    assert [row.inner_text().split("\n")[0].strip() for row in rows.locator("th").all()] == NAMES
    failed = rows.nth(2).locator(".failed").inner_text()
    assert "vavae" in failed and "/" not in failed
    captions = compared.locator("#compare-view .side figcaption").all_inner_texts()
    assert captions == ["Original", *WORKING]
    tiles = compared.locator("#compare-view .side figure")
    assert is_red(pixels_of(compared, tiles.nth(2).locator("img.reconstruction")))
    assert not is_red(pixels_of(compared, tiles.nth(1).locator("img.reconstruction")))
    assert np.array_equal(pixels_of(compared, tiles.nth(0).locator("img.original")), np.asarray(picture))
    # The red one's numbers are known: those of the table are computed here once more.
    given = np.asarray(picture) / 255
    expected = 10 * np.log10(1 / ((given - (1, 0, 0)) ** 2).mean())
    names = compared.locator("#compare-view thead th").all_inner_texts()
    told = dict(zip(names[1:], rows.nth(1).locator("td").all_inner_texts(), strict=True))
    assert told["Pixels"] == "256 × 256" and told["Latent"] == "4 × 32 × 32" and told["Compression"] == "48 ×"
    assert float(told["PSNR (dB)"]) == pytest.approx(expected, abs=0.006)
    assert float(told["Encode (ms)"]) >= 0 and float(told["Decode (ms)"]) >= 0
    assert "random weights" in rows.nth(3).inner_text()


def test_errors_with_their_gain_and_latents(compared, picture):
    look(compared, "layer", "error")
    error = compared.locator("#compare-view .side figure").nth(2).locator("img.error")
    assert error.evaluate("image => getComputedStyle(image).visibility") == "visible"
    difference = np.abs(np.asarray(picture).astype(int) - (255, 0, 0))
    assert np.abs(pixels_of(compared, error).astype(int) - difference).max() <= 1
    compared.locator("#compare-view .gain-range").focus()
    compared.keyboard.press("ArrowRight")
    assert error.evaluate("image => getComputedStyle(image).filter") == "brightness(6)"
    assert "Error × 6" in compared.locator("#compare-view .gain").inner_text()
    assert "that is 43 of 255 levels off" in compared.locator("#compare-view .for-error").inner_text()
    look(compared, "layer", "latent")
    assert error.evaluate("image => getComputedStyle(image).visibility") == "hidden"
    latent = compared.locator("#compare-view .side figure").nth(1).locator("img.latent")
    assert latent.evaluate("image => getComputedStyle(image).visibility") == "visible"
    cells = pixels_of(compared, latent).reshape(16, 16, 16, 16, 3)  # 16 x 16 cells of 16 x 16 equal pixels
    assert (cells == cells[:, :1, :, :1]).all() and len(np.unique(cells.reshape(-1, 3), axis=0)) > 20


def test_all_pictures_show_the_same_place(compared):
    tiles = compared.locator("#compare-view .side .tile")
    tiles.nth(1).scroll_into_view_if_needed()
    box = tiles.nth(1).bounding_box()
    compared.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    lenses = compared.locator("#compare-view .side .lens")
    assert lenses.count() == 4
    middles = lenses.evaluate_all(
        """lenses => lenses.map(lens => {
          const [inner, outer] = [lens.getBoundingClientRect(), lens.parentElement.getBoundingClientRect()];
          const [x, y] = [inner.x + inner.width / 2 - outer.x, inner.y + inner.height / 2 - outer.y];
          return [x / outer.width, y / outer.height, getComputedStyle(lens).visibility];
        })"""
    )
    for x, y, visibility in middles:
        assert (x, y) == (pytest.approx(0.25, abs=0.02), pytest.approx(0.75, abs=0.02)) and visibility == "visible"
    # Behind the middle of each lens lies the same place of its picture, four times as large.
    shown = compared.locator("#compare-view .side .lens [data-near]:first-child").evaluate_all(
        """images => images.map(image => {
          const [whole, lens] = [image.getBoundingClientRect(), image.parentElement.getBoundingClientRect()];
          const [x, y] = [lens.x + lens.width / 2 - whole.x, lens.y + lens.height / 2 - whole.y];
          return [x / whole.width, y / whole.height, whole.width / image.closest('.tile').clientWidth];
        })"""
    )
    for place in shown:
        assert place == pytest.approx([0.25, 0.75, 4], abs=0.02)


def test_the_place_and_the_zoom_by_keyboard(compared):
    look(compared, "look", "zoom")
    compared.locator("#compare-view .side .tiles").focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowUp", "+", "+", "-"):
        compared.keyboard.press(key)
    place = compared.locator("#compare-view .compare").evaluate(
        "compare => ['--zoom', '--x', '--y'].map(name => Number(compare.style.getPropertyValue(name)))"
    )
    assert place == [5, 54, 40]
    transforms = compared.locator("#compare-view .side .tile > img.reconstruction").evaluate_all(
        "images => images.map(image => getComputedStyle(image).transform)"
    )
    assert transforms == ["matrix(5, 0, 0, 5, 0, 0)"] * 3
    said = compared.locator("#compare-view [data-place]").inner_text()
    assert said == "Place 54 percent from the left, 40 from the top, enlarged 5 times"
    assert compared.locator("#compare-view .zoom-range").input_value() == "5"


def test_any_two_behind_the_divider(compared):
    look(compared, "view", "slide")
    panel = compared.locator("#compare-view .slide")
    assert panel.locator(".pick").first.locator("option").all_inner_texts() == ["Original", *WORKING]
    panel.locator(".pick").nth(0).select_option(label="SD-VAE")
    panel.locator(".pick").nth(1).select_option(label="Original")
    assert is_red(pixels_of(compared, panel.locator("img.before")))
    assert not is_red(pixels_of(compared, panel.locator("img.after")))
    assert panel.locator("img.before").get_attribute("alt") == "SD-VAE"
    assert panel.locator(".modes span").all_inner_texts() == ["Split", "SD-VAE", "Original"]
    divider = panel.locator(".divider")
    divider.focus()
    for _ in range(10):
        compared.keyboard.press("ArrowRight")
    assert divider.input_value() == "60"
    compared.keyboard.press("Space")
    assert panel.locator(".modes input:checked").input_value() == "before"


def test_unnamed_pairs_keep_the_choice_and_the_tally(compared, open_studio):
    page = compared
    look(page, "view", "blind")
    panel = page.locator("#compare-view .blind")
    assert not panel.locator(".tally").is_visible()
    seen = set()
    for at in range(3):
        assert panel.locator("[data-named]").all_inner_texts() == ["A", "B"]
        assert not any(name in panel.inner_text() for name in WORKING)
        page.wait_for_function(
            "() => [...document.querySelectorAll('.blind canvas')].every(canvas => canvas.dataset.ready)"
        )
        red = [is_red(pixels_of(page, panel.locator(f'.tile > canvas[data-drawn="{letter}"]'))) for letter in "ab"]
        vote = ("a", "b", "none")[at]
        panel.locator(f'[data-vote="{vote}"]').click()
        names = [text.split(": ")[1] for text in panel.locator("[data-named]").all_inner_texts()]
        assert [name == "SD-VAE" for name in names] == red  # the names are those of what was shown
        seen.add(frozenset(names))
        said = panel.locator(".verdict").inner_text()
        assert said.startswith(f"A was {names[0]}, B was {names[1]}.")
        expected = "You saw no difference." if vote == "none" else f"You chose {names['ab'.index(vote)]}."
        assert expected in said
        panel.locator("canvas[data-ready]").evaluate_all("all => all.forEach(canvas => delete canvas.dataset.ready)")
        if at < 2:
            page.locator("[data-next]").click()
    assert len(seen) == 3 and "All pairs of this picture are judged." in said
    assert panel.locator(".tally li").count() == 3
    kept = json.loads(page.evaluate("localStorage.getItem('rpiae.blind.v1')"))
    assert sum(sum(pair["wins"]) for pair in kept["tally"].values()) == 2
    assert sum(pair["none"] for pair in kept["tally"].values()) == 1

    open_studio(page)  # what was chosen is known again, and cannot be chosen twice
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-view .compare").wait_for()
    look(page, "view", "blind")
    assert "All pairs" in panel.locator(".verdict").inner_text() and not panel.locator("[data-vote]").first.is_visible()
    panel.locator("[data-forget]").click()
    assert not panel.locator(".tally").is_visible() and panel.locator("[data-vote]").first.is_visible()


def test_downloads_have_names_and_hold_what_was_shown(compared, picture, studio):
    name, data = download(compared, "Download sheet (PNG)")
    stem = name.removesuffix(".png")
    assert re.fullmatch(r"rpiae_compare_[0-9a-f]{8}\.png", name)
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(sheet[20:276, 20:276], np.asarray(picture))
    assert is_red(sheet[20:276, 20 + 2 * 272 : 276 + 2 * 272])

    name, data = download(compared, "CSV")
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert name == f"{stem}.csv" and [row["name"] for row in rows] == CHOSEN
    cells = [compared.locator("#compare-view tbody tr").nth(at).locator("td").nth(1) for at in (0, 1)]
    shown = [float(cell.inner_text()) for cell in cells]
    assert [float(row["psnr"]) for row in rows[:2]] == [pytest.approx(value, abs=0.006) for value in shown]
    assert rows[2]["psnr"] == "" and "vavae" in rows[2]["error"] and rows[1]["latent_shape"] == "4x32x32"

    name, data = download(compared, "JSON")
    report = json.loads(data)
    assert name == f"{stem}.json" and report["job"].startswith(stem[-8:])
    assert report["picture"]["width"] == 256 and len(report["tokenizers"]) == 4
    assert [row["psnr"] for row in report["tokenizers"][:2]] == [float(row["psnr"]) for row in rows[:2]]
    assert report["tokenizers"][0]["source"] == "smoke-studio"


def test_a_comparison_is_found_again_after_a_reload_with_its_form(compared, open_studio):
    before = compared.locator("#compare-view table").inner_text()
    open_studio(compared)
    compared.get_by_role("tab", name="Compare").click()
    compared.locator("#compare-view .compare").wait_for()
    assert compared.locator("#compare-view table").inner_text() == before
    checked = compared.locator("#compare-tokenizers input:checked").evaluate_all("all => all.map(one => one.name)")
    assert sorted(checked) == sorted(CHOSEN)
    assert "Not on this machine: LlamaGen VQ, " in compared.locator("#compare-missing").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_a_comparison_without_scrolling_sideways(compared, scheme):
    compared.set_viewport_size({"width": 390, "height": 844})
    compared.emulate_media(color_scheme=scheme)
    for view in ("side", "slide", "blind"):
        look(compared, "view", view)
        assert compared.evaluate("document.documentElement.scrollWidth") <= 390
        panel = compared.locator(f"#compare-view .{view}").bounding_box()
        assert panel["x"] >= 0 and panel["x"] + panel["width"] <= 390


def test_a_picture_that_is_no_square_may_be_cut_to_its_middle(page, open_studio, upload, picture):
    page.get_by_role("tab", name="Compare").click()
    fit = page.locator("#compare-fit")
    upload(page, "compare", picture)
    assert not fit.is_visible()  # a square needs no choice
    upload(page, "compare", picture.resize((300, 200)), "wide.png")
    fit.wait_for()
    fit.get_by_label("Cut to the middle").check()
    page.locator("#compare-run").click()
    page.locator("#compare-view .note", has_text="Compared is the picture's middle, cut to a square.").wait_for()
    shown = pixels_of(page, page.locator("#compare-view .side img.original"))
    middle = picture.resize((300, 200)).crop((50, 0, 250, 200)).resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(shown, np.asarray(middle))
    open_studio(page)  # the form has the whole picture again, and the choice
    page.locator("#compare-note", has_text="300 × 200").wait_for()
    assert fit.get_by_label("Cut to the middle").is_checked()


def test_missing_weights_are_fetched_at_a_second_press(page, tiny_hub):
    page.get_by_role("tab", name="Compare").click()
    missing = page.locator("#compare-missing")
    missing.get_by_role("button", name="Get MaskGIT VQGAN").wait_for()
    assert missing.get_by_role("button", name="Get FAE d32").count() == 0  # nobody has published it
    assert tiny_hub.asked == []
    missing.get_by_role("button", name="Get MaskGIT VQGAN").click()
    page.get_by_role("button", name="Download 2.0 MB from 127.0.0.1").wait_for()
    assert "maskgit-vqgan-imagenet-f16-256.bin" in page.locator("#compare-get-plan").inner_text()
    assert not any("/resolve/" in asked for asked in tiny_hub.asked)
    page.get_by_role("button", name="Download 2.0 MB from 127.0.0.1").click()
    page.locator("#compare-get-status", has_text="MaskGIT VQGAN is on this machine now").wait_for()
    page.locator('#compare-tokenizers input[name="maskgit-vqgan"]').wait_for(state="attached")
    assert missing.get_by_role("button", name="Get MaskGIT VQGAN").count() == 0
    assert missing.get_by_role("button", name="Get RAE-S").count() == 1


def test_words_are_drawn_or_the_picture_edited_by_each_tokenizers_own_model(page, open_studio, upload, picture, expect):
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-prompt textarea").fill("a red car")
    page.locator("#compare-run").click()
    page.locator("#compare-view figcaption", has_text="RPiAE, drawn · ").wait_for()
    assert page.locator("#compare-view .side figure").count() == 1
    upload(page, "compare", picture)
    page.locator('#compare-tokenizers input[name="sd-vae"]').check()
    page.locator("#compare-prompt textarea").fill("make it blue")
    page.locator("#compare-seed input").fill("7")
    page.locator("#compare-run").click()
    page.locator("#compare-view figcaption", has_text="RPiAE, edited · ").wait_for()
    assert page.locator("#compare-view .side figure").count() == 4
    edited = page.locator("#compare-view .side img.drawn")
    assert edited.get_attribute("alt") == "RPiAE, edited: make it blue"
    assert not np.array_equal(pixels_of(page, edited), np.asarray(picture))
    rows = page.locator("#compare-view tbody tr")
    assert "steps, " in rows.nth(0).inner_text() and "has no model of its own here" in rows.nth(1).inner_text()
    assert "seed 7" in page.locator("#compare-view .table + .note").inner_text()
    open_studio(page)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-view .side img.drawn").wait_for()
    expect(page.locator("#compare-prompt textarea")).to_have_value("make it blue")
    expect(page.locator("#compare-seed input")).to_have_value("7")
