"""How far the judge itself can be trusted: on true pictures, on degraded true ones, on pictures of false scenes.

A false picture shows a scene in which one attribute differs from what the judge is asked about.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from train.data.scenes import CATEGORIES, VOCABULARY, Scene, Sticker, draw, sample_edit, sample_scene
from train.data.scenes.sample import pick, sample_color, sample_noun
from train.data.scenes.scene import legal, reach
from train.data.scenes.vocabulary import SIGN

from .claims import claims_of, compare, judge_claims
from .finder import sight_of
from .judge import COLORLESS, judge_scene, same_color

V = VOCABULARY
TAG = 0x6A75646765  # "judge": apart from the seeds of training
FILTERED = 0.25  # of the scenes with known places
Rng = np.random.Generator
Spoil = Callable[[Scene, Rng], Scene | None]
RoundTrip = Callable[[np.ndarray], np.ndarray]


def degraded(picture: np.ndarray, rng: Rng, sigma: float = 1.0, noise: float = 6.0, quality: int = 60) -> np.ndarray:
    """Blur, noise and JPEG: about what a lossy tokenizer does to a uint8 (H, W, 3) picture."""
    soft = gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))
    soft = np.clip(soft + rng.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(soft).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# Each way to spoil a scene returns None when this scene, with these random choices, cannot be spoiled so.


def _index(scene: Scene, rng: Rng) -> int:
    return int(rng.integers(len(scene.objects)))


def _without(scene: Scene, index: int) -> Scene:
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def _somewhere(scene: Scene, index: int, one: Sticker, rng: Rng, least: int = 0) -> Scene | None:
    """The scene with the sticker inserted at a random legal place, at least so far from where it was."""
    low, high = reach(one.side)
    for x, y in rng.integers(low, high + 1, (60, 2)).tolist():
        target = replace(scene, objects=(*scene.objects[:index], one.at(x, y), *scene.objects[index:]))
        if abs(x - one.cx) + abs(y - one.cy) >= least and legal(target):
            return target
    return None


def _noun(scene: Scene, rng: Rng) -> Scene:
    index = _index(scene, rng)
    old = scene.objects[index]
    noun = sample_noun(rng, [one.noun for one in scene.objects])
    color = old.color if V.nouns[noun].tintable else None
    return scene.with_object(index, replace(old, noun=noun, color=color, text=None))


def _color(scene: Scene, rng: Rng) -> Scene | None:
    """Another colour for an object that has one; its own colours are no claim."""
    index = _index(scene, rng)
    old = scene.objects[index]
    if old.color is None or scene.filter in COLORLESS:
        return None
    colors = [c for c in [None, *V.colors] if not same_color(old.noun, scene.style, c, old.color)]
    return scene.with_object(index, replace(old, color=pick(rng, colors)))


def _size(scene: Scene, rng: Rng) -> Scene:
    index = _index(scene, rng)
    old = scene.objects[index]
    return scene.with_object(index, old.resized(pick(rng, [size for size in V.sizes if size != old.size])))


def _one_missing(scene: Scene, rng: Rng) -> Scene:
    return _without(scene, _index(scene, rng))


def _one_more(scene: Scene, rng: Rng) -> Scene | None:
    """Another copy of one object, or another noun."""
    new = pick(rng, scene.objects)
    if new.noun == SIGN or rng.random() < 0.5:
        noun = sample_noun(rng, [one.noun for one in scene.objects])
        new = replace(new, noun=noun, color=sample_color(rng, noun, True), text=None)
    return _somewhere(scene, len(scene.objects), new, rng)


def _place(scene: Scene, rng: Rng) -> Scene | None:
    index = _index(scene, rng)
    return _somewhere(_without(scene, index), index, scene.objects[index], rng, least=40)


def _relation(scene: Scene, rng: Rng) -> Scene:
    """Two objects have changed places."""
    i, j = (int(k) for k in rng.permutation(len(scene.objects))[:2]) if len(scene.objects) > 1 else (0, 0)
    a, b = scene.objects[i], scene.objects[j]
    return scene.with_object(i, a.at(b.cx, b.cy)).with_object(j, b.at(a.cx, a.cy))


def _text(scene: Scene, rng: Rng) -> Scene | None:
    for index, one in enumerate(scene.objects):
        if one.noun == SIGN:
            word = pick(rng, [word for word in V.words if word != one.text])
            return scene.with_object(index, replace(one, text=word))
    return None


def _background(scene: Scene, rng: Rng) -> Scene:
    return replace(scene, background=pick(rng, [name for name in V.backgrounds if name != scene.background]))


def _style(scene: Scene, rng: Rng) -> Scene:
    return replace(scene, style=next(style for style in V.styles if style != scene.style))


def _filter(scene: Scene, rng: Rng) -> Scene:
    return replace(scene, filter=pick(rng, [name for name in [None, *V.filters] if name != scene.filter]))


SPOILS: dict[str, Spoil] = {
    "noun": _noun,
    "color": _color,
    "size": _size,
    "one missing": _one_missing,
    "one more": _one_more,
    "place": _place,
    "relation": _relation,
    "text": _text,
    "background": _background,
    "style": _style,
    "filter": _filter,
}


def spoiled(kind: str, rng: Rng, filtered: float = 0.0) -> tuple[Scene, Scene]:
    """A random legal scene and the same with one attribute wrong, drawn otherwise and legal too."""
    while True:
        scene = sample_scene(rng, unseen=True, filtered=filtered, sign=True if kind == "text" else None)
        wrong = SPOILS[kind](scene, rng)
        if wrong is not None and wrong != scene and legal(wrong) and (draw(wrong) != draw(scene)).any():
            return scene, wrong


def false_claims(kind: str, rng: Rng) -> tuple[Scene, Scene]:
    """As `spoiled`, and such that what is said of the first scene is not true of the second."""
    while True:
        scene, wrong = spoiled(kind, rng)
        if not compare(sight_of(wrong), claims_of(scene)).ok:
            return scene, wrong


def known_places(n: int, seed: int, round_trip: RoundTrip | None = None) -> dict[str, dict[str, float]]:
    """Accuracy of `judge_scene`: shares of true pictures accepted, of false ones (drawn, degraded) rejected."""
    rng = np.random.default_rng([seed, TAG, 0])
    versions = _versions(rng, round_trip)
    scenes = [sample_scene(rng, unseen=True, filtered=FILTERED) for _ in range(n)]
    accepted = {
        name: _share(judge_scene(change(draw(scene)), scene).ok for scene in scenes)
        for name, change in versions.items()
    }
    rejected = {}
    for kind in SPOILS:
        pairs = [spoiled(kind, rng, FILTERED) for _ in range(n)]
        rejected[kind] = _share(
            not judge_scene(_in_turn(versions, i)(draw(wrong)), scene).ok for i, (scene, wrong) in enumerate(pairs)
        )
    undone = {}
    for category in CATEGORIES:
        edits = [sample_edit(rng, category, unseen=True) for _ in range(max(n // 4, 1))]
        undone[category] = _share(not judge_scene(draw(edit.source), edit.target).ok for edit in edits)
    return {"accepted": accepted, "rejected": rejected, "rejected when not edited": undone}


def free_places(n: int, seed: int, round_trip: RoundTrip | None = None) -> dict[str, dict[str, float]]:
    """Accuracy of `judge_claims` on everything that can be said of unfiltered scenes."""
    rng = np.random.default_rng([seed, TAG, 1])
    versions = _versions(rng, round_trip)
    scenes = [sample_scene(rng, unseen=True) for _ in range(n)]
    accepted = {
        name: _share(judge_claims(change(draw(scene)), claims_of(scene)).ok for scene in scenes)
        for name, change in versions.items()
    }
    rejected = {}
    for kind in SPOILS:
        if kind != "filter":
            pairs = [false_claims(kind, rng) for _ in range(n)]
            rejected[kind] = _share(
                not judge_claims(_in_turn(versions, i)(draw(wrong)), claims_of(scene)).ok
                for i, (scene, wrong) in enumerate(pairs)
            )
    return {"accepted": accepted, "rejected": rejected}


def judge_accuracy(n: int = 40, seed: int = 0, round_trip: RoundTrip | None = None) -> dict[str, Any]:
    """Both judges on n pictures a row; `round_trip` (uint8 picture -> uint8 picture) is a tokenizer to add."""
    return {
        "n": n,
        "known places": known_places(n, seed, round_trip),
        "free places": free_places(n, seed, round_trip),
    }


def _versions(rng: Rng, round_trip: RoundTrip | None) -> dict[str, RoundTrip]:
    found: dict[str, RoundTrip] = {"drawn": lambda x: x, "degraded": lambda x: degraded(x, rng)}
    return found if round_trip is None else found | {"tokenizer": round_trip}


def _in_turn(versions: dict[str, RoundTrip], index: int) -> RoundTrip:
    return list(versions.values())[index % len(versions)]


def _share(outcomes) -> float:
    return float(np.mean(list(outcomes)))
