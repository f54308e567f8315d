"""The shipped examples: used as listed, and never a reason for the page not to come up."""

import json

from PIL import Image

from app.examples import FOLDER, read_examples


def test_examples_are_read_in_their_order_and_broken_ones_left_out(tmp_path):
    for name in ("one.png", "one_result.png", "two.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path.parent / "outside.png").write_bytes((tmp_path / "one.png").read_bytes())
    entries = [
        {"image": "one.png", "instruction": "make it blue", "result": "one_result.png"},
        {"image": "two.png", "instruction": "make it red", "result": "missing.png"},
        {"image": "missing.png", "instruction": "x", "result": "one_result.png"},
        {"image": "words.png", "instruction": "x"},
        {"image": "../outside.png", "instruction": "x"},
        {"image": "two.png"},
        "two.png",
    ]
    (tmp_path / "examples.json").write_text(json.dumps(entries))
    first, second = read_examples(tmp_path)
    assert (first.image, first.result) == (tmp_path / "one.png", tmp_path / "one_result.png")
    assert first.instruction == "make it blue" and first.size == (64, 48)
    assert second.result is None


def test_without_a_list_or_with_a_broken_one_there_are_none(tmp_path):
    assert read_examples(tmp_path) == []
    for text in ("[", "{}", "3", "null"):
        (tmp_path / "examples.json").write_text(text)
        assert read_examples(tmp_path) == []


def test_the_shipped_list_names_pictures_that_are_there():
    listed = json.loads((FOLDER / "examples.json").read_text())
    assert len(read_examples()) == len(listed) >= 1
    assert all(example.result for example in read_examples())
