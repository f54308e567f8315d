"""Sticker scenes: pictures that are drawn, captioned and edited by rule, with exact ground truth."""

from .captions import caption
from .draw import draw, label_map
from .edits import CATEGORIES, Edit, sample_edit
from .sample import is_unseen, sample_scene, unseen_pairs
from .scene import Scene, Sticker
from .sprites import sprite, warm_up
from .vocabulary import VOCABULARY

__all__ = [
    "CATEGORIES",
    "Edit",
    "Scene",
    "Sticker",
    "VOCABULARY",
    "caption",
    "draw",
    "is_unseen",
    "label_map",
    "sample_edit",
    "sample_scene",
    "sprite",
    "unseen_pairs",
    "warm_up",
]
