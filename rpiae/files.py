"""Files that appear under their name complete, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """`with whole(path) as part:` write `part`; at the end of the block it takes the place of `path`. When the block is
    left by an error it is removed, and what stood at `path` stays."""
    path = Path(path)
    # In the same folder, because only there the last step is one that either happens or does not.
    part = path.with_name(f".{path.stem[:40]}-{uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
