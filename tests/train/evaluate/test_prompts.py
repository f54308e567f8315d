"""Held-out prompts and paraphrases: they say what they require, and stay out of training."""

import re

import pytest

from train.data.scenes import CATEGORIES, VOCABULARY, draw, is_unseen, unseen_pairs
from train.data.scenes.scene import problems
from train.evaluate.paraphrases import paraphrases
from train.evaluate.prompts import SKILLS, WITH_COLORS, sample_prompts

V = VOCABULARY


@pytest.mark.parametrize("skill", SKILLS)
def test_prompts_say_what_they_require(skill):
    prompts = sample_prompts(skill, 40)
    assert sample_prompts(skill, 40) == prompts and sample_prompts(skill, 40, seed=1) != prompts
    assert sample_prompts(skill, 10) == prompts[:10]
    for prompt in prompts:
        for wanted in prompt.claims.objects:
            noun = wanted.noun if wanted.count == 1 else V.nouns[wanted.noun].plural
            number = "" if wanted.count == 1 else V.grammar["numbers"][wanted.count] + " "
            phrase = f"{number}{wanted.color or ''} {noun}".replace("  ", " ").strip()
            assert phrase in prompt.text
            if wanted.color:
                assert all(wanted.color not in V.nouns[wanted.noun].native(style) for style in V.styles)
        pairs = [is_unseen(wanted.noun, wanted.color) for wanted in prompt.claims.objects]
        assert any(pairs) == prompt.unseen
    assert sum(prompt.unseen for prompt in prompts) == (13 if skill in WITH_COLORS else 0)


def test_nouns_without_an_unseen_pair_are_asked_for_in_seen_ones():
    nouns = ("apple", "car", "dog", "heart", "house", "rabbit")
    own = {noun: {color for style in V.styles for color in V.nouns[noun].native(style)} for noun in nouns}
    assert not any(is_unseen(noun, color) for noun in nouns for color in V.colors if color not in own[noun])
    with V.narrowed(drawn_nouns=nouns):
        for skill in WITH_COLORS:
            assert not any(prompt.unseen for prompt in sample_prompts(skill, 6))


def test_skills_ask_for_different_things():
    one = {skill: sample_prompts(skill, 1)[0].claims for skill in SKILLS}
    assert len(one["single object"].objects) == 1 and len(one["two objects"].objects) == 2
    assert one["counting"].objects[0].count >= 2 and one["colors"].objects[0].color
    assert one["position"].relation in V.grammar["relations"]
    first, second = one["color attribution"].objects
    assert first.color and second.color and first.color != second.color
    with pytest.raises(ValueError, match="unknown skill 'poetry'"):
        sample_prompts("poetry", 1)


def test_thirty_paraphrases_outside_the_grammar():
    edits = paraphrases()
    assert len(edits) == len({edit.instruction for edit in edits}) == 30
    assert {edit.category for edit in edits} == set(CATEGORIES)
    known = [
        re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrase)) + "$")
        for kinds in V.grammar["edits"].values()
        for phrases in kinds.values()
        for phrase in phrases
    ]
    for edit in edits:
        assert not any(pattern.match(edit.instruction) for pattern in known), edit.instruction
        assert not problems(edit.source) and not problems(edit.target)
        assert not unseen_pairs(edit.source) and not unseen_pairs(edit.target)
        assert (draw(edit.source) != draw(edit.target)).any()
