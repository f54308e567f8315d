"""RPiAEPipeline: text → picture, and picture + instruction → edited picture.

    pipe = RPiAEPipeline.from_pretrained("assets/checkpoints/stickers-256")
    pipe(prompt="a cat to the left of a red car").images[0]
    pipe(prompt="make the car blue", image=picture).images[0]
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from . import flow, guidance, images
from .autoencoder import AutoencoderRPiAE
from .compiled import compile_steps, nothing_compiled_anew
from .images import Letterbox
from .latent_pipeline import LatentPipeline
from .loading import open_pipeline, plain
from .noise import draw_noise
from .region import RegionSettings, allowed_area, change_mask, composite, likely_area, snap
from .text import TextEncoder, TextStates
from .transformer import Context, RPiAETransformer2DModel

FALLBACK_DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 3.0, "image_guidance_scale": 1.5}


@dataclass
class RPiAEPipelineOutput(BaseOutput):
    """Pictures, and for edits with `preserve_unchanged` where each one changed (PIL "L", else None). `changes`: how
    likely an edit changes each part of the picture, (n, 1, m, m), where the transformer tells."""

    images: list[Image.Image] | Tensor
    change_masks: list[Image.Image | None]
    changes: Tensor | None = None


@dataclass(frozen=True)
class Source:
    """A picture to edit: as it was given, as the model's square, and what a painted mask allows."""

    picture: Image.Image
    square: Image.Image
    letterbox: Letterbox
    painted: Image.Image | None


def _masks(given, count: int) -> list:
    """A mask, or none, for each of so many pictures."""
    masks = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(masks) == 1:
        masks = masks * count
    if given is not None and not count:
        raise ValueError("a mask needs a picture to edit; give image= as well")
    if len(masks) != count:
        raise ValueError(f"{len(masks)} masks for {count} pictures; give one, or one for each")
    return masks


def _repeats(sources: list[Source]) -> tuple[list[int], list[int]]:
    """Where each different source comes first, and which of those every one is."""
    order = list(dict.fromkeys(map(id, sources)))
    which = [order.index(id(source)) for source in sources]
    return [which.index(number) for number in range(len(order))], which


def make_scheduler(time_shift: float) -> FlowMatchEulerDiscreteScheduler:
    """The Euler scheduler for `flow.sampling_times`, which shifts those times once."""
    return FlowMatchEulerDiscreteScheduler(shift=time_shift)


class RPiAEPipeline(LatentPipeline):
    """Text-to-image and instruction editing on RPiAE latents.

    Args:
        vae, transformer, text_encoder, scheduler: the components.
        defaults: what `__call__` takes where an argument is None: num_inference_steps, guidance_scale,
            image_guidance_scale.
        region: `RegionSettings` as a dict, calibrated with the checkpoint.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    # Sequential offloading brings a layer's weights when it is called; these use some otherwise, so they stay whole.
    _exclude_from_cpu_offload = ["text_encoder", "transformer", "vae"]

    def __init__(
        self,
        vae: AutoencoderRPiAE,
        transformer: RPiAETransformer2DModel,
        text_encoder: TextEncoder,
        scheduler: FlowMatchEulerDiscreteScheduler,
        defaults: dict | None = None,
        region: dict | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, transformer=transformer, text_encoder=text_encoder, scheduler=scheduler
        )
        settings = RegionSettings.from_dict(plain(region or {}))
        given = plain(defaults or {})
        if not isinstance(given, dict) or not given.keys() <= FALLBACK_DEFAULTS.keys():
            raise ValueError(f"defaults name {', '.join(FALLBACK_DEFAULTS)} and nothing else, they are {given!r}")
        self.register_to_config(defaults=FALLBACK_DEFAULTS | given, region=settings.to_dict())
        self.check_components()

    @classmethod
    def from_pretrained(
        cls, source: str | Path, torch_dtype=torch.float32, vae: AutoencoderRPiAE | None = None, **unknown
    ) -> "RPiAEPipeline":
        """Load a checkpoint folder, or "hf:org/name" from the hub. Strict: see `rpiae.loading`.

        Args:
            vae: the folder's tokenizer, where it is loaded already.

        Raises:
            ValueError: what is missing, damaged or foreign, and where.
        """
        folder, index, scheduler = open_pipeline(cls, source, "an RPiAE checkpoint", unknown)
        return cls(
            vae=vae or AutoencoderRPiAE.from_pretrained(folder / "vae", torch_dtype=torch_dtype),
            transformer=RPiAETransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch_dtype),
            text_encoder=TextEncoder.from_pretrained(folder / "text_encoder", torch_dtype=torch_dtype),
            scheduler=scheduler,
            defaults=index.get("defaults"),
            region=index.get("region"),
        )

    def check_components(self) -> None:
        """ValueError when the components were not made for each other."""
        pairs = (
            ("channels", self.vae.latent_shape[0], self.transformer.config.in_channels),
            ("rows", self.vae.latent_shape[1], self.transformer.config.sample_size),
        )
        for what, of_vae, of_transformer in pairs:
            if of_vae != of_transformer:
                raise ValueError(
                    f"tokenizer and transformer do not fit: the latent has {of_vae} {what}, "
                    f"the transformer wants {of_transformer}"
                )
        slots, tokens = self.transformer.config.text_slots, self.text_encoder.config.max_tokens
        if slots != tokens:
            raise ValueError(f"text encoder and transformer do not fit: {tokens} slots, the transformer wants {slots}")
        if self.text_encoder.width != self.transformer.config.text_width:
            raise ValueError(
                f"text encoder and transformer do not fit: states of width {self.text_encoder.width}, "
                f"the transformer wants {self.transformer.config.text_width}"
            )

    def compile_steps(self) -> None:
        """Compile the steps by torch.compile, now: later calls are faster and none waits for a compiler. ValueError
        where that does not work. See `rpiae.compiled`."""
        compile_steps(self)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: Image.Image | list[Image.Image] | None = None,
        mask_image: Image.Image | list[Image.Image | None] | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        preserve_unchanged: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        callback_on_step_end: Callable | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        guidance_interval: tuple[float, float] = guidance.WHOLE,
    ) -> RPiAEPipelineOutput | tuple:
        """Draw pictures from text, or edit pictures by instruction when `image` is given.

        Args:
            prompt: one text or one per picture.
            image: picture(s) to edit: PIL of any mode and size, a path, or bytes.
            mask_image: white where the edit may change the picture; of the picture's size.
            negative_prompt: what the result should not be like; stands in for "no text".
            num_inference_steps, guidance_scale, image_guidance_scale: None is the checkpoint's own default.
            preserve_unchanged: keep the input's own pixels where the edit changed nothing.
            generator: one for all pictures in turn, or one per picture; noise is drawn on the CPU, so a seed means
                the same picture in any batch and on any device.
            latents: the noise to start from, (n, C, h, w), instead of drawing it.
            callback_on_step_end: called as f(pipe, step, timestep, {"latents", "prediction"}) after each step;
                `prediction` is the current guess of the finished latent. `pipe.interrupt()` stops after the step.
            output_type: "pil"; "pt" for (n, 3, H, W) in [0, 1] at the model's size; "latent" for normalised latents.
            guidance_interval: the times, both ends included, at which both guidances are on; 1 is noise.

        Raises:
            ValueError: a bad argument, in one sentence.
        """
        self._interrupt = False
        prompts, sources, settings = self._check(
            prompt, image, mask_image, negative_prompt, output_type,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
        )  # fmt: skip
        guidance_interval = guidance.check_interval(guidance_interval)
        x = draw_noise(len(prompts), self.vae.latent_shape, generator, latents).to(self._execution_device)
        source_latent = self._encode_sources(sources) if sources else None
        branches = guidance.branches(
            settings["guidance_scale"], settings["image_guidance_scale"], bool(sources), bool(negative_prompt),
            whole=guidance_interval == guidance.WHOLE,
        )  # fmt: skip
        context = self._encode_context(prompts, negative_prompt or "", branches, source_latent)
        steps = settings["num_inference_steps"]
        x, changes = self._denoise(x, context, branches, guidance_interval, steps, callback_on_step_end)
        if output_type == "latent":
            result = RPiAEPipelineOutput(images=x, change_masks=[None] * len(prompts))
        elif sources:
            result = self._finish_edit(x, changes, source_latent, sources, preserve_unchanged, output_type)
        else:
            pictures = self._decode(x)
            shown = images.to_pil(pictures) if output_type == "pil" else pictures
            result = RPiAEPipelineOutput(images=shown, change_masks=[None] * len(prompts))
        result.changes = changes if sources else None
        self.maybe_free_model_hooks()
        return result if return_dict else (result.images, result.change_masks)

    @torch.no_grad()
    def reconstruct(self, picture: Image.Image) -> Image.Image:
        """A picture through the tokenizer and back, at its own size."""
        square, letterbox = images.letterbox(images.load(picture), self.vae.config.image_size)
        x = images.to_tensor(square).to(self._execution_device, self.vae.dtype)
        return letterbox.undo(images.to_pil(self.vae(x).float().clamp(0, 1))[0])

    def _check(
        self, prompt, image, mask_image, negative_prompt, output_type, **settings
    ) -> tuple[list[str], list[Source], dict]:
        """Arguments as lists of equal length; every mistake of the caller's is found here, before any work."""
        self._check_output_type(output_type)
        if not isinstance(prompt, (str, list, tuple, type(None))):
            raise ValueError(f"prompt must be a text or a list of texts, it is {prompt!r}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        pictures = [] if image is None else list(image) if isinstance(image, (list, tuple)) else [image]
        if image is not None and not pictures:
            raise ValueError("image is an empty list; leave it away to draw from text")
        count = max(len(prompts), len(pictures))
        if len(prompts) == 1:
            prompts = prompts * count
        if len(pictures) == 1:
            pictures = pictures * count
        if pictures and len(pictures) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts for {len(pictures)} pictures; give one, or one for each")
        what = "instruction" if pictures else "prompt"
        if not prompts or not all(isinstance(text, str) and text.strip() for text in prompts):
            example = "make the car blue" if pictures else "a cat to the left of a red car"
            raise ValueError(f'the {what} is empty; write what you want, for example "{example}"')
        if not isinstance(negative_prompt, (str, type(None))):
            raise ValueError(f"negative_prompt must be a text, one for all pictures, it is {negative_prompt!r}")
        for text in [*prompts, negative_prompt or ""]:
            self.text_encoder.check(text)
        masks = _masks(mask_image, len(pictures))
        # A picture that is given several times, to be edited by several seeds, is one source.
        given = {(id(picture), id(mask)): (picture, mask) for picture, mask in zip(pictures, masks, strict=True)}
        once = {key: self._source(*pair) for key, pair in given.items()}
        sources = [once[id(picture), id(mask)] for picture, mask in zip(pictures, masks, strict=True)]
        return prompts, sources, self._settings(**settings)

    def _settings(self, **given) -> dict:
        settings = {
            name: self.config.defaults[name] if value is None else value for name, value in given.items()
        }
        for name in ("guidance_scale", "image_guidance_scale"):
            guidance.check_scale(settings[name], name)
        return settings | {"num_inference_steps": flow.check_steps(settings["num_inference_steps"])}

    def _source(self, picture, mask) -> Source:
        picture = images.load(picture)
        square, letterbox = images.letterbox(picture, self.vae.config.image_size)
        painted = None if mask is None else images.load_mask(mask, picture.size)
        return Source(picture, square, letterbox, painted)

    def _encode_sources(self, sources: list[Source]) -> Tensor:
        firsts, which = _repeats(sources)
        squares = images.to_tensor([sources[i].square for i in firsts]).to(self._execution_device, self.vae.dtype)
        return self.vae.normalise(self.vae.encode(squares).latent_dist.mode())[which]

    def _encode_context(
        self, prompts: list[str], negative: str, branches: tuple[guidance.Branch, ...], source: Tensor | None
    ) -> Context:
        """One context per branch and picture, branch-major, in one static batch."""
        count = len(prompts)
        texts = {"prompt": prompts, "negative": [negative] * count, "none": [""] * count}
        states: TextStates = self.text_encoder([text for branch in branches for text in texts[branch.text]])
        states = states.to(self._execution_device, self.transformer.dtype)
        if source is None:
            return self.transformer.encode_context(states)
        sees = torch.tensor([branch.source for branch in branches], device=self._execution_device)
        repeated = source.to(self.transformer.dtype).repeat(len(branches), 1, 1, 1)
        return self.transformer.encode_context(states, repeated, sees.repeat_interleave(count))

    def _denoise(
        self,
        x: Tensor,
        context: Context,
        branches: tuple[guidance.Branch, ...],
        interval: tuple[float, float],
        steps: int,
        callback: Callable | None,
    ) -> tuple[Tensor, Tensor | None]:
        """From noise to data, (n, C, h, w) float32, all guidance branches of a step in one batch; and how likely each
        part of the picture changes, (n, 1, m, m), as the first branch tells in the last step. Nothing in the loop waits
        for the device."""
        scheduler = copy.deepcopy(self.scheduler)  # it has state: one per call
        scheduler.set_timesteps(sigmas=flow.sampling_times(steps).tolist(), device=self._execution_device)
        scheduler.set_begin_index(0)  # else its first step asks the device where it is
        factors = tuple(branch.factor for branch in branches)
        guided = [guidance.inside(t, interval) for t in scheduler.sigmas[:steps].cpu()]
        prompt_alone = context if all(guided) else context.first(len(x))
        modulations = self.transformer.encode_time(scheduler.sigmas[:steps])
        with nothing_compiled_anew(self.transformer), self.progress_bar(total=steps) as bar:
            for step, timestep in enumerate(scheduler.timesteps):
                t = scheduler.sigmas[step]
                weights, seen = (factors, context) if guided[step] else ((1.0,), prompt_alone)
                repeated = x.repeat(len(weights), 1, 1, 1)
                times = t.expand(len(repeated))
                dtype = self.transformer.dtype
                output = self.transformer(repeated.to(dtype), times, context=seen, time=modulations[step])
                velocity = guidance.combine(output.sample.float(), weights)
                if callback is not None:
                    prediction = flow.data_from_velocity(x, velocity, t.expand(len(x)))
                x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
                bar.update()
                if callback is not None:
                    state = {"latents": x, "prediction": prediction}
                    x = (callback(self, step, timestep, state) or state).get("latents", x)
                if self._interrupt:
                    break
        return x, None if output.changes is None else output.changes[: len(x)].float().sigmoid()

    def _finish_edit(
        self,
        x: Tensor,
        changes: Tensor | None,
        source_latent: Tensor,
        sources: list[Source],
        preserve: bool,
        output_type: str,
    ) -> RPiAEPipelineOutput:
        """Decode and put the result over the input: where it changed, or everywhere where nothing is preserved."""
        letterboxes = [source.letterbox for source in sources]
        allowed = torch.cat([self._allowed(source) for source in sources]).to(self._execution_device)
        if preserve:
            settings = RegionSettings.from_dict(plain(self.config.region))
            likely = likely_area(changes, settings, self.vae.config.image_size)
            x = snap(source_latent.float(), x, settings, allowed, likely)
            firsts, which = _repeats(sources)
            decoded = self._decode(torch.cat([source_latent[firsts].float(), x]))
            before, after = decoded[: len(firsts)], decoded[len(firsts) :]
            masks = change_mask(before[which], after, settings, allowed, letterboxes, likely)
        else:
            after = self._decode(x)
            masks = allowed.expand(len(sources), -1, -1, -1)
        if output_type == "pt":
            squares = images.to_tensor([source.square for source in sources]).to(self._execution_device)
            pictures = torch.where(masks > 0, masks * after + (1 - masks) * squares, squares)
            shown = images.to_pil(masks) if preserve else [None] * len(sources)
            return RPiAEPipelineOutput(images=pictures, change_masks=shown)
        finished = [
            composite(source.picture, edited, mask, source.letterbox, source.painted)
            for source, edited, mask in zip(sources, after, masks, strict=True)
        ]
        pictures, change_masks = map(list, zip(*finished, strict=True))
        return RPiAEPipelineOutput(
            images=pictures, change_masks=change_masks if preserve else [None] * len(sources)
        )

    def _allowed(self, source: Source) -> Tensor:
        if source.painted is not None:
            return allowed_area(source.painted, source.letterbox)
        return torch.ones(1, 1, source.letterbox.size, source.letterbox.size)
