"""Order: every row once an epoch, ratios that hold, lanes that share no shard, the same whatever reads."""

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from train.config import load_config
from train.data.order import PERIOD, Lanes, Mixture, Order


@pytest.mark.parametrize(("sizes", "lanes", "window"), [([7], 1, 4), ([3, 0, 5, 6, 2], 2, 2), ([4, 4], 3, 1)])
def test_an_epoch_reads_every_row_once_and_the_next_one_in_another_order(sizes, lanes, window):
    order = Order(np.array(sizes), (0, 1), lanes, window)
    everything = sorted((chunk, row) for chunk, size in enumerate(sizes) for row in range(size))
    if order.parted:
        read = [[order.locate(lane, n) for n in range(2 * order.totals[lane])] for lane in range(lanes)]
        epochs = [sum((r[e * len(r) // 2 : (e + 1) * len(r) // 2] for r in read), []) for e in range(2)]
    else:
        whole = [order.locate(n % lanes, n // lanes) for n in range(2 * sum(sizes))]
        epochs = [whole[: sum(sizes)], whole[sum(sizes) :]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]


def test_a_window_keeps_few_chunks_open():
    order = Order(np.full(12, 10), (3,), window=3)
    read = [order.locate(0, n)[0] for n in range(120)]
    for start in range(0, 120, 30):
        assert len(set(read[start : start + 30])) == 3
    assert len(set(read[:10])) > 1, "chunks of one window are shuffled together"


def test_another_key_is_another_order():
    first, again, other = (Order(np.full(4, 25), key) for key in ((0, 7), (0, 7), (1, 7)))
    rows = [[order.locate(0, n) for n in range(100)] for order in (first, again, other)]
    assert rows[0] == rows[1] != rows[2]


def test_ratios_hold_in_every_stretch_and_each_source_is_counted_without_gaps():
    mixture = Mixture([5, 3, 1.2])
    found = [mixture.locate(n) for n in range(3 * PERIOD)]
    for start in (0, 17, 995, 1234):
        for length in (23, 184, 1000):
            counts = Counter(source for source, _ in found[start : start + length])
            for source, weight in enumerate([5, 3, 1.2]):
                assert abs(counts[source] - length * weight / 9.2) < 2
    for source in range(3):
        assert [rank for chosen, rank in found if chosen == source] == list(range(Counter(s for s, _ in found)[source]))


def test_the_mixture_may_begin_anywhere_and_counts_from_there():
    mixture = Mixture([5, 3, 1.2])
    for start in (3, PERIOD - 1, 2 * PERIOD + 17):
        found = [mixture.locate(n, start) for n in range(PERIOD)]
        assert [source for source, _ in found] == [mixture.locate(start + n)[0] for n in range(PERIOD)]
        for source in range(3):
            ranks = [rank for chosen, rank in found if chosen == source]
            assert ranks == list(range(len(ranks)))


def test_lanes_that_would_be_uneven_take_turns_so_that_all_rows_come_equally_often():
    order = Order(np.full(4, 10), (0,), lanes=3)
    rows = Counter(order.locate(lane, n) for n in range(40) for lane in range(3))
    assert not order.parted and set(rows.values()) == {3}
    assert Order(np.full(9, 10), (0,), lanes=2).parted, "five to four"
    assert not Order(np.array([26, 20]), (0,), lanes=2).parted
    assert not Order(np.full(257, 10), (0,), lanes=256).parted


def test_short_last_row_groups_of_files_do_not_meet_in_the_same_lanes():
    order = Order(np.array([1000, 195] * 40), (0,), lanes=8)
    assert order.parted and set(order.totals) == {5 * 1195}
    assert sorted(np.concatenate(order.chunks)) == list(range(80))


@pytest.mark.parametrize(
    ("stage", "sizes"),
    [
        ("text", [11_000] * 996),  # CC12M
        ("edit", [11_000] * 996),
        ("edit", [1000, 195] * 262),  # InstructPix2Pix, whichever its row groups are
        ("edit", [1195] * 262),
    ],
)
def test_text_edit_256_gives_every_loader_worker_shards_of_its_own(stage, sizes):
    settings = load_config("text-edit-256").stages[stage]
    data = settings.data
    lanes = Lanes(settings.batch_size, data.processes, data.workers)
    assert Order(np.array(sizes), (0,), lanes.count, data.window).parted
    assert data.processes % (8 * settings.accumulate) == 0, "of 8 GPUs"
    assert data.workers * settings.accumulate % settings.workers == 0


def test_lanes_give_each_process_and_worker_shards_of_its_own():
    """2 processes, each with the contiguous half of every batch, 3 workers that take batches in turn."""
    lanes, order = Lanes(8, processes=2, workers=3), Order(np.full(25, 20), (0,), lanes=6)
    shards: dict[tuple[int, int], set[int]] = {}
    numbers: dict[int, list[int]] = {}
    for sample in range(8 * 75):
        step, slot = divmod(sample, 8)
        lane, number = lanes.locate(sample)
        numbers.setdefault(lane, []).append(number)
        shards.setdefault((slot // 4, step % 3), set()).add(order.locate(lane, number)[0])
    assert sum(len(own) for own in shards.values()) == len(set().union(*shards.values())) == 25
    assert all(own == list(range(len(own))) for own in numbers.values())


@pytest.mark.parametrize(
    ("processes", "accumulate", "workers"), [(1, 1, 1), (2, 1, 3), (2, 2, 2), (4, 1, 6), (2, 2, 4)]
)
def test_accelerate_and_the_loader_deal_samples_so_that_no_two_workers_share_a_lane(processes, accumulate, workers):
    """As `Loop` shares out batches of 8, lanes for 4 processes (or parts) and 6 workers."""
    lanes, part = Lanes(8, processes=4, workers=6), 8 // (processes * accumulate)
    met: dict[int, tuple[int, int]] = {}
    for process in range(processes):
        whole = BatchSampler(range(8 * 24), part, drop_last=True)
        for number, batch in enumerate(BatchSamplerShard(whole, processes, process)):
            for sample in batch:
                lane, _ = lanes.locate(sample)
                assert met.setdefault(lane, (process, number % workers)) == (process, number % workers)
    assert len(met) == lanes.count


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="processes=3 does not divide the batch of 8"):
        Lanes(8, processes=3)
