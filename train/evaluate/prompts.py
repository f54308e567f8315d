"""Held-out prompts for text-to-image, after GenEval's six skills, each with what the picture must show.

"position" names two objects and a relation; "color attribution" two objects with a colour each. A colour asked for is
never one that the noun has by itself, so that it must be understood.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train.data.scenes import VOCABULARY, is_unseen
from train.data.scenes.captions import framed, group_phrase, listed, object_phrase
from train.data.scenes.sample import pick, sample_noun

from .claims import Claims, Wanted

V = VOCABULARY
TAG = 0x70726F6D7074  # "prompt": apart from the seeds of training
UNSEEN_EVERY = 3  # of the prompts with colours, every so many has a pair that training never showed
Rng = np.random.Generator


@dataclass(frozen=True)
class Prompt:
    text: str
    skill: str
    claims: Claims
    unseen: bool = False  # whether a (noun, colour) pair in it was never shown in training


def _framed(body: str, rng: Rng) -> str:
    return framed(body, pick(rng, V.grammar["caption_frames"]))


def _two_nouns(rng: Rng) -> tuple[str, str]:
    first = sample_noun(rng, ())
    return first, sample_noun(rng, (first,))


def _colors_of(noun: str, unseen: bool) -> list[str]:
    """Colours that a noun may be asked for in and does not have by itself: of unseen pairs, or of seen ones."""
    own = {color for style in V.styles for color in V.nouns[noun].native(style)}
    tints = V.colors if V.nouns[noun].tintable else ()
    return [color for color in tints if color not in own and is_unseen(noun, color) == unseen]


def _colored(rng: Rng, unseen: bool, present: tuple[str, ...] = (), taken: str | None = None) -> Wanted:
    """A noun with a colour that it does not have by itself; an unseen pair, or a seen one."""
    while True:
        noun = sample_noun(rng, present)
        if colors := [color for color in _colors_of(noun, unseen) if color != taken]:
            return Wanted(noun, color=pick(rng, colors))


def _single_object(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    noun = sample_noun(rng, ())
    return object_phrase(noun), Claims((Wanted(noun),))


def _two_objects(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    nouns = _two_nouns(rng)
    return listed([object_phrase(noun) for noun in nouns]), Claims(tuple(Wanted(noun) for noun in nouns))


def _counting(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    noun, count = sample_noun(rng, ()), int(rng.integers(2, 5))
    return group_phrase(noun, count), Claims((Wanted(noun, count),))


def _colors(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    wanted = _colored(rng, unseen)
    return object_phrase(wanted.noun, wanted.color), Claims((wanted,))


def _position(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    first, second = _two_nouns(rng)
    name = pick(rng, list(V.grammar["relations"]))
    words = pick(rng, V.grammar["relations"][name])
    text = f"{object_phrase(first)} {words} {object_phrase(second)}"
    return text, Claims((Wanted(first), Wanted(second)), relation=name)


def _color_attribution(rng: Rng, unseen: bool) -> tuple[str, Claims]:
    first = _colored(rng, unseen)
    second = _colored(rng, False, (first.noun,), first.color)
    pair = [first, second] if rng.random() < 0.5 else [second, first]
    return listed([object_phrase(one.noun, one.color) for one in pair]), Claims(tuple(pair))


SKILLS: dict[str, Callable[[Rng, bool], tuple[str, Claims]]] = {
    "single object": _single_object,
    "two objects": _two_objects,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color attribution": _color_attribution,
}
WITH_COLORS = ("colors", "color attribution")


def sample_prompts(skill: str, n: int, seed: int = 0) -> list[Prompt]:
    """n prompts of a skill, the same for the same seed. Raises ValueError for an unknown skill."""
    if skill not in SKILLS:
        raise ValueError(f"unknown skill {skill!r}; known are {', '.join(SKILLS)}")
    found = []
    # Where the vocabulary is narrowed there may be no such pair.
    any_unseen = skill in WITH_COLORS and any(_colors_of(noun, True) for noun in V.drawn_nouns)
    for index in range(n):
        rng = np.random.default_rng([seed, TAG, list(SKILLS).index(skill), index])
        unseen = any_unseen and index % UNSEEN_EVERY == UNSEEN_EVERY - 1
        body, claims = SKILLS[skill](rng, unseen)
        found.append(Prompt(_framed(body, rng), skill, claims, unseen))
    return found
