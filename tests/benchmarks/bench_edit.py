"""What an edit costs: against one SD-VAE round trip, against a generation, and what the cache and few bits are worth.

    PYTHONPATH=. python tests/benchmarks/bench_edit.py [--checkpoint DIR] [--output DIR] [--repeats N] [--quick]

float32 where nothing else is said, on the GPU when there is one, there without TF32. SD-VAE is diffusers' AutoencoderKL
at its published size with random weights.
"""

import copy
import tempfile
import threading
from pathlib import Path

import torch
from PIL import Image
from side_by_side import CHECKPOINT, Table, device, parse, parser, seconds, side_by_side
from torch import Tensor

from app.jobs import Jobs
from app.request import EditRequest
from app.service import Service
from app.store import Store
from rpiae import RPiAEPipeline, guidance, images, precision, tokenizers
from rpiae.compiled import nothing_compiled_anew
from rpiae.text import TextStates
from rpiae.transformer import Context, RPiAETransformer2DModel

PROMPT = "make the car blue"
LONG = 30  # steps, for what the cache is worth: most samplers take about as many
TOGETHER = 4
QUICK_SIDE = 64  # of SD-VAE's picture in a quick run
FULL = "" if device() == "cpu" else "float32 without TF32"


class Parts:
    """The steps of edits and generations by themselves, with the checkpoint's own guidance branches."""

    def __init__(self, pipe: RPiAEPipeline) -> None:
        self.pipe, self.transformer = pipe, pipe.transformer
        self.scales = [pipe.config.defaults[name] for name in ("guidance_scale", "image_guidance_scale")]
        shape, generator = pipe.vae.latent_shape, torch.Generator().manual_seed(0)
        self.source, self.noise = (torch.randn(1, *shape, generator=generator).to(pipe.device) for _ in range(2))

    def branches(self, editing: bool) -> int:
        return len(guidance.branches(*self.scales, editing))

    @torch.no_grad()
    def text(self, editing: bool) -> TextStates:
        texts = [PROMPT, *[""] * (self.branches(editing) - 1)]
        return self.pipe.text_encoder(texts).to(self.pipe.device, self.transformer.dtype)

    @torch.no_grad()
    def context(self, editing: bool, text: TextStates | None = None) -> Context:
        """One request's, as the pipeline makes it."""
        text = text or self.text(editing)
        source = self.source.repeat(len(text.states), 1, 1, 1).to(self.transformer.dtype) if editing else None
        return self.transformer.encode_context(text, source)

    @torch.no_grad()
    def steps(self, count: int, context: Context) -> None:
        """Steps on a context that is there."""
        times = torch.linspace(1, 1 / count, count, device=self.pipe.device)
        modulations = self.transformer.encode_time(times)
        x = self._noise(len(context.source_patches))
        for step in range(count):
            self.transformer(x, times[step].expand(len(x)), context=context, time=modulations[step])

    @torch.no_grad()
    def uncached_steps(self, count: int) -> None:
        """An edit's steps, context and time anew in each, as without a cache; the text is encoded once either way."""
        times = torch.linspace(1, 1 / count, count, device=self.pipe.device)
        x, text = self._noise(self.branches(True)), self.text(True)
        for step in range(count):
            self.transformer(x, times[step].expand(len(x)), context=self.context(True, text))

    def _noise(self, count: int) -> Tensor:
        return self.noise.repeat(count, 1, 1, 1).to(self.transformer.dtype)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--checkpoint", default=CHECKPOINT)
    options = parse(made, arguments)
    table = Table("edit", options)
    # Else SD-VAE's convolutions are rounded to TF32 by default, and an edit's matrix products are not.
    torch.backends.cudnn.allow_tf32 = False
    pipe = RPiAEPipeline.from_pretrained(options.checkpoint).to(device())
    pipe.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((256, 256), 64).convert("RGB")
    whole(table, pipe, picture)
    steps(table, pipe)
    together(table, options.checkpoint, picture)
    half_precision(table, pipe, picture)
    compiled(table, pipe)  # last: it changes the pipeline
    table.finish()


def whole(table: Table, pipe: RPiAEPipeline, picture: Image.Image) -> None:
    """Edits and generations with all their parts."""
    side = QUICK_SIDE if table.options.quick else picture.width
    sd_vae = tokenizers.load("sd-vae", source="random").to(device())
    x = images.to_tensor(picture.resize((side, side))).to(device())

    @torch.no_grad()
    def round_trip() -> Tensor:
        return sd_vae.decode_(sd_vae.encode_(x))

    works = {
        "edit": lambda: pipe(PROMPT, image=picture),
        "generation": lambda: pipe("a blue car"),
        "round trip": round_trip,
    }
    took = side_by_side(works, table.options.repeats)
    note = "; ".join(filter(None, (f"{pipe.config.defaults['num_inference_steps']} steps", FULL)))
    most = 0.2 if device() == "cpu" else None  # a goal for CPUs alone
    table.ratio("whole edit / one SD-VAE round trip", took["edit"], took["round trip"], most=most, note=note)
    table.ratio("whole generation / one SD-VAE round trip", took["generation"], took["round trip"], note=note)


def steps(table: Table, pipe: RPiAEPipeline) -> None:
    """The steps: an edit's against a generation's, with the cache against without."""
    parts, count = Parts(pipe), 2 if table.options.quick else LONG
    of_edit, of_generation = parts.branches(True), parts.branches(False)
    edit, generation = parts.context(True), parts.context(False)
    works = {
        "edit": lambda: parts.steps(count, edit),
        "generation": lambda: parts.steps(count, generation),
        "cached": lambda: parts.steps(count, parts.context(True)),
        "uncached": lambda: parts.uncached_steps(count),
    }
    took = side_by_side(works, table.options.repeats)
    table.ratio(
        "step of an edit / step of a generation, per guidance branch",
        took["edit"] / count / of_edit, took["generation"] / count / of_generation, most=1.25,
        note=f"{of_edit} branches an edit, {of_generation} a generation",
    )  # fmt: skip
    table.ratio(f"{count} steps of an edit without cache / with it", took["uncached"], took["cached"], least=1.8)


def together(table: Table, checkpoint: str | Path, picture: Image.Image) -> None:
    """Several people's edits through the studio's queue, as `make run` starts it: all asked at once, and each asked
    when the one before is done. On a GPU those that wait share a batch, on a CPU the service takes them in turn."""
    service = Service(checkpoint, device=device(), dtype="auto")
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs(service, Store(Path(folder))).start()

        def asked(number: int) -> str:
            return jobs.submit(EditRequest(picture, f"{PROMPT} {number}", seed=number), owner=f"person {number}")

        def result(job_id: str) -> Tensor:
            *_, last = jobs.follow(job_id)
            with Image.open(jobs.store.file(job_id, last.record.pictures[0]["file"])) as made:
                return images.to_tensor(made.convert("RGB"))[0]

        def in_turn() -> list[Tensor]:
            return [result(asked(number)) for number in range(TOGETHER)]

        def at_once() -> list[Tensor]:
            all_asked = threading.Event()
            jobs.errand(all_asked.wait)  # as behind somebody's job: else the first is taken before the others are there
            waiting = [asked(number) for number in range(TOGETHER)]
            all_asked.set()
            return [result(job_id) for job_id in waiting]

        took = side_by_side({"in turn": in_turn, "at once": at_once}, table.options.repeats)
        pairs = list(zip(in_turn(), at_once(), strict=True))
        jobs.close()
    gpu = device() == "cuda"
    if not gpu:
        table.skip(f"on a GPU: {TOGETHER} edits at once at least 2 x the throughput of {TOGETHER} in turn")
    # On a CPU at once is never slower; a twentieth is what two runs of the same differ by.
    what = f"{TOGETHER} edits one after the other / asked at once, by the studio's queue"
    table.ratio(what, took["in turn"], took["at once"], least=2 if gpu else 0.95)
    within = torch.stack([(one - other).abs().amax(0) <= 1.5 / 255 for one, other in pairs]).float().mean().item()
    table.ratio("pixels asked at once within one grey level of single edits / all", 100 * within, 100, "%", least=0.999)


def half_precision(table: Table, pipe: RPiAEPipeline, picture: Image.Image) -> None:
    """The transformer in the format that `--dtype auto` takes here."""
    what = "whole edit with the transformer in bfloat16 / in float32"
    if precision.fast_dtype(pipe.device) == torch.float32:
        table.skip(what, "no faster than float32 on this device, so never used")
        return
    components = {**pipe.components, "transformer": copy.deepcopy(pipe.transformer)}
    fast = RPiAEPipeline(**components, defaults=pipe.config.defaults, region=pipe.config.region)
    fast.set_progress_bar_config(disable=True)
    precision.speed_up(fast)
    works = {name: lambda one=one: one(PROMPT, image=picture) for name, one in (("fast", fast), ("full", pipe))}
    took = side_by_side(works, table.options.repeats)
    most = 1 if device() == "cpu" else None
    table.ratio(what, took["fast"], took["full"], most=most, note=FULL)


def compiled(table: Table, pipe: RPiAEPipeline) -> None:
    """The steps by torch.compile, as `app.py --compile` has them after its first answer."""
    what = f"{LONG} steps of an edit compiled / as they are"
    if table.options.quick:
        table.skip(what, "compiling takes longer than a quick run")
        return
    parts = Parts(pipe)
    context, slow, fast = parts.context(True), pipe.transformer, copy.deepcopy(pipe.transformer)
    pipe.transformer = fast
    waited = seconds(pipe.compile_steps)

    def steps(transformer: RPiAETransformer2DModel) -> None:
        parts.transformer = transformer
        with nothing_compiled_anew(transformer):
            parts.steps(LONG, context)

    works = {"fast": lambda: steps(fast), "slow": lambda: steps(slow)}
    took = side_by_side(works, table.options.repeats)
    table.ratio(what, took["fast"], took["slow"], note=f"compiled once, in {waited:.0f} s")


if __name__ == "__main__":
    main()
