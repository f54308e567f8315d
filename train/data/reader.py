"""Reads a mixture of sources by sample number; rows that cannot be used are skipped and counted.

Sample i is a pure function of the seed, i and the files: the row, whichever row takes its place when it is broken, and
all chance in it. So a resumed run, and any number of processes and workers, sees the same samples.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from .folders import FolderSource
from .order import Lanes, Mixture, Order
from .rows import Fault, Row
from .settings import DataSettings, SourceSettings
from .shards import ShardSource, find_files
from .tables import TableSource

logger = logging.getLogger(__name__)

Source = FolderSource | ShardSource | TableSource
T = TypeVar("T")

ATTEMPTS = 50
# The row that stands in for a broken one lies so far ahead: seldom in the same batch, mostly in the same shards.
AHEAD = 101
# A source is not merely scratched when so many rows, and this share of those read, were skipped by one worker.
TOO_MANY, TOO_LARGE_SHARE = 100, 0.1
TOLD = 10
WORKERS = 64
# Row groups of a table that a worker keeps in memory at most, however many lanes it meets.
MOST_KEPT = 16


def open_source(settings: SourceSettings, kept: int = 4) -> Source:
    """The source that the settings describe; ValueError when there is nothing to read or its columns are not known."""
    if settings.kind == "folder":
        return FolderSource(settings.path, settings.columns)
    if settings.kind == "webdataset":
        return ShardSource(settings.path, settings.columns, settings.index, settings.join)
    return TableSource(settings.path, settings.columns, kept)


def missing_sources(data: DataSettings) -> list[str]:
    """What of the sources is not there, a sentence each. Names alone are looked at: quick, before hours of training."""
    missing = []
    for source in data.sources:
        if source.kind == "folder":
            if not Path(source.path).expanduser().is_dir():
                missing.append(f"there is no folder {source.path!r}")
        else:
            try:
                find_files(source.path, ".tar" if source.kind == "webdataset" else ".parquet")
            except ValueError as error:
                missing.append(str(error))
        if source.join is not None and not source.join.expanduser().is_file():
            missing.append(f"there is no file {str(source.join)!r} to join")
    return missing


class Reader:
    """The sources of a `data` section, opened.

    Args:
        key: seed and the like; another key is another order.
        batch: samples per step over all processes.

    Attributes:
        kinds: the kinds of data that the sources hold: "pictures", "captions", "edits".
        latest: of the row that this process used last: its source and its id.
    """

    def __init__(self, data: DataSettings, key: tuple[int, ...], batch: int):
        self.data, self.key = data, key
        self.sources = [open_source(settings, data.window) for settings in data.sources]
        self.kinds = {source.columns.kind for source in self.sources}
        self.lanes = Lanes(batch, data.processes, data.workers)
        self.mixture = Mixture([settings.weight for settings in data.sources])
        self.kept = [_kept_rows(source, data.held_out) for source in self.sources]
        self.orders = [
            Order(source.sizes - kept, (*key, number), self.lanes.count, data.window)
            for number, (source, kept) in enumerate(zip(self.sources, self.kept, strict=True))
        ]
        self.held_out = [[(int(c), row) for c in np.flatnonzero(kept) for row in range(kept[c])] for kept in self.kept]
        self.latest: tuple[str, str] | None = None
        self._lanes_met: set[int] = set()
        # Read and skipped rows of each source. The process itself has the first line, every worker one of its own, so
        # that none is lost.
        self._counts = torch.zeros(1 + WORKERS, len(self.sources), 2, dtype=torch.int64).share_memory_()
        for settings, source in zip(data.sources, self.sources, strict=True):
            for _, note in source.notes:
                logger.warning("%s: %s", settings.path, note)
        for settings, order in zip(data.sources, self.orders, strict=True):
            if not order.parted and (chunks := np.count_nonzero(order.sizes)) > 1:
                logger.warning(
                    "%s: its %d shards or row groups are too few or too uneven for %d lanes (data.processes=%d x "
                    "data.workers=%d), so every worker reads all of them; take fewer data.workers: five of about one "
                    "size for each lane are enough",
                    settings.path, chunks, self.lanes.count, data.processes, data.workers,
                )  # fmt: skip

    def read(self, sample: int, use: Callable[[Row], T], held_out: bool = False) -> T:
        """What `use` makes of a sample's row; rows at which it raises a `Fault` give way to later ones."""
        number, first, lane = 0, 0, 0
        if held_out:
            number, first = self.mixture.locate(sample)
        else:
            lane, in_lane = self.lanes.locate(sample)
            self._meet(lane)
            # Lanes side by side in a batch are side by side in the mixture, so that a batch is a stretch of it too.
            number, first = self.mixture.locate(in_lane, lane * self.lanes.width)
        source, kept, order = self.sources[number], self.kept[number], self.orders[number]
        for attempt in range(ATTEMPTS):
            if held_out:
                places = self.held_out[number]
                chunk, row = places[(first + attempt) % len(places)]
            else:
                chunk, row = order.locate(lane, first + attempt * AHEAD)
                row += int(kept[chunk])
            try:
                found = source.row(chunk, row)
                result = use(found)
            except Fault as fault:
                self._count(number, fault)
            else:
                self._count(number, None)
                self.latest = (self.data.sources[number].path, found.id)
                return result
        raise ValueError(
            f"{ATTEMPTS} rows in a row of {self.data.sources[number].path} cannot be used; "
            "python -m train data check says why"
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows read and skipped so far, by source; of all workers of this process."""
        totals = self._counts.sum(0).tolist()
        return {
            settings.path: {"read": read, "skipped": skipped}
            for settings, (read, skipped) in zip(self.data.sources, totals, strict=True)
        }

    def _meet(self, lane: int) -> None:
        """Every lane that this worker reads has a window of its own, which should stay in memory."""
        if lane not in self._lanes_met:
            self._lanes_met.add(lane)
            for source in self.sources:
                if isinstance(source, TableSource):
                    source.kept = min(MOST_KEPT, self.data.window * len(self._lanes_met))

    def _count(self, number: int, fault: Fault | None) -> None:
        worker = get_worker_info()
        counts = self._counts[1 + worker.id % WORKERS if worker else 0, number]
        counts[0] += 1
        if fault is None:
            return
        counts[1] += 1
        read, skipped = counts.tolist()
        if skipped <= TOLD:
            logger.warning("skipped (%s): %s", fault.problem, fault)
        if skipped >= TOO_MANY and skipped > TOO_LARGE_SHARE * read:
            raise ValueError(
                f"{skipped} of {read} rows of {self.data.sources[number].path} cannot be used, the last one: {fault}; "
                "python -m train data check says what is wrong"
            )


def names(dataset: Dataset, samples: Iterable[int]) -> dict[str, list[str]]:
    """Which rows the samples of a dataset are, for people who look for them: source → ids. Nothing where no reader
    reads them, as drawn scenes.

    The samples are read once more, since a row that cannot be used has given way to another one.
    """
    found: dict[str, list[str]] = {}
    reader = getattr(dataset, "reader", None)
    for sample in samples if reader is not None else ():
        dataset[sample]
        source, row = reader.latest
        found.setdefault(source, []).append(row)
    return found


def _kept_rows(source: Source, wanted: int) -> np.ndarray:
    """How many rows at the beginning of each chunk are kept for checking, about `wanted` in all; of a folder all rows
    of a picture or none."""
    sizes = source.sizes
    total = int(sizes.sum())
    if total < 2:
        raise ValueError("a source needs two rows at least, one to learn from and one to check with")
    wanted = min(wanted, max(1, total // 4))
    each = -(-wanted // int(np.count_nonzero(sizes)))
    kept = np.minimum(sizes, each)
    kept[kept.cumsum() - kept >= wanted] = 0
    if isinstance(source, FolderSource):
        kept[0] = source.whole_pictures(int(kept[0]))
    return kept
