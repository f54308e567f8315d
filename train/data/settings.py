"""The `data` section of a stage: which pictures and words it learns from when it is not sticker scenes.

data:
  sources:
    - {kind: webdataset, path: "cc12m/*.tar", weight: 3, columns: {caption: [caption_llava, caption_llava_short]}}
    - {kind: table, path: "omniedit/data/*.parquet", weight: 1}
    - {kind: folder, path: my-edits}
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..settings import Settings


class SourceSettings(Settings):
    """One folder of pictures, set of tar shards or set of parquet files."""

    kind: Literal["folder", "webdataset", "table"]
    # A folder; for shards and tables also a pattern like "cc12m/*.tar".
    path: str
    # How often it is taken, in proportion to the other sources' weights.
    weight: float = Field(1.0, gt=0)
    # What is not found by the usual names (`train.data.rows.NAMES`): {caption: my_words} or, with how often each is
    # taken, {caption: {long: 0.7, short: 0.3}}.
    columns: dict[str, str | tuple[str, ...] | dict[str, float]] = {}
    # Where the shards' tables of contents are kept; beside the shards when not given.
    index: Path | None = None
    # Of shards: a JSON-lines file with more fields for each sample, found by its "key".
    join: Path | None = None

    @model_validator(mode="after")
    def _joins_shards(self) -> "SourceSettings":
        if self.join is not None and self.kind != "webdataset":
            raise ValueError(f"join is for kind webdataset, not {self.kind}")
        return self


class DataSettings(Settings):
    """Sources, how a square is cut out of their pictures, and in which order they are read."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    # "center": the middle, as ADM crops; "random": anywhere, after bringing the shorter side to `resize` pixels.
    crop: Literal["center", "random"] = "center"
    # One and a half times the picture size when not given: 384 for 256, as the authors train their tokenizer.
    resize: int | None = None
    # Mirror half of the pictures, but none whose words say left or right.
    flip: bool = False
    # Skip pictures whose shorter side has fewer pixels.
    least_side: int = 16
    # Rows of each source that are kept for checking; at most a quarter of it.
    held_out: int = Field(64, ge=1)
    # So many shards (of a table: row groups) are open and shuffled together at a time.
    window: int = Field(4, ge=1)
    # Lanes: no two of them read the same shard. Let `processes` be a multiple of the processes (times the stage's
    # `accumulate`) and `workers` times `accumulate` one of the stage's `workers`, and no two workers read in the same
    # lane. What is learned depends on these two numbers alone, never on how many processes or workers there really are.
    processes: int = Field(1, ge=1)
    workers: int = Field(1, ge=1)
