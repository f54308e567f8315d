"""Shards, tables and folders read by sample number: ratios, broken rows, and samples that depend on nothing else."""

import gzip
import json
import pickle
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

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
from train.data import join, reader
from train.data.examples import Examples, PictureFiles
from train.data.pictures import PictureSettings, ScenePictures
from train.data.reader import Reader, missing_sources, names, open_source
from train.data.rows import Fault
from train.data.settings import DataSettings, SourceSettings
from train.data.shards import ShardSource
from train.data.tables import TableSource

SIZE = 16


def data(*sources, **settings):
    return DataSettings(sources=sources, **settings)


def examples(settings, samples=400, batch=4, held_out=False, seed=0):
    return Examples(Reader(settings, (seed, 30), batch), samples, SIZE, (2, 2, 2), 2, held_out)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Six shards of captions, three tables of edits and a folder of edits, 3 : 1.5 : 0.5."""
    folder = tmp_path_factory.mktemp("mixed")
    write_caption_shards(folder / "shards", 6, 5)
    for number in range(3):
        write_edit_table(folder / "tables" / f"{number}.parquet", 8, first=8 * number)
    write_edits(folder / "own", 6)
    return data(
        {"kind": "webdataset", "path": f"{folder}/shards/*.tar", "weight": 3},
        {"kind": "table", "path": f"{folder}/tables", "weight": 1.5},
        {"kind": "folder", "path": f"{folder}/own", "weight": 0.5},
        held_out=4,
    )


def test_a_shard_is_read_by_offset_and_its_contents_are_kept(tmp_path):
    write_caption_shards(tmp_path, 2, 3)
    source = ShardSource(str(tmp_path))
    assert source.sizes.tolist() == [3, 3] and source.columns.kind == "captions"
    row = source.row(1, 2)
    assert row.id == "0001.tar/000005"
    assert row.texts == (("words 5", 1.0), ("a long caption of 5", 1.0), ("short 5", 1.0))
    assert np.abs(np.asarray(row.open()[0]).astype(int) - picture(5, 40, 40)).mean() < 6
    kept = tmp_path / "0001.tar.index.npz"
    before = kept.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(ShardSource(str(tmp_path / "*.tar"))))
    assert kept.stat().st_mtime_ns == before and again.row(1, 2) == row
    write_shard(tmp_path / "0001.tar", {"7": {"jpg": encoded(picture(7), "JPEG"), "txt": b"seven"}})
    assert ShardSource(str(tmp_path)).sizes.tolist() == [3, 1], "a changed shard is read anew"


def test_what_only_some_samples_of_a_shard_have_counts_too(tmp_path):
    fields = [b"no JSON", b'{"caption": "short 1"}', b'{"caption": "short 2", "caption_llava": "long 2"}']
    samples = {f"{i}": {"jpg": encoded(picture(i), "JPEG"), "json": fields[i]} for i in range(3)}
    source = ShardSource(str(write_shard(tmp_path / "0.tar", samples)))
    assert [[text for text, _ in source.row(0, i).texts] for i in (1, 2)] == [["short 1"], ["short 2", "long 2"]]


def test_captions_are_mixed_as_the_settings_say(tmp_path):
    write_caption_shards(tmp_path, 1, 8)
    source = {"kind": "webdataset", "path": str(tmp_path), "columns": {"caption": {"caption_llava": 3, "txt": 1}}}
    found = examples(data(source, held_out=1))
    kinds = Counter(found[i]["texts"][0].split()[0] for i in range(200))
    assert kinds.keys() == {"a", "words"} and 120 < kinds["a"] < 180


def test_captions_may_come_in_a_file_of_their_own(tmp_path):
    samples = {f"{i:09d}": {"jpg": encoded(picture(i), "JPEG")} for i in range(4)}
    write_shard(tmp_path / "0.tar", samples)
    lines = [{"key": f"{i:09d}", "caption_llava": f"long {i}", "status": "ok"} for i in (2, 0, 3)]
    join = write_list(tmp_path, "captions.jsonl", lines) / "captions.jsonl"
    settings = {"kind": "webdataset", "path": str(tmp_path / "0.tar"), "join": join, "index": tmp_path / "tables"}
    source = pickle.loads(pickle.dumps(open_source(SourceSettings(**settings))))
    assert [source.row(0, i).texts[0][0] for i in (0, 2, 3)] == ["long 0", "long 2", "long 3"]
    with pytest.raises(Fault, match="no line with the key '000000001'"):
        source.row(0, 1)
    assert {file.name.partition(".")[0] for file in (tmp_path / "tables").iterdir()} == {"0", "captions"}
    join.write_bytes(gzip.compress(join.read_bytes()))
    with pytest.raises(ValueError, match="gunzip it first"):
        open_source(SourceSettings(**settings))
    with pytest.raises(ValueError, match="join is for kind webdataset"):
        SourceSettings(kind="folder", path="x", join=join)


def test_edits_come_in_shards_too_and_a_field_never_takes_the_place_of_a_picture(tmp_path):
    samples = {
        f"{i}": {
            "source.png": encoded(picture(2 * i)), "target.png": encoded(picture(2 * i + 1)),
            "json": json.dumps({"instruction": f"change {i}", "source": f"laion/{i}.jpg"}).encode(),
        }
        for i in range(3)
    }  # fmt: skip
    del samples["2"]["source.png"]
    source = ShardSource(str(write_shard(tmp_path / "a.tar", samples)))
    row = source.row(0, 1)
    assert row.texts == (("change 1", 1.0),)
    assert all(np.array_equal(opened, picture(seed)) for opened, seed in zip(row.open(), (2, 3), strict=True))
    with pytest.raises(Fault, match="a.tar/2 has no source"):
        source.row(0, 2)


@pytest.mark.parametrize("ending", ["jpg", "png"])  # before and behind "json" in the order of letters
def test_a_joined_field_never_takes_the_place_of_a_picture(tmp_path, ending):
    fields = json.dumps({"image": "of the JSON", "caption": "of the JSON"}).encode()
    data = encoded(picture(0), "JPEG" if ending == "jpg" else "PNG")
    shard = write_shard(tmp_path / "0.tar", {"0": {ending: data, "json": fields}})
    line = {"key": "0", "image": "http://somewhere", "caption": "joined"}
    row = ShardSource(str(shard), join=write_list(tmp_path, "more.jsonl", [line]) / "more.jsonl").row(0, 0)
    assert row.pictures == (data,) and row.texts == (("joined", 1.0),)
    assert ShardSource(str(shard)).row(0, 0).pictures == (data,)


def test_a_shard_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path):
    whole = write_caption_shards(tmp_path, 1, 4) / "0000.tar"
    whole.write_bytes(whole.read_bytes()[:7000])
    source = ShardSource(str(tmp_path))
    assert 1 <= source.sizes[0] < 4 and source.notes[0][0] == "cut off"
    assert source.row(0, 0).open()


def test_shards_of_one_name_share_a_folder_of_tables(tmp_path):
    for number, folder in enumerate("ab"):
        write_shard(tmp_path / folder / "0000.tar", {f"{number}": {"jpg": encoded(picture(number), "JPEG")}})
    pattern, tables = f"{tmp_path}/*/0000.tar", tmp_path / "tables"
    ShardSource(pattern, index=tables)
    written = {file: file.stat().st_mtime_ns for file in tables.iterdir()}
    source = ShardSource(pattern, index=tables)
    assert len(written) == 2 and {file: file.stat().st_mtime_ns for file in tables.iterdir()} == written
    assert [source.row(chunk, 0).id for chunk in (0, 1)] == ["0000.tar/0", "0000.tar/1"]


def test_a_shard_that_cannot_be_read_is_a_fault_of_its_rows(tmp_path):
    class Broken:
        def seek(self, offset):
            raise OSError(5, "Input/output error")

    source = ShardSource(str(write_caption_shards(tmp_path, 2, 2)))
    source._streams[0] = Broken()
    with pytest.raises(Fault, match=r"0000\.tar: .*Input/output error") as raised:
        source.row(0, 0)
    assert raised.value.problem == "unreadable shard" and source.row(0, 0).open(), "opened anew"
    (tmp_path / "0001.tar").unlink()
    with pytest.raises(Fault, match="No such file"):
        source.row(1, 0)


def test_broken_lines_of_a_joined_file_are_skipped_and_counted(tmp_path):
    shard = write_shard(tmp_path / "0.tar", {f"{i}": {"jpg": encoded(picture(i), "JPEG")} for i in range(2)})
    file = tmp_path / "captions.jsonl"
    file.write_text('{"key": "0", "caption": "zero"}\n{"key": "1", "cap\n["key"]\n{"key": "1", "caption": "one"}\n')
    for _ in range(2):  # the second time from the table
        source = ShardSource(str(shard), join=file)
        assert [source.row(0, i).texts for i in (0, 1)] == [(("zero", 1.0),), (("one", 1.0),)]
        [(problem, note)] = source.notes
        assert problem == "broken line" and note.startswith("2 lines of captions.jsonl") and note.endswith("line 2")
    file.write_text("no JSON\n")
    with pytest.raises(ValueError, match="has no line that is a JSON object"):
        ShardSource(str(shard), join=file)


def test_two_processes_never_write_one_file_and_a_failed_one_leaves_none(tmp_path, monkeypatch):
    written = []

    def full(stream, **arrays):
        written.append(stream.name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(join.np, "savez", full)
    for _ in range(2):
        with pytest.raises(ValueError, match="No space left"):
            join.save_whole(tmp_path / "0.tar.index.npz", keys=np.zeros(1))
    assert written[0] != written[1] and not list(tmp_path.iterdir())


def test_a_table_is_read_by_row_groups(tmp_path):
    write_edit_table(tmp_path / "a.parquet", 6, group=4)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    source = TableSource(str(tmp_path), kept=1)
    assert source.sizes.tolist() == [4, 2] and source.notes[0][0] == "cut off"
    assert source.notes[0][1].startswith("b.parquet is cut off")
    row = source.row(1, 0)
    assert row.id == "task_4" and row.texts == (("edit 4", 0.5), ("please edit 4", 0.5))
    assert np.array_equal(row.open()[1], picture(9, 40, 40))
    assert source.row(0, 3).id == "task_3" and list(source._read) == [0]


def test_a_text_that_is_not_utf_8_is_skipped_and_counted(tmp_path):
    file = break_text(write_edit_table(tmp_path / "a.parquet", 8), 5)
    with pytest.raises(Fault, match="a.parquet group 1 row 1: instruction cannot be read") as raised:
        TableSource(str(file)).row(1, 1)
    assert raised.value.problem == "broken text"
    found = examples(data({"kind": "table", "path": str(file)}, held_out=1))
    assert {found[i]["texts"][0] for i in range(40)} == {f"edit {i}" for i in (1, 2, 3, 4, 6, 7)}
    assert found.reader.counts()[str(file)]["skipped"] > 0


def test_a_pattern_takes_what_lies_in_folders_and_no_other_part(tmp_path):
    """As the hub's tool leaves OmniEdit."""
    for part in ("train-00000-of-00002", "train-00001-of-00002", "dev-00000-of-00001"):
        write_edit_table(tmp_path / "data" / f"{part}.parquet", 2)
    source = TableSource(f"{tmp_path}/**/train-*.parquet")
    assert [file.name[:11] for file in source.files] == ["train-00000", "train-00001"]


def test_sources_that_are_not_there_are_told(tmp_path):
    write_captions(tmp_path / "own", 2)
    shard = write_shard(tmp_path / "0.tar", {"0": {"txt": b"nothing is opened"}})
    there = [{"kind": "folder", "path": f"{tmp_path}/own"}, {"kind": "webdataset", "path": str(shard)}]
    assert missing_sources(data(*there, {"kind": "webdataset", "path": str(tmp_path)})) == []
    missing = missing_sources(
        data(
            *there,
            {"kind": "folder", "path": "no-folder"},
            {"kind": "table", "path": f"{tmp_path}/*.parquet"},
            {"kind": "webdataset", "path": str(tmp_path), "join": "none.jsonl"},
        )
    )
    expected = ("no folder 'no-folder'", "*.parquet' is neither", "no file 'none.jsonl' to join")
    assert len(missing) == 3 and all(words in said for words, said in zip(expected, missing, strict=True))


def test_a_source_that_every_worker_reads_whole_is_told_once(tmp_path, caplog):
    write_edit_table(tmp_path / "tables" / "a.parquet", 12, group=4)
    table = {"kind": "table", "path": f"{tmp_path}/tables"}
    own = {"kind": "folder", "path": str(write_captions(tmp_path / "own", 4))}  # one chunk: there is nothing to share
    Reader(data(table, own, held_out=1), (0, 30), 4)
    assert not caplog.records
    Reader(data(table, own, held_out=1, workers=2), (0, 30), 4)
    [record] = caplog.records
    said = record.getMessage()
    assert said.startswith(f"{tmp_path}/tables: its 3 shards or row groups are too few or too uneven for 2 lanes")
    assert record.levelname == "WARNING" and "take fewer data.workers" in said


def test_ratios_hold_and_every_row_comes(mixed):
    found = examples(mixed)
    texts = [found[i]["texts"][0] for i in range(100)]
    kinds = Counter("edit" if "edit" in t else "own" if t.startswith("change") else "caption" for t in texts)
    assert kinds == {"caption": 60, "edit": 30, "own": 10}
    assert len({text.split()[-1] for text in texts if text.startswith("change")}) == 5  # the sixth is held out


@pytest.mark.parametrize("weights", [(1, 1), (3, 1)])
def test_every_batch_of_several_processes_holds_the_sources_by_weight(tmp_path, weights):
    """One sample a process: the lanes must not all take the same source at the same time."""
    sources = [
        {"kind": "folder", "path": str(write_captions(tmp_path / name, 6, side=16)), "weight": weight}
        for name, weight in zip("ab", weights, strict=True)
    ]

    def opened():
        return Reader(data(*sources, held_out=1, processes=8, workers=2), (0, 30), 8)

    found = opened()
    samples = [found.read(i, lambda row: (row.pictures[0].parent.name, row.id)) for i in range(8 * 120)]
    share = weights[0] / sum(weights)
    for start in range(0, len(samples), 8):
        assert sum(name == "a" for name, _ in samples[start : start + 8]) == 8 * share
    for lane in range(16):
        own = [name for i, (name, _) in enumerate(samples) if found.lanes.locate(i)[0] == lane]
        assert abs(own.count("a") - share * len(own)) <= 1
    times = Counter(samples)
    for name in "ab":
        rows = [count for (folder, _), count in times.items() if folder == name]
        assert len(rows) == 5 and max(rows) - min(rows) <= 2, "no row is left out, none comes too often"
    again = opened()
    assert [again.read(i, lambda row: row.id) for i in range(900, 960)] == [name for _, name in samples[900:]]


def test_the_process_and_its_workers_count_on_lines_of_their_own(tmp_path, monkeypatch):
    found = Reader(data({"kind": "folder", "path": str(write_captions(tmp_path, 4))}, held_out=1), (0, 30), 2)
    for worker in (None, SimpleNamespace(id=0), SimpleNamespace(id=reader.WORKERS - 1)):
        monkeypatch.setattr(reader, "get_worker_info", lambda worker=worker: worker)
        found.read(0, lambda row: row)
    assert found._counts[:, 0, 0].max() == 1 and found.counts()[str(tmp_path)]["read"] == 3


def test_a_worker_keeps_a_window_of_row_groups_for_each_lane_it_meets(tmp_path):
    table = {"kind": "table", "path": str(write_edit_table(tmp_path / "a.parquet", 9, group=1).parent)}
    found = examples(data(table, held_out=1, window=1, processes=2))
    for i in range(2):  # the first half of a batch: one lane
        found[i]
    assert len(found.reader.sources[0]._read) == 1
    for i in range(12):
        found[i]
    assert len(found.reader.sources[0]._read) == 2


def test_captions_have_no_source_and_edits_have_both_pictures(mixed):
    found = examples(mixed)
    for i in range(20):
        item = found[i]
        assert item["images"].shape == (2, 3, SIZE, SIZE) and item["noise"].shape == (1, 2, 2, 2, 2)
        editing = "edit" in item["texts"][0] or item["texts"][0].startswith("change")
        assert item["source"].tolist() == [1 if editing else -1] and item["target"].tolist() == [0]
        assert item["images"][0].any() and bool(item["images"][1].any()) == editing


def test_a_sample_depends_on_its_number_alone(mixed):
    alone = examples(mixed)
    batches = DataLoader(Subset(examples(mixed), range(8, 20)), batch_size=4, num_workers=2)
    read = [item for batch in batches for item in zip(batch["images"], batch["noise"], batch["texts"][0], strict=True)]
    for number, (pictures, noise, text) in zip(range(8, 20), read, strict=True):
        item = alone[number]
        assert item["texts"] == [text]
        assert torch.equal(item["images"], pictures) and torch.equal(item["noise"], noise)
    assert not torch.equal(examples(mixed, seed=1)[8]["noise"], alone[8]["noise"])


def test_rows_of_every_kind_are_named(mixed):
    found = examples(mixed)
    shards, tables, own = (settings.path for settings in mixed.sources)
    rows = names(found, range(40))
    assert [len(rows[path]) for path in (shards, tables, own)] == [24, 12, 4]
    expected = {shards: r"000\d\.tar/0000\d\d", tables: r"task_\d+", own: r"e\d"}
    assert all(re.fullmatch(expected[path], row) for path, ids in rows.items() for row in ids)
    drawn = ScenePictures(0, 20, 4, PictureSettings(crop=32))
    assert names(drawn, range(4)) == {}


def test_held_out_rows_are_not_trained_on(mixed):
    trained, checked = examples(mixed), examples(mixed, held_out=True)
    rows = []
    for found in (trained, checked):
        items = [found[i] for i in range(120)]
        rows.append({(item["source"].item(), item["texts"][0].split()[-1]) for item in items})
    captions = [{number for source, number in part if source < 0} for part in rows]
    assert captions[1] and not captions[0] & captions[1]
    assert len(captions[0] | captions[1]) == 30


@pytest.mark.parametrize("ids", [(), ("id",), ("img_id", "turn_index")])
def test_no_other_edit_of_a_held_out_picture_is_trained_on(ids, tmp_path):
    rows = [
        {"source": f"{i}.png", "instruction": "x", "target": f"{i}{t}.png", "id": f"{i} {t}", "img_id": i,
         "turn_index": t} for i in range(10) for t in range(3)
    ]  # fmt: skip
    columns = {"source", "instruction", "target", *ids}
    rows = [{name: value for name, value in row.items() if name in columns} for row in rows]
    found = Reader(data({"kind": "folder", "path": str(write_list(tmp_path, "e.jsonl", rows))}, held_out=4), (0, 30), 2)
    trained, checked = (
        {found.read(i, lambda row: row.pictures[0].name, held_out) for i in range(90)} for held_out in (False, True)
    )
    assert len(checked) == 1 and len(trained) == 9 and not checked & trained


def test_broken_rows_give_way_to_others_and_are_counted(tmp_path):
    write_captions(tmp_path, 12)
    for broken in (1, 4, 7):
        (tmp_path / f"{broken}.png").write_bytes(b"no picture")
    settings = data({"kind": "folder", "path": str(tmp_path)}, held_out=1)
    found = examples(settings)
    loader = DataLoader(Subset(found, range(40)), batch_size=4, num_workers=2)
    texts = [text for batch in loader for text in batch["texts"][0]]
    assert len(texts) == 40 and not {f"picture {i}" for i in (1, 4, 7)} & set(texts)
    counts = found.reader.counts()[str(tmp_path)]
    assert counts["read"] - counts["skipped"] == 40 and counts["skipped"] >= 3
    again = examples(settings)
    assert [again[i]["texts"][0] for i in range(40)] == texts
    # Of a batch that went wrong, the names are those of the rows that were really read.
    rows = names(again, range(40))[str(tmp_path)]
    assert rows == [f"row {int(text.removeprefix('picture ')) + 1}" for text in texts]


def test_a_source_that_is_mostly_broken_stops_the_run(tmp_path):
    write_captions(tmp_path, 8)
    for broken in range(6):
        (tmp_path / f"{broken}.png").unlink()
    found = examples(data({"kind": "folder", "path": str(tmp_path)}, held_out=1))
    with pytest.raises(ValueError, match="cannot be used"):
        for i in range(400):
            found[i]


def test_pictures_without_words_are_for_tokenizers(tmp_path):
    for i in range(4):
        picture(i, 40, 30).save(tmp_path / f"{i}.png")
    settings = data({"kind": "folder", "path": str(tmp_path)}, crop="random", held_out=1)
    pictures = PictureFiles(Reader(settings, (0, 20), 2), 10, SIZE)
    item = pictures[3]
    assert item["image"].shape == (3, SIZE, SIZE) and item["image"].dtype == torch.uint8
    assert item["index"] == 3 and item["label"] == 0 and len(pictures) == 10
    with pytest.raises(ValueError, match="pictures without words"):
        examples(settings)
    with pytest.raises(ValueError, match="resize=8 is smaller"):
        PictureFiles(Reader(settings.model_copy(update={"resize": 8}), (0, 20), 2), 10, SIZE)


def test_edits_serve_a_tokenizer_as_pictures(mixed):
    pictures = PictureFiles(Reader(mixed, (0, 20), 4), 50, SIZE)
    assert len({pictures[i]["image"].numpy().tobytes() for i in range(50)}) > 35
