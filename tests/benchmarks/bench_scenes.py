"""Sticker scenes: pictures, captions and edits a second on one core, caches warm.

    PYTHONPATH=. python tests/benchmarks/bench_scenes.py [OUT.json]

Prints a table and writes the same numbers as JSON. "first" is the drawing rate of a fresh process with the atlas
on disk; "PIL paste" draws the same scenes with PIL instead, measured side by side.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.scenes import caption, draw, sample_edit, sample_scene, sprite, warm_up
from train.data.scenes.backgrounds import background

COUNT = 2000


def rate(work, items) -> float:
    """Items a second over the whole list; the results are not kept."""
    start = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - start)


def pasted(scene) -> np.ndarray:
    """The scene by PIL's own paste, the plain way to draw it."""
    canvas = Image.fromarray(background(scene.background))
    for one in scene.objects:
        art = Image.fromarray(sprite(one, scene.style), "RGBA")
        canvas.paste(art, one.corner, art)
    return np.asarray(canvas)


def main(out: Path) -> None:
    start = time.perf_counter()
    warm_up()
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(COUNT)]
    edits = [sample_edit(rng) for _ in range(COUNT)]
    numbers = {"warm_up_seconds": seconds, "first": rate(draw, scenes)}
    rate(draw, [edit.target for edit in edits])
    rounds = [(rate(draw, scenes), rate(pasted, scenes)) for _ in range(3)]
    ours, pil = map(max, zip(*rounds, strict=True))
    numbers |= {
        "draw": ours,
        "PIL paste": pil,
        "draw / PIL paste": ours / pil,
        "draw edit targets": rate(draw, [edit.target for edit in edits]),
        "sample_scene": rate(lambda _: sample_scene(rng), scenes),
        "caption": rate(lambda scene: caption(scene, rng), scenes),
        "sample_edit": rate(lambda _: sample_edit(rng), edits),
    }
    print("| what | a second |\n| --- | ---: |")
    for name, number in numbers.items():
        print(f"| {name} | {number:,.1f} |")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/bench_scenes.json"))
