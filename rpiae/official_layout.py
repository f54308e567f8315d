"""How the authors' files are laid out: what their tensors are called, and which sizes their shapes tell.

Names follow the release (transformers 4.56): see reference facts (b). A name in braces stands for several tensors that
lie one below another in ours.
"""

import math
import re
from collections import Counter

FUSED = "{query,key,value}"

# Ours → theirs, replaced in this order in names that begin as the table's key does.
Renames = dict[str, tuple[tuple[str, str], ...]]

TOKENIZER_NAMES: Renames = {
    "encoder.": (
        ("encoder.model.", "encoder.encoder."),
        # transformers 5 renamed these four.
        (".attention.q_proj.", ".attention.attention.query."),
        (".attention.k_proj.", ".attention.attention.key."),
        (".attention.v_proj.", ".attention.attention.value."),
        (".attention.o_proj.", ".attention.output.dense."),
    ),
    "decoder.": (
        ("decoder.input.", "decoder.decoder_embed."),
        ("decoder.class_token", "decoder.trainable_cls_token"),
        ("decoder.position_table", "decoder.decoder_pos_embed"),
        ("decoder.blocks.", "decoder.decoder_layers."),
        ("decoder.norm.", "decoder.decoder_norm."),
        ("decoder.head.", "decoder.decoder_pred."),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attention.qkv.", f".attention.attention.{FUSED}."),
        (".attention.out.", ".attention.output.dense."),
        (".feed_forward.0.", ".intermediate.dense."),
        (".feed_forward.2.", ".output.dense."),
    ),
    "bridge.encoder.": (
        ("bridge.encoder.", "vb_feature_encoder."),
        (".attention.qkv.", ".attn.in_proj_"),
        (".attention.out.", ".attn.out_proj."),
        (".skip.", ".skip_proj."),
        (".feed_forward.0.", ".proj2.0."),
        (".feed_forward.2.", ".proj2.3."),
        (".moments.", ".to_moments."),
    ),
    "bridge.decoder.": (
        ("bridge.decoder.blocks.", "vb_feature_decoder.net."),
        ("bridge.decoder.input.", "vb_feature_decoder.in_proj."),
        ("bridge.decoder.output.", "vb_feature_decoder.out_proj."),
        (".attention.qkv.", ".self_attn.in_proj_"),
        (".attention.out.", ".self_attn.out_proj."),
        (".feed_forward.0.", ".linear1."),
        (".feed_forward.2.", ".linear2."),
    ),
}

TRANSFORMER_NAMES: Renames = {
    "": (
        ("input.", "x_embedder.proj."),
        ("position_table", "pos_embed"),
        ("frequencies", "t_embedder.W"),
        ("time_embedding.", "t_embedder.mlp."),
        ("label_embedding.", "y_embedder.embedding_table."),
        ("rope_", "feat_rope.freqs_"),
        ("output_norm.", "final_layer.norm_final."),
        ("output_modulation.", "final_layer.adaLN_modulation."),
        ("output.", "final_layer.linear."),
        (".qkv.", ".attn.qkv."),
        (".query_norm.", ".attn.q_norm."),
        (".key_norm.", ".attn.k_norm."),
        (".feed_forward.gate_and_value.", ".mlp.w12."),
        (".feed_forward.out.", ".mlp.w3."),
        (".out.", ".attn.proj."),
        (".modulation.", ".adaLN_modulation."),
    ),
}


def official_names(ours: str, renames: Renames) -> tuple[str, ...]:
    """The authors' tensors, top to bottom, that one of ours consists of."""
    prefix = next(prefix for prefix in renames if ours.startswith(prefix))
    name = ours
    for old, new in renames[prefix]:
        name = name.replace(old, new)
    if FUSED not in name:
        return (name,)
    return tuple(name.replace(FUSED, part) for part in FUSED.strip("{}").split(","))


def released_name(name: str) -> str:
    """A key as the release writes it: without wrappers' prefixes, encoder attention as in transformers 4."""
    name = re.sub(r"^((module|_orig_mod)\.)+", "", name)
    if name.startswith(("encoder.", "teacher_encoder.")):
        for new, old in TOKENIZER_NAMES["encoder."][1:]:
            name = name.replace(new, old)
    return name


class Sizes:
    """Sizes, read from the shapes of a file's tensors. Where several tensors tell a size the majority counts, so that
    one misshapen tensor is found as such and does not make all others look wrong."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes

    def most(self, *places: tuple[str, int]) -> int:
        """The most frequent size at (pattern of names, axis)."""
        found = Counter(
            shape[axis]
            for pattern, axis in places
            for name, shape in self.shapes.items()
            if re.fullmatch(pattern, name) and len(shape) > axis
        )
        if not found:
            raise ValueError(f"missing: {places[0][0]}".replace("\\", "").replace("d+", "N"))
        return found.most_common(1)[0][0]

    def one(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of the only tensor that tells it."""
        if name not in self.shapes:
            raise ValueError(f"missing: {name}")
        if len(self.shapes[name]) != dimensions:
            raise ValueError(f"of another shape: {name} {self.shapes[name]} should have {dimensions} dimensions")
        return self.shapes[name]

    def count(self, prefix: str) -> int:
        """Numbered layers, prefix.0. to prefix.(n-1)."""
        numbers = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in self.shapes]
        found = [int(match[1]) for match in numbers if match]
        if not found:
            raise ValueError(f"missing: {prefix}.0")
        return max(found) + 1

    def side(self, name: str, rows: int) -> int:
        """The side of a square of `rows` places."""
        side = math.isqrt(max(rows, 0))
        if side == 0 or side * side != rows:
            raise ValueError(f"of another shape: {name} {self.shapes[name]} should hold a square of places")
        return side


def check_heads(argument: str, heads: int, width: int) -> None:
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or width % heads:
        raise ValueError(f"{argument}={heads} does not divide the width {width}; give the model's own number of heads")


def tokenizer_settings(sizes: Sizes, encoder_heads: int, decoder_heads: int, bridge: bool) -> dict:
    """The arguments of `AutoencoderRPiAE` that a tokenizer file's shapes tell."""
    width = sizes.most((r"encoder\.encoder\.encoder\.layer\.\d+\.norm[12]\.(weight|bias)", 0))
    check_heads("encoder_num_heads", encoder_heads, width)
    mlp = r"encoder\.encoder\.encoder\.layer\.\d+\.mlp\."
    hidden = sizes.most((mlp + r"fc1\.(weight|bias)", 0), (mlp + r"fc2\.weight", 1))
    if hidden % width:
        raise ValueError(f"the encoder's MLP width {hidden} is no multiple of its width {width}")
    places = "encoder.encoder.embeddings.position_embeddings"
    native_grid = sizes.side(places, sizes.one(places, 3)[1] - 1)
    patch = sizes.one("encoder.encoder.embeddings.patch_embeddings.projection.weight", 4)[2]
    grid = sizes.side("decoder.decoder_pos_embed", sizes.one("decoder.decoder_pos_embed", 3)[1] - 1)
    encoder = {
        "kind": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": sizes.count("encoder.encoder.encoder.layer"),
        "num_attention_heads": encoder_heads,
        "mlp_ratio": hidden // width,
        "patch_size": patch,
        "num_register_tokens": sizes.one("encoder.encoder.embeddings.register_tokens", 3)[1],
        "native_size": native_grid * patch,
        "input_size": grid * patch,
        "output_grid": grid,
    }
    decoder = _decoder_settings(sizes, decoder_heads, grid)
    return {
        "encoder_config": encoder,
        "decoder_config": decoder,
        "bridge_config": _bridge_settings(sizes, width) if bridge else None,
        "image_size": grid * decoder["patch_size"],
    }


def _decoder_settings(sizes: Sizes, heads: int, grid: int) -> dict:
    layer = r"decoder\.decoder_layers\.\d+\."
    width = sizes.most((layer + r"layernorm_(before|after)\.(weight|bias)", 0))
    check_heads("decoder_num_heads", heads, width)
    rows = sizes.most((r"decoder\.decoder_pred\.(weight|bias)", 0))
    patch = math.isqrt(rows // 3)
    if 3 * patch * patch != rows:
        raise ValueError(f"of another shape: decoder.decoder_pred.weight has {rows} rows, they should be 3 p p")
    return {
        "hidden_size": width,
        "num_layers": sizes.count("decoder.decoder_layers"),
        "num_heads": heads,
        "intermediate_size": sizes.most(
            (layer + r"intermediate\.dense\.(weight|bias)", 0), (layer + r"output\.dense\.weight", 1)
        ),
        "patch_size": patch,
        "grid": grid,
        "position": "table",
    }


def _bridge_settings(sizes: Sizes, width: int) -> dict:
    back = r"vb_feature_decoder\.net\.\d+\."
    there = r"vb_feature_encoder\.proj2\."
    moments = sizes.most((r"vb_feature_encoder\.to_moments\.(weight|bias)", 0))
    if moments % 2:
        raise ValueError(f"of another shape: vb_feature_encoder.to_moments.weight has an odd number of rows, {moments}")
    return {
        "latent_channels": moments // 2,
        "decoder_layers": sizes.count("vb_feature_decoder.net"),
        "encoder_mlp_ratio": _ratio(sizes.most((there + r"0\.(weight|bias)", 0), (there + r"3\.weight", 1)), width),
        "decoder_mlp_ratio": _ratio(
            sizes.most((back + r"linear1\.(weight|bias)", 0), (back + r"linear2\.weight", 1)), width
        ),
    }


def _ratio(hidden: int, width: int) -> float:
    """The ratio for which int(width * ratio) is `hidden`."""
    return hidden / width if hidden % width == 0 else (hidden + 0.5) / width


def transformer_settings(sizes: Sizes, heads: int | None) -> dict:
    """The arguments of `LightningDiT2DModel` that a file's shapes tell; the number of heads is checked, or found."""
    width = sizes.most((r"blocks\.\d+\.norm[12]\.weight", 0))
    head_width = sizes.most((r"blocks\.\d+\.attn\.[qk]_norm\.weight", 0))
    heads = width // head_width if heads is None else heads
    if heads * head_width != width:
        raise ValueError(
            f"num_heads={heads} does not fit: the width is {width} and the heads are {head_width} wide, "
            f"so give num_heads={width // head_width}"
        )
    _, channels, patch, _ = sizes.one("x_embedder.proj.weight", 4)
    grid = sizes.side("pos_embed", sizes.one("pos_embed", 3)[1])
    return {
        "in_channels": channels,
        "sample_size": grid * patch,
        "patch_size": patch,
        "hidden_size": width,
        "num_layers": sizes.count("blocks"),
        "num_heads": heads,
        "feed_forward_size": sizes.most((r"blocks\.\d+\.mlp\.w3\.weight", 1)),
        "num_classes": sizes.one("y_embedder.embedding_table.weight", 2)[0] - 1,
        "time_frequencies": sizes.one("t_embedder.W", 1)[0],
    }
