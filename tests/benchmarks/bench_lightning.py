"""LightningDiT-XL: sampling against the same network run the plain way, and how much of the machine it uses.

    PYTHONPATH=. python tests/benchmarks/bench_lightning.py [--layers N] [--steps N] [--batches 1 2 ...] [--output DIR]
        [--repeats N] [--quick]

Random weights. The plain way is a loop as in papers' reference code: the prediction with and without the label one
after the other, positions and time anew in each step. On a CPU fewer of the 28 layers run, and the rows say how many.
bfloat16 on a GPU, float32 on a CPU; the peak is the highest rate of large matrix products in the same format. A batch
that does not fit the GPU's memory is left out.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import attention_backend
from diffusers.utils import is_xformers_available
from side_by_side import Table, device, parse, parser, side_by_side
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rpiae import ClassConditionalPipeline, LightningDiT2DModel, attention, flow, tokenizers
from rpiae.layers import rope_table
from rpiae.loading import cast

LAYERS, CPU_LAYERS = 28, 4
SCALE, SHIFT, LABEL = 1.5, 2.0, 207
GPU_BATCHES = [1, 8, 32, 64, 128]
PRODUCTS = 20  # timed together, so that starting one and waiting for it do not count


def main(arguments: list[str] | None = None) -> None:
    gpu = device() == "cuda"
    made = parser(__doc__, repeats=3)
    made.add_argument("--layers", type=int, default=LAYERS if gpu else CPU_LAYERS, help=f"of {LAYERS}")
    made.add_argument("--steps", type=int, default=50 if gpu else 8)
    made.add_argument("--batches", type=int, nargs="+", default=GPU_BATCHES if gpu else [1, 4])
    options = parse(made, arguments)
    if options.quick:
        options.layers, options.steps, options.batches = 1, 2, [1]
    table = Table("lightning", options)
    torch.manual_seed(0)
    model = LightningDiT2DModel(num_layers=options.layers).eval().requires_grad_(False)
    awake(model)
    cast(model, torch.bfloat16 if gpu else torch.float32).to(device())
    sampling(table, model)
    share_of_peak(table, model)
    kernels(table, model)
    table.finish()


def awake(model: LightningDiT2DModel) -> None:
    """Untrained gates are zero, and zeros multiply no faster or slower; but then all ways would agree by chance."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def depth(model: LightningDiT2DModel) -> str:
    """What the rows say of the network's size."""
    layers = len(model.blocks)
    return f"LightningDiT-XL{'' if layers == LAYERS else f' with {layers} of {LAYERS} layers'}"


@torch.no_grad()
def plain(model: LightningDiT2DModel, noise: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Sampling as it is written down: two predictions in turn, constant work in every step."""
    x, grid = noise, model.grid
    times = flow.shift_time(flow.sampling_times(steps), SHIFT).tolist() + [0.0]
    for now, after in zip(times, times[1:], strict=False):
        width = model.config.hidden_size // model.config.num_heads
        places = rope_table(grid, width, device=x.device).repeat_interleave(2, dim=1)
        model.rope_cos.copy_(places[..., 0])
        model.rope_sin.copy_(places[..., 1])
        t = torch.tensor([now] * len(x), device=x.device)
        nothing = torch.full_like(labels, model.config.num_classes)
        with_label = model(x.to(model.dtype), t, labels).sample.float()
        without = model(x.to(model.dtype), t, nothing).sample.float()
        x = x + (after - now) * (without + SCALE * (with_label - without))
    return x


def sampling(table: Table, model: LightningDiT2DModel) -> None:
    """The pipeline's loop, to the latent, against the plain one on the same noise."""
    vae = tokenizers.load("rpiae", source="random").model  # the bundled one's latent has the released one's shape
    pipe = ClassConditionalPipeline(vae=vae, transformer=model).to(device())
    pipe.set_progress_bar_config(disable=True)
    steps = table.options.steps
    for batch in table.options.batches[:2]:
        noise = torch.randn(batch, *vae.latent_shape, generator=torch.Generator().manual_seed(0)).to(device())
        labels = torch.full((batch,), LABEL, device=device())

        def ours(noise: Tensor = noise, labels: Tensor = labels) -> Tensor:
            return pipe(
                labels, latents=noise, num_inference_steps=steps, schedule="to_zero", time_shift=SHIFT,
                guidance_scale=SCALE, output_type="latent",
            ).images  # fmt: skip

        def theirs(noise: Tensor = noise, labels: Tensor = labels) -> Tensor:
            return plain(model, noise, labels, steps)

        what = f"{depth(model)}, {steps} steps with guidance, batch {batch}: plain sampling / ours"
        try:
            apart = ((ours() - theirs()).square().mean() / ours().square().mean()).sqrt().item()
            assert apart < 0.05, f"the two ways of sampling differ by {apart:.2g} of the latent's size"
            took = side_by_side({"plain": theirs, "ours": ours}, table.options.repeats)
        except torch.OutOfMemoryError:
            table.skip(what, "the batch does not fit the GPU's memory")
            continue
        table.ratio(what, took["plain"], took["ours"])


@torch.no_grad()
def share_of_peak(table: Table, model: LightningDiT2DModel) -> None:
    """A forward's arithmetic a second at its best batch, against the highest of large matrix products."""
    gpu = device() == "cuda"
    side = 8192 if gpu else 256 if table.options.quick else 2048
    a, b = (torch.randn(side, side, device=device(), dtype=model.dtype) for _ in range(2))
    out, config, per_sample = torch.empty_like(a), model.config, flops_of_a_sample(model)

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)

    rates, peak = {}, 0.0
    for batch in table.options.batches:
        x = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size, device=device())
        inputs = x.to(model.dtype), torch.full((batch,), 0.5, device=device()), torch.full((batch,), LABEL).to(device())
        works = {"forward": lambda inputs=inputs: model(*inputs), "products": products}
        try:
            took = side_by_side(works, table.options.repeats)
        except torch.OutOfMemoryError:
            continue
        rates[batch] = batch * per_sample / took["forward"]
        peak = max(peak, PRODUCTS * 2 * side**3 / took["products"])
    dtype = str(model.dtype).removeprefix("torch.")
    what = f"{depth(model)}, forward at its best batch / measured peak of a matrix product, {dtype}"
    if not rates:
        table.skip(what, "no batch fits the GPU's memory")
        return
    best = max(rates, key=rates.get)
    note = f"batch {best}; products of {side} x {side}"
    if len(rates) < len(table.options.batches):
        note += f"; {max(rates)} is the largest batch that fitted"
    table.ratio(what, rates[best] / 1e12, peak / 1e12, "TFLOP/s", least=0.5 if gpu else None, note=note)
    if not gpu:
        table.skip("LightningDiT-XL forward / measured bfloat16 peak, at least 0.5")


def flops_of_a_sample(model: LightningDiT2DModel) -> int:
    """Of one forward, attention included: the counter sees neither into xformers' kernels nor into SDPA's for CPUs, but
    on the meta device attention is two batched products."""
    with torch.device("meta"):
        same = LightningDiT2DModel.from_config(model.config)
        x = torch.zeros(1, same.config.in_channels, same.config.sample_size, same.config.sample_size)
        with FlopCounterMode(display=False) as counter:
            same(x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return counter.get_total_flops()


def kernels(table: Table, model: LightningDiT2DModel) -> None:
    """xformers against SDPA on the shapes of the large network, of the bundled one and of the bundled tokenizer's
    decoder, which runs in float32."""
    large, bundled = (model.config.num_heads, model.config.hidden_size // model.config.num_heads), (4, 64)
    shapes = (
        (large, (256, 256), torch.bfloat16),
        (bundled, (64, 192), torch.bfloat16),
        (bundled, (256, 256), torch.float32),
    )
    for (count, width), (queries, keys), dtype in shapes:
        name = str(dtype).removeprefix("torch.")
        what = f"attention, {queries} x {keys} tokens, {count} heads of {width}, {name}: SDPA / xformers"
        if device() != "cuda":
            table.skip(what)
            continue
        kind = device(), dtype, width
        if not is_xformers_available():
            table.skip(what, attention.describe(*kind))
            continue
        default = attention.choose_backend(*kind)
        q = torch.randn(64, queries, count, width, device=device(), dtype=dtype)
        k, v = (torch.randn(64, keys, count, width, device=device(), dtype=dtype) for _ in range(2))
        works = {
            "xformers": lambda q=q, k=k, v=v: attention.attention(q, k, v),
            "sdpa": lambda q=q, k=k, v=v: sdpa(q, k, v),
        }
        fifty = {one: lambda work=work: [work() for _ in range(50)] for one, work in works.items()}
        with attention_backend(attention.XFORMERS):  # asked for, so that it runs where SDPA is the default, too
            if attention.choose_backend(*kind) != attention.XFORMERS.value:
                table.skip(what, attention.describe(*kind))
                continue
            took = side_by_side(fifty, table.options.repeats)
        # The faster one shall be the default; of two alike it is xformers.
        least = attention.CLEARLY_FASTER if default == attention.XFORMERS.value else None
        note = f"batch 64, 50 calls; the operator that ran: {operator(q, k, v)}; default: {default}"
        table.ratio(what, took["sdpa"], took["xformers"], least=least, note=note)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def operator(q: Tensor, k: Tensor, v: Tensor) -> str:
    """Which of its operators xformers dispatches such inputs to."""
    from xformers.ops import fmha
    from xformers.ops.fmha.dispatch import _dispatch_fw

    return _dispatch_fw(fmha.Inputs(query=q, key=k, value=v), False).NAME


if __name__ == "__main__":
    main()
