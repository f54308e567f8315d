"""Small real data, written by the tests: pictures, lists, tar shards and parquet files."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A smooth picture whose mean colour tells its seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def write_list(folder: Path, name: str, rows: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_captions(folder: Path, count: int, side: int = 40) -> Path:
    """Pictures and captions.jsonl."""
    rows = [{"image": f"{i}.png", "caption": f"picture {i}"} for i in range(count)]
    write_list(folder, "captions.jsonl", rows)
    for i in range(count):
        picture(i, side, side).save(folder / f"{i}.png")
    return folder


def write_edits(folder: Path, count: int, side: int = 40) -> Path:
    """Pictures and edits.jsonl."""
    rows = [
        {"id": f"e{i}", "source": f"{i}a.png", "instruction": f"change {i}", "target": f"{i}b.png"}
        for i in range(count)
    ]
    write_list(folder, "edits.jsonl", rows)
    for i in range(count):
        picture(2 * i, side, side).save(folder / f"{i}a.png")
        picture(2 * i + 1, side, side).save(folder / f"{i}b.png")
    return folder


def write_shard(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """{"000017": {"jpg": ..., "json": ...}} as a tar file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for key, parts in samples.items():
            for part, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{part}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file


def write_caption_shards(folder: Path, shards: int, each: int, side: int = 40) -> Path:
    """Shards as CC12M's: jpg, txt and a JSON with a long and a short caption."""
    for shard in range(shards):
        samples = {}
        for i in range(each):
            number = shard * each + i
            fields = {"caption_llava": f"a long caption of {number}", "caption_llava_short": f"short {number}"}
            samples[f"{number:06d}"] = {
                "jpg": encoded(picture(number, side, side), "JPEG"),
                "txt": f"words {number}".encode(),
                "json": json.dumps(fields).encode(),
            }
        write_shard(folder / f"{shard:04d}.tar", samples)
    return folder


def break_text(file: Path, row: int) -> Path:
    """A table's instructions as plain strings, one of which is not UTF-8, though the table says so."""
    table = pq.read_table(file)
    words = [f"edit {i}".encode() for i in range(len(table))]
    words[row] = b"caf\xe9"
    unchecked = pa.array(words, pa.binary()).view(pa.string())
    table = table.drop(["edited_prompt_list"]).append_column("instruction", unchecked)
    pq.write_table(table, file, row_group_size=4)
    return file


def write_edit_table(file: Path, count: int, group: int = 4, side: int = 40, first: int = 0) -> Path:
    """A table with OmniEdit's columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    cells = [
        [{"bytes": encoded(picture(2 * i + part, side, side)), "path": f"{i}-{part}.png"} for i in numbers]
        for part in (0, 1)
    ]
    table = pa.table({
        "omni_edit_id": [f"task_{i}" for i in numbers],
        "src_img": cells[0],
        "edited_img": cells[1],
        "edited_prompt_list": [[f"edit {i}", f"please edit {i}"] for i in numbers],
        "o_score": [9.0 for _ in numbers],
    })  # fmt: skip
    pq.write_table(table, file, row_group_size=group)
    return file
