"""People's own folders: pictures, captions beside them or in a list, edits in a list."""

import numpy as np
import pytest
from PIL import Image

from tests.train.data.files import encoded, picture, write_captions, write_edits, write_list
from train.data.crop import adm_center_crop, squares
from train.data.folders import FolderSource
from train.data.rows import Fault, find_columns
from train.data.settings import DataSettings

FOLDER = DataSettings(sources=({"kind": "folder", "path": "x"},))


def rows(source):
    return {row.id: row for row in (source.row(0, n) for n in range(int(source.sizes.sum())))}


def test_pictures_alone_have_the_class_of_their_folder(tmp_path):
    for name in ("b/1.jpg", "a/2.png", "a/deep/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    source = FolderSource(tmp_path)
    assert source.columns.kind == "pictures" and source.classes == ("a", "b")
    assert {name: row.label for name, row in rows(source).items()} == {"b/1.jpg": 1, "a/2.png": 0, "a/deep/3.webp": 0}
    picture(0).save(tmp_path / "beside.png")
    assert rows(FolderSource(tmp_path))["beside.png"].label is None


def test_a_text_beside_a_picture_holds_a_caption_in_every_line(tmp_path):
    for name in ("one", "two"):
        picture(1).save(tmp_path / f"{name}.png")
    (tmp_path / "one.txt").write_text("a cat\n\n  a gray cat on a wall \n", encoding="utf-8-sig")
    (tmp_path / "alone.txt").write_text("no picture")
    source = FolderSource(tmp_path)
    assert source.columns.kind == "captions" and source.notes[0][0] == "no picture for a text"
    assert source.notes[0][1] == "1 text files have no picture of the same name"
    numbers = {source._rows[n][0]: n for n in range(2)}
    row = source.row(0, numbers["one.png"])
    assert row.texts == (("a cat", 1.0), ("a gray cat on a wall", 1.0))
    taken = {row.text(np.random.default_rng(seed)) for seed in range(20)}
    assert taken == {"a cat", "a gray cat on a wall"}
    with pytest.raises(Fault, match="no two.txt beside it"):
        source.row(0, numbers["two.png"])


def test_lists_name_captions_and_edits(tmp_path):
    captions = FolderSource(write_captions(tmp_path / "captions", 3))
    assert captions.columns.kind == "captions"
    row = next(row for row in rows(captions).values() if row.texts[0][0] == "picture 2")
    assert np.array_equal(row.open()[0], picture(2, 40, 40))
    edits = FolderSource(write_edits(tmp_path / "edits", 3))
    assert edits.columns.kind == "edits"
    row = rows(edits)["e1"]
    assert row.texts == (("change 1", 1.0),)
    assert all(np.array_equal(opened, picture(seed, 40, 40)) for opened, seed in zip(row.open(), (2, 3), strict=True))


def test_other_column_names_are_given_with_how_often_each_is_taken(tmp_path):
    write_list(tmp_path, "rows.jsonl", [{"file": "a.png", "long": "many words", "short": "words", "none": ""}] * 2)
    columns = {"image": "file", "caption": {"long": 3, "short": 1, "none": 1}}
    row = FolderSource(tmp_path, columns).row(0, 0)
    assert row.texts == (("many words", 3.0), ("words", 1.0))
    with pytest.raises(ValueError, match="no column nosuch; there are: file, long, short, none"):
        FolderSource(tmp_path, {"image": "nosuch"})
    with pytest.raises(ValueError, match="wanted are image and caption, or source, instruction"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    ("names", "kind", "pictures", "texts"),
    [
        (["omni_edit_id", "task", "src_img", "edited_img", "edited_prompt_list", "width", "o_score"], "edits",
         ("src_img", "edited_img"), ["edited_prompt_list"]),
        (["original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image"], "edits",
         ("original_image", "edited_image"), ["edit_prompt"]),
        (["input_image", "edit_prompt", "edited_image"], "edits", ("input_image", "edited_image"), ["edit_prompt"]),
        (["source_image", "edit_instruction", "edited_image", "type", "style"], "edits",
         ("source_image", "edited_image"), ["edit_instruction"]),
        (["img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img"], "edits",
         ("source_img", "target_img"), ["instruction"]),
        (["source_image", "edited_image", "edit_prompt", "source_caption", "target_caption"], "edits",
         ("source_image", "edited_image"), ["edit_prompt"]),
        (["image", "url", "key", "status", "caption", "caption_llava", "caption_llava_short"], "captions", ("image",),
         ["caption", "caption_llava", "caption_llava_short"]),
    ],
)  # fmt: skip
def test_the_columns_of_known_data_sets_are_found(names, kind, pictures, texts):
    found = find_columns(names, {}, "table")
    assert (found.kind, found.pictures, list(found.texts)) == (kind, pictures, texts)


def test_edits_of_one_picture_lie_together(tmp_path):
    rows = [{"img_id": i, "turn_index": t, "source_img": "a.png", "target_img": "b.png", "instruction": "x"}
            for t in range(3) for i in range(20)]  # fmt: skip
    write_list(tmp_path, "edits.jsonl", rows)
    pictures = [name.split()[0] for name in FolderSource(tmp_path).names()]
    assert all(len(set(pictures[at : at + 3])) == 1 for at in range(0, 60, 3))


@pytest.mark.parametrize("ids", [(), ("id",), ("img_id",)])
def test_edits_of_one_picture_lie_together_by_the_name_of_their_source(ids, tmp_path):
    """Without ids, or with those that name rows or say nothing of turns."""
    rows = [{"source": f"{i}.png", "instruction": "x", "target": f"{i}-{t}.png"} for t in range(3) for i in range(20)]
    rows = [row | dict.fromkeys(ids, f"edit {number}") for number, row in enumerate(rows)]
    source = FolderSource(write_list(tmp_path, "edits.jsonl", rows))
    pictures = [source.row(0, number).pictures[0].name for number in range(60)]
    assert all(len(set(pictures[at : at + 3])) == 1 for at in range(0, 60, 3))


def test_a_part_of_a_list_has_whole_pictures(tmp_path):
    def parts(*edits):
        rows = [
            {"source": f"{i}.png", "instruction": f"{n}", "target": "b.png"} for i, count in enumerate(edits)
            for n in range(count)
        ]  # fmt: skip
        source = FolderSource(write_list(tmp_path, "edits.jsonl", rows))
        return [source.whole_pictures(count) for count in range(1, len(rows))]

    assert parts(1, 1, 1, 1) == [1, 2, 3]
    assert parts(2, 2, 2) == [2, 2, 2, 4, 4]
    assert parts(3) == [1, 2]  # there is no other picture to learn from


def test_mistakes_of_a_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        FolderSource(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no pictures"):
        FolderSource(tmp_path)
    write_edits(tmp_path, 1)
    write_captions(tmp_path, 1)
    with pytest.raises(ValueError, match="several lists"):
        FolderSource(tmp_path)


def test_broken_lines_and_pictures_are_faults_of_their_row(tmp_path):
    write_edits(tmp_path, 2)
    with open(tmp_path / "edits.jsonl", "a") as stream:
        stream.write('not json\n{"source": "0a.png", "instruction": "x", "target": ""}\n')
    (tmp_path / "0b.png").write_bytes(encoded(picture(0))[:60])
    (tmp_path / "1a.png").unlink()
    problems = []
    source = FolderSource(tmp_path)
    for number in range(4):
        with pytest.raises(Fault) as raised:
            source.row(0, number).open()
        problems.append(raised.value.problem)
    assert sorted(problems) == ["broken line", "broken picture", "missing file", "missing value"]


def test_pictures_are_read_upright_and_in_any_mode(tmp_path):
    upright = picture(5, 40, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.convert("CMYK").save(tmp_path / "print.tif")
    Image.fromarray(np.full((32, 40), 65535, np.uint16)).save(tmp_path / "deep.png")
    opened = {name: row.open()[0] for name, row in rows(FolderSource(tmp_path)).items()}
    assert np.array_equal(opened["turned.png"], upright)
    assert opened["print.tif"].mode == "RGB" and np.asarray(opened["deep.png"]).min() == 255


def test_crops_are_the_authors_and_the_same_for_source_and_target():
    rng = np.random.default_rng(0)
    wide = picture(1, 60, 36)
    centre = squares([wide], 16, FOLDER, rng)[0]
    assert np.array_equal(centre.transpose(1, 2, 0), adm_center_crop(wide, 16))
    anywhere = FOLDER.model_copy(update={"crop": "random", "flip": True})
    pairs = [squares([wide, wide.resize((120, 72))], 16, anywhere, np.random.default_rng(i)) for i in range(8)]
    assert all(np.abs(pair[0].astype(int) - pair[1]).mean() < 8 for pair in pairs)
    assert len({pair[0].tobytes() for pair in pairs}) == 8


def test_no_picture_is_mirrored_whose_words_say_left_or_right():
    mirrored = FOLDER.model_copy(update={"flip": True})
    whole = picture(2, 16, 16)
    for text, expected in (("move the cat to the left", 1), ("a bright leftover", 2)):
        found = {squares([whole], 16, mirrored, np.random.default_rng(i), text).tobytes() for i in range(12)}
        assert len(found) == expected


@pytest.mark.parametrize(("sizes", "problem"), [([(40, 12)], "too small"), ([(40, 40), (60, 40)], "different shapes")])
def test_pictures_that_do_not_fit_are_faults(sizes, problem):
    with pytest.raises(Fault) as raised:
        squares([picture(i, *size) for i, size in enumerate(sizes)], 16, FOLDER, np.random.default_rng(0))
    assert raised.value.problem == problem
