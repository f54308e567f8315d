"""`train data check` finds what training would stumble over, and nothing in data that is whole."""

import json

import pytest

from tests.train.data.files import (
    break_text,
    encoded,
    picture,
    write_caption_shards,
    write_captions,
    write_edit_table,
    write_edits,
    write_list,
    write_shard,
)
from train.__main__ import main


def run(capsys, *arguments):
    code = main(["data", "check", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("write", "kind", "rows"),
    [
        (lambda folder: write_captions(folder, 3), "captions", 3),
        (lambda folder: write_edits(folder, 2), "edits", 2),
        (lambda folder: write_caption_shards(folder, 2, 2), "captions", 4),
        (lambda folder: write_edit_table(folder / "a.parquet", 5).parent, "edits", 5),
    ],
)
def test_whole_data_pass(tmp_path, capsys, write, kind, rows):
    code, out, err = run(capsys, write(tmp_path), "--size", 32)
    assert (code, err) == (0, "")
    assert out.startswith(f"{kind}: {rows} rows") and "nothing is wrong for training at 32 pixels" in out


def test_every_problem_is_counted_and_named(tmp_path, capsys):
    write_edits(tmp_path, 6)
    lines = (tmp_path / "edits.jsonl").read_text().splitlines()
    lines += ["{broken", json.dumps({"id": "e2", "source": "2a.png", "instruction": " ", "target": "2b.png"})]
    lost = {"source": "none.png", "instruction": "x", "target": "5a.png"}
    lines += [json.dumps({"id": f"m{i}", **lost}) for i in range(12)]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    (tmp_path / "0a.png").write_bytes(encoded(picture(0))[:70])
    picture(1, 12 + 8, 40).save(tmp_path / "1b.png")
    picture(3, 30, 30).save(tmp_path / "3a.png")
    picture(3, 20, 20).save(tmp_path / "4a.png")
    code, out, err = run(capsys, tmp_path, "--size", 48)
    assert code == 2 and err.startswith("error: ") and "in 20 rows" in err
    for line in (
        "WRONG: broken line: 1", "WRONG: missing file: 12", "WRONG: broken picture: 1", "WRONG: no text: 1",
        "note: duplicate id: 1", "WRONG: too small: 2", "WRONG: different shapes: 1", "... and 2 more",
    ):  # fmt: skip
        assert line in out, out
    assert out.count("there is no file 'none.png'") == 10


def test_several_edits_of_one_picture_are_rows_of_their_own(tmp_path, capsys):
    """As MagicBrush has them."""
    write_edits(tmp_path, 3)
    lines = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    rows = [
        {"img_id": 7, "turn_index": turn, "source_img": line["source"], "target_img": line["target"],
         "instruction": line["instruction"]}
        for turn, line in enumerate(lines, start=1)
    ]  # fmt: skip
    write_list(tmp_path, "edits.jsonl", rows)
    (tmp_path / "1b.png").unlink()
    code, out, _ = run(capsys, tmp_path, "--size", 32)
    assert code == 2 and "duplicate id" not in out and "7 2: there is no file '1b.png'" in out
    for row in rows:
        del row["turn_index"]
    write_list(tmp_path, "edits.jsonl", [rows[0], rows[2]])
    code, out, _ = run(capsys, tmp_path, "--size", 32)
    assert code == 0 and "note: duplicate id: 1" in out


def test_small_pictures_are_a_note_while_they_are_more_than_half(tmp_path, capsys):
    code, out, _ = run(capsys, write_captions(tmp_path, 2, side=40), "--size", 64)
    assert code == 0 and "note: enlarged: 2" in out


def test_pictures_beside_class_folders_are_a_note(tmp_path, capsys):
    for name in ("cat/a.png", "dog/b.png", "beside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(0).save(tmp_path / name)
    code, out, _ = run(capsys, tmp_path, "--size", 32)
    assert code == 0 and "note: no class: 1\n    beside.png lies beside the class folders" in out
    (tmp_path / "beside.png").unlink()
    assert "no class" not in run(capsys, tmp_path, "--size", 32)[1]
    for name in ("cat/a", "dog/b", "beside"):  # with words it is no data for classes
        picture(0).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("words")
    assert "no class" not in run(capsys, tmp_path, "--size", 32)[1]


def test_texts_that_the_text_encoder_would_cut_are_a_note(tmp_path, capsys):
    write_captions(tmp_path, 3)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    rows[1]["caption"] = "a cat on a wall"  # seven word pieces with the first and the last
    write_list(tmp_path, "captions.jsonl", rows)
    assert "cut" not in run(capsys, tmp_path, "--size", 32, "--max-tokens", 7)[1]
    code, out, _ = run(capsys, tmp_path, "--size", 32, "--max-tokens", 6)
    assert code == 0 and "note: cut text: 1\n    row 2: 7 word pieces, cut after 6" in out
    code, _, err = run(capsys, tmp_path, "--max-tokens", 6, "--text-encoder", tmp_path / "none")
    assert code == 2 and "neither a local folder nor hf:org/name nor one of" in err
    code, _, err = run(capsys, tmp_path, "--max-tokens", 6, "--text-encoder", tmp_path)
    assert code == 2 and "holds no tokenizer" in err


def test_headers_are_quicker_and_see_less(tmp_path, capsys):
    write_captions(tmp_path, 2)
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    assert run(capsys, tmp_path, "--size", 32)[0] == 2
    assert run(capsys, tmp_path, "--size", 32, "--headers")[0] == 0


def test_wrong_columns_end_with_those_that_are_there(tmp_path, capsys):
    write_list(tmp_path, "rows.jsonl", [{"file": "a.png", "words": "x"}])
    code, _, err = run(capsys, tmp_path)
    assert code == 2 and "its columns are file, words" in err
    picture(0).save(tmp_path / "a.png")
    assert run(capsys, tmp_path, "--size", 32, "--column", "image=file", "--column", "caption=words")[0] == 0
    assert "no column nosuch" in run(capsys, tmp_path, "--column", "image=nosuch")[2]


def test_a_text_that_is_not_utf_8_is_said(tmp_path, capsys):
    break_text(write_edit_table(tmp_path / "a.parquet", 6), 5)
    code, out, _ = run(capsys, tmp_path, "--size", 32)
    assert code == 2 and "WRONG: broken text: 1\n    a.parquet group 1 row 1: instruction cannot be read" in out


def test_a_shard_that_is_cut_off_is_said(tmp_path, capsys):
    shard = write_caption_shards(tmp_path, 1, 4) / "0000.tar"
    shard.write_bytes(shard.read_bytes()[:7000])
    code, out, _ = run(capsys, tmp_path, "--size", 32)
    assert code == 2 and "WRONG: cut off: 1" in out


def test_a_note_counts_as_the_problem_that_it_names(tmp_path, capsys):
    write_shard(tmp_path / "0.tar", {"0": {"jpg": encoded(picture(0, 40, 40), "JPEG")}})
    join = tmp_path / "cut off.jsonl"
    join.write_text('{"key": "0", "caption": "zero"}\nbroken\n')
    code, out, _ = run(capsys, tmp_path, "--size", 32, "--join", join)
    assert code == 2 and "WRONG: broken line: 1" in out and "cut off: 1" not in out


def test_nothing_there_is_a_sentence(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "none")
    assert code == 2 and "there is no folder" in err and "Traceback" not in err
