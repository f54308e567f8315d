"""Pictures and recipes of several jobs as one zip, written while it is sent and nowhere gathered."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.store import Record, Store

BLOCK = 1 << 18


class _Pipe:
    """A file that can only be written to; what was written is taken out again and sent."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data, self.waiting = b"".join(self.waiting), []
        return data


def entries(store: Store, record: Record) -> Iterator[tuple[str, Path | str]]:
    """Names in the zip, each with the file it comes from or the text it holds."""
    for picture in record.pictures:
        path = store.file(record.id, picture["file"])
        if path is not None:
            yield path.name, path
            yield f"{path.stem}.json", json.dumps(picture.get("recipe"), ensure_ascii=False, indent=1)
    if record.rows:
        stem = f"compare_{record.id[:8]}"
        files = {row.get(part) for row in record.rows for part in ("reconstruction", "drawn")}
        files |= {record.source["file"] if record.source else None}
        for name in sorted(filter(None, files)):
            path = store.file(record.id, name)
            if path is not None:
                yield f"{stem}_{name}", path
        yield f"{stem}.json", json.dumps(record.rows, ensure_ascii=False, indent=1)


def zip_stream(store: Store, records: Iterable[Record]) -> Iterator[bytes]:
    """The zip in blocks. PNG is packed already, so files go in as they are; one that is gone by now is left out."""
    pipe, names = _Pipe(), set()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for record in records:
            for name, content in entries(store, record):
                if name in names:
                    continue
                names.add(name)
                if isinstance(content, str):
                    archive.writestr(name, content)
                    yield pipe.take()
                    continue
                try:
                    source = content.open("rb")
                except OSError:
                    continue
                with source, archive.open(name, "w") as entry:
                    while block := source.read(BLOCK):
                        entry.write(block)
                        yield pipe.take()
    yield pipe.take()
