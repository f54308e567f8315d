"""In which order rows are read: pure functions of the seed and a sample's number, so that a resumed run, and any number
of processes and workers, reads the same.

    sample number → lane and number in the lane → source and number in the source → chunk and row

A chunk is what is cheap to read together: a tar shard, a parquet row group, a whole folder.
"""

from heapq import heapreplace

import numpy as np

# The pattern of a mixture repeats after so many samples: ratios hold to a thousandth.
PERIOD = 1000
KEPT_PERMUTATIONS = 8
# Lanes go forward together, so the rows of a lane with fewer of them come more often: at most by this factor.
MOST_UNEVEN = 1.25


class Lanes:
    """Deals the samples of every batch to `processes` x `workers` lanes.

    With as many processes, each takes one contiguous part of every batch; with as many workers, a worker takes every
    `workers`-th batch. Each of them then meets one lane only.
    """

    def __init__(self, batch: int, processes: int = 1, workers: int = 1):
        if batch % processes:
            raise ValueError(f"data.processes={processes} does not divide the batch of {batch} samples")
        self.batch, self.processes, self.workers = batch, processes, workers
        self.count, self.width = processes * workers, batch // processes

    def locate(self, sample: int) -> tuple[int, int]:
        """Sample number → (lane, number in the lane)."""
        step, slot = divmod(sample, self.batch)
        turn, worker = divmod(step, self.workers)
        return worker * self.processes + slot // self.width, turn * self.width + slot % self.width


class Mixture:
    """Which source each number takes, so that every stretch of numbers holds the sources in proportion to their
    weights, to one or two."""

    def __init__(self, weights: list[float]):
        shares = np.array(weights, float) / sum(weights)
        due = np.zeros(len(shares))
        pattern = []
        for _ in range(PERIOD):
            due += shares
            chosen = int(due.argmax())
            due[chosen] -= 1
            pattern.append(chosen)
        self.pattern = np.array(pattern)
        taken = self.pattern[:, None] == np.arange(len(shares))
        self.counts = taken.sum(0)
        self.before = taken.cumsum(0) - taken

    def locate(self, number: int, start: int = 0) -> tuple[int, int]:
        """Number, counted from a place in the pattern → (source, how many of that source came since that place)."""
        source = int(self.pattern[(start + number) % PERIOD])
        return source, self._before(start + number, source) - self._before(start, source)

    def _before(self, place: int, source: int) -> int:
        period, place = divmod(place, PERIOD)
        return int(period * self.counts[source] + self.before[place, source])


class Order:
    """A source's rows in one lane: chunks in a random order, `window` of them shuffled together; new in every epoch.

    A lane has chunks of its own when there are enough of them and no lane gets many more rows than another; otherwise
    all lanes take turns in one order.
    """

    def __init__(self, sizes: np.ndarray, key: tuple[int, ...], lanes: int = 1, window: int = 4):
        filled = np.flatnonzero(sizes)
        if not len(filled):
            raise ValueError("there are no rows to read")
        self.sizes, self.key, self.lanes, self.window = np.asarray(sizes), key, lanes, window
        self.chunks = _dealt(self.sizes, filled, lanes)
        self.totals = [int(self.sizes[chunks].sum()) for chunks in self.chunks]
        self.parted = len(filled) >= lanes and max(self.totals) <= MOST_UNEVEN * min(self.totals)
        if not self.parted:
            self.chunks, self.totals = [filled], [sum(self.totals)]
        self._permutations: dict[tuple[int, ...], np.ndarray] = {}

    def locate(self, lane: int, number: int) -> tuple[int, int]:
        """Number in the lane → (chunk, row)."""
        if not self.parted:
            lane, number = 0, number * self.lanes + lane
        epoch, place = divmod(number, self.totals[lane])
        chunks = self.chunks[lane][self._permutation(len(self.chunks[lane]), lane, epoch)]
        ends = self.sizes[chunks].cumsum()[self.window - 1 :: self.window]
        group = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[group - 1]) if group else 0
        together = chunks[group * self.window : (group + 1) * self.window]
        sizes = self.sizes[together]
        row = self._permutation(int(sizes.sum()), lane, epoch, group)[place - start]
        ends = sizes.cumsum()
        chunk = int(np.searchsorted(ends, row, side="right"))
        return int(together[chunk]), int(row - (ends[chunk] - sizes[chunk]))

    def _permutation(self, length: int, *key: int) -> np.ndarray:
        if key not in self._permutations:
            while len(self._permutations) >= KEPT_PERMUTATIONS * self.lanes:
                del self._permutations[next(iter(self._permutations))]
            self._permutations[key] = np.random.default_rng([*self.key, *key]).permutation(length)
        return self._permutations[key]


def _dealt(sizes: np.ndarray, filled: np.ndarray, lanes: int) -> list[np.ndarray]:
    """The chunks of each lane: the largest first, each to the lane with the fewest rows so far.

    Dealt in turns, the short last row groups of all files could meet in the same lanes.
    """
    rows = [(0, lane) for lane in range(lanes)]
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    for chunk in filled[np.argsort(-sizes[filled], kind="stable")].tolist():
        total, lane = rows[0]
        dealt[lane].append(chunk)
        heapreplace(rows, (total + int(sizes[chunk]), lane))
    return [np.array(sorted(chunks), np.int64) for chunks in dealt]
