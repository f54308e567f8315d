"""ClassConditionalPipeline: class labels → pictures, by LightningDiT on RPiAE latents.

    pipe = ClassConditionalPipeline(
        vae=AutoencoderRPiAE.from_official("rpiae_stage3_1_c64_ema.pt"),
        transformer=LightningDiT2DModel.from_official("ep-0000800.pt"),
    )
    pipe(class_labels=[207, 88]).images
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from . import flow, guidance, images
from .autoencoder import AutoencoderRPiAE
from .latent_pipeline import LatentPipeline
from .lightning_dit import LightningDiT2DModel
from .loading import open_pipeline
from .noise import draw_noise

SCHEDULES = ("official", "to_zero")
# The authors' scale where their interval reduces autoguidance; classifier-free guidance is off there.
REDUCED_AUTOGUIDANCE = 1.42
# Steps times labels whose modulations are computed at once: 25 MB of the released network's in bfloat16.
ROWS_AT_ONCE = 64


@dataclass
class ClassConditionalPipelineOutput(BaseOutput):
    """Pictures, or latents."""

    images: list[Image.Image] | Tensor


class ClassConditionalPipeline(LatentPipeline):
    """Pictures by class label.

    Args:
        vae, transformer: made for each other.
        scheduler: diffusers' Euler scheduler; it gets the times ready-made, so its own shift is not used.
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["scheduler"]  # as an argument: it is saved all the same

    def __init__(
        self,
        vae: AutoencoderRPiAE,
        transformer: LightningDiT2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
    ):
        super().__init__()
        scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=1.0)
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        self.check_components()

    @classmethod
    def from_pretrained(
        cls, source: str | Path, torch_dtype: torch.dtype = torch.float32, **unknown
    ) -> "ClassConditionalPipeline":
        """Load a folder that `save_pretrained` or `python -m rpiae convert` wrote, or "hf:org/name". Strict.

        Raises:
            ValueError: what is missing, damaged or foreign, and where.
        """
        folder, _, scheduler = open_pipeline(cls, source, "a class-conditional checkpoint", unknown)
        return cls(
            vae=AutoencoderRPiAE.from_pretrained(folder / "vae", torch_dtype=torch_dtype),
            transformer=LightningDiT2DModel.from_pretrained(folder / "transformer", torch_dtype=torch_dtype),
            scheduler=scheduler,
        )

    def check_components(self) -> None:
        """ValueError when tokenizer and transformer were not made for each other."""
        config = self.transformer.config
        wanted = (config.in_channels, config.sample_size, config.sample_size)
        if self.vae.latent_shape != wanted:
            raise ValueError(
                f"tokenizer and transformer do not fit: the latent is {self.vae.latent_shape}, "
                f"the transformer wants {wanted}"
            )

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor,
        latents: Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 250,
        time_shift: float = 2.0,
        schedule: str = "official",
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        weak_transformer: LightningDiT2DModel | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        official_interval: Sequence[tuple[float, float]] | None = None,
        official_interval_scale: float | None = None,
    ) -> ClassConditionalPipelineOutput | tuple:
        """Draw one picture per label.

        Args:
            class_labels: 0 ... num_classes - 1; num_classes draws without a class.
            latents: the noise to start from, (n, C, h, w), instead of drawing it.
            generator: one for all pictures in turn, or one per picture; noise is drawn on the CPU.
            num_inference_steps: times to visit; "official" makes one update fewer, "to_zero" this many.
            time_shift: moves times towards noise; sqrt(C h w / 4096) for RPiAE, 2 for its 64 x 16 x 16 latent.
            schedule: "official" is the authors' grid, which ends at 0.001 shifted; "to_zero" ends at 0.
            guidance_scale: 1 is none. Towards the label, or away from `weak_transformer`.
            guidance_interval: the times, both ends included, at which guidance is on.
            weak_transformer: for autoguidance (Karras et al. 2024), a lesser network that sees the same label.
            output_type: "pil"; "pt" for (n, 3, H, W) in [0, 1]; "latent".
            callback_on_step_end: called as f(pipe, step, timestep, {"latents", "prediction"}) after each step.
            official_interval: the authors' `cfg_interval`, pairs (low, high): for low <= t < high guidance is REDUCED,
                elsewhere on. To repeat their pictures exactly; it takes the place of guidance_interval.
            official_interval_scale: their `interval_cfg`, the scale in there; 1 or less is none. None: their default,
                0 and with a weak transformer 1.42.

        Raises:
            ValueError: a bad argument, in one sentence.
        """
        self._interrupt = False
        self._check_output_type(output_type)
        labels = self._labels(class_labels)
        scheduler, updates = self._schedule(schedule, num_inference_steps, time_shift)
        if official_interval_scale is None:
            official_interval_scale = 0.0 if weak_transformer is None else REDUCED_AUTOGUIDANCE
        scales = guidance.Schedule(guidance_scale, guidance_interval, official_interval, official_interval_scale)
        self._check_weak(weak_transformer)
        x = draw_noise(len(labels), self.vae.latent_shape, generator, latents).to(self._execution_device)
        x = self._denoise(x, labels.to(x.device), scheduler, updates, scales, weak_transformer, callback_on_step_end)
        result = x if output_type == "latent" else self._decode(x)
        if output_type == "pil":
            result = images.to_pil(result)
        self.maybe_free_model_hooks()
        return ClassConditionalPipelineOutput(images=result) if return_dict else (result,)

    @torch.no_grad()
    def velocity(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        scale: float = 1.0,
        weak: LightningDiT2DModel | None = None,
        modulation: Sequence[Tensor] | None = None,
        weak_modulation: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The guided velocity at x (n, C, h, w) float32, t (n,), labels (n,); a prediction that drops out of
        weak + scale * (strong - weak) is not computed. `modulation`: t and the labels, where needed followed by as many
        times no label, as the transformer's `modulations` has them, where that is done; `weak_modulation`: t and the
        labels as the weak one's has them."""
        nothing = torch.full_like(labels, self.transformer.config.num_classes)
        if weak is None and scale not in (0, 1):
            # With and without label in one batch.
            twice = x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([labels, nothing])
            both = self._predict(self.transformer, *twice, modulation)
            return guidance.combine(both, (scale, 1.0 - scale))
        labelled, unlabelled = (
            modulation and [one[rows] for one in modulation]
            for rows in (slice(len(x)), slice(len(x), None))
        )
        strong = None if scale == 0 else self._predict(self.transformer, x, t, labels, labelled)
        if scale == 1:
            return strong
        if weak is None:
            lesser = self._predict(self.transformer, x, t, nothing, unlabelled)
        else:
            lesser = self._predict(weak, x, t, labels, weak_modulation)
        return lesser if strong is None else lesser + scale * (strong - lesser)

    @staticmethod
    def _predict(
        model: LightningDiT2DModel, x: Tensor, t: Tensor, labels: Tensor, modulation: Sequence[Tensor] | None
    ) -> Tensor:
        return model(x.to(model.dtype), t, labels, modulation=modulation).sample.float()

    def _labels(self, given: int | Sequence[int] | Tensor) -> Tensor:
        classes = self.transformer.config.num_classes
        try:
            labels = torch.as_tensor(given).flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"class_labels must be numbers from 0 to {classes - 1}, they are {given!r}") from error
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        if not len(labels) or not whole or labels.min() < 0 or labels.max() > classes:
            raise ValueError(f"class_labels must be numbers from 0 to {classes - 1}, they are {given!r}")
        return labels.long()

    def _schedule(self, schedule: str, steps: int, time_shift: float) -> tuple[FlowMatchEulerDiscreteScheduler, int]:
        """A scheduler of this call's own (it has state) and how many updates to make."""
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}; use one of {', '.join(SCHEDULES)}")
        steps = flow.check_steps(steps, least=2 if schedule == "official" else 1)
        times = flow.official_times(steps) if schedule == "official" else flow.sampling_times(steps)
        scheduler = type(self.scheduler).from_config(self.scheduler.config, shift=1.0)
        scheduler.set_timesteps(sigmas=flow.shift_time(times, time_shift).tolist(), device=self._execution_device)
        # The scheduler adds a last time 0, where the authors' grid does not go.
        return scheduler, len(times) - (schedule == "official")

    def _check_weak(self, weak: LightningDiT2DModel | None) -> None:
        if weak is None:
            return
        for name in ("in_channels", "sample_size", "num_classes"):
            ours, theirs = self.transformer.config[name], weak.config[name]
            if ours != theirs:
                raise ValueError(f"weak_transformer does not fit: its {name} is {theirs}, the transformer's is {ours}")

    def _denoise(
        self,
        x: Tensor,
        labels: Tensor,
        scheduler: FlowMatchEulerDiscreteScheduler,
        updates: int,
        scales: guidance.Schedule,
        weak: LightningDiT2DModel | None,
        callback: Callable | None,
    ) -> Tensor:
        """From noise to data, (n, C, h, w) float32. Nothing in the loop waits for the device."""
        scheduler.set_begin_index(0)
        scale_of = [scales.at(t) for t in scheduler.sigmas[:updates].cpu()]
        times, nothing = scheduler.sigmas[:updates], torch.full_like(labels, self.transformer.config.num_classes)
        unlabelled = weak is None and any(scale != 1 for scale in scale_of)
        strong = _Modulations(self.transformer, times, torch.cat([labels, nothing]) if unlabelled else labels)
        lesser = None if weak is None else _Modulations(weak, times, labels)
        with self.progress_bar(total=updates) as bar:
            for step, timestep in enumerate(scheduler.timesteps[:updates]):
                t = scheduler.sigmas[step].expand(len(x))
                scale = scale_of[step]
                weak_modulation = None if lesser is None or scale == 1 else lesser.at(step)
                velocity = self.velocity(x, t, labels, scale, weak, strong.at(step), weak_modulation)
                if callback is not None:
                    prediction = flow.data_from_velocity(x, velocity, t)
                x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
                bar.update()
                if callback is not None:
                    state = {"latents": x, "prediction": prediction}
                    x = (callback(self, step, timestep, state) or state).get("latents", x)
                if self._interrupt:
                    break
        return x


class _Modulations:
    """What a model makes of time and labels alone, for several steps at once: a step with few pictures would read a
    third of the weights for it."""

    def __init__(self, model: LightningDiT2DModel, times: Tensor, labels: Tensor):
        self.model, self.times, self.labels = model, times, labels
        self.steps = max(1, ROWS_AT_ONCE // len(labels))
        self.first, self.held = 0, None

    def at(self, step: int) -> list[Tensor]:
        if self.held is None or not self.first <= step < self.first + self.steps:
            self.first = step
            self.held = self.model.modulations(self.times[step : step + self.steps], self.labels)
        return [one[step - self.first] for one in self.held]
