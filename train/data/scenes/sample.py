"""Random scenes. Every choice comes from the generator that is passed in."""

import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from .scene import Scene, Sticker, apart, at_place, reach
from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
TRIES = 24  # candidate places for one sticker before the whole layout is drawn anew


@cache
def is_unseen(noun: str, color: str | None) -> bool:
    """Whether the pair is kept out of training, to measure if nouns and colours were learned apart."""
    return color is not None and zlib.crc32(f"{noun}/{color}".encode()) % 10 == 0


def unseen_pairs(scene: Scene) -> list[tuple[str, str]]:
    """The (noun, colour) pairs of the scene that training never shows."""
    return [(one.noun, one.color) for one in scene.objects if is_unseen(one.noun, one.color)]


@cache
def colors_of(noun: str, unseen: bool = False) -> tuple[str, ...]:
    """The colours that the noun may be given: all, or all but the unseen pairs."""
    if not V.nouns[noun].tintable:
        return ()
    return tuple(color for color in V.colors if unseen or not is_unseen(noun, color))


def pick(rng: np.random.Generator, options: Sequence):
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def sample_color(rng: np.random.Generator, noun: str, unseen: bool = False) -> str | None:
    colors = colors_of(noun, unseen)
    return pick(rng, colors) if colors and chance(rng, V.sampling["p_color"]) else None


def sample_noun(rng: np.random.Generator, present: Sequence[str]) -> str:
    """A drawn noun that is not present and may stand with those that are."""
    while True:
        noun = pick(rng, V.drawn_nouns)
        if noun not in present and not V.rivals(noun).intersection(present):
            return noun


def _weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    return int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), side="right"))


def sample_size(rng: np.random.Generator, count: int) -> str:
    """A size for one object of a scene of `count`."""
    return list(V.sizes)[_weighted(rng, V.sampling["size_probs"][str(count)])]


def _counting(rng: np.random.Generator, count: int, extra: bool, unseen: bool) -> list[Sticker]:
    """Copies of one noun; with `extra` one of them is another noun."""
    noun = sample_noun(rng, ())
    copy = Sticker(noun, sample_color(rng, noun, unseen), sample_size(rng, count), 0, 0)
    if not extra:
        return [copy] * count
    other = sample_noun(rng, (noun,))
    odd = Sticker(other, sample_color(rng, other, unseen), sample_size(rng, count), 0, 0)
    return [*[copy] * (count - 1), odd]


def _various(rng: np.random.Generator, count: int, sign: bool, unseen: bool) -> list[Sticker]:
    """Different nouns, one of them a sign if wanted."""
    found: list[Sticker] = []
    for index in range(count):
        is_sign = sign and index == 0
        noun = SIGN if is_sign else sample_noun(rng, [one.noun for one in found])
        word = pick(rng, V.words) if is_sign else None
        found.append(Sticker(noun, sample_color(rng, noun, unseen), sample_size(rng, count), 0, 0, word))
    return found


def _anchored(rng: np.random.Generator, stickers: list[Sticker]) -> list[Sticker] | None:
    cells = rng.permutation(9)[: len(stickers)]
    placed = [at_place(one, int(cell) // 3, int(cell) % 3) for one, cell in zip(stickers, cells, strict=True)]
    fits = all(apart(a, b) for i, a in enumerate(placed) for b in placed[:i])
    return placed if fits else None


def _scattered(rng: np.random.Generator, stickers: list[Sticker]) -> list[Sticker] | None:
    placed: list[Sticker] = []
    for one in sorted(stickers, key=lambda one: -one.side):
        low, high = reach(one.side)
        candidates = (one.at(x, y) for x, y in rng.integers(low, high + 1, (TRIES, 2)).tolist())
        found = next((new for new in candidates if all(apart(new, old) for old in placed)), None)
        if found is None:
            return None
        placed.append(found)
    return placed


def sample_layout(rng: np.random.Generator, stickers: list[Sticker]) -> tuple[Sticker, ...]:
    """The stickers at random legal places, in random order."""
    anchored = chance(rng, V.sampling["p_anchor_layout"])
    placed = None
    for attempt in range(10_000):
        # Some sets of sizes fit no choice of anchors, so anchors are not insisted on for ever.
        placed = _anchored(rng, stickers) if anchored and attempt < 50 else _scattered(rng, stickers)
        if placed is not None:
            break
    assert placed is not None, f"no legal layout for {stickers}"
    return tuple(placed[i] for i in rng.permutation(len(placed)))


def sample_background(rng: np.random.Generator) -> str:
    kind = "plain" if chance(rng, V.sampling["p_plain_background"]) else "scene"
    return pick(rng, [one.name for one in V.backgrounds.values() if one.kind == kind])


def sample_scene(
    rng: np.random.Generator,
    *,
    unseen: bool = False,
    filtered: float = 0.0,
    count: int | None = None,
    counting: bool | None = None,
    extra: bool | None = None,
    sign: bool | None = None,
) -> Scene:
    """A random legal scene.

    `unseen=True` allows the (noun, colour) pairs that training never shows; `filtered` is the share of scenes
    with a filter. The last four fix what is otherwise drawn: how many objects, whether it is a counting scene
    and has one object of another noun, whether there is a sign.
    """
    table = V.sampling
    if count is None:
        least = 3 if extra else 2 if counting else 1
        shares = {int(n): share for n, share in table["n_objects"].items() if int(n) >= least}
        count = list(shares)[_weighted(rng, list(shares.values()))]
    if counting is None:
        counting = not sign and count >= 2 and chance(rng, table["p_counting"])
    if counting:
        if extra is None:
            extra = count >= 3 and chance(rng, table["p_counting_extra"])
        stickers = _counting(rng, count, extra, unseen)
    else:
        stickers = _various(rng, count, chance(rng, table["p_sign"]) if sign is None else sign, unseen)
    objects = sample_layout(rng, stickers)
    background = sample_background(rng)
    style = "outlined" if chance(rng, table["p_outlined"]) else "flat"
    shade = pick(rng, V.filters) if filtered and chance(rng, filtered) else None
    return Scene(background, style, shade, objects)
