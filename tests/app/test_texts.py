"""The words: every language has all of them, with the same places to fill, and whoever asks is answered in theirs."""

import io
import re
import string
import threading
from pathlib import Path

import pytest
from PIL import Image

from app.outcome import sentence
from app.page import wished_language
from app.service import Service
from app.texts import LANGUAGES, WORDS, as_spoken_here, language, say, speaking, translated, word_for
from rpiae import images

CHINESE = re.compile(r"[\u3400-\u9fff]")
NAMES = re.compile(r"<[^>]*>|[A-Za-z0-9_.]*[-.0-9/][A-Za-z0-9_./-]*|RPiAE|Studio|English|[A-Z]+")
# Names, units, signs, and what is typed as it stands: the model reads English.
THE_SAME = re.compile(
    r"app\.title|jobs\.about|model\.ready|picture\.size|fact\.sha256|(instruction|prompt)\.placeholder"
    r"|tokenizer\..*|blind\.(a|b|pair)|download\.(csv|json)|table\.(ssim|lpips|psnr)|language\..*|full_stop|comma|date"
)


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("other", LANGUAGES[1:])
def test_both_languages_have_the_same_keys_and_places_to_fill(other):
    english, words = WORDS["en"], WORDS[other]
    assert set(english) == set(words)
    assert {key for key in english if places(english[key]) != places(words[key])} == set()


def test_everything_is_in_chinese_that_is_no_name():
    left = {key: text for key, text in WORDS["zh"].items() if not CHINESE.search(text)}
    assert {key for key in left if not THE_SAME.fullmatch(key)} == set()
    assert {key for key, text in WORDS["en"].items() if CHINESE.search(text)} == {"language.other"}


def test_no_chinese_sentence_ends_or_counts_as_an_english_one():
    wrong = {key for key, text in WORDS["zh"].items() if re.search(r"[\u3400-\u9fff][,.;:?!](?![0-9])", text)}
    assert wrong == set()


def test_a_block_speaks_a_language_and_other_threads_their_own():
    assert (language(), say("stop")) == ("en", "Stop")
    with speaking("zh"):
        later, heard = as_spoken_here(lambda: heard.append(say("stop"))), []
        assert (say("stop"), word_for("tab.edit"), word_for("no such key")) == ("停止", "编辑", "")
        plain = threading.Thread(target=lambda: heard.append(say("stop")))
        plain.start()
        plain.join()
    with speaking("tlh"):
        assert say("stop") == "Stop"
    later()
    assert heard == ["Stop", "停止"] and say("stop") == "Stop"


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, "en"),
        ({"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh"),
        ({"accept-language": "en-US,en;q=0.9,zh;q=0.8"}, "en"),
        ({"accept-language": "de-DE, zh;q=0.3, en;q=0.2"}, "zh"),
        ({"accept-language": "fr;q=0.9, *;q=0.5"}, "en"),
        ({"accept-language": "zh;q=high"}, "en"),
        ({"accept-language": "," * 10_000}, "en"),
        ({"accept-language": "zh-CN", "cookie": "a=1; rpiae_language=en"}, "en"),
        ({"accept-language": "en", "cookie": "rpiae_language=zh; b=2"}, "zh"),
        ({"accept-language": "zh", "cookie": "rpiae_language=xx"}, "en"),
    ],
)
def test_the_language_is_the_chosen_one_else_the_browsers_first_that_there_is(headers, wanted):
    assert wished_language(headers) == wanted


def test_what_the_library_says_of_pictures_is_said_in_chinese(tmp_path, picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    whole = buffer.getvalue()
    black = Image.new("L", picture.size)
    mistakes = [
        lambda: images.load(whole[:5000]),
        lambda: images.load(b"words"),
        lambda: images.load(b""),
        lambda: images.load(Image.new("RGB", (10, 300))),
        lambda: images.load(Image.new("1", (9000, 9000))),
        lambda: images.load(tmp_path / "nothing.png"),
        lambda: images.load_mask(black, picture.size),
        lambda: images.load_mask(black, (20, 20)),
        lambda: images.load_mask(whole[:5000], picture.size),
    ]
    for mistake in mistakes:
        with pytest.raises(ValueError) as told:
            mistake()
        english = sentence(told.value)
        assert english == str(told.value)
        with speaking("zh"):
            chinese = sentence(told.value)
        assert CHINESE.search(chinese) and "The " not in chinese and "{" not in chinese, english
        assert set(re.findall(r"\d+", chinese)) <= set(re.findall(r"\d+", english))
    with speaking("zh"):
        assert translated("Something else.") == "Something else."


def test_a_picture_is_described_in_the_language_that_is_spoken(studio_checkpoint, tmp_path):
    Image.new("RGBA", (60, 40)).save(tmp_path / "clear.png")
    service = Service(studio_checkpoint)
    assert "60 × 40, transparent parts become white." in service.describe(tmp_path / "clear.png", editing=True)
    with speaking("zh"):
        assert service.describe(tmp_path / "clear.png").endswith("透明部分将变为白色。")


def test_a_chinese_page_has_the_same_parts_and_no_english_label(studio_checkpoint, tmp_path):
    from app.jobs import Jobs
    from app.store import Store
    from app.studio import create_app

    jobs = Jobs(Service(studio_checkpoint), Store(tmp_path))
    page = create_app(jobs.service, jobs, Path("nowhere"))
    english = page.config
    with speaking("zh"):
        chinese = page.config
    assert [(part["id"], part["type"]) for part in english["components"]] == [
        (part["id"], part["type"]) for part in chinese["components"]
    ]
    assert english["dependencies"] == chinese["dependencies"]
    public = [event for event in page.fns.values() if event.api_visibility == "public"]
    ours = {part._id for event in public for part in (*event.inputs, *event.outputs)}  # argument names, for programs
    for part in chinese["components"]:
        said = [part["props"].get(name) for name in ("label", "info", "placeholder")]
        said += [part["props"].get("value")] if part["type"] in ("html", "button") else []
        for text in filter(None, said):
            left = NAMES.sub("", str(text)).strip(" ·…")
            known = part["id"] in ours or text in WORDS["zh"].values() or "data-action=" in str(text)
            assert known or not left or CHINESE.search(left), (part["type"], part["props"].get("elem_id"), text)
