"""Measurements: a perfect editor and painter gets full marks, one that does nothing gets none, a real one runs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from train.data.scenes import (
    CATEGORIES,
    VOCABULARY,
    Edit,
    Scene,
    Sticker,
    draw,
    is_unseen,
    sample_edit,
    unseen_pairs,
)
from train.data.scenes.scene import at_place, beside
from train.evaluate import measure, report
from train.evaluate.judge import judge_scene
from train.evaluate.paraphrases import paraphrases
from train.evaluate.prompts import SKILLS, sample_prompts


class Painter:
    """Draws what it is asked for from the answers; edits likewise, or not at all."""

    def __init__(self, answers, lazy=False):
        self.answers, self.lazy, self.seeds = answers, lazy, []

    def __call__(self, prompt, image=None, generator=None):
        self.seeds += [one.initial_seed() for one in generator]
        if self.lazy:
            pictures = image or [Image.new("RGB", (256, 256), "white")] * len(prompt)
        else:
            pictures = [Image.fromarray(draw(self.answers[text])) for text in prompt]
        return SimpleNamespace(images=pictures)


def scene_for(claims):
    """A scene that shows what a prompt claims."""
    first, *rest = claims.objects
    copies = [Sticker(first.noun, first.color, "small", 0, 0)] * first.count
    places = [(0, 0), (1, 2), (2, 0), (2, 2)]
    objects = [at_place(one, *place) for one, place in zip(copies, places, strict=False)]
    for other in rest:
        one = Sticker(other.noun, other.color, "small", 128, 128)
        if claims.relation:
            objects = [beside(objects[0], one, claims.relation)]
        objects.append(one)
    return Scene("gray", "flat", None, tuple(objects))


def test_a_perfect_painter_gets_full_marks():
    prompts = [prompt for skill in SKILLS for prompt in sample_prompts(skill, 3, seed=2)]
    painter = Painter({prompt.text: scene_for(prompt.claims) for prompt in prompts})
    rows = measure.evaluate_text_to_image(painter, 3, seed=2)
    assert {skill: row["share"] for skill, row in rows.items()} == dict.fromkeys(SKILLS, 1.0)
    assert rows["colors"]["n unseen"] == 1 and rows["colors"]["share unseen"] == 1.0
    assert rows["counting"]["share unseen"] is None
    assert len(set(painter.seeds)) == len(painter.seeds) == 18


def test_a_lazy_painter_gets_none():
    rows = measure.evaluate_text_to_image(Painter({}, lazy=True), 1)
    assert all(row["share"] == 0 and row["examples"] for row in rows.values())


def test_a_perfect_editor_gets_full_marks():
    row = measure.evaluate_paraphrases(Painter({edit.instruction: edit.target for edit in paraphrases()}))
    assert row["share"] == 1.0 and row["kept"] == 1.0 and row["failed"] == {}
    assert row["psnr"] == 100 > row["psnr of the input"]


def test_a_lazy_editor_gets_none():
    rows = measure.evaluate_editing(Painter({}, lazy=True), 1)
    assert set(rows) == set(CATEGORIES)
    for category, row in rows.items():
        assert row["share"] == 0 and row["failed"]
        assert row["psnr"] == row["psnr of the input"]
        assert ("kept" in row) == (category not in measure.WHOLE_PICTURE)
        assert row.get("kept", 1.0) == 1.0


def test_edits_that_are_done_when_nothing_is_done_are_not_asked_for():
    rng = np.random.default_rng(0)
    edits = measure.sample_edits("motion_change", 12, rng)
    assert len(edits) == 12 and not any(judge_scene(draw(one.source), one.target).ok for one in edits)
    assert any(judge_scene(draw(one.source), one.target).ok for one in without_looking("motion_change", 24))


def without_looking(category, count):
    rng = np.random.default_rng(0)
    return [sample_edit(rng, category, unseen=True) for _ in range(count)]


def test_a_pair_is_unseen_where_the_edit_has_to_draw_it():
    never = next(
        (noun, color) for noun in ("car", "house", "umbrella", "chair") for color in VOCABULARY.colors
        if is_unseen(noun, color) and color not in VOCABULARY.nouns[noun].native("flat")
    )  # fmt: skip
    stays, goes = Sticker(*never, "small", 60, 60), Sticker("apple", "green", "small", 180, 180)
    source = Scene("gray", "flat", None, (stays, goes))

    def draws(target):
        return measure.draws_unseen(Edit("do it", "subject_remove", source, target, "any"))

    assert not draws(Scene("gray", "flat", None, (stays,)))  # the other one goes
    assert draws(Scene("gray", "flat", None, (stays.at(60, 180), goes)))  # it has to be drawn elsewhere
    assert draws(Scene("gray", "outlined", None, (stays, goes))) or never[1] in VOCABULARY.nouns[never[0]].native(
        "outlined"
    )
    native = next((noun, color) for noun, one in VOCABULARY.nouns.items() for color in one.native("flat")
                  if one.tintable and is_unseen(noun, color))  # fmt: skip
    own = Scene("gray", "flat", None, (Sticker(*native, "small", 60, 60),))
    assert unseen_pairs(own) and not measure.draws_unseen(
        Edit("do it", "subject_add", Scene("gray", "flat", None, ()), own, "any")
    )


def test_preservation_counts_pixels_outside_the_true_change():
    source = np.zeros((4, 4, 3), np.uint8)
    target, result = source.copy(), source.copy()
    target[:2] = 9  # half of the picture should change
    result[:3] = 9  # a row too much did
    assert measure.evaluate_preservation([source], [result], [target]) == 0.5
    assert measure.evaluate_preservation([source], [target], [target]) == 1.0


@pytest.mark.slow
def test_the_whole_report_of_a_real_pipeline(smoke_checkpoint, tmp_path, monkeypatch):
    from rpiae import RPiAEPipeline

    monkeypatch.setattr(report, "RECONSTRUCTIONS", 2)
    monkeypatch.setattr(report, "LEAST_ACCURACY", 1)
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(defaults=pipe.config.defaults | {"num_inference_steps": 2})
    common = ("apple", "car", "cat", "chair", "fish", "house", "star")
    tables = report.run(pipe, tmp_path, n=1, common=common, common_words=("STOP", "GO"))
    assert json.loads((tmp_path / "tables.json").read_text()) == json.loads(json.dumps(tables))
    text = (tmp_path / "tables.md").read_text()
    assert text == report.markdown(tables)
    for title in ("Reconstruction", "Text to image", "Editing", "30 paraphrases", "The judge's own accuracy"):
        assert title in text
    assert f"have as many other cases: {', '.join(common)}, with STOP, GO on signs." in text
    assert text.count("| right, common nouns |") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables.json", "tables.md"]
    again = measure.evaluate_reconstruction(pipe, 2)
    assert again["psnr"] == tables["reconstruction"]["psnr"] and 0 < again["psnr"] < 30
    with pytest.raises(ValueError, match="at least 1, not 0"):
        report.run(pipe, tmp_path, n=0)
