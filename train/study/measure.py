"""All numbers of a finished row: how well pictures come back, what a linear probe reads, what the generator can do."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.layers import patchify, tokens_to_map
from rpiae.metrics import psnr, ssim
from rpiae.tokenizers.compact import AutoencoderCodebook

from ..data.pictures import PATCH
from ..data.scenes import VOCABULARY, caption, sample_scene
from ..evaluate.features import FeatureSpace, joined, open_space
from ..evaluate.frechet import frechet_distance, statistics
from ..evaluate.measure import batches
from ..evaluate.probe import probe
from ..perceptual import PerceptualDistance
from ..runtime import device
from .config import StudySettings
from .generator import GeneratorTask
from .judged import draw_prompts, pictures_of
from .world import belongs, seen

TAG = 71
SPACE = "efficientnet-lite0"


def held_out_scenes(study: StudySettings) -> list:
    """The same for every row and seed; (noun, colour) pairs that training never shows are among them."""
    rng, found = np.random.default_rng([TAG]), []
    while len(found) < study.measure.pictures:
        scene = sample_scene(rng, unseen=True)
        if belongs(scene, study.world):
            found.append(scene)
    return found


@torch.no_grad()
def measure(study: StudySettings, vae: AutoencoderRPiAE, generator: GeneratorTask | None) -> dict:
    """A row's numbers, all of them on held-out scenes; without a generator those of the tokenizer."""
    vae = vae.to(device())
    space, scenes = open_space(SPACE, device=device()), held_out_scenes(study)
    pictures = pictures_of(scenes, study.world)
    real = _features(space, pictures)
    distance = PerceptualDistance().to(device())
    values: dict[str, list[float]] = {"psnr": [], "ssim": [], "perceptual": []}
    reconstructions = []
    for x in pictures.split(16):
        y = vae(x.to(device())).float().clamp(0, 1)
        values["psnr"] += psnr(x, y.cpu()).tolist()
        values["ssim"] += ssim(x, y.cpu()).tolist()
        values["perceptual"] += distance(x.to(device()), y).tolist()
        reconstructions.append(y.cpu())
    row = {name: float(np.mean(numbers)) for name, numbers in values.items()}
    row["fd"] = frechet_distance(_features(space, torch.cat(reconstructions)), real)
    row |= {f"probe_{name}": value for name, value in _probe(study, vae).items()}
    if isinstance(vae, AutoencoderCodebook):
        row["codes_used"] = _codes_used(vae, pictures)
    row |= {"feature_space": space.name, "pictures": len(scenes)}
    if generator is None:
        return row
    rng = np.random.default_rng([TAG, 1])
    pipe = generator.pipeline()
    pipe.set_progress_bar_config(disable=True)
    drawn = draw_prompts(pipe, [caption(scene, rng) for scene in scenes])
    row["drawn_fd"] = frechet_distance(_features(space, drawn), real)
    judged = generator.judged(study.measure.prompts, study.measure.edits)
    return row | judged.summary() | {"by_skill": judged.skills, "by_category": judged.edits}


def _features(space: FeatureSpace, pictures: Tensor):
    parts = [space((part * 255).round().to(torch.uint8)) for part in pictures.split(16)]
    return statistics(joined(parts).pooled)


def _probe(study: StudySettings, vae: AutoencoderRPiAE) -> dict[str, float]:
    """A linear probe of what the transformer is given in one token, for all rows alike: a latent of smaller cells is
    read several cells at a time. Each token stands for the patches of the large picture that it covers."""
    tokens = study.models.transformer["sample_size"] // study.models.transformer["patch_size"]

    def encode(x: Tensor) -> Tensor:
        small = seen((x * 255).round().to(torch.uint8), study.world).float() / 255
        z = vae.encode(small.to(vae.device)).latent_dist.mode().float().cpu()
        cells = tokens_to_map(patchify(z, z.shape[-1] // tokens), (tokens, tokens))
        return F.interpolate(cells, size=VOCABULARY.canvas // PATCH, mode="nearest")

    fit, held_out = study.measure.probe
    return probe(encode, fit=fit, held_out=held_out)


def _codes_used(vae: AutoencoderCodebook, pictures: Tensor) -> float:
    """Share of the codebook that the pictures use."""
    used = set()
    for x in batches(pictures):
        features = vae.encode_features(x.to(vae.device))
        used |= set(vae.bridge.nearest(vae.bridge.before_codes(features)).flatten().tolist())
    return len(used) / len(vae.bridge.codebook.weight)
