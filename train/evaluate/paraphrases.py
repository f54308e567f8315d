"""Thirty instructions in words of our own, outside the grammar's phrasings and never shown in training."""

import json
from pathlib import Path

from train.data.scenes import Edit

FILE = Path(__file__).with_suffix(".json")


def paraphrases() -> list[Edit]:
    """The edits, each with its source and target scene."""
    return [Edit.from_json(entry) for entry in json.loads(FILE.read_text(encoding="utf-8"))]
