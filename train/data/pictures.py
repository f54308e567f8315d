"""Training pictures for the tokenizer: crops of sticker scenes, with what each token's patch shows.

Item i is a pure function of (seed, i), so a resumed run sees exactly the pictures that it would have seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from .scenes import VOCABULARY as V
from .scenes import Scene, draw, label_map, sample_scene

NOUNS = tuple(V.nouns)
COLORS = tuple(V.colors)
BACKGROUNDS = tuple(V.backgrounds)
SIZES = tuple(V.sizes)
# Classes of the dense image-text contrast: every noun, then every background.
PHRASES = tuple(f"{V.nouns[n].article} {n}" for n in NOUNS) + tuple(V.backgrounds[b].phrase for b in BACKGROUNDS)
PATCH = 16
# A patch shows an object when it covers at least this share of it.
COVERAGE = 0.3
IGNORE = -100
WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class PictureSettings:
    crop: int | None = None
    filtered: float = 0.0
    letterboxed: float = 0.0
    labels: bool = False


class ScenePictures(Dataset):
    """`samples` pictures of scenes; each item {"image": uint8 (3, s, s), "index": its number} and, with labels, token
    classes (s/16, s/16).

    Labels: "phrase" (index into PHRASES), "color" (0 = its own colours, then COLORS; IGNORE off objects), "style"
    (0 outlined, 1 flat; IGNORE off objects), "size" (index into SIZES; IGNORE off objects) and "offset" (x, y), from
    the sticker's centre to the patch's in sides of the sticker, 0 off objects.
    """

    def __init__(self, seed: int, tag: int, samples: int, settings: PictureSettings):
        self.key = (seed, tag)
        self.samples = samples
        self.settings = settings

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        settings = self.settings
        rng = np.random.default_rng([*self.key, index])
        scene = sample_scene(rng, filtered=settings.filtered)
        picture = draw(scene)
        window = _window(scene, settings.crop, rng)
        item = {"index": torch.tensor(index)}
        if settings.labels:
            item |= {k: torch.from_numpy(v) for k, v in token_labels(scene, window).items()}
        if rng.random() < settings.letterboxed:
            picture = letterboxed(picture, rng)
        item["image"] = to_chw(picture[window])
        return item


def to_chw(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def _window(scene: Scene, crop: int | None, rng: np.random.Generator) -> tuple[slice, slice]:
    """Where to crop: mostly around a sticker, now and then anywhere."""
    if crop is None or crop >= V.canvas:
        return WHOLE
    most = V.canvas - crop
    if scene.objects and rng.random() < 0.85:
        one = scene.objects[rng.integers(len(scene.objects))]
        jitter = rng.integers(-crop // 3, crop // 3 + 1, size=2)
        x, y = np.clip([one.cx - crop // 2 + jitter[0], one.cy - crop // 2 + jitter[1]], 0, most)
    else:
        x, y = rng.integers(0, most + 1, size=2)
    return slice(y, y + crop), slice(x, x + crop)


def letterboxed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of the picture with another shape, between white bars, as `images.letterbox` leaves it."""
    side = picture.shape[0]
    share = rng.uniform(0.45, 0.9)
    across = int(side * share)
    start = rng.integers(0, side - across + 1)
    strip = picture[start : start + across] if rng.random() < 0.5 else picture[:, start : start + across]
    result = np.full_like(picture, 255)
    image = Image.fromarray(np.ascontiguousarray(strip))
    scale = rng.uniform(0.7, 1.0)  # photos seldom arrive at exactly the model's size: soften by resampling
    small = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.BICUBIC)
    back = np.asarray(small.resize(image.size, Image.BICUBIC))
    top, left = (side - back.shape[0]) // 2, (side - back.shape[1]) // 2
    result[top : top + back.shape[0], left : left + back.shape[1]] = back
    return result


def token_labels(scene: Scene, window: tuple[slice, slice]) -> dict[str, np.ndarray]:
    """What each 16 x 16 patch of a window shows: {"phrase", "color", "style", "size"}, int64 (rows, columns), and
    "offset", float32 (rows, columns, 2)."""
    labels = label_map(scene)[window]
    rows, columns = labels.shape[0] // PATCH, labels.shape[1] // PATCH
    cells = labels[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
    phrase = np.full((rows, columns), len(NOUNS) + BACKGROUNDS.index(scene.background))
    color, style, size = (np.full((rows, columns), IGNORE) for _ in range(3))
    offset = np.zeros((rows, columns, 2), np.float32)
    best = np.full((rows, columns), COVERAGE)
    top, left = (part.start or 0 for part in window)
    middles_y = top + PATCH * (np.arange(rows)[:, None] + 0.5)
    middles_x = left + PATCH * (np.arange(columns)[None] + 0.5)
    for index, one in enumerate(scene.objects):
        covered = (cells == index).mean((1, 3))
        here = covered >= best
        best = np.maximum(best, covered)
        side = V.sizes[one.size]
        away = np.broadcast_arrays((middles_x - one.cx) / side, (middles_y - one.cy) / side)
        phrase[here] = NOUNS.index(one.noun)
        color[here] = 0 if one.color is None else 1 + COLORS.index(one.color)
        style[here] = 0 if scene.style == "outlined" else 1
        size[here] = SIZES.index(one.size)
        offset[here] = np.stack(away, axis=-1)[here]
    return {"phrase": phrase, "color": color, "style": style, "size": size, "offset": offset}
