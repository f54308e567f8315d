"""Sticker scenes: pictures, captions and edits a second on one core, caches warm.

    PYTHONPATH=. python tests/benchmarks/bench_scenes.py [--output DIR] [--repeats N] [--quick]

"The first time" is the drawing rate of a fresh process with the atlas on disk; "later" draws the same scenes again.
The goal is for scenes that were not drawn before, in a process that has drawn others.
"""

import time

import numpy as np
from PIL import Image
from side_by_side import Table, parse, parser, side_by_side

from train.data.scenes import caption, draw, sample_edit, sample_scene, sprite, warm_up
from train.data.scenes.backgrounds import background

COUNT = 2000
GOAL = 2000  # scenes a second


def rate(work, items) -> float:
    """Items a second over the whole list; the results are not kept."""
    start = time.perf_counter()
    each(work, items)
    return len(items) / (time.perf_counter() - start)


def each(work, items) -> None:
    for item in items:
        work(item)


def pasted(scene) -> np.ndarray:
    """The scene by PIL's own paste, the plain way to draw it."""
    canvas = Image.fromarray(background(scene.background))
    for one in scene.objects:
        art = Image.fromarray(sprite(one, scene.style), "RGBA")
        canvas.paste(art, one.corner, art)
    return np.asarray(canvas)


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__, repeats=3), arguments)
    table, count = Table("scenes", options), 20 if options.quick else COUNT
    start = time.perf_counter()
    warm_up()
    warming = time.perf_counter() - start
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(count)]
    edits = [sample_edit(rng) for _ in range(count)]
    first = rate(draw, scenes)
    fresh = rate(draw, [sample_scene(rng) for _ in range(count)])
    works = {
        "draw": lambda: each(draw, scenes),
        "paste": lambda: each(pasted, scenes),
        "targets": lambda: each(draw, [edit.target for edit in edits]),
        "scenes": lambda: each(lambda _: sample_scene(rng), scenes),
        "captions": lambda: each(lambda scene: caption(scene, rng), scenes),
        "edits": lambda: each(lambda _: sample_edit(rng), scenes),
    }
    rates = {name: count / took for name, took in side_by_side(works, options.repeats).items()}
    unit = "a second"
    table.ratio(f"scenes drawn, each new / {GOAL:,}", fresh, GOAL, unit, least=1)
    table.ratio("scenes drawn / drawn with PIL's paste", rates["draw"], rates["paste"], unit)
    note = f"{warming:.2f} s to warm up before"
    table.ratio("scenes drawn the first time / later", first, rates["draw"], unit, note=note)
    table.ratio("edits' targets drawn / scenes drawn", rates["targets"], rates["draw"], unit)
    table.ratio("scenes sampled / drawn", rates["scenes"], rates["draw"], unit)
    table.ratio("captions written / scenes drawn", rates["captions"], rates["draw"], unit)
    table.ratio("edits sampled / scenes drawn", rates["edits"], rates["draw"], unit)
    table.finish()


if __name__ == "__main__":
    main()
