"""Data of one's own: samples a second by one process from a folder, tar shards and a parquet table, against opening and
cropping the same pictures and nothing else. `bench_training.py --config NAME` has the loader against a training step.

    PYTHONPATH=. python tests/benchmarks/bench_data.py [--output DIR] [--repeats N] [--quick]
"""

import json
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
from side_by_side import Table, parse, parser, side_by_side

from rpiae import images
from tests.train.data.files import encoded, picture, write_edit_table, write_shard
from train.data.crop import adm_center_crop
from train.data.examples import Examples
from train.data.reader import Reader
from train.data.settings import DataSettings

SIZE, SIDE = 256, 512


def written(folder: Path, rows: int) -> dict[str, str]:
    """The same captioned JPEGs as a folder and as shards, and a table of edits; kind → path."""
    pictures = [encoded(picture(i, SIDE, SIDE), "JPEG") for i in range(rows)]
    own = folder / "own"
    own.mkdir()
    for number, data in enumerate(pictures):
        (own / f"{number}.jpg").write_bytes(data)
        (own / f"{number}.txt").write_text(f"picture {number}")
    for shard in range(4):
        fields = {n: json.dumps({"caption": f"picture {n}"}).encode() for n in range(shard, rows, 4)}
        samples = {f"{n:06d}": {"jpg": pictures[n], "json": fields[n]} for n in fields}
        write_shard(folder / "shards" / f"{shard}.tar", samples)
    write_edit_table(folder / "tables" / "0.parquet", rows, group=max(2, rows // 8), side=SIDE)
    return {"folder": str(own), "webdataset": str(folder / "shards"), "table": str(folder / "tables")}


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__, repeats=3), arguments)
    table, rows = Table("data", options), 16 if options.quick else 256
    with tempfile.TemporaryDirectory() as name:
        paths = written(Path(name), rows)
        works, numbers = {}, count()
        for kind, path in paths.items():
            data = DataSettings(sources=({"kind": kind, "path": path},), held_out=1)
            examples = Examples(Reader(data, (0,), 8), 10**9, SIZE, (64, 16, 16), 1)
            works[kind] = lambda examples=examples: [examples[next(numbers)] for _ in range(rows)]
        files = sorted(Path(paths["folder"]).glob("*.jpg"))
        works["plain"] = lambda: [np.asarray(adm_center_crop(images.load(file), SIZE)) for file in files]
        rates = {kind: rows / took for kind, took in side_by_side(works, options.repeats).items()}
    for kind, pictures in (("folder", 1), ("webdataset", 1), ("table", 2)):
        what = f"{kind}, pictures read as samples / opened and cropped"
        table.ratio(what, pictures * rates[kind], rates["plain"], "a second")
    table.finish()


if __name__ == "__main__":
    main()
