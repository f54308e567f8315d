"""A browser whose language is Chinese: the page, the work and the mistakes are in it; and the switch."""

import re

import pytest

CHINESE = re.compile(r"[\u3400-\u9fff]")
TABS = ["编辑", "生成", "对比", "历史", "模型"]


@pytest.fixture
def chinese(chromium, studio, faults):
    """A page of a browser with locale zh-CN."""
    context = chromium.new_context(locale="zh-CN", viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("request", lambda asked: asked.url.startswith((studio.url, "data:", "blob:")) or faults.append(asked.url))
    page.goto(studio.url)
    page.wait_for_function("document.querySelector('#edit-seed input')?.value")
    yield page
    context.close()


def tabs(page) -> list[str]:
    return page.get_by_role("tab").all_inner_texts()


def test_the_page_is_in_chinese_and_so_is_the_work(chinese, faults):
    page = chinese
    assert tabs(page) == TABS
    page.wait_for_function("document.documentElement.lang === 'zh-CN'")
    page.locator("#model", has_text="CPU").wait_for()
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        words = page.locator(".room:visible").inner_text()
        lines = [line.strip() for line in words.splitlines() if len(line.strip()) > 3]
        plain = [line for line in lines if re.fullmatch(r"[A-Za-z][a-z]+( [a-z]+){2,}\W*", line)]
        prompts = page.locator("button.idea, button.example")
        assert [line for line in plain if not prompts.filter(has_text=line).count()] == [], tab
    page.get_by_role("tab", name="生成").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.locator("#generate-run").click()
    page.locator("#generate-status", has_text="已完成，用时").wait_for()
    page.get_by_role("link", name="下载 PNG").wait_for()
    page.get_by_role("tab", name="历史").click()
    page.locator("#history-list", has_text="历史记录共 1 条").wait_for()
    assert faults == []


def test_mistakes_are_told_in_chinese(chinese, tmp_path, faults):
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
    page.wait_for_timeout(1000)  # Gradio takes words under a field away when another answer is on its way
    page.locator("#generate-prompt textarea").fill("  ")
    page.locator("#generate-run").click()
    page.locator(".validation-error:visible", has_text="请描述想要的图片").wait_for()
    assert [fault for fault in faults if "422" not in fault] == []


def test_the_switch_shows_the_other_language_and_is_remembered(chinese, studio, faults):
    page = chinese
    page.locator("#language button", has_text="English").click()
    page.get_by_role("tab", name="Edit").wait_for()
    assert tabs(page) == ["Edit", "Generate", "Compare", "History", "Models"]
    page.wait_for_function("document.documentElement.lang === 'en'")
    page.goto(studio.url)
    page.get_by_role("tab", name="Edit").wait_for()
    page.locator("#language button", has_text="中文").click()
    page.get_by_role("tab", name="编辑").wait_for()
    assert tabs(page) == TABS
    # Gradio on a stream when its page goes away
    left = ("AbortError", "Connection errored out", "Failed to fetch", "network error")
    assert [fault for fault in faults if not any(word in fault for word in left)] == []
