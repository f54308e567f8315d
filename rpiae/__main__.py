"""The command line.

    python -m rpiae edit in.png "make the car blue" -o out.png
    python -m rpiae generate "a cat to the left of a red car" -o out.png
    python -m rpiae reconstruct in.png -o out.png
    python -m rpiae compare in.png --tokenizers rpiae,sd-vae -o sheet.png
    python -m rpiae convert official.pt out_dir
    python -m rpiae info [checkpoint folder, an official .pt, or a PNG that was made here]

A mistake is told in one sentence on stderr, with exit code 2, and leaves nothing half written. What a command
needs is imported inside it, so that `--help` is quick.
"""

import json
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .pipeline import RPiAEPipeline
    from .tokenizers.comparison import Comparison

logger = logging.getLogger(__name__)

MAX_SEED = 2**63 - 1
AUTO = "auto"

app = typer.Typer(
    help="Edit pictures by instruction, draw them from text, and compare image tokenizers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Picture = Annotated[Path, typer.Argument(help="A picture in any common format.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.", show_default=False)]
Seed = Annotated[
    int | None, typer.Option(min=0, max=MAX_SEED, help="Repeats a picture; without it, a new one is drawn.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps. Default: the checkpoint's.")]
Guidance = Annotated[
    float | None, typer.Option(help="How closely to follow the words. Default: the checkpoint's.")
]
Interval = Annotated[
    tuple[float, float],
    typer.Option(help="The times, from 1 (noise) to 0, at which guidance is on: the lower one, the higher one."),
]
Negative = Annotated[str | None, typer.Option(help="What the picture should not be like.")]
Checkpoint = Annotated[
    str | None, typer.Option(help='A checkpoint folder, or "hf:org/name". Default: the bundled one.')
]
Device = Annotated[str | None, typer.Option(help='"cpu", "cuda", ... Default: a GPU where there is one.')]
Dtype = Annotated[str, typer.Option(help='"float32", "bfloat16" or "float16".')]
StepsDtype = Annotated[
    str,
    typer.Option(help='As above, or "auto": the transformer in bfloat16 where the device is faster with it.'),
]


@app.command()
def edit(
    picture: Picture,
    instruction: Annotated[str, typer.Argument(help='For example "make the car blue".', show_default=False)],
    output: Output,
    seed: Seed = None,
    mask: Annotated[
        Path | None, typer.Option(help="A picture of the same size, white where it may change.")
    ] = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option(help="How closely to keep to the picture. Default: the checkpoint's.")
    ] = None,
    guidance_interval: Interval = (0.0, 1.0),
    negative_prompt: Negative = None,
    preserve_unchanged: Annotated[
        bool, typer.Option(help="Keep the picture's own pixels where the edit changed nothing.")
    ] = True,
    mask_output: Annotated[
        Path | None, typer.Option(help="Write a PNG, white where the picture changed.")
    ] = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: StepsDtype = AUTO,
) -> None:
    """Edit a picture by an instruction."""
    from . import images, recipe

    _check_text(instruction, "instruction", "make the car blue")
    for path in (output, mask_output):
        if path is not None:
            recipe.check_writable(path)
    if mask_output is not None and mask_output.resolve() == output.resolve():
        raise ValueError(f"--output and --mask-output are both '{output}'. Give them different names.")
    if mask_output is not None and not preserve_unchanged:
        raise ValueError("--mask-output needs --preserve-unchanged: without it there is no change mask.")
    source = images.load(picture)
    painted = None if mask is None else images.load_mask(mask, source.size)
    pipe, about = _pipeline(checkpoint, device, dtype)
    seed = _seed(seed)
    settings = _settings(
        pipe,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
        guidance_interval=guidance_interval,
        negative_prompt=negative_prompt,
        preserve_unchanged=preserve_unchanged,
    )
    result = pipe(instruction, image=source, mask_image=painted, generator=_noise(seed), **settings)
    image, change_mask = result.images[0], result.change_masks[0]
    made = recipe.Recipe(
        kind="edit",
        prompt=instruction,
        seed=seed,
        width=image.width,
        height=image.height,
        source_sha256=recipe.pixels_sha256(source),
        mask_sha256=None if painted is None else recipe.pixels_sha256(painted),
        **settings,
        **about,
    )
    recipe.save_png(image, output, made)
    changed = ""
    if change_mask is not None:
        changed = f", {100 * (1 - change_mask.histogram()[0] / (image.width * image.height)):.1f} % changed"
        if mask_output is not None:
            recipe.save_png(change_mask, mask_output)
    typer.echo(f"{output}: {image.width}x{image.height}{changed}")


@app.command()
def generate(
    prompt: Annotated[
        str, typer.Argument(help='For example "a cat to the left of a red car".', show_default=False)
    ],
    output: Output,
    seed: Seed = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    guidance_interval: Interval = (0.0, 1.0),
    negative_prompt: Negative = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: StepsDtype = AUTO,
) -> None:
    """Draw a picture from text."""
    from . import recipe

    _check_text(prompt, "prompt", "a cat to the left of a red car")
    recipe.check_writable(output)
    pipe, about = _pipeline(checkpoint, device, dtype)
    seed = _seed(seed)
    settings = _settings(
        pipe,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        negative_prompt=negative_prompt,
    )
    image = pipe(prompt, generator=_noise(seed), **settings).images[0]
    size = {"width": image.width, "height": image.height}
    recipe.save_png(
        image, output, recipe.Recipe(kind="generate", prompt=prompt, seed=seed, **size, **settings, **about)
    )
    typer.echo(f"{output}: {image.width}x{image.height}")


@app.command()
def reconstruct(
    picture: Picture,
    output: Output,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Send a picture through the tokenizer and back."""
    from . import images, recipe
    from .tokenizers import load

    recipe.check_writable(output)
    source = images.load(picture)
    place, checkpoint = _place(device, dtype), _checkpoint(checkpoint)
    tokenizer = load("rpiae", checkpoint).to(*place)
    square, frame = images.letterbox(source, tokenizer.info.image_size)
    decoded = tokenizer.decode(tokenizer.encode(images.to_tensor(square)))
    result = frame.undo(images.to_pil(decoded)[0])
    made = recipe.Recipe(
        kind="reconstruct",
        width=result.width,
        height=result.height,
        source_sha256=recipe.pixels_sha256(source),
        **recipe.circumstances(checkpoint, *place),
    )
    recipe.save_png(result, output, made)
    typer.echo(f"{output}: {result.width}x{result.height}")


@app.command()
def compare(
    output: Output,
    picture: Annotated[
        Path | None, typer.Argument(help="In any common format; with --prompt not needed.", show_default=False)
    ] = None,
    tokenizers: Annotated[
        str, typer.Option(help="Names with commas; name=source for a folder, hf:org/name or random weights.")
    ] = "rpiae",
    prompt: Annotated[
        str | None,
        typer.Option(help="What each tokenizer's own model draws or, with a picture, the instruction to edit it by."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of what is drawn for --prompt.")] = 0,
    table: Annotated[
        Path | None, typer.Option(help="Write the numbers, unrounded: to a .csv or a .json file.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Show on one sheet what tokenizers make of a picture: PSNR, SSIM, times, errors and latents; with --prompt also
    what diffusion models draw on their latents."""
    from . import images, recipe
    from .files import whole
    from .tokenizers.comparison import as_csv, as_json, sheet

    recipe.check_writable(output)
    if table is not None:
        recipe.check_writable(table, (".csv", ".json"))
    if prompt is not None:
        _check_text(prompt, "prompt", "a cat to the left of a red car")
    elif picture is None:
        raise ValueError("There is nothing to compare: name a picture, or write what to draw as --prompt.")
    source = None if picture is None else images.load(picture)
    wanted = _tokenizers(tokenizers)
    place = _place(device, dtype)
    rows = [_compared(name, origin or None, place, source, prompt, seed) for name, origin in wanted]
    if not any(row.info for row in rows):
        reasons = [row.reason if len(rows) == 1 else f"{row.name}: {row.reason}" for row in rows]
        raise ValueError(" ".join(reasons))
    recipe.save_png(sheet(source, rows), output)
    if table is not None:
        numbers = [row.numbers() for row in rows]
        about = source and {"width": source.width, "height": source.height, "sha256": recipe.pixels_sha256(source)}
        text = as_csv(numbers) if table.suffix.lower() == ".csv" else as_json(numbers, picture=about)
        with whole(table) as part:
            part.write_text(text, "utf-8")
    for row in rows:
        typer.echo(f"{row.name}: {', '.join(row.facts()[1:])}", err=row.info is None)
    typer.echo(str(output))


@app.command()
def info(
    what: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder, hf:org/name, a .pt or a PNG. Default: the bundled checkpoint."),
    ] = None,
) -> None:
    """Tell what a checkpoint or an official file consists of, or print the recipe of a PNG, as JSON."""
    from .facts import describe

    if what is not None and Path(what).exists() and (facts := describe(Path(what))) is not None:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    pipe, about = _pipeline(what, None, AUTO)  # as edit and generate run it
    facts = {
        "parameters": {name: _count(getattr(pipe, name)) for name in ("vae", "transformer", "text_encoder")},
        "latent_shape": list(pipe.vae.latent_shape),
        "image_size": pipe.vae.config.image_size,
        "text_encoder": pipe.text_encoder.config.model,
        "defaults": dict(pipe.config.defaults),
        "region": dict(pipe.config.region),
        **about,
    }
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="The authors' .pt file: tokenizer or LightningDiT; or hf:qihoo360/RPiAE.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    transformer: Annotated[
        str | None, typer.Option(help="A LightningDiT for this tokenizer: both become one pipeline folder.")
    ] = None,
    encoder_heads: Annotated[int, typer.Option(min=1, help="Attention heads of the tokenizer's encoder.")] = 12,
    decoder_heads: Annotated[int, typer.Option(min=1, help="Attention heads of its pixel decoder.")] = 16,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of the LightningDiT.")] = 16,
    bridge: Annotated[bool, typer.Option(help="--no-bridge takes a stage-1 tokenizer.")] = True,
    dtype: Dtype = "float32",
) -> None:
    """Turn the authors' weights into a folder of safetensors that from_pretrained reads."""
    from . import conversion

    if not folder.parent.is_dir():
        raise ValueError(f"There is no folder '{folder.parent}'.")
    kind = conversion.convert(
        source, folder, transformer, encoder_heads, decoder_heads, heads, bridge, _place("cpu", dtype)[1]
    )  # fmt: skip
    typer.echo(f"{folder}: {kind}")


def _tokenizers(names: str) -> list[tuple[str, str]]:
    """ "rpiae,sd-vae=random" as pairs of a name and a source, "" for none; ValueError for a name that there is not. A
    compact one that has a source may have any name."""
    from .tokenizers import COMPACT, NAMES, compact

    wanted = [entry.strip().partition("=")[::2] for entry in names.split(",") if entry.strip()]
    known = [*NAMES, *compact.names()]
    for name, origin in wanted:
        if name not in known and not (origin and name.startswith(COMPACT)):
            raise ValueError(f"There is no tokenizer {name!r}. Use one of: {', '.join(known)}.")
    if not wanted:
        raise ValueError("--tokenizers names none. Write for example: --tokenizers rpiae,sd-vae")
    return wanted


def _compared(
    name: str, origin: str | None, place: tuple[Any, Any], source: "Image.Image | None", prompt: str | None, seed: int
) -> "Comparison":
    """One tokenizer's row. One that fails is no reason to hold back the others: its row says why, and so does the
    place of a drawing that fails."""
    from dataclasses import replace

    from .tokenizers import load
    from .tokenizers.comparison import Comparison, compare
    from .tokenizers.drawing import Drawing, drawn_by

    try:
        tokenizer = load(name, origin).to(*place)
        row = compare(tokenizer, source)
    except Exception as fault:
        return Comparison(name, reason=_reason(name, fault))
    if prompt is None:
        return row
    try:
        return replace(row, drawing=drawn_by(tokenizer, origin, prompt, source, seed))
    except Exception as fault:
        return replace(row, drawing=Drawing(prompt, seed, reason=_reason(name, fault)))


def _reason(name: str, fault: Exception) -> str:
    """Why a tokenizer has nothing to show. What nobody wrote for people is logged with its trace."""
    if isinstance(fault, (ValueError, OSError)):  # as `main` has it
        return _one_line(fault)
    logger.error("tokenizer %s failed", name, exc_info=fault)
    kind, said = type(fault).__name__, _one_line(fault)
    return kind if said == kind else f"{kind}: {said}"


def _pipeline(checkpoint: str | None, device: str | None, dtype: str) -> tuple["RPiAEPipeline", dict]:
    """A pipeline where it shall run, and what a recipe says about that."""
    place = _place(device, "float32" if dtype == AUTO else dtype)
    checkpoint = _checkpoint(checkpoint)
    from transformers.utils import logging

    from . import RPiAEPipeline, precision
    from .recipe import describe_pipeline

    logging.disable_progress_bar()  # it flashes by for the small text encoder
    pipe = RPiAEPipeline.from_pretrained(checkpoint, torch_dtype=place[1]).to(place[0])
    if dtype == AUTO:
        precision.speed_up(pipe)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe, describe_pipeline(pipe, checkpoint)


def _settings(pipe: "RPiAEPipeline", **given: Any) -> dict[str, Any]:
    """What was given and, for the rest, the checkpoint's own settings, so that the recipe holds numbers."""
    return {name: pipe.config.defaults.get(name) if value is None else value for name, value in given.items()}


def _seed(seed: int | None) -> int:
    seed = secrets.randbelow(2**31) if seed is None else seed
    typer.echo(f"seed {seed}")
    return seed


def _noise(seed: int) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(seed)


def _checkpoint(checkpoint: str | None) -> str:
    from .tokenizers.rpiae import BUNDLED

    return str(BUNDLED) if checkpoint is None else checkpoint


def _place(device: str | None, dtype: str) -> tuple[Any, Any]:
    """torch's device and dtype; ValueError for one that is not here."""
    import torch

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be float32, bfloat16 or float16, not {dtype!r}.")
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except Exception as error:  # each backend says in its own way that it is not there
        raise ValueError(f"--device {name!r} cannot be used here ({_one_line(error)[:100]}).") from error
    return torch.device(name), getattr(torch, dtype)


def _check_text(text: str, what: str, example: str) -> None:
    if not text.strip():
        raise ValueError(f'The {what} is empty. Write what you want, for example "{example}".')


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Runs a command; mistakes become one sentence and exit code 2."""
    if not any("hf:" in argument for argument in sys.argv):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the hub, and nothing beneath it may
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
