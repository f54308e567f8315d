"""Peak memory: an edit and a generation with all their parts, each against one SD-VAE round trip.

    PYTHONPATH=. python tests/benchmarks/bench_memory.py [--checkpoint DIR] [--output DIR] [--quick]

Every work is a process of its own that loads what it needs and does it once. On a CPU its highest resident set counts,
less what the imports took; on a GPU the most memory that tensors had there.
"""

import argparse
import subprocess
import sys

import torch
from PIL import Image
from side_by_side import CHECKPOINT, ROOT, Table, device, highest_memory, parse, parser

OTHER = "SD-VAE round trip"
WORKS = ("edit", "generation", OTHER)
SIDE, QUICK_SIDE = 256, 64


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=1)
    made.add_argument("--checkpoint", default=CHECKPOINT)
    made.add_argument("--part", choices=WORKS, help=argparse.SUPPRESS)
    options = parse(made, arguments)
    options.repeats = 1  # every measurement is a process of its own
    if options.part:
        return print(peak_of(options))
    table = Table("memory", options)
    peaks = {work: in_a_process(work, options) for work in WORKS}
    for work in ("edit", "generation"):
        table.ratio(f"peak memory, whole {work} / one {OTHER}", peaks[work] / 1e6, peaks[OTHER] / 1e6, "MB", most=1)
    table.finish()


def in_a_process(work: str, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--part", work, "--checkpoint", str(options.checkpoint)]
    command += ["--quick"] * options.quick
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return int(done.stdout.splitlines()[-1])


@torch.no_grad()
def peak_of(options: argparse.Namespace) -> int:
    """Bytes at the highest point of one work, over those of the imports."""
    from rpiae import RPiAEPipeline, images, tokenizers

    before = 0 if device() == "cuda" else highest_memory()
    if options.part == OTHER:
        side = QUICK_SIDE if options.quick else SIDE
        sd_vae = tokenizers.load("sd-vae", source="random").to(device())
        x = images.to_tensor(Image.effect_noise((side, side), 64).convert("RGB")).to(device())
        sd_vae.decode_(sd_vae.encode_(x))
    else:
        pipe = RPiAEPipeline.from_pretrained(options.checkpoint).to(device())
        pipe.set_progress_bar_config(disable=True)
        picture = Image.effect_noise((SIDE, SIDE), 64).convert("RGB")
        pipe("make the car blue", image=picture) if options.part == "edit" else pipe("a blue car")
    return torch.cuda.max_memory_allocated() if device() == "cuda" else highest_memory() - before


if __name__ == "__main__":
    main()
