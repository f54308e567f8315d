"""For everyone: a name for every control, contrast from the colours as drawn, the keyboard alone, phones, zoom."""

import re

import pytest

from tests.browser.waits import rest

TABS = ("Edit", "Generate", "Compare", "History", "Models")
# Roles that people act on. (Pictures are asked for themselves: in this tree, icons beside words are nameless ones.)
NAMED = "button|link|textbox|searchbox|checkbox|radio|slider|spinbutton|combobox|listbox|tab|switch"
NAMELESS = re.compile(rf"^\s*- ({NAMED})\b(?! [\"/])")
PICTURES = """() => [...document.images].filter((image) => image.checkVisibility() && !image.hasAttribute("alt"))
  .map((image) => image.src.slice(0, 80))"""

CONTRAST = """() => {
  const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
    .getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => part * a + below[at] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let part = element; part; part = part.parentElement) {
      const style = getComputedStyle(part);
      if (style.backgroundImage !== "none") return null;  // a picture or a gradient
      layers.push(rgba(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const shown = (element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true})
    && element.getBoundingClientRect().width > 1
    && !element.closest("[disabled], [aria-disabled=true], .stage, .aloud, script, style");
  const faint = [];
  let seen = 0;
  const judge = (element, style, words) => {
    const ground = behind(element);
    if (!ground) return;
    seen += 1;
    let alpha = 1;
    for (let part = element; part; part = part.parentElement) alpha *= getComputedStyle(part).opacity;
    const [r, g, b, a] = rgba(style.color);
    const pair = [light(over([r, g, b, a * alpha], ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${words.trim().slice(0, 50)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [words, element] = [walker.currentNode.textContent, walker.currentNode.parentElement];
    if (words.trim() && shown(element)) judge(element, getComputedStyle(element), words);
  }
  for (const field of document.querySelectorAll("textarea, input[type=number], input[type=text], input:not([type])")) {
    if (!shown(field)) continue;
    if (field.value) judge(field, getComputedStyle(field), field.value);
    else if (field.placeholder) judge(field, getComputedStyle(field, "::placeholder"), field.placeholder);
  }
  return {seen, faint, ground: light(behind(document.body))};
}"""

# What is touched, with the label that belongs to it; left out is what lies unseen over or under something that counts.
SMALL = """([width, height]) => {
  const all = [...document.querySelectorAll("button, a[href], input, textarea, select, summary, [role=tab]")];
  const shown = all.filter((part) => part.checkVisibility({opacityProperty: true, visibilityProperty: true})
    && part.type !== "file" && !part.disabled && !part.closest(".aloud, .stage"));
  const small = shown.filter((part) => {
    const boxes = [part, part.closest("label")].filter(Boolean).map((one) => one.getBoundingClientRect());
    return !boxes.some((box) => box.width >= width && box.height >= height);
  });
  const name = (part) => part.ariaLabel || part.textContent.trim() || part.id || part.className;
  const size = (part) => [part.offsetWidth, part.offsetHeight].join(" x ");
  return {seen: shown.length, small: small.map((part) => `${part.tagName} ${name(part).slice(0, 50)} ${size(part)}`)};
}"""

CUT = """() => [...document.querySelectorAll("button, label, legend, h1, h2, [role=tab], .note, .chip, .tagline")]
  .filter((part) => part.checkVisibility({visibilityProperty: true}) && !part.closest(".aloud")
    && part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflowX !== "visible")
  .map((part) => part.textContent.trim().slice(0, 50))"""

# The element with the focus: where it is, and whether it can be seen that it has it.
FOCUS = """() => {
  const part = document.activeElement;
  if (part === document.body) return null;
  const near = [part, part.nextElementSibling, part.parentElement, part.closest(".stage, .block, .wrap, label")];
  const ring = (one) => {
    const style = getComputedStyle(one);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) || style.boxShadow !== "none";
  };
  const box = part.getBoundingClientRect();
  const places = ["#edit-picture", "#edit-prompt", "#edit-run", "#edit-area", "#edit-count", "#edit-seed",
                  "#edit-fresh", "#edit-more", "#edit-examples", "[role=tablist]"];
  const name = part.ariaLabel || part.textContent.trim() || part.id || part.className;
  return {
    name: `${part.tagName} ${name}`.slice(0, 80),
    place: places.find((place) => part.closest(place)) || "",
    ring: near.filter(Boolean).some(ring),
    seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    again: part.dataset.visited === "yes" || (part.dataset.visited = "yes") && false,
  };
}"""


def show(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.locator(".room:visible").wait_for()
    for fold in page.get_by_text("More settings").locator("visible=true").all():
        fold.click()


def wide(page) -> float:
    """By how many pixels the page can be scrolled sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def tab_to(page, selector: str) -> None:
    """Presses Tab until what is looked for has the focus."""
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not come to {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_word_can_be_read(context, open_studio, upload, picture, scheme):
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    open_studio(page)
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.keyboard.press("Control+Enter")
    page.locator("#edit-view .divider").wait_for()
    page.locator("#edit-chain .step").nth(1).wait_for()
    page.locator("#model", has_text="float32").wait_for()
    nameless, faint = {}, {}
    for name in TABS:
        show(page, name)
        if name == "History":
            page.locator("#history-list .job-card").wait_for()
        tree = page.locator("body").aria_snapshot()
        assert len(re.findall(rf"- ({NAMED}) ", tree)) > 8
        nameless[name] = [line.strip() for line in tree.splitlines() if NAMELESS.match(line)]
        nameless[name] += page.evaluate(PICTURES)
        found = page.evaluate(CONTRAST)
        assert found["seen"] > 12
        assert found["ground"] > 0.8 if scheme == "light" else found["ground"] < 0.05
        faint[name] = found["faint"]
    assert not any(nameless.values()), nameless
    assert not any(faint.values()), faint


def test_the_keyboard_reaches_everything_in_the_order_that_is_seen(page):
    page.locator("#model", has_text="float32").wait_for()
    page.locator("#edit-run:enabled").wait_for()  # else it takes no focus
    stops = []
    for _ in range(80):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUS)
        if stop is None or stop["again"]:
            break
        stops.append(stop)
    else:
        raise AssertionError("the focus does not come round")
    assert [stop["name"] for stop in stops if not stop["ring"]] == []
    assert [stop["name"] for stop in stops if not stop["seen"]] == []
    places = list(dict.fromkeys(stop["place"] for stop in stops if stop["place"]))
    parts = ("picture", "prompt", "run", "area", "count", "seed", "fresh", "more", "examples")
    assert places == ["[role=tablist]", *(f"#edit-{part}" for part in parts if f"#edit-{part}" in places)]
    assert {"#edit-picture", "#edit-prompt", "#edit-run", "#edit-seed"} <= set(places)


def test_the_keyboard_alone_generates_stops_downloads_and_uploads(page, tmp_path, picture):
    tab_to(page, '[role=tab][data-tab-id="generate"]')
    page.keyboard.press("Enter")
    page.locator("#generate-run:enabled").wait_for()
    tab_to(page, "#generate-prompt textarea")
    rest(page)
    page.keyboard.type("a cat")
    tab_to(page, "#generate-run")
    page.keyboard.press("Enter")
    page.locator("#generate-view .tools").wait_for()
    tab_to(page, "#generate-view a.main")
    with page.expect_download() as begun:
        page.keyboard.press("Enter")
    assert begun.value.suggested_filename.startswith("rpiae_")

    page.locator('[role=tab][data-tab-id="edit"]').focus()
    page.keyboard.press("Enter")
    picture.save(tmp_path / "picture.png")
    tab_to(page, "#edit-picture button")
    with page.expect_file_chooser() as asked:
        page.keyboard.press("Enter")
    asked.value.set_files(tmp_path / "picture.png")
    page.locator("#edit-note", has_text="256 × 256").wait_for()
    page.locator("#edit-prompt textarea").focus()
    rest(page)
    page.keyboard.type("make it blue")
    tab_to(page, "#edit-more button")
    page.keyboard.press("Enter")
    tab_to(page, "#edit-more [aria-label='number input for Steps']")
    rest(page)
    page.keyboard.press("Control+A")
    page.keyboard.type("100")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+Enter")
    page.locator("#edit-status", has_text=re.compile(r"Step \d+ of 100")).wait_for()
    page.keyboard.press("Escape")
    page.locator("#edit-status", has_text="Stopped at step").wait_for()


def test_a_phones_targets_are_large_enough_and_nothing_scrolls_sideways(profile, open_studio):
    context = profile(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone = open_studio(context.new_page())
    phone.locator("#model", has_text="float32").wait_for()
    small, scrolls = {}, {}
    for name in TABS:
        phone.get_by_role("tab", name=name, exact=True).tap()
        phone.locator(".room:visible").wait_for()
        for fold in phone.get_by_text("More settings").locator("visible=true").all():
            fold.tap()
        scrolls[name] = wide(phone)
        found = phone.evaluate(SMALL, [24, 24])
        assert found["seen"] > 6
        small[name] = found["small"]
        for button in phone.locator(".room:visible .run-row button").all():
            assert button.bounding_box()["height"] >= 44
    assert not any(small.values()), small
    assert not any(scrolls.values()), scrolls


def test_at_200_percent_and_with_reduced_motion_nothing_is_cut_off_and_nothing_moves(profile, open_studio, begin_long):
    context = profile(viewport={"width": 640, "height": 450}, device_scale_factor=2, reduced_motion="reduce")
    page = open_studio(context.new_page())
    page.locator("#model", has_text="float32").wait_for()
    for name in TABS:
        show(page, name)
        assert wide(page) == 0, name
        assert page.evaluate(CUT) == [], name
    page.get_by_role("tab", name="Edit", exact=True).click()
    open_studio(page)
    page.locator("#model", has_text="float32").wait_for()
    begin_long(page)
    moving = "document.getAnimations().filter((one) => one.playState === 'running').map((one) => one.animationName)"
    page.wait_for_timeout(300)
    assert page.evaluate(moving) == []
    page.keyboard.press("Escape")
    page.locator("#generate-status", has_text="Stopped at step").wait_for()
