"""A browser whose language is Chinese: the page, the work and the mistakes are in it; and the switch."""

import re

import pytest

from app.texts import WORDS
from tests.app.test_texts import CHINESE, NAMES
from tests.browser.waits import refused, rest

TABS = ["编辑", "生成", "对比", "历史", "模型"]


@pytest.fixture
def chinese(profile, open_studio):
    """A page of a browser with locale zh-CN."""
    return open_studio(profile(locale="zh-CN").new_page())


def tabs(page) -> list[str]:
    return page.get_by_role("tab").all_inner_texts()


def foreign(page) -> list[str]:
    """The lines of the tab on show that are neither in Chinese nor names; without examples, which the model reads, and
    what the library says of itself."""
    examples, library = page.locator("button.idea, button.example"), page.locator("#model .chip").get_attribute("title")
    lines = [line.strip() for line in page.locator(".room:visible").inner_text().splitlines()]
    return [
        line
        for line in lines
        if len(line) > 3
        and not CHINESE.search(line)
        and re.search("[A-Za-z]", NAMES.sub("", line))
        and line not in WORDS["zh"].values()
        and line not in library
        and not examples.filter(has_text=line).count()
    ]


def test_the_page_is_in_chinese_and_so_is_the_work(chinese, expect):
    page = chinese
    assert tabs(page) == TABS
    page.wait_for_function("document.documentElement.lang === 'zh-CN'")
    page.locator("#model", has_text="CPU").wait_for()
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        page.locator(".room:visible", has_text=CHINESE).wait_for()
        rest(page)
        assert foreign(page) == [], tab
    page.get_by_role("tab", name="生成").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.locator("#generate-run").click()
    page.locator("#generate-status", has_text="已完成，用时").wait_for()
    page.get_by_role("link", name="下载 PNG").wait_for()
    page.get_by_role("tab", name="历史").click()
    page.locator("#history-list", has_text="历史记录共 1 条").wait_for()


def test_mistakes_are_told_in_chinese(chinese, tmp_path, forgive):
    page = chinese
    (tmp_path / "notes.png").write_text("these are words")
    page.locator("#edit-picture input[type=file]").set_input_files(tmp_path / "notes.png")
    page.locator("#edit-note .wrong", has_text="不是可以读取的图片").wait_for()
    page.get_by_role("tab", name="生成").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.locator("#generate-fresh input").uncheck()
    page.locator("#generate-seed input").fill("4000000000")
    page.locator("#generate-run").click()
    page.get_by_text("“随机种子”为 4000000000，必须在 0 到 2147483647 之间。").wait_for()
    page.locator("#generate-prompt textarea").fill("  ")
    refused(page, page.locator("#generate-run"), "请描述想要的图片")
    forgive("422")  # how Gradio's validators answer


def test_the_switch_shows_the_other_language_and_is_remembered(chinese, open_studio):
    page = chinese
    page.locator("#language button", has_text="English").click()
    page.get_by_role("tab", name="Edit").wait_for()
    assert tabs(page) == ["Edit", "Generate", "Compare", "History", "Models"]
    page.wait_for_function("document.documentElement.lang === 'en'")
    open_studio(page)
    assert tabs(page) == ["Edit", "Generate", "Compare", "History", "Models"]
    page.locator("#language button", has_text="中文").click()
    page.get_by_role("tab", name="编辑").wait_for()
    open_studio(page)
    assert tabs(page) == TABS
