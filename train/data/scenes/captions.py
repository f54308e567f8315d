"""Captions: what a person might write about a scene. What is not said is free."""

import numpy as np

from .sample import chance, pick
from .scene import Scene, Sticker, region, relation
from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
G = V.grammar
SAY_SIZE, SAY_COLOR = 0.3, 0.9
SAY_BACKGROUND, BACKGROUND_FIRST, SAY_STYLE = 0.6, 0.15, 0.35


def article(words: str, noun: str) -> str:
    """a or an before the words; the vocabulary knows it for a noun, adjectives go by their first letter."""
    if words == noun:
        return V.nouns[noun].article
    return "an" if words[0] in "aeiou" else "a"


def object_phrase(
    noun: str, color: str | None = None, size: str | None = None, text: str | None = None
) -> str:
    """One object with a/an: "a small red car", "a sign that says "OPEN""."""
    words = " ".join(word for word in (size, color, noun) if word)
    return f"{article(words, noun)} {words}{_says(text)}"


def group_phrase(noun: str, count: int, color: str | None = None, size: str | None = None) -> str:
    """Several alike: "three small red cars"."""
    if not 2 <= count < len(G["numbers"]):
        raise ValueError(f"a group of {count} has no number word; 2 to {len(G['numbers']) - 1} can be said")
    return " ".join(word for word in (G["numbers"][count], size, color, V.nouns[noun].plural) if word)


def _says(text: str | None) -> str:
    return "" if text is None else f' that says "{text}"'


def listed(phrases: list[str]) -> str:
    """A / A and B / A, B and C."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def framed(body: str, frame: str) -> str:
    """The list of objects in a caption frame; "there is" before a/an, else "there are"."""
    single = body.startswith(("a ", "an "))
    return frame.format(L=body, **{"is": "is" if single else "are"})


def place_phrase(one: Sticker, rng: np.random.Generator) -> str:
    """Where the object is, in one of the ways to say it."""
    row, column = region(one)
    return pick(rng, G["place_variants"][G["places"][row][column]])


def _groups(scene: Scene, rng: np.random.Generator) -> list[list[Sticker]]:
    """Objects that are alike but for their place, together; in random order."""
    found: dict[tuple, list[Sticker]] = {}
    for one in scene.objects:
        found.setdefault(one.look, []).append(one)
    groups = list(found.values())
    return [groups[i] for i in rng.permutation(len(groups))]


def _phrase(group: list[Sticker], rng: np.random.Generator) -> str:
    one = group[0]
    size = one.size if chance(rng, SAY_SIZE) else None
    color = one.color if one.color and chance(rng, SAY_COLOR) else None
    if len(group) == 1:
        return object_phrase(one.noun, color, size, one.text if one.noun == SIGN else None)
    return group_phrase(one.noun, len(group), color, size)


def _objects(scene: Scene, rng: np.random.Generator) -> str:
    """The part of the caption that names the objects."""
    groups = _groups(scene, rng)
    phrases = [_phrase(group, rng) for group in groups]
    related = None
    if len(groups) >= 2 and len(groups[0]) == len(groups[1]) == 1:
        related = relation(groups[0][0], groups[1][0])
    choice = rng.random()
    if related is not None and choice < V.sampling["p_relation"]:
        body = f"{phrases[0]} {pick(rng, G['relations'][related])} {phrases[1]}"
        joint = pick(rng, (" with ", " and also ", ", and "))
        return body if len(phrases) == 2 else body + joint + listed(phrases[2:])
    if choice >= 1 - V.sampling["p_places"]:
        pairs = zip(phrases, groups, strict=True)
        phrases = [
            f"{phrase} {place_phrase(group[0], rng)}" if len(group) == 1 else phrase
            for phrase, group in pairs
        ]
    return listed(phrases)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A random true caption of the scene. Raises ValueError for a scene without objects, which has none."""
    if not scene.objects:
        raise ValueError("a scene without objects has no caption; give it at least one object")
    text = framed(_objects(scene, rng), pick(rng, G["caption_frames"]))
    if chance(rng, SAY_BACKGROUND):
        phrase = V.backgrounds[scene.background].phrase
        text = f"{phrase}, {text}" if chance(rng, BACKGROUND_FIRST) else f"{text} {phrase}"
    if chance(rng, SAY_STYLE):
        text += f", {pick(rng, G['style_phrases'][scene.style])}"
    if scene.filter is not None:
        text += f", {pick(rng, G['filter_phrases'][scene.filter])}"
    return text
