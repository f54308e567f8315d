"""Linear starts: before its first step a network is set to the best linear code, its blocks to nothing.

A transformer autoencoder from random weights spends its first minutes on what principal components give at once, so
patch embedding, bridge and pixel head start as least-squares solutions on a few hundred pictures.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rpiae.bridge import VariationalBridge
from rpiae.decoder import PixelDecoder
from rpiae.encoder import CompactEncoder, RepresentationEncoder
from rpiae.layers import TransformerBlock, map_to_tokens, patchify
from rpiae.transformer import RPiAETransformer2DModel

PICTURES = 512
# Ridge regularisation, as a share of the mean square of the inputs.
RIDGE = 1e-5


def collect_pictures(dataset: Dataset, count: int = PICTURES) -> Tensor:
    """`count` pictures of a data set, (N, 3, s, s) in [0, 1]."""
    loader = DataLoader(dataset, batch_size=count)
    return next(iter(loader))["image"].float() / 255


@torch.no_grad()
def start_encoder(encoder: RepresentationEncoder, dataset: Dataset, share: float = 1.0) -> None:
    """Patch embedding from principal components of normalised patches, variances halved in the logarithm (large and
    small components come nearer to one size); block outputs zero. Only for the compact encoder.

    share: of the channels that the components fill. The rest starts empty: room for what the blocks find out, beside
    the pixels instead of over them.
    """
    if not isinstance(encoder, CompactEncoder):
        return
    projection = encoder.model.patch_embed.proj
    pictures = encoder.normalise(collect_pictures(dataset).to(projection.weight.device))
    patches = patchify(pictures, encoder.downsampling).flatten(0, 1).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    order = values.argsort(descending=True)[: round(share * projection.weight.shape[0])]
    deviations = values[order].clamp_min(1e-8).sqrt()
    # deviation ** -0.5 leaves a component with the square root of its deviation; then one scale to unit mean square.
    rows = vectors[:, order].T * deviations.rsqrt()[:, None]
    rows = rows / deviations.mean().sqrt()
    rows = torch.cat([rows, rows.new_zeros(projection.weight.shape[0] - len(rows), rows.shape[1])])
    side = encoder.downsampling
    projection.weight.copy_(rows.float().view(-1, side, side, 3).permute(0, 3, 1, 2))
    projection.bias.copy_(-(rows @ mean).float())
    for block in encoder.model.blocks:
        _zero(block.attn.proj, block.mlp.fc2)


@torch.no_grad()
def start_decoder(decoder: PixelDecoder, features: Tensor, pictures: Tensor) -> None:
    """Input layer the identity as far as it goes, block outputs zero, pixel head by least squares.

    features: (N, F, h, w), pictures: (N, 3, H, W) in [0, 1].
    """
    nn.init.zeros_(decoder.input.bias)
    nn.init.orthogonal_(decoder.input.weight)
    for block in decoder.blocks:
        zero_block(block)
    tokens = decoder.tokens(features).flatten(0, 1)
    wanted = patchify((pictures - decoder.mean) / decoder.std, decoder.patch_size).flatten(0, 1)
    least_squares(decoder.head, tokens, wanted)


@torch.no_grad()
def start_bridge(bridge: VariationalBridge, features: Tensor, pictures: Tensor, pixel_weight: float) -> None:
    """The best linear code of `latent_channels` numbers for feature map and pixels together (reduced-rank regression).

    features: (N, F, h, w); pictures: (N, 3, H, W) in [0, 1]; pixel_weight: how much the pixels' variance counts
    against the features'. The latent keeps its spectrum: one scale for all channels, mean square 1.
    """
    patch = pictures.shape[-1] // features.shape[-1]
    tokens = map_to_tokens(features).flatten(0, 1).double()
    pixels = patchify(pictures, patch).flatten(0, 1).double()
    f, p = tokens - tokens.mean(0), pixels - pixels.mean(0)
    wanted = torch.cat([f / f.square().mean().sqrt(), pixel_weight * p / p.square().mean().sqrt()], dim=1)
    gram = f.T @ f + RIDGE * f.square().mean() * len(f) * torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
    to_wanted = torch.linalg.solve(gram, f.T @ wanted)
    directions = torch.linalg.eigh(to_wanted.T @ (f.T @ f) @ to_wanted)[1]
    code = to_wanted @ directions[:, -bridge.latent_channels :].flip(1)
    code = code / (f @ code).square().mean().sqrt()

    encoder, decoder = bridge.encoder, bridge.decoder
    _zero(encoder.attention.out, encoder.feed_forward[-1], encoder.moments)
    nn.init.eye_(encoder.skip.weight)
    nn.init.zeros_(encoder.skip.bias)
    encoder.moments.weight[: bridge.latent_channels].copy_(code.T)
    encoder.moments.bias[: bridge.latent_channels].copy_(-(tokens.mean(0) @ code))
    for block in decoder.blocks:
        zero_block(block)
    nn.init.eye_(decoder.output.weight)
    nn.init.zeros_(decoder.output.bias)
    least_squares(decoder.input, f @ code, tokens)


@torch.no_grad()
def carry_over(transformer: RPiAETransformer2DModel, theirs: Tensor, ours: Tensor) -> None:
    """Move a trained diffusion transformer onto another tokenizer: its input and output layers are joined with the best
    linear maps between the two tokenizers' latents, its blocks keep what they know about text and scenes. Most layers
    see patches; those of the cell head see single cells, between which there are maps of their own.

    theirs, ours: normalised latents (N, c, h, w) of the same pictures, by the tokenizer that the transformer was
    trained on and by the new one.
    """
    read, write = _linear_maps(theirs, ours, transformer.config.patch_size)
    for layer in (transformer.target_input, transformer.source_input, transformer.source_to_target):
        _read_by(layer, read)
    _write_by(transformer.output, write, read)
    transformer.output.bias[: len(write.bias)] += write.bias  # the head's numbers are added: one constant for both
    if (head := transformer.head) is not None:
        read, write = _linear_maps(theirs, ours, 1)
        for layer in (head.from_noisy, head.from_source):
            _read_by(layer, read)
        _write_by(head.output, write, read)


def _linear_maps(theirs: Tensor, ours: Tensor, patch_size: int) -> tuple[nn.Linear, nn.Linear]:
    """The best linear maps of patches: from our latent to theirs, and from theirs to ours."""
    theirs, ours = (patchify(latents, patch_size).flatten(0, 1) for latents in (theirs, ours))
    width = ours.shape[1]
    read, write = nn.Linear(width, width), nn.Linear(width, width)
    least_squares(read, ours, theirs)
    least_squares(write, theirs, ours)
    return read, write


def _read_by(layer: nn.Linear, read: nn.Linear) -> None:
    """Let a layer that reads their latent read ours; without a bias it has no place for the map's constant."""
    if layer.bias is not None:
        layer.bias += layer.weight @ read.bias
    layer.weight.copy_(layer.weight @ read.weight)


def _write_by(layer: nn.Linear, write: nn.Linear, read: nn.Linear) -> None:
    """Let a layer that writes values, and gains in a data prediction, write them in our latent, but for the map's
    constant."""
    # A gain for each number is a diagonal matrix; of that matrix in the new latent, the diagonal.
    maps, width = (write.weight, write.weight * read.weight.T), len(write.bias)
    for first, of_part in zip(range(0, len(layer.bias), width), maps, strict=False):
        part = slice(first, first + width)
        layer.weight[part] = of_part @ layer.weight[part]
        layer.bias[part] = of_part @ layer.bias[part]


def least_squares(layer: nn.Linear, inputs: Tensor, wanted: Tensor) -> None:
    """Set a linear layer to the ridge solution of inputs (N, i) → wanted (N, o)."""
    x, y = inputs.double(), wanted.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x + RIDGE * x.square().mean() * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ y).T
    layer.weight.copy_(weight)
    layer.bias.copy_(y_mean - weight @ x_mean)


def zero_block(block: TransformerBlock) -> None:
    _zero(block.attention.out, block.feed_forward[-1])


def _zero(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
