"""Tokenizers: pictures a second, encoded and decoded, against SD-VAE, VA-VAE and RAE at the same size.

    PYTHONPATH=. python tests/benchmarks/bench_tokenizers.py [--others sd-vae va-vae rae-s rae-b] [--batches 1 2 4 ...]
        [--output DIR] [--repeats N] [--quick]

Real architectures with random weights, 256 px; RPiAE twice, as released (DINOv2-B, ViT-XL decoder) and as bundled.
bfloat16 by autocast on a GPU, float32 on a CPU. "Best batch" is the one, of those tried, with the most pictures a
second; a batch that does not fit the memory is left out.
"""

import contextlib
import json

import torch
from side_by_side import NO_GPU, ROOT, Table, device, parse, parser, side_by_side
from torch import Tensor

from rpiae import AutoencoderRPiAE, tokenizers
from rpiae.official_layout import Sizes, tokenizer_settings
from rpiae.tokenizers.base import ModelTokenizer
from rpiae.tokenizers.rpiae import wrap

OTHERS = ("sd-vae", "va-vae", "rae-s", "rae-b")
OFFICIAL, BUNDLED = "RPiAE as released", "RPiAE as bundled"
KEYS = ROOT / "tests" / "fixtures" / "golden" / "official_tokenizer_keys.json"
CPU_BATCHES, GPU_BATCHES = [1, 4], [1, 4, 16, 64, 128, 256]
SIDE, QUICK_SIDE = 256, 64


def official() -> ModelTokenizer:
    """The released tokenizer's architecture, whose sizes its tensors' shapes tell, with random weights."""
    listing = json.loads(KEYS.read_text(encoding="utf-8"))["keys"]
    sizes = Sizes({name: tuple(entry["shape"]) for name, entry in listing.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(AutoencoderRPiAE(**tokenizer_settings(sizes, 12, 16, bridge=True)), "random weights", "none")


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=3)
    made.add_argument("--others", nargs="+", choices=OTHERS, default=OTHERS)
    made.add_argument("--batches", type=int, nargs="+", default=GPU_BATCHES if device() == "cuda" else CPU_BATCHES)
    options = parse(made, arguments)
    if options.quick:
        options.others, options.batches = ("sd-vae",), [1, 2]
    table = Table("tokenizers", options)
    ours = {BUNDLED: tokenizers.load("rpiae", source="random")}
    if not options.quick:
        ours[OFFICIAL] = official()
    for other in options.others:
        compare(table, ours, other, tokenizers.load(other, source="random"))
    if device() != "cuda":
        table.skip(f"round trip, {OFFICIAL} / sd-vae, bfloat16 at each one's best batch, at least 2.5", NO_GPU)
    table.finish()


def compare(table: Table, ours: dict[str, ModelTokenizer], other: str, theirs: ModelTokenizer) -> None:
    """Rows for one of the others: encode, decode and round trip, at batch 1 and at best batch."""
    everyone = {**ours, other: theirs}
    for one in everyone.values():
        one.to(device())
    rates = measure(everyone, table.options)
    for name in ours:
        for work in ("encode", "decode", "round trip"):
            mine, others = rates[name, work], rates[other, work]
            goal = 2.5 if (device(), name, other, work) == ("cuda", OFFICIAL, "sd-vae", "round trip") else None
            if 1 in mine and 1 in others:
                table.ratio(f"{work}, {name} / {other}, batch 1", mine[1], others[1], "pictures/s")
            best, best_of_others = max(mine, key=mine.get), max(others, key=others.get)
            table.ratio(
                f"{work}, {name} / {other}, best batch", mine[best], others[best_of_others], "pictures/s", least=goal,
                note=f"batches of {best} and {best_of_others}",
            )  # fmt: skip
    theirs.to("cpu")


def measure(everyone: dict[str, ModelTokenizer], options) -> dict[tuple[str, str], dict[int, float]]:
    """(name, work) → batch → pictures a second."""
    rates = {(name, work): {} for name in everyone for work in ("encode", "decode", "round trip")}
    for batch in options.batches:
        works = {}
        for name, tokenizer in everyone.items():
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                works |= works_of(name, tokenizer, batch, options.quick)
        for key, seconds in side_by_side(works, options.repeats).items():
            rates[key][batch] = batch / seconds
    return rates


def works_of(name: str, tokenizer: ModelTokenizer, batch: int, quick: bool) -> dict:
    """The three works of one tokenizer, tried once: memory that is too small is found here."""
    # Convolutions take pictures of any size; the others are small enough.
    side = QUICK_SIDE if quick and tokenizer.info.name == "sd-vae" else SIDE
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device())

    @torch.no_grad()
    @torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda")
    def encode() -> Tensor:
        return tokenizer.encode_(x)

    @torch.no_grad()
    @torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda")
    def decode(z: Tensor) -> Tensor:
        return tokenizer.decode_(z)

    z = encode()
    decode(z)
    return {
        (name, "encode"): encode,
        (name, "decode"): lambda: decode(z),
        (name, "round trip"): lambda: decode(encode()),
    }


if __name__ == "__main__":
    main()
