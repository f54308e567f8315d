"""The authors' models at their real size on a CPU: memory and time to load, reconstruct and draw one 256 px picture.

    PYTHONPATH=. python tests/benchmarks/bench_official.py [--points N] [--folder DIR] [--output DIR] [--quick]

The released files are not here: files of the same keys and shapes are written from random weights (5 GB, removed
again). Each measurement is a process of its own; memory is its highest resident set. A quick run takes the tests'
small files of the same layout.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from side_by_side import Table, highest_memory, parse, parser

KEYS = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
TOKENIZER, TRANSFORMER = "rpiae_stage3_1_c64_ema.pt", "ep-0000800.pt"
SMALL, SMALL_TRANSFORMER = "rpiae_stage3_1_c8_ema.pt", "dit_ep-0000800.pt"
LIMIT = 8e9


def random_weights(listing: str) -> dict[str, torch.Tensor]:
    """Tensors of the released names and shapes, of such sizes that activations stay finite."""
    torch.manual_seed(0)
    weights = {}
    for name, entry in json.loads((KEYS / listing).read_text())["keys"].items():
        shape = entry["shape"]
        if len(shape) > 1:
            weights[name] = torch.randn(shape) * (0.5 / shape[-1] ** 0.5)
        else:
            weights[name] = torch.ones(shape) if name.endswith("weight") else 0.02 * torch.randn(shape)
    return weights


def write(folder: Path) -> None:
    """A bare tokenizer, and a training checkpoint of the transformer (its two copies share their storage)."""
    torch.save(random_weights("official_tokenizer_keys.json"), folder / TOKENIZER)
    weights = random_weights("official_dit_keys.json")
    torch.save({"step": 1, "epoch": 800, "model": weights, "ema": weights}, folder / TRANSFORMER)


def measure(folder: Path, points: int, quick: bool) -> dict[str, float]:
    """Load both files, reconstruct a picture, draw one; what it took."""
    from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel

    numbers = {"imports, GB": highest_memory() / 1e9}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        numbers[f"{name}, s"] = time.perf_counter() - clock
        numbers[f"peak after {name}, GB"] = highest_memory() / 1e9
        clock = time.perf_counter()

    name, encoder_heads, decoder_heads = (SMALL, 3, 4) if quick else (TOKENIZER, 12, 16)
    vae = AutoencoderRPiAE.from_official(folder / name, encoder_heads, decoder_heads)
    lap("load tokenizer")
    name, heads = (SMALL_TRANSFORMER, 4) if quick else (TRANSFORMER, 16)
    transformer = LightningDiT2DModel.from_official(folder / name, heads)
    lap("load transformer")
    side = vae.config.image_size
    with torch.no_grad():
        reconstruction = vae(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
    lap("reconstruct")
    pipe = ClassConditionalPipeline(vae=vae, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipe(1, num_inference_steps=points, guidance_scale=1.5, generator=generator, output_type="pt").images
    lap("draw")
    assert reconstruction.shape == picture.shape == (1, 3, side, side)
    assert reconstruction.isfinite().all() and picture.isfinite().all()
    numbers["parameters"] = sum(one.numel() for model in (vae, transformer) for one in model.parameters())
    return numbers


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=1)
    made.add_argument("--points", type=int, default=4, help="of the authors' grid: one update fewer")
    made.add_argument("--folder", type=Path, default=None, help="where to write the files; default: a temporary one")
    made.add_argument("--part", choices=("write", "measure"), help=argparse.SUPPRESS)
    options = parse(made, arguments)
    options.repeats = 1  # every measurement is a process of its own
    if options.part == "write":
        return write(options.folder)
    if options.part == "measure":
        return print(json.dumps(measure(options.folder, options.points, options.quick)))
    if options.quick:
        return report(options, part("measure", KEYS, options))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        part("write", folder, options)
        report(options, part("measure", folder, options))


def part(which: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Has a process of its own do it; what it measured."""
    command = [sys.executable, __file__, "--folder", str(folder), "--points", str(options.points), "--part", which]
    command += ["--quick"] * options.quick
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if which == "measure" else {}


def report(options: argparse.Namespace, numbers: dict[str, float]) -> None:
    table = Table("official", options)
    weights, peak = 4 * numbers["parameters"] / 1e9, numbers["peak after draw, GB"]
    note = "load, reconstruct and draw one picture; imports included"
    table.ratio("peak memory / 8 GB", peak, LIMIT / 1e9, "GB", most=1, note=note)
    table.ratio("peak memory / the weights in float32", peak, weights, "GB")
    loaded = numbers["load tokenizer, s"] + numbers["load transformer, s"]
    table.ratio("loading both files / reconstructing a picture", loaded, numbers["reconstruct, s"])
    note = f"{options.points - 1} steps with guidance, and decoding"
    table.ratio("drawing a picture / reconstructing one", numbers["draw, s"], numbers["reconstruct, s"], note=note)
    table.finish()


if __name__ == "__main__":
    main()
