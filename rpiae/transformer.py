"""RPiAETransformer2DModel: text-to-image and editing in one diffusion transformer, with a context cache.

    context:  64 text slots + one slot per source patch      attends to itself, modulated by fixed learned vectors
    target:   the noisy latent's patches                     attends to context and target, modulated by t

The context never sees t or the target, so its keys and values are the same at every step: `encode_context` computes
them once per request and `forward(x_t, t, context=...)` reuses them exactly. Every context has the same length
(padding, "no text" and "no source" are learned null tokens), so all guidance branches form one static batch. What the
times of a schedule do to the layers does not depend on the pictures: `encode_time` computes it for all steps at once.

Shape legend: see `rpiae.layers`; s is the number of text slots.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from . import flow
from .attention import AttentionChoice, attention
from .cell_head import CellHead
from .layers import ModulatedBlock, RMSNorm, patchify, rope_table, rotate, unpatchify
from .loading import StrictLoading
from .text import TextStates

TIME_CHANNELS = 256


@dataclass(frozen=True)
class Context:
    """What the target needs of text and source: per layer keys and values (B, s+n, l, k); the source's patches as they
    are added to the target's (B, n, p*p*c); what they add to its tokens, positions included, (B, n, d), and to the
    cells of the head (B, h*w, head_size), where there is one."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    source_patches: Tensor
    source_tokens: Tensor
    source_cells: Tensor | None

    def repeat(self, times: int) -> "Context":
        """Each entry `times` times in a row: several noise draws on one context."""
        return self._each(lambda x: x.repeat_interleave(times, dim=0))

    def first(self, count: int) -> "Context":
        """The first `count` entries."""
        return self._each(lambda x: x[:count])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Context":
        return Context(
            tuple(map(change, self.keys)),
            tuple(map(change, self.values)),
            change(self.source_patches),
            change(self.source_tokens),
            None if self.source_cells is None else change(self.source_cells),
        )


@dataclass(frozen=True)
class TimeModulation:
    """What T times do to the target: shift, scale and gate twice in every layer, (layers, T, 6, d), shift and scale of
    the output, (T, 2, d), and shift, scale and gate of the cell head, (T, 3, head_size), where there is one."""

    blocks: Tensor
    output: Tensor
    head: Tensor | None = None

    def __getitem__(self, step: int) -> "TimeModulation":
        """That of one time, for every row of a batch."""
        head = None if self.head is None else self.head[step : step + 1]
        return TimeModulation(self.blocks[:, step : step + 1], self.output[step : step + 1], head)


@dataclass
class RPiAETransformerOutput(Transformer2DModelOutput):
    """`sample`: the velocity (B, c, h, w), float32; `features`: target tokens (B, n, d) on the way, when asked for;
    `changes`: logits (B, 1, s*h, s*w) that an edit changes the picture there, where the head tells them."""

    features: Tensor | None = None
    changes: Tensor | None = None


class Block(ModulatedBlock):
    """The same weights serve context and target."""

    def __init__(self, width: int, num_heads: int, hidden: int):
        super().__init__(width, num_heads, hidden)
        # Added to the shared time modulation; the context's is its whole modulation. Zero gates: a block starts as
        # the identity.
        self.modulation_offset = nn.Parameter(torch.zeros(6, width))
        self.context_modulation = nn.Parameter(torch.zeros(6, width))

    def context(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Context tokens (B, s+n, d) → themselves after this block, and the keys and values for the target."""
        shift1, scale1, *rest = self.context_modulation.to(x.dtype).unbind(0)
        q, k, v = self.project(x, shift1, scale1)
        k = rotate(k, rope)
        return self.finish(x, attention(rotate(q, rope), k, v), *rest), k, v

    def target(self, x: Tensor, modulation: Tensor, rope: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Target tokens (B, n, d) with this layer's modulation (B or 1, 6, d) and context."""
        shift1, scale1, *rest = modulation.unsqueeze(2).unbind(1)
        q, k, v = self.project(x, shift1, scale1)
        attended = attention(rotate(q, rope), torch.cat([keys, rotate(k, rope)], dim=1), torch.cat([values, v], dim=1))
        return self.finish(x, attended, *rest)


class RPiAETransformer2DModel(AttentionChoice, StrictLoading, ModelMixin, ConfigMixin):
    """Diffusion transformer on RPiAE latents, conditioned on text and, when editing, on the source's latent.

    Args:
        in_channels: channels of the latent.
        sample_size: rows (= columns) of the latent.
        patch_size: latent cells per token, on each side.
        hidden_size, num_layers, num_heads, feed_forward_size: the transformer (SwiGLU's inner width last).
        text_width: width of the text encoder's states.
        text_slots: text tokens of every context.
        prediction: what the network's last layer gives, "data" or "velocity"; `forward` returns velocity always.
        head_layers, head_size: layers and width of a head at the latent's own resolution, see `rpiae.cell_head`; none
            by default.
        head_change_parts: s, parts of a cell on each side of which the head tells whether an edit changes them; 0:
            none.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        sample_size: int = 16,
        patch_size: int = 2,
        hidden_size: int = 256,
        num_layers: int = 12,
        num_heads: int = 4,
        feed_forward_size: int = 688,
        text_width: int = 1152,
        text_slots: int = 64,
        prediction: str = "data",
        head_layers: int = 0,
        head_size: int = 128,
        head_change_parts: int = 0,
    ):
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"patch size {patch_size} does not divide the latent's {sample_size} rows")
        if prediction not in ("data", "velocity"):
            raise ValueError(f"prediction is {prediction!r}; use 'data' or 'velocity'")
        self.grid = (sample_size // patch_size, sample_size // patch_size)
        tokens = self.grid[0] * self.grid[1]
        patch_width = in_channels * patch_size**2

        self.target_input = nn.Linear(patch_width, hidden_size)
        # The source at the same place is added to the target's tokens: pixel-aligned copying from the first step.
        self.source_to_target = nn.Linear(patch_width, hidden_size, bias=False)
        self.time_features = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
        self.time_embedding = TimestepEmbedding(TIME_CHANNELS, hidden_size)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

        self.text_input = nn.Linear(text_width, hidden_size)
        self.source_input = nn.Linear(patch_width, hidden_size)
        self.null_text = nn.Parameter(torch.randn(text_slots, hidden_size) * 0.02)
        self.null_source = nn.Parameter(torch.randn(tokens, hidden_size) * 0.02)
        self.text_type = nn.Parameter(torch.zeros(hidden_size))
        self.source_type = nn.Parameter(torch.zeros(hidden_size))
        # Rotations tell where tokens are to each other; "at the bottom" and a background need to know where they are.
        self.position = nn.Parameter(torch.zeros(tokens, hidden_size))

        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, feed_forward_size) for _ in range(num_layers)
        )
        self.output_norm = RMSNorm(hidden_size)
        self.output_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))
        # Data prediction: a value and a gain on x_t for each number of a patch, see `_data`.
        numbers = 2 if prediction == "data" else 1
        self.output = nn.Linear(hidden_size, patch_width * numbers)
        self.head = None
        if head_layers:
            outputs = in_channels * numbers
            sizes = (hidden_size, in_channels, patch_size, head_size, head_layers, outputs)
            self.head = CellHead(*sizes, head_change_parts)
        elif head_change_parts:
            raise ValueError(f"head_change_parts is {head_change_parts}, but there is no head: set head_layers")
        head_width = hidden_size // num_heads
        places = rope_table(self.grid, head_width)
        still = torch.stack([torch.ones(text_slots, head_width // 2), torch.zeros(text_slots, head_width // 2)], -1)
        self.register_buffer("target_rope", places, persistent=False)
        self.register_buffer("context_rope", torch.cat([still, places]), persistent=False)
        self._start()

    def _start(self) -> None:
        """Blocks start as the identity, the output at zero (text to image) or at the source (editing)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.modulation[-1], self.output_modulation[-1], self.output):
            nn.init.zeros_(layer.weight)
        for block in self.blocks:
            nn.init.constant_(block.context_modulation[2], 0.3)
            nn.init.constant_(block.context_modulation[5], 0.3)
        if self.head is not None:
            self.head.start()

    @apply_forward_hook
    def encode_context(
        self, text: TextStates, source: Tensor | None = None, has_source: Tensor | None = None
    ) -> Context:
        """Text and source → the context of every layer.

        Args:
            text: states (B, s, text_width); slots where the mask is False get learned null tokens.
            source: clean, normalised latent (B, c, h, w) of the picture to edit, or None for all.
            has_source: (B,) bool, which rows have one; None means all rows when `source` is given.
        """
        states = text.states
        if states.shape[1] != self.config.text_slots:
            raise ValueError(f"the text has {states.shape[1]} slots, this model reads {self.config.text_slots}")
        batch = len(states)
        words = self.text_input(states.to(self.text_input.weight.dtype))
        words = torch.where(text.mask[..., None], words, self.null_text.to(words.dtype)) + self.text_type
        if source is None:
            width = self.config.in_channels * self.config.patch_size**2
            patches = words.new_zeros(batch, len(self.null_source), width)
            places = self.null_source.expand(batch, -1, -1)
        else:
            patches = patchify(source, self.config.patch_size)
            places = self.source_input(patches)
            if has_source is not None:
                there = has_source[:, None, None]
                places = torch.where(there, places, self.null_source.to(places.dtype))
                patches = patches * there
        x = torch.cat([words, (places + self.position + self.source_type).to(words.dtype)], dim=1)
        keys, values = [], []
        for block in self.blocks:
            x, k, v = block.context(x, self.context_rope)
            keys.append(k)
            values.append(v)
        added = self.source_to_target(patches)
        added = added + self.position.to(added.dtype)
        cells = None if self.head is None else self.head.encode_source(patches, self.grid)
        return Context(tuple(keys), tuple(values), patches, added, cells)

    @apply_forward_hook
    def encode_time(self, timestep: Tensor) -> TimeModulation:
        """Times (T,) in [0, 1] → what they do to every layer."""
        features = self.time_features(timestep.flatten()).to(self.target_input.weight.dtype)
        time = self.time_embedding(features)
        shared = rearrange(self.modulation(time), "t (six d) -> t six d", six=6)
        offsets = torch.stack([block.modulation_offset for block in self.blocks]).to(shared.dtype)
        output = rearrange(self.output_modulation(time), "t (two d) -> t two d", two=2)
        head = None if self.head is None else self.head.encode_time(time)
        return TimeModulation(shared + offsets[:, None], output, head)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        context: Context | None = None,
        text: TextStates | None = None,
        source: Tensor | None = None,
        has_source: Tensor | None = None,
        time: TimeModulation | None = None,
        features_after: int | None = None,
        return_dict: bool = True,
    ) -> RPiAETransformerOutput | tuple[Tensor]:
        """Noisy latent and time → velocity.

        The velocity is float32, whatever the weights are.

        Args:
            hidden_states: x_t (B, c, h, w), normalised.
            timestep: t (B,) in [0, 1], t = 1 is noise.
            context: from `encode_context`; else it is computed here from `text` and `source`. When the batch is a
                multiple of the context's, each context serves that many rows in a row.
            time: from `encode_time(timestep)`, of one time for all rows or one for each; else it is computed here.
            features_after: give the target tokens after so many layers as well, for training objectives on them.
        """
        if context is None:
            if text is None:
                raise ValueError("the transformer needs a context, or text (and a source) to make one from")
            context = self.encode_context(text, source, has_source)
        draws = len(hidden_states) // len(context.source_patches)
        if draws > 1:
            context = context.repeat(draws)
        size = self.config.patch_size
        noisy, source_patches = patchify(hidden_states, size), context.source_patches.to(hidden_states.dtype)
        x = self.target_input(noisy) + context.source_tokens
        time = time or self.encode_time(timestep)
        layers = zip(self.blocks, time.blocks, context.keys, context.values, strict=True)
        features = None
        for number, (block, modulation, keys, values) in enumerate(layers, start=1):
            x = block.target(x, modulation, self.target_rope, keys, values)
            if number == features_after:
                features = x
        shift, scale = time.output.unsqueeze(2).unbind(1)
        # In float32: a data prediction is divided by t.
        x = self.output_norm(x) * (1 + scale) + shift
        drawn, changes = self.output(x).float(), None
        if self.head is not None:
            cells, changes = self.head(x, noisy, context.source_cells, time.head, self.grid)
            parts = cells.float().split(self.config.in_channels, dim=1)
            drawn = drawn + torch.cat([patchify(part, size) for part in parts], dim=-1)
        if self.config.prediction == "data":
            noisy = noisy.float()
            data = self._data(drawn, noisy, source_patches.float(), timestep)
            drawn = flow.velocity_from_data(noisy, data, timestep)
        prediction = unpatchify(drawn, self.grid, size)
        return RPiAETransformerOutput(prediction, features, changes) if return_dict else (prediction,)

    @staticmethod
    def _data(output: Tensor, noisy: Tensor, source: Tensor, t: Tensor) -> Tensor:
        """The predicted data, source + value + gain * (x_t - (1 - t) * source), all (B, n, p*p*c).

        With gain and value zero an edit is its source; with the right gain x_t itself is passed on, which a token
        as wide as the network could not carry through it. Both are the network's choice at every token.
        """
        value, gain = output.chunk(2, dim=-1)
        return source + value + gain * (noisy - (1 - t.view(-1, 1, 1)) * source)
