"""How far the judge itself can be trusted: on true pictures, on degraded true ones, on pictures of false scenes."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from train.data.scenes import VOCABULARY, Scene
from train.data.scenes.sample import pick, sample_color, sample_noun
from train.data.scenes.scene import legal, reach
from train.data.scenes.vocabulary import SIGN

from .judge import COLORLESS, same_color

V = VOCABULARY
Rng = np.random.Generator


def degraded(
    picture: np.ndarray, rng: Rng, sigma: float = 1.0, noise: float = 6.0, quality: int = 60
) -> np.ndarray:
    """Blur, noise and JPEG: about what a lossy tokenizer does to a uint8 (H, W, 3) picture."""
    soft = gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))
    soft = np.clip(soft + rng.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(soft).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# --- false scenes: one attribute is wrong. Each returns None when this scene has no such attribute.


def _index(scene: Scene, rng: Rng) -> int:
    return int(rng.integers(len(scene.objects)))


def wrong_noun(scene: Scene, rng: Rng) -> Scene | None:
    index = _index(scene, rng)
    old = scene.objects[index]
    noun = sample_noun(rng, [one.noun for one in scene.objects])
    color = old.color if V.nouns[noun].tintable else None
    return scene.with_object(index, replace(old, noun=noun, color=color, text=None))


def wrong_color(scene: Scene, rng: Rng) -> Scene | None:
    index = _index(scene, rng)
    old = scene.objects[index]
    if not V.nouns[old.noun].tintable or scene.filter in COLORLESS:
        return None
    colors = [color for color in [None, *V.colors] if not same_color(old.noun, scene.style, color, old.color)]
    return scene.with_object(index, replace(old, color=pick(rng, colors)))


def wrong_size(scene: Scene, rng: Rng) -> Scene | None:
    index = _index(scene, rng)
    old = scene.objects[index]
    return scene.with_object(index, old.resized(pick(rng, [size for size in V.sizes if size != old.size])))


def one_missing(scene: Scene, rng: Rng) -> Scene | None:
    index = _index(scene, rng)
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def one_more(scene: Scene, rng: Rng) -> Scene | None:
    """Another copy of one object, or another noun, at a free place."""
    old = pick(rng, scene.objects)
    if old.noun == SIGN or rng.random() < 0.5:
        noun = sample_noun(rng, [one.noun for one in scene.objects])
        old = replace(old, noun=noun, color=sample_color(rng, noun, True), text=None)
    return _placed_anew(scene, len(scene.objects), old, rng)


def wrong_place(scene: Scene, rng: Rng) -> Scene | None:
    """One object moved by 40 pixels or more."""
    index = _index(scene, rng)
    old = scene.objects[index]
    moved = _placed_anew(one_missing_at(scene, index), index, old, rng, least=40)
    return moved


def one_missing_at(scene: Scene, index: int) -> Scene:
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def _placed_anew(scene: Scene, index: int, one, rng: Rng, least: int = 0) -> Scene | None:
    """The scene with the sticker inserted at a random legal place, so far at least from where it was."""
    low, high = reach(one.side)
    for x, y in rng.integers(low, high + 1, (60, 2)).tolist():
        target = replace(scene, objects=(*scene.objects[:index], one.at(x, y), *scene.objects[index:]))
        if abs(x - one.cx) + abs(y - one.cy) >= least and legal(target):
            return target
    return None


def wrong_relation(scene: Scene, rng: Rng) -> Scene | None:
    """Two different objects have changed places."""
    if len({one.look for one in scene.objects}) < 2:
        return None
    while True:
        i, j = (int(k) for k in rng.permutation(len(scene.objects))[:2])
        a, b = scene.objects[i], scene.objects[j]
        if a.look != b.look:
            break
    target = scene.with_object(i, a.at(b.cx, b.cy)).with_object(j, b.at(a.cx, a.cy))
    return target if legal(target) else None


def wrong_text(scene: Scene, rng: Rng) -> Scene | None:
    for index, one in enumerate(scene.objects):
        if one.noun == SIGN:
            word = pick(rng, [word for word in V.words if word != one.text])
            return scene.with_object(index, replace(one, text=word))
    return None


def wrong_background(scene: Scene, rng: Rng) -> Scene | None:
    return replace(scene, background=pick(rng, [name for name in V.backgrounds if name != scene.background]))


def wrong_style(scene: Scene, rng: Rng) -> Scene | None:
    return replace(scene, style=next(style for style in V.styles if style != scene.style))


def wrong_filter(scene: Scene, rng: Rng) -> Scene | None:
    return replace(scene, filter=pick(rng, [name for name in [None, *V.filters] if name != scene.filter]))


FALSE: dict[str, Callable[[Scene, Rng], Scene | None]] = {
    "noun": wrong_noun,
    "color": wrong_color,
    "size": wrong_size,
    "one missing": one_missing,
    "one more": one_more,
    "place": wrong_place,
    "relation": wrong_relation,
    "text": wrong_text,
    "background": wrong_background,
    "style": wrong_style,
    "filter": wrong_filter,
}
