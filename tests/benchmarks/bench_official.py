"""The authors' models at their real size on a CPU: memory and time to load, reconstruct and draw one 256 px picture.

    PYTHONPATH=. python tests/benchmarks/bench_official.py [--points N] [--folder DIR] [--output FILE]

The released files are not here: files of the same keys and shapes are written from random weights (5 GB, removed
again). Each measurement is a process of its own; memory is its highest resident set.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

KEYS = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
TOKENIZER, TRANSFORMER = "rpiae_stage3_1_c64_ema.pt", "ep-0000800.pt"
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


def highest_memory() -> int:
    """Bytes of this process's highest resident set."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(folder: Path, points: int) -> dict[str, float]:
    """Load both files, reconstruct a picture, draw one; what it took."""
    from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel

    numbers = {"imports, GB": highest_memory() / 1e9}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        numbers[f"{name}, s"] = time.perf_counter() - clock
        numbers[f"peak after {name}, GB"] = highest_memory() / 1e9
        clock = time.perf_counter()

    vae = AutoencoderRPiAE.from_official(folder / TOKENIZER)
    lap("load tokenizer")
    transformer = LightningDiT2DModel.from_official(folder / TRANSFORMER)
    lap("load transformer")
    with torch.no_grad():
        reconstruction = vae(torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    lap("reconstruct")
    pipe = ClassConditionalPipeline(vae=vae, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipe(207, num_inference_steps=points, guidance_scale=1.5, generator=generator, output_type="pt").images
    lap("draw")
    assert reconstruction.shape == picture.shape == (1, 3, 256, 256)
    assert reconstruction.isfinite().all() and picture.isfinite().all()
    numbers["parameters"] = sum(one.numel() for model in (vae, transformer) for one in model.parameters())
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4, help="of the authors' grid: one update fewer")
    parser.add_argument("--folder", type=Path, default=None, help="where to write the files; default: a temporary one")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_official.json"))
    parser.add_argument("--part", choices=("write", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "write":
        return write(options.folder)
    if options.part == "measure":
        return print(json.dumps(measure(options.folder, options.points)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, __file__, "--folder", folder, "--points", str(options.points), "--part"]
        subprocess.run([*command, "write"], check=True)
        done = subprocess.run([*command, "measure"], check=True, capture_output=True, text=True)
        sizes = {file.name: file.stat().st_size / 1e9 for file in sorted(Path(folder).iterdir())}
    numbers = json.loads(done.stdout.splitlines()[-1])
    result = {"threads": torch.get_num_threads(), "points": options.points, "files, GB": sizes, **numbers}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, value in ({f"{name}, GB": size for name, size in sizes.items()} | numbers).items():
        print(f"| {name} | {value:,.2f} |")
    peak = numbers["peak after draw, GB"]
    assert peak < LIMIT / 1e9, f"the peak of {peak:.1f} GB is above {LIMIT / 1e9:.0f} GB"


if __name__ == "__main__":
    main()
