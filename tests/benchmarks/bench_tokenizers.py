"""Tokenizers: pictures a second, encoded and decoded, against SD-VAE, VA-VAE and RAE at the same size.

    PYTHONPATH=. python tests/benchmarks/bench_tokenizers.py [--others sd-vae va-vae rae-s rae-b] [--batches 1 2 4 ...]
        [--output DIR] [--repeats N] [--quick]

Real architectures with random weights, 256 px; RPiAE twice, as released (DINOv2-B, ViT-XL decoder) and as bundled.
bfloat16 and float32 on a GPU, the latter without TF32; float32 on a CPU. "Best batch" is the one, of those tried, with
the most pictures a second; a batch that does not fit the memory is left out. Convolutional tokenizers have the memory
layout in which they are faster on a GPU.
"""

import contextlib
import json

import torch
from side_by_side import NO_GPU, ROOT, Table, device, parse, parser, side_by_side
from torch import Tensor

from rpiae import AutoencoderRPiAE, tokenizers
from rpiae.official_layout import Sizes, tokenizer_settings
from rpiae.tokenizers.base import KLTokenizer, ModelTokenizer, OwnTokenizer

OTHERS = ("sd-vae", "va-vae", "rae-s", "rae-b")
OFFICIAL, BUNDLED = "RPiAE as released", "RPiAE as bundled"
KEYS = ROOT / "tests" / "fixtures" / "golden" / "official_tokenizer_keys.json"
CPU_BATCHES, GPU_BATCHES = [1, 4], [1, 4, 16, 64, 128, 256]
SIDE, QUICK_SIDE = 256, 64
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
LAYOUT_BATCH = 4  # at which layouts are compared


def official() -> ModelTokenizer:
    """The released tokenizer's architecture, whose sizes its tensors' shapes tell, with random weights."""
    listing = json.loads(KEYS.read_text(encoding="utf-8"))["keys"]
    sizes = Sizes({name: tuple(entry["shape"]) for name, entry in listing.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderRPiAE(**tokenizer_settings(sizes, 12, 16, bridge=True))
        return OwnTokenizer(vae, "rpiae", "random weights", "none")


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=3)
    made.add_argument("--others", nargs="+", choices=OTHERS, default=OTHERS)
    made.add_argument("--batches", type=int, nargs="+", default=GPU_BATCHES if device() == "cuda" else CPU_BATCHES)
    options = parse(made, arguments)
    if options.quick:
        options.others, options.batches = ("sd-vae",), [1, 2]
    table = Table("tokenizers", options)
    # Convolutions are rounded to TF32 by default, and the matrix products of the others are not.
    torch.backends.cudnn.allow_tf32 = False
    ours = {BUNDLED: tokenizers.load("rpiae", source="random")}
    if not options.quick:
        ours[OFFICIAL] = official()
    for other in options.others:
        theirs = tokenizers.load(other, source="random")
        for dtype in (torch.bfloat16, torch.float32) if device() == "cuda" else (torch.float32,):
            compare(table, ours, other, theirs, dtype)
        theirs.to("cpu")
    if device() != "cuda":
        table.skip(f"round trip, {OFFICIAL} / sd-vae, bfloat16 at each one's best batch, at least 2.5", NO_GPU)
    table.finish()


def compare(
    table: Table, ours: dict[str, ModelTokenizer], other: str, theirs: ModelTokenizer, dtype: torch.dtype
) -> None:
    """Rows for one of the others: encode, decode and round trip, at batch 1 and at best batch."""
    everyone = {**ours, other: theirs}
    for one in everyone.values():
        one.to(device(), dtype)  # once: autocast would do it again in every call, as these weights do not train
    layout = faster_layout(theirs, table.options) if device() == "cuda" and isinstance(theirs, KLTokenizer) else ""
    rates = measure(everyone, table.options)
    told = str(dtype).removeprefix("torch.")
    circumstances = [f"{other} with {layout}"] * bool(layout)
    circumstances += ["without TF32"] * (device() == "cuda" and dtype == torch.float32)
    for name in ours:
        for work in ("encode", "decode", "round trip"):
            mine, others = rates[name, work], rates[other, work]
            what = f"{work}, {name} / {other}, {told}"
            if not (mine and others):
                table.skip(what, "no batch fits the memory")
                continue
            goal = 2.5 if (told, name, other, work) == ("bfloat16", OFFICIAL, "sd-vae", "round trip") else None
            if 1 in mine and 1 in others:
                note = "; ".join(circumstances)
                table.ratio(f"{what}, batch 1", mine[1], others[1], "pictures/s", note=note)
            best, best_of_others = max(mine, key=mine.get), max(others, key=others.get)
            note = "; ".join([f"batches of {best} and {best_of_others}", *circumstances])
            table.ratio(
                f"{what}, best batch", mine[best], others[best_of_others], "pictures/s", least=goal, note=note
            )


def faster_layout(tokenizer: ModelTokenizer, options) -> str:
    """The memory layout in which a round trip takes less time, which the tokenizer is left in."""
    took = {}
    for name, layout in LAYOUTS.items():
        tokenizer.to(memory_format=layout)
        works = works_of(name, tokenizer, LAYOUT_BATCH, options.quick)
        took |= side_by_side({name: works[name, "round trip"]}, options.repeats)
    best = min(took, key=took.get)
    tokenizer.to(memory_format=LAYOUTS[best])
    return best


def measure(everyone: dict[str, ModelTokenizer], options) -> dict[tuple[str, str], dict[int, float]]:
    """(name, work) → batch → pictures a second."""
    rates = {(name, work): {} for name in everyone for work in ("encode", "decode", "round trip")}
    for batch in options.batches:
        works = {}
        for name, tokenizer in everyone.items():
            with contextlib.suppress(torch.OutOfMemoryError):
                works |= works_of(name, tokenizer, batch, options.quick)
        with contextlib.suppress(torch.OutOfMemoryError):
            for key, seconds in side_by_side(works, options.repeats).items():
                rates[key][batch] = batch / seconds
    return rates


def works_of(name: str, tokenizer: ModelTokenizer, batch: int, quick: bool) -> dict:
    """The three works of one tokenizer, tried once: memory that is too small is found here, or when all are timed."""
    # Convolutions take pictures of any size; the others are small enough.
    side = QUICK_SIDE if quick and tokenizer.info.name == "sd-vae" else SIDE
    dtype = next(tokenizer.model.parameters()).dtype
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device(), dtype)

    @torch.no_grad()
    def encode() -> Tensor:
        return tokenizer.encode_(x)

    @torch.no_grad()
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
