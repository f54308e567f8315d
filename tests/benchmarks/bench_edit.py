"""What an edit costs: whole edits and generations against one SD-VAE round trip, and what the steps are made of.

    PYTHONPATH=. python tests/benchmarks/bench_edit.py [--checkpoint DIR] [--repeats N] [--output FILE]

All in one process, on the CPU, float32 where nothing else is said; SD-VAE is diffusers' AutoencoderKL at its published
size with random weights.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from PIL import Image

from rpiae import RPiAEPipeline, guidance, images, precision, tokenizers

PROMPT = "make the car blue"


def seconds(work, repeats: int) -> float:
    """Median time of `repeats` runs after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def branches(pipe: RPiAEPipeline, editing: bool) -> int:
    """How many guidance branches a step computes with the checkpoint's own scales."""
    scales = (pipe.config.defaults[name] for name in ("guidance_scale", "image_guidance_scale"))
    return len(guidance.branches(*scales, editing))


@torch.no_grad()
def uncached_steps(pipe: RPiAEPipeline, branches: int, steps: int) -> None:
    """The steps of an edit when the context is computed again in each."""
    shape = pipe.vae.latent_shape
    text = pipe.text_encoder([PROMPT] * branches)
    source, x = torch.zeros(branches, *shape), torch.zeros(branches, *shape)
    for step in range(steps):
        t = torch.full((branches,), 1 - step / steps)
        pipe.transformer(x, t, text=text, source=source)


@torch.no_grad()
def cached_steps(pipe: RPiAEPipeline, branches: int, steps: int, editing: bool = True) -> None:
    """The same as the pipeline does it: context and modulations once."""
    shape = pipe.vae.latent_shape
    source = torch.zeros(branches, *shape) if editing else None
    context = pipe.transformer.encode_context(pipe.text_encoder([PROMPT] * branches), source)
    schedule = torch.linspace(1, 1 / steps, steps)
    modulations = pipe.transformer.encode_time(schedule)
    x = torch.zeros(branches, *shape)
    for step in range(steps):
        pipe.transformer(x, schedule[step].expand(branches), context=context, time=modulations[step])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="assets/checkpoints/stickers-256")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_edit.json"))
    options = parser.parse_args()
    pipe = RPiAEPipeline.from_pretrained(options.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((256, 256), 64).convert("RGB")
    sd_vae = tokenizers.load("sd-vae", source="random")
    x = images.to_tensor(picture)
    steps = pipe.config.defaults["num_inference_steps"]

    @torch.no_grad()
    def round_trip():
        sd_vae.decode(sd_vae.encode(x))

    of_edit, of_generation = branches(pipe, True), branches(pipe, False)
    rows = {
        "SD-VAE encode + decode, s": seconds(round_trip, options.repeats),
        "edit, s": seconds(lambda: pipe(PROMPT, image=picture), options.repeats),
        "generation, s": seconds(lambda: pipe("a blue car"), options.repeats),
        "edit steps with cache, s": seconds(lambda: cached_steps(pipe, of_edit, steps), options.repeats),
        "edit steps without cache, s": seconds(lambda: uncached_steps(pipe, of_edit, steps), options.repeats),
        "generation steps, s": seconds(lambda: cached_steps(pipe, of_generation, steps, False), options.repeats),
    }
    precision.speed_up(pipe)
    rows[f"edit, transformer in {str(pipe.transformer.dtype).removeprefix('torch.')}, s"] = seconds(
        lambda: pipe(PROMPT, image=picture), options.repeats
    )
    per_branch = rows["edit steps with cache, s"] / of_edit, rows["generation steps, s"] / of_generation
    ratios = {
        "edit / SD-VAE round trip": rows["edit, s"] / rows["SD-VAE encode + decode, s"],
        "generation / SD-VAE round trip": rows["generation, s"] / rows["SD-VAE encode + decode, s"],
        "without cache / with cache": rows["edit steps without cache, s"] / rows["edit steps with cache, s"],
        "step of an edit / of a generation, per branch": per_branch[0] / per_branch[1],
    }
    run = {"threads": torch.get_num_threads(), "steps": steps, "branches": of_edit}
    result = run | {"seconds": rows, "ratios": ratios}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{torch.get_num_threads()} threads, {steps} steps, {of_edit} branches an edit, median of {options.repeats}")
    for name, value in (rows | ratios).items():
        print(f"| {name} | {value:.3f} |")
    assert ratios["edit / SD-VAE round trip"] <= 0.5, "an edit must take at most half of an SD-VAE round trip"


if __name__ == "__main__":
    main()
