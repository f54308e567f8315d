"""A study's settings: its world, one size for all rows, and what each row may spend. Read from `configs/*.yaml`."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import (
    INCIDENTAL,
    AutoencoderStage,
    DiffusionStage,
    ModelSettings,
    RepresentationStage,
    SamplingSettings,
    Settings,
    read_settings,
    validated,
)
from .rows import row_as_written

CONFIG_FOLDER = Path(__file__).parent / "configs"
STAGES = ("representation", "tokenizer", "generator")
# Of a study's settings: where, how often and on what. All others decide a row's numbers.
ELSEWHERE = {"output", "results", "seeds", "threads", "on_cpu"}


class WorldSettings(Settings):
    """Which scenes there are. None is all that the vocabulary has."""

    # Pictures are drawn at the canvas's 256 px and brought to this side, a half or a quarter of it.
    side: int = 256
    nouns: tuple[str, ...] | None = None
    backgrounds: tuple[str, ...] | None = None
    # Of edits.
    categories: tuple[str, ...] | None = None
    # In place of the vocabulary's own shares (assets/scenes/vocabulary.json, "sampling").
    sampling: dict[str, Any] = {}


class CodebookSettings(Settings):
    """Of the row that has one: each cell of the feature map becomes split x split codes of `code_width` numbers."""

    codes: int = 1024
    code_width: int = 8
    split: int = 2


class MeasureSettings(Settings):
    """How many held-out cases are behind each number."""

    # For PSNR, SSIM, perceptual and Fréchet distance.
    pictures: int = 256
    # True pictures, to see what the judge makes of them at the world's size.
    ceiling: int = 24
    # To fit linear probes on, and to judge them.
    probe: tuple[int, int] = (512, 192)
    # Per skill and per category: at the end ...
    prompts: int = 10
    edits: int = 8
    # ... and at each point of the curve.
    curve_points: int = 4
    curve_prompts: int = 4
    curve_edits: int = 4


class StudySettings(Settings):
    name: str
    # The study that takes this one's place on a machine without a GPU.
    on_cpu: str | None = None
    # States, logs and weights of every stage.
    output: Path
    # The frozen representation, one JSON file a row and seed, the table and the curves.
    results: Path
    seeds: tuple[int, ...] = (0, 1)
    threads: int | None = None
    world: WorldSettings
    models: ModelSettings
    codebook: CodebookSettings = CodebookSettings()
    sampling: SamplingSettings
    # Trained once: the frozen representation of every row that has one.
    representation: RepresentationStage
    # `samples` are a row's in all its phases together; what trains and what else counts is the row's (see `rows`).
    tokenizer: AutoencoderStage
    # None compares the tokenizers alone.
    generator: DiffusionStage | None
    measure: MeasureSettings = MeasureSettings()

    def written(self, *parts: str) -> dict[str, Any]:
        """All settings that decide a row's numbers, or these of them, as a file has them."""
        kept = self.model_dump(mode="json", include=set(parts) or None, exclude=ELSEWHERE)
        for stage in (one for one in STAGES if kept.get(one)):
            kept[stage] = {name: value for name, value in kept[stage].items() if name not in INCIDENTAL}
        return kept


def as_written(recorded: dict[str, Any], others: dict[str, Any], *parts: str) -> dict[str, Any]:
    """Settings that a study wrote down, all or these parts of them, with those that are newer than it at their
    defaults, which repeat what was done before; as they are when they are no study's settings any more. `others`:
    settings that it did not write down."""
    try:
        return StudySettings.model_validate(others | recorded).written(*parts)
    except ValidationError:
        return recorded


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """The settings in a row's file, as `as_written` has them."""
    recorded = {name: value for name, value in row["settings"].items() if name != "row"}
    return as_written(recorded, {"output": ".", "results": "."}) | {"row": row_as_written(row["settings"]["row"])}


def load_study(name: str, overrides: list[str] | None = None) -> StudySettings:
    """A study by name (train/study/configs) or path, with overrides like "tokenizer.samples=1000".

    ValueError with every mistake: file not found, unknown key, value of the wrong kind.
    """
    return validated(StudySettings, read_settings(name, CONFIG_FOLDER, "study", overrides), f"study {name!r}")
