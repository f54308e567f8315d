"""Exports in the layouts that the official scorers read, looked at as the scorers do."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image

from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel, RPiAEPipeline
from train.__main__ import main
from train.evaluate import painting
from train.evaluate.benchmarks import dpg, gedit, geneval, shortened
from train.evaluate.class_samples import archive, classes
from train.evaluate.painting import paint_all, picture_seed
from train.evaluate.samples import PictureArchive

SIDE = 24
GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a photo of a red cow"},
]


class Painter:
    """Noise of the generator, as large as the source; keeps what it was asked."""

    def __init__(self):
        self.prompts, self.sources = [], []

    def __call__(self, prompts, generators, sources):
        self.prompts += prompts
        self.sources += sources or []
        sizes = [one.size for one in sources] if sources else [(SIDE, SIDE)] * len(prompts)
        arrays = (
            torch.randint(0, 256, (height, width, 3), generator=one, dtype=torch.uint8).numpy()
            for one, (width, height) in zip(generators, sizes, strict=True)
        )
        return [Image.fromarray(array) for array in arrays]


@pytest.fixture
def geneval_prompts(tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL))
    return file


@pytest.fixture
def dpg_prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in ("COCOval2014000000000042", "partiprompts1"):
        (folder / f"{name}.txt").write_text(f"A long text\nabout {name}.\n")
    return folder


def pixels(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# --- the layouts ---------------------------------------------------------------------------------------------


def test_geneval_as_its_evaluate_images_reads_it(geneval_prompts, tmp_path):
    out, painter = tmp_path / "out", Painter()
    assert paint_all(geneval(geneval_prompts, out), painter, out, batch=3, shown=False) == 8
    seen = {}
    for folder in out.iterdir():
        assert folder.is_dir() and folder.name.isdigit() and len(folder.name) == 5
        metadata = json.loads((folder / "metadata.jsonl").read_text())
        names = sorted(path.name for path in (folder / "samples").iterdir())
        assert all(re.match(r"\d+\.png", name) for name in names)
        seen[int(folder.name)] = (metadata, names)
    files = ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert seen == {index: (line, files) for index, line in enumerate(GENEVAL)}
    assert painter.prompts == [line["prompt"] for line in GENEVAL for _ in range(4)]
    pictures = pixels(out)
    assert len({picture.tobytes() for picture in pictures.values()}) == 8  # no noise twice


def test_dpg_as_its_compute_dpg_bench_reads_it(dpg_prompts, tmp_path):
    out, painter = tmp_path / "out", Painter()
    paint_all(dpg(dpg_prompts, out), painter, out, batch=3, shown=False)
    assert sorted(path.name.split(".")[0] for path in out.iterdir()) == ["COCOval2014000000000042", "partiprompts1"]
    assert painter.prompts[0] == "A long text about COCOval2014000000000042." and len(painter.prompts) == 8
    alone = Painter()
    for path in out.iterdir():
        sheet = Image.open(path)
        assert sheet.size == (2 * SIDE, 2 * SIDE) and path.suffix == ".png"
        corners = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]  # in the scorer's order
        for number, (left, top) in enumerate(corners):
            seed = picture_seed(0, path.stem, number)
            [expected] = alone([""], [torch.Generator().manual_seed(seed)], None)
            assert np.array_equal(sheet.crop((left, top, left + SIDE, top + SIDE)), expected)


@pytest.fixture
def gedit_folder(tmp_path):
    import datasets

    rng = np.random.default_rng(0)
    shapes = [(30, 40), (20, 25), (33, 17)]
    rows = {
        "task_type": ["color_alter", "subject-add", "color_alter"],
        "key": ["a1", "b2", "c3"],
        "instruction": ["make it blue", "add a cat", "改变颜色"],
        "instruction_language": ["en", "en", "cn"],
        "input_image": [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes],
        "Intersection_exist": [True, False, True],
    }
    rows["input_image_raw"] = [picture.resize((64, 64)) for picture in rows["input_image"]]
    features = datasets.Features(
        {
            name: datasets.Image() if "image" in name else datasets.Value("bool" if "exist" in name else "string")
            for name in rows
        }
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "gedit")
    return tmp_path / "gedit", rows


def test_gedit_as_its_test_gedit_score_reads_it(gedit_folder, tmp_path):
    folder, rows = gedit_folder
    out, painter = tmp_path / "out", Painter()
    paint_all(gedit(str(folder), out, "rpiae"), painter, out, batch=2, shown=False)
    for index, key in enumerate(rows["key"]):
        home = out / "rpiae" / "fullset" / rows["task_type"][index] / rows["instruction_language"][index]
        assert np.array_equal(Image.open(home / f"{key}_SRCIMG.png"), rows["input_image"][index])
        assert Image.open(home / f"{key}.png").size == rows["input_image"][index].size
    assert len(pixels(out)) == 6 and painter.prompts == rows["instruction"]
    assert all(np.array_equal(*pair) for pair in zip(painter.sources, rows["input_image"], strict=True))
    only = gedit(str(folder), tmp_path / "en", "rpiae", ["en"])
    assert [item.prompt for item in only] == ["make it blue", "add a cat"]


def test_command_edits_by_a_long_chinese_instruction(gedit_folder, smoke_checkpoint, tmp_path, capsys):
    import datasets

    rows = datasets.load_from_disk(str(gedit_folder[0]))
    rows = rows.map(lambda row: {"instruction": CHINESE} if row["instruction_language"] == "cn" else {})
    rows.save_to_disk(tmp_path / "long")
    out = tmp_path / "my out"
    arguments = ["export", "gedit", str(tmp_path / "long"), str(out), "--checkpoint", str(smoke_checkpoint)]
    assert main([*arguments, "--language", "cn", "--steps", "1"]) == 0
    assert sorted(pixels(out)) == [f"rpiae/fullset/color_alter/cn/c3{end}.png" for end in ("", "_SRCIMG")]
    shown = capsys.readouterr().out
    assert "1 of 1 prompts lost their ends: this model reads 64 word pieces." in shown
    common = f"--model_name rpiae --save_path '{out}' --backbone gpt4o"
    assert f"\n  python test_gedit_score.py {common}\n" in shown
    assert f"\n  python calculate_statistics.py {common} --language en  # or zh\n" in shown


def test_command_tells_dpgs_scorer_a_pictures_side(dpg_prompts, smoke_checkpoint, tmp_path, capsys):
    (dpg_prompts / "partiprompts1.txt").unlink()
    out = tmp_path / "dpg"
    arguments = ["export", "dpg", str(dpg_prompts), str(out), "--checkpoint", str(smoke_checkpoint)]
    assert main([*arguments, "--steps", "1"]) == 0
    [sheet] = pixels(out).values()
    shown = capsys.readouterr().out
    assert f"\n  bash dpg_bench/dist_eval.sh {out} {len(sheet) // 2}\n" in shown and "docs/evaluation.md" in shown


# --- repeated, in parts, one by one --------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", ["geneval", "dpg"])
def test_same_pictures_whatever_the_batch_and_however_often_it_stopped(
    benchmark, geneval_prompts, dpg_prompts, tmp_path
):
    def items(out):
        return geneval(geneval_prompts, out) if benchmark == "geneval" else dpg(dpg_prompts, out)

    whole, parts, one = (tmp_path / name for name in ("whole", "parts", "one"))
    made = items(whole)
    paint_all(made, Painter(), whole, seed=5, batch=64, shown=False)
    paint_all(items(one), Painter(), one, seed=5, batch=1, shown=False)
    assert same(pixels(whole), pixels(one))

    class Stops(Painter):
        def __call__(self, prompts, generators, sources):
            if len(self.prompts) >= 5:
                raise KeyboardInterrupt
            return super().__call__(prompts, generators, sources)

    with pytest.raises(KeyboardInterrupt):
        paint_all(items(parts), Stops(), parts, seed=5, batch=3, shown=False)
    there = pixels(parts)
    assert 0 < len(there) < len(pixels(whole))
    times = {name: (parts / name).stat().st_mtime_ns for name in there}
    assert paint_all(items(parts)[::-1], Painter(), parts, seed=5, batch=2, shown=False) == len(made) - len(there)
    assert same(pixels(whole), pixels(parts))
    assert {name: (parts / name).stat().st_mtime_ns for name in there} == times
    assert paint_all(items(parts), Painter(), parts, seed=5, shown=False) == 0
    other = tmp_path / "other"
    paint_all(items(other), Painter(), other, seed=6, shown=False)
    assert not any(np.array_equal(pixels(other)[name], picture) for name, picture in pixels(whole).items())


def test_two_machines_may_write_files_of_one_name_at_once(tmp_path):
    """As GenEval's 0000.png of two prompts, by processes that have the same number."""
    files = [tmp_path / "out" / prompt / "0000.png" for prompt in ("00000", "00001")]

    def write(part):
        part.write_text("one's")
        painting._place(files[1], lambda other: other.write_text("the other's"), tmp_path / "out")

    painting._place(files[0], write, tmp_path / "out")
    assert [file.read_text() for file in files] == ["one's", "the other's"]


def test_long_prompts_are_shortened_to_what_the_model_reads(smoke_checkpoint, dpg_prompts, tmp_path):
    encoder = RPiAEPipeline.from_pretrained(smoke_checkpoint).text_encoder
    (dpg_prompts / "zoo.txt").write_text("a very long story of a dog " * 40)
    items, cut = shortened(dpg(dpg_prompts, tmp_path / "out"), encoder)
    assert (
        cut == 1
        and items[-1].prompt.startswith("a very long story")
        and items[0].prompt.startswith("A long text about")
    )
    assert encoder.config.max_tokens - 2 <= encoder.count_tokens(items[-1].prompt) <= encoder.config.max_tokens


CHINESE = "把背景改成一片金色的沙漠，" * 6  # 78 characters and not one space


def test_what_is_not_spaced_is_shortened_inside(smoke_checkpoint, tmp_path):
    encoder = RPiAEPipeline.from_pretrained(smoke_checkpoint).text_encoder
    slots = encoder.config.max_tokens
    prompts = [CHINESE, f"请 {CHINESE}", "ab1" * 33, "short", ""]
    items = [painting.Item(tmp_path / f"{index}.png", "", one, (0,)) for index, one in enumerate(prompts)]
    made, cut = shortened(items, encoder)
    chinese, spaced, endless, *others = (item.prompt for item in made)
    assert cut == 3 and others == ["short", ""]
    assert CHINESE.startswith(chinese) and prompts[1].startswith(spaced)
    assert encoder.count_tokens(chinese) == encoder.count_tokens(spaced) == slots  # as much as goes in
    assert prompts[2].startswith(endless) and slots - 20 <= encoder.count_tokens(endless) <= slots


def test_command_draws_with_a_checkpoint(smoke_checkpoint, geneval_prompts, tmp_path, capsys):
    out = tmp_path / "geneval"
    arguments = ["export", "geneval", str(geneval_prompts), str(out), "--checkpoint", str(smoke_checkpoint)]
    assert main([*arguments, "--pictures", "2", "--steps", "2", "--batch", "3"]) == 0
    pictures = pixels(out)
    assert sorted(pictures) == [f"0000{i}/samples/000{j}.png" for i in range(2) for j in range(2)]
    assert all(picture.shape == (256, 256, 3) for picture in pictures.values())
    assert "4 files" in capsys.readouterr().out and not (tmp_path / ".geneval.part").exists()
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint).to(PartialState().device)
    generator = torch.Generator().manual_seed(picture_seed(0, "00001", 1))
    alone = pipe(prompt=GENEVAL[1]["prompt"], generator=generator, num_inference_steps=2).images[0]
    difference = np.abs(np.asarray(alone, dtype=int) - pictures["00001/samples/0001.png"])
    assert difference.max() <= 1  # sums of another batch may round the other way


@pytest.mark.slow
def test_two_processes_paint_what_one_paints(smoke_checkpoint, geneval_prompts, tmp_path):
    """In batches of one picture on one thread, where nothing rounds the other way."""
    settings = ["--checkpoint", str(smoke_checkpoint), "--pictures", "2", "--steps", "2", "--batch", "1"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "train", "export", "geneval", str(geneval_prompts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*command, str(tmp_path / "two"), *settings], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["export", "geneval", str(geneval_prompts), str(tmp_path / "one"), *settings]) == 0
    finally:
        torch.set_num_threads(threads)
    assert len(pixels(tmp_path / "one")) == 4 and same(pixels(tmp_path / "one"), pixels(tmp_path / "two"))
    assert done.stdout.count("4 files in") == 1  # they knew of each other
    assert "2/2" in done.stderr and "4/4" not in done.stderr  # and each took its half


# --- by class ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten_classes(golden, tmp_path_factory):
    """The authors' tiny models: a checkpoint of ten classes, and a lesser transformer for autoguidance."""
    folder = tmp_path_factory.mktemp("ten")
    vae = AutoencoderRPiAE.from_official(golden.path("rpiae_stage3_1_c8_ema.pt"), 3, 4)
    transformer = LightningDiT2DModel.from_official(golden.path("dit_ep-0000800.pt"), 4)
    ClassConditionalPipeline(vae=vae, transformer=transformer).save_pretrained(folder / "checkpoint")
    LightningDiT2DModel.from_official(golden.path("dit_guidance_ep-0000020.pt"), 2).save_pretrained(folder / "weak")
    return folder


def labels_of(items):
    return [item.prompt for item in items]


def test_classes_come_equally_often_in_the_authors_order(golden, tmp_path):
    known = golden.facts["equal_label_sampling"]
    count, theirs = known["num_fid_samples"], sum(known["batches"], [])
    first = known["total_samples"] // known["world_size"]  # of the share that the authors' second process was given
    ours = labels_of(classes(count, known["num_classes"], tmp_path, known["seed"]))
    assert ours[first:] == theirs[: count - first]
    assert np.bincount(ours).tolist() == [2] * 10
    assert np.bincount(labels_of(classes(23, 10, tmp_path, 3))).tolist() == [3] * 3 + [2] * 7
    assert labels_of(classes(count, 10, tmp_path, 1)) != ours


def test_command_draws_classes_into_an_archive(ten_classes, tmp_path, capsys):
    out = tmp_path / "classes"
    arguments = ["export", "classes", str(out), "--checkpoint", str(ten_classes / "checkpoint"), "--count", "12"]
    arguments += ["--weak", str(ten_classes / "weak"), "--guidance", "2.05", "--steps", "3", "--batch", "5"]
    assert main(arguments) == 0
    assert f"measure-samples {out}.npz" in capsys.readouterr().out
    items = classes(12, 10, out)
    with np.load(f"{out}.npz") as made:
        assert sorted(made) == ["arr_0", "arr_1"] and made["arr_1"].tolist() == labels_of(items)
        array = made["arr_0"]
    assert np.array_equal(array, np.stack([np.asarray(Image.open(item.file)) for item in items]))
    read = torch.cat(list(PictureArchive(tmp_path / "classes.npz", 5)))  # by measure-samples
    assert torch.equal(read, torch.from_numpy(array).permute(0, 3, 1, 2))
    pipe = ClassConditionalPipeline.from_pretrained(ten_classes / "checkpoint").to(PartialState().device)
    weak = LightningDiT2DModel.from_pretrained(ten_classes / "weak").to(pipe.device)
    alone = pipe(
        items[7].prompt, generator=torch.Generator().manual_seed(picture_seed(0, "000007", 0)),
        num_inference_steps=3, guidance_scale=2.05, weak_transformer=weak, output_type="pt",
    ).images[0]  # fmt: skip
    assert (255 * alone.permute(1, 2, 0).cpu() - 1 - 1e-2 < torch.from_numpy(array[7])).all()  # cut, not rounded
    assert (255 * alone.permute(1, 2, 0).cpu() + 1e-2 > torch.from_numpy(array[7])).all()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes", "classes.export.json", "classes.npz"]
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times
    capsys.readouterr()
    shutil.rmtree(out)  # the archive is what counts
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "classes.npz is there, of these very settings: nothing is painted" in shown
    assert f"measure-samples {out}.npz" in shown and not out.exists()
    assert main([*arguments, "--seed", "1"]) == 2
    assert "another export (not the same: labels, seed)" in capsys.readouterr().err


def test_an_archive_is_whole_or_not_there(tmp_path):
    items = classes(6, 3, tmp_path / "out")
    paint_all(items, Painter(), tmp_path / "out", shown=False)
    Image.new("RGB", (SIDE, SIDE + 1)).save(items[4].file)
    with pytest.raises(ValueError, match=r"000004.png is \(25, 24, 3\), the first \(24, 24, 3\)"):
        archive(items, tmp_path / "out.npz")
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".out-*"))


def test_mistakes_about_classes_are_told(ten_classes, smoke_checkpoint, tmp_path, capsys):
    LightningDiT2DModel(8, 4, 1, 32, 2, 2, 64, 7, 16).save_pretrained(tmp_path / "seven")
    checkpoint, out = ["--checkpoint", str(ten_classes / "checkpoint")], str(tmp_path / "out")
    for arguments, words in (
        ([*checkpoint, "--count", "0"], "--count is 0; give 1 or more"),
        (["--checkpoint", str(smoke_checkpoint)], "holds a RPiAEPipeline, wanted is a ClassConditionalPipeline"),
        ([*checkpoint, "--weak", str(tmp_path / "seven")], "guides nothing at a guidance scale of 1"),
        ([*checkpoint, "--weak", str(tmp_path / "seven"), "--guidance", "2"], "its num_classes is 7"),
        ([*checkpoint, "--weak", str(tmp_path / "none"), "--guidance", "2"], "there is no checkpoint folder"),
    ):
        assert main(["export", "classes", out, *arguments]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("error: ") and words in told
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.npz").exists()


# --- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_are_told(gedit_folder, geneval_prompts, tmp_path, capsys):
    import datasets

    geneval_prompts.write_text('{"prompt": "a cat"}\nno json\n')
    with pytest.raises(ValueError, match="line 2 of evaluation_metadata.jsonl"):
        geneval(geneval_prompts, tmp_path / "out")
    with pytest.raises(ValueError, match="there is no file"):
        geneval(tmp_path / "none.jsonl", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no prompts"):
        dpg(tmp_path / "empty", tmp_path / "out")
    folder, rows = gedit_folder
    found = datasets.load_from_disk(str(folder))
    found.remove_columns("key").save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="not GEdit-Bench: it has no column key"):
        gedit(str(tmp_path / "other"), tmp_path / "out", "m")
    found.map(lambda row: {"key": "../" + row["key"]}).save_to_disk(tmp_path / "bad")
    with pytest.raises(ValueError, match="row 0 .* no usable name"):
        gedit(str(tmp_path / "bad"), tmp_path / "out", "m")
    assert main(["export", "dpg", str(tmp_path / "empty"), str(tmp_path / "out"), "--checkpoint", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_pictures_of_another_export_are_refused(smoke_checkpoint, geneval_prompts, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    arguments = ["export", "geneval", str(geneval_prompts), str(out), "--pictures", "1", "--steps", "1"]
    own = [*arguments, "--checkpoint", str(smoke_checkpoint)]
    assert main(own) == 0
    before = pixels(out)
    (out / "00001" / "samples" / "0000.png").unlink()
    assert main([*own, "--seed", "1"]) == 2
    assert "out holds pictures of another export (not the same: seed): remove" in capsys.readouterr().err
    shutil.copytree(smoke_checkpoint, other)
    index = other / "model_index.json"
    index.write_text(index.read_text() + "\n")
    text = geneval_prompts.read_text()
    geneval_prompts.write_text(text.replace("red", "blue"))
    assert main([*arguments, "--guidance", "3", "--checkpoint", str(other)]) == 2
    assert "(not the same: checkpoint, guidance_scale, prompts)" in capsys.readouterr().err
    assert len(pixels(out)) == 1
    geneval_prompts.write_text(text)
    assert main(own) == 0 and same(pixels(out), before)  # the same goes on
    record = tmp_path / "out.export.json"
    record.rename(tmp_path / "kept")
    assert main(own) == 2
    assert "no out.export.json beside it says what made them" in capsys.readouterr().err
    (tmp_path / "kept").rename(record)
    shutil.rmtree(out)  # whatever the record says, nothing is left of it
    assert main([*own, "--seed", "1"]) == 0
    assert not any(np.array_equal(pixels(out)[name], picture) for name, picture in before.items())
