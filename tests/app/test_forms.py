"""The forms: what fills them, what a reload finds of it, and which picture an edit goes on from."""

import uuid
from itertools import count
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from app import studio
from app.chain import SOURCE
from app.compare import CompareTab
from app.examples import Example
from app.forms import Forms
from app.jobs import Jobs
from app.outcome import Outcome, Picture
from app.request import CompareRequest, EditRequest, GenerateRequest
from app.service import Service
from app.store import Record, Store
from app.texts import speaking
from rpiae.recipe import Recipe, pixels_sha256, save_png

SIZE = (40, 30)
CLOCK = count(1)  # each job is newer than those before it
HERE = SimpleNamespace(query_params={})  # a page opened by no link


@pytest.fixture
def jobs(studio_checkpoint, tmp_path):
    # Nothing is run here: the jobs are written as a server would leave them.
    return Jobs(Service(studio_checkpoint), Store(tmp_path / "out"))


@pytest.fixture
def forms(jobs, monkeypatch, tmp_path):
    """The forms of a whole page."""
    made = []

    class Kept(Forms):
        def __init__(self, *parts):
            super().__init__(*parts)
            made.append(self)

    monkeypatch.setattr(studio, "Forms", Kept)
    studio.create_app(jobs.service, jobs, tmp_path / "nowhere")
    return made[0]


def colour(shade: int) -> Image.Image:
    return Image.new("RGB", SIZE, (shade, 0, 0))


def left() -> Image.Image:
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, (0, 0, 20, 30))
    return mask


def begun(jobs: Jobs, source: Image.Image, words: str = "make it blue", parent=("", 0), mask=None, **more) -> Record:
    request = EditRequest(source, words, seed=7, parent=parent[0], parent_picture=parent[1], mask=mask, **more)
    record = Record(id=str(uuid.uuid4()), owner="anna", request=request.to_json(), created=next(CLOCK))
    return jobs.store.begin(record, source, mask)


def edited(jobs: Jobs, source: Image.Image, shades=(1,), mask=None, **more) -> Record:
    sums = {"source_sha256": pixels_sha256(source), "mask_sha256": mask and pixels_sha256(mask)}
    recipe = Recipe(kind="edit", prompt="make it blue", seed=7, **sums)
    pictures = tuple(Picture(colour(shade), shade, recipe) for shade in shades)
    return jobs.store.finish(begun(jobs, source, mask=mask, **more), Outcome(pictures))


def pressed(action: str, index: int = 0) -> SimpleNamespace:
    return SimpleNamespace(action=action, index=index)


def shade(path: str) -> int:
    return Image.open(path).getpixel((0, 0))[0]


# the chain, and the picture in the form


def test_a_failed_edit_leaves_chain_and_parent_as_they_were(forms, jobs):
    edit = forms.edit
    first = edited(jobs, colour(0), shades=(1, 2))
    kept = {"tip": [first.id, 1], "parent": [first.id, 1]}
    failed = jobs.store.close(begun(jobs, colour(2), parent=(first.id, 1)), "failed", "no memory")
    assert edit._began(failed.id, SimpleNamespace(parent=first.id), None, "anna", kept) == gr.skip()
    strip, after = edit._chain("anna", failed.id, kept)
    assert after == gr.skip() and strip.count('data-action="step"') == 2
    assert edit._parent("anna", kept, colour(2)) == (first.id, 1)
    _, after = edit._chain("anna", failed.id, {"parent": [first.id, 1]})  # in a browser that knows no strip
    assert after["tip"] == [first.id, 1]


def test_an_edit_that_was_opened_is_not_what_the_form_holds(forms, jobs):
    edit = forms.edit
    first, other = edited(jobs, colour(0)), edited(jobs, colour(9))
    for parent in ([first.id, 0], None):
        _, kept = edit._chain("anna", other.id, {"tip": [first.id, 0], "parent": parent})
        assert kept == {"tip": [other.id, 0], "parent": parent}


def test_a_picture_of_no_chain_begins_one_with_the_job_that_is_run(forms, jobs, tmp_path):
    edit = forms.edit
    old, new = edited(jobs, colour(0)), edited(jobs, colour(5))
    kept = {"tip": [old.id, 0], "parent": None}
    kept = edit._began(new.id, SimpleNamespace(parent=""), None, "anna", kept)
    assert kept == {"tip": [old.id, 0], "parent": [new.id, SOURCE]}
    assert shade(edit._held("anna", kept)) == 5 and edit._held("ben", kept) is None
    strip, kept = edit._chain("anna", new.id, kept)
    assert kept["tip"] == [new.id, 0] and strip.index("In the form") < strip.index("Edit 1")
    assert edit._parent("anna", kept, colour(5)) == ("", 0)


def test_another_picture_in_the_form_is_of_no_chain(forms, jobs, tmp_path):
    edit = forms.edit
    first = edited(jobs, colour(0))
    kept = {"tip": [first.id, 0], "parent": [first.id, 0]}
    colour(4).save(tmp_path / "example.png")
    edit.examples.append(Example(tmp_path / "example.png", "make it green", None, SIZE))
    filled = edit._use_example("anna", first.id, kept, pressed("example"))
    assert filled[edit.kept] == {"tip": [first.id, 0], "parent": None}
    assert filled[edit.prompt] == filled[edit.room.draft] == "make it green"
    assert "In the form" not in filled[edit.strip] and "Edit 1" in filled[edit.strip]


def test_a_picture_that_is_gone_is_told_where_its_button_is_pressed(forms, jobs):
    with pytest.raises(gr.Error, match="no longer here"):
        forms.edit._go_on("anna", str(uuid.uuid4()), {}, pressed("edit"))
    with pytest.raises(gr.Error, match="no longer here"):
        forms.generate._picture(str(uuid.uuid4()), pressed("edit"))


# a reload


def test_a_reload_restores_where_the_edit_was_allowed(forms, jobs):
    edit = forms.edit
    for mask, mode in ((left(), "file"), (None, "everywhere")):
        last = edited(jobs, colour(3), mask=mask)
        found = edit._restore("anna", last.id, "", {}, HERE)
        assert found[edit.area.mode] == mode and shade(found[edit.picture]) == 3
        if mask:
            assert Image.open(found[edit.area.file]).tobytes() == mask.tobytes()


def test_a_reload_after_restart_has_the_original_in_the_form(forms, jobs):
    edit = forms.edit
    first = edited(jobs, colour(0), shades=(1,))
    second = edited(jobs, colour(1), shades=(2,), parent=(first.id, 0))
    kept = {"tip": [second.id, 0], "parent": [second.id, 0]}
    *_, kept, path, words, draft = edit._move("anna", second.id, kept, pressed("restart"))
    assert shade(path) == 0 and kept["parent"] == [first.id, SOURCE]
    found = edit._restore("anna", second.id, "", kept, HERE)
    assert shade(found[edit.picture]) == 0 and found[edit.kept] == kept and found[edit.room.job] == second.id


def test_words_that_were_filled_in_are_there_after_a_reload_until_they_are_sent(forms, jobs):
    edit, generate, compare = forms.edit, forms.generate, forms.compare
    old = edited(jobs, colour(0), words="make it red")
    assert forms.use(old, {})[edit.room.draft] == "make it red"
    drawn = Record(id="x", request=GenerateRequest("a cat", seed=1).to_json())
    assert forms.use(drawn, {})[generate.room.draft] == "a cat"
    compared = Record(id="x", request=CompareRequest(None, ("rpiae",), prompt="a dog").to_json())
    forms.compare.chips = lambda chosen: chosen  # asks for all tokenizers
    assert forms.use(compared, {})[compare.room.draft] == "a dog"
    words, draft = generate._use_idea(pressed("idea"))
    assert words == draft == "a cat to the left of a red car"
    second = edited(jobs, colour(1), parent=(old.id, 0))
    *_, words, draft = edit._move("anna", second.id, {"tip": [second.id, 0]}, pressed("merge"))
    assert words == draft == "make it red; make it blue"
    assert edit._restore("anna", second.id, draft, {}, HERE)[edit.prompt] == words
    assert edit._restore("anna", second.id, "", {}, HERE)[edit.prompt] == "make it blue"


def test_a_job_on_show_has_taken_the_words_along_and_one_in_line_has_not(forms, jobs):
    start = forms.generate.room.begun.fn
    sent = [True, 1, "a cat", None, "", 2, 1.0, 0, 1, 1]
    job, last, draft, _ = start("anna", "", [], *sent)
    assert job == last and draft == ""
    queued = []
    assert list(start("anna", job, queued, *sent)[:3]) == [gr.skip()] * 3 and len(queued) == 1


def test_words_typed_into_compare_stay_while_the_server_is_importing(jobs):
    def slow(*named):
        raise AssertionError("the form waits for the tokenizers")

    tab = SimpleNamespace(room=SimpleNamespace(jobs=jobs), chips=slow, weights=SimpleNamespace(offer=slow))
    source = colour(3)
    record = Record(id=str(uuid.uuid4()), owner="anna", request=CompareRequest(source, ("rpiae",)).to_json())
    jobs.store.begin(record, source)
    for last in ("", record.id):
        assert CompareTab._restore(tab, last, "")[3] == gr.skip()
        assert CompareTab._restore(tab, last, "a dog")[3] == "a dog"


# recipes and links


def test_a_dropped_result_brings_back_its_own_mask_or_says_that_it_is_missing(forms, jobs, tmp_path):
    edit, source = forms.edit, colour(3)
    masked = edited(jobs, source, mask=left())
    edited(jobs, source)  # a newer one with the same picture, allowed to change all of it
    result = str(jobs.store.file(masked.id, masked.pictures[0]["file"]))
    filled, said, wrong = forms.use_file(result, "anna", {})
    assert not wrong and filled[edit.area.mode] == "file" and Image.open(filled[edit.area.file]).size == SIZE
    assert not [words for words in said if "is not inside" in words]
    taken = edit._take_source(result, "anna", {})
    assert taken[edit.area.mode] == "file" and "not inside" not in taken[edit.restored]
    jobs.delete(masked.id, "anna")
    save_png(source, tmp_path / "result.png", Recipe(**masked.pictures[0]["recipe"]))
    filled, said, _ = forms.use_file(str(tmp_path / "result.png"), "anna", {})
    assert filled[edit.area.mode] == "everywhere" and filled[edit.picture]
    assert [words for words in said if "is not inside" in words] == ["Where the edit was allowed is not inside."]


def test_an_uploaded_result_leaves_the_words_that_were_typed(forms, jobs):
    edit = forms.edit
    made = edited(jobs, colour(0))
    path = str(jobs.store.file(made.id, made.pictures[0]["file"]))
    kept = edit._uploaded(path, "anna", "", {}, "make it green")
    assert not set(kept) & set(edit.fields.values()) and 'data-action="settings"' in kept[edit.restored]
    for filled in (edit._uploaded(path, "anna", "", {}, "  "), edit._from_recipe(path, "anna")):
        assert filled[edit.prompt] == filled[edit.room.draft] == "make it blue" and filled[edit.fresh] is False


def test_whatever_a_request_takes_its_sliders_show(forms):
    edit, generate = forms.edit, forms.generate
    asked = {"num_inference_steps": 200, "guidance_scale": 20.0}
    filled = edit.fill(asked | {"image_guidance_scale": 20.0})
    assert [filled[box] for box in (edit.steps, edit.guidance, edit.image_guidance)] == [200, 20.0, 20.0]
    for box, value in ((edit.steps, 200), (generate.steps, 200), (edit.guidance, 20), (generate.guidance, 20)):
        assert box.preprocess(value) == value


def test_a_link_that_the_loaded_checkpoint_has_no_form_for_is_not_said_to_be_filled_in(forms):
    generate = forms.generate
    by_class = SimpleNamespace(query_params={"tab": "generate", "class": "3", "seed": "7"})
    told = generate._restore("", "", by_class)[generate.drop.note]
    assert "no form for these settings" in told and "wrong" in told and "from a link" not in told
    of_words = SimpleNamespace(query_params={"tab": "generate", "prompt": "a cat", "seed": "-1"})
    told = generate._restore("", "", of_words)[generate.drop.note]
    assert "from a link" in told and "Seed is -1" in told


def test_a_number_outside_the_picture_is_told_in_the_pages_language(forms):
    area = forms.edit.area
    with speaking("zh"), pytest.raises(ValueError, match="必须在 0 到 100 之间"):
        area.mask(SIZE, "rectangle", [], *(box.preprocess(500) for box in area.numbers), None)
