"""The diffusion transformer on one row's latent: the same for all, and judged on the way, which gives the curves."""

import math

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.transformer import RPiAETransformer2DModel

from ..config import DiffusionStage, ModelSettings, TrainingConfig
from ..tasks.diffusion import HELD_OUT_TAG, TAG, VALIDATION_ITEMS, DiffusionTask
from .config import StudySettings
from .judged import Judged, evaluate
from .world import WorldPairs


def transformer_config(study: StudySettings, shape: tuple[int, int, int]) -> dict:
    """The study's transformer on a latent (C, h, w): patches are as large as it takes to have its number of tokens."""
    settings = study.models.transformer
    tokens = settings["sample_size"] // settings["patch_size"]
    channels, side, _ = shape
    if side % tokens:
        raise ValueError(f"a latent of {side} rows does not divide into the transformer's {tokens} rows of tokens")
    return settings | {"in_channels": channels, "sample_size": side, "patch_size": side // tokens}


def time_shift(study: StudySettings, shape: tuple[int, int, int], shift: float) -> float:
    """The config's shift is that of the bridge's latent; a latent with more numbers needs times nearer to noise, by the
    square root of how many (RAE, dimension-dependent shift)."""
    settings = study.models.transformer
    tokens = (settings["sample_size"] // settings["patch_size"]) ** 2
    return shift * math.sqrt(math.prod(shape) / (study.models.bridge["latent_channels"] * tokens))


def as_training_config(study: StudySettings, seed: int, shape: tuple[int, int, int]) -> TrainingConfig:
    """What the diffusion task and its pipeline read of a config."""
    models = study.models.model_dump() | {"transformer": transformer_config(study, shape)}
    sampling = study.sampling.model_copy(update={"time_shift": time_shift(study, shape, study.sampling.time_shift)})
    return TrainingConfig(
        name=study.name, output=study.output, checkpoint=study.output, seed=seed, threads=study.threads,
        models=ModelSettings(**models), sampling=sampling, stages={},
    )  # fmt: skip


class GeneratorTask(DiffusionTask):
    """Text-to-image and editing in the study's world."""

    def __init__(self, study: StudySettings, stage: DiffusionStage, vae: AutoencoderRPiAE, seed: int):
        config = as_training_config(study, seed, vae.latent_shape)
        super().__init__(config, stage, vae, RPiAETransformer2DModel(**config.models.transformer))
        self.study = study
        shape = vae.latent_shape
        self.dataset = WorldPairs(study.world, seed, TAG, stage.samples, shape, stage.draws)
        self.held_out = WorldPairs(study.world, seed, HELD_OUT_TAG, VALIDATION_ITEMS, shape, 4)

    def validate(self) -> dict[str, float]:
        """Losses, and a point of the curves."""
        measure = self.study.measure
        return super().validate() | self.judged(measure.curve_prompts, measure.curve_edits).summary()

    def judged(self, prompts: int, edits: int) -> Judged:
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        return evaluate(pipe, self.study.world, prompts, edits)
