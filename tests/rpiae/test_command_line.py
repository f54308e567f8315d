"""The command line on a real, tiny checkpoint: outputs, recipes, and one sentence with exit code 2 for
mistakes."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rpiae import RPiAEPipeline, recipe
from rpiae import __main__ as command_line
from rpiae.tokenizers import rpiae as rpiae_tokenizer

HOUSE = Path(__file__).resolve().parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, smoke_checkpoint):
    """run(*arguments) → (exit code, stdout, stderr), in tmp_path, with the smoke checkpoint as the bundled
    one and without a network."""

    def unreachable(self, address):
        raise AssertionError(f"a request to {address}")

    monkeypatch.setattr(rpiae_tokenizer, "BUNDLED", smoke_checkpoint)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rpiae", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def picture(tmp_path) -> Image.Image:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    image.save(tmp_path / "in.png")
    return image


def files(folder) -> set[str]:
    return set(os.listdir(folder))


# --- what works ------------------------------------------------------------------------------------------


def test_edit_writes_the_picture_its_recipe_and_its_mask(run, picture, tmp_path, smoke_checkpoint):
    painted = np.zeros((200, 300), dtype=np.uint8)
    painted[50:150, 100:200] = 255
    Image.fromarray(painted).save(tmp_path / "m.png")
    code, out, err = run(
        *("edit", "in.png", "make the car blue", "-o", "out.png", "--seed", "7"),
        *("--mask", "m.png", "--mask-output", "mask.png", "--steps", "2"),
    )
    assert (code, err) == (0, "")
    assert "seed 7" in out and "out.png: 300x200" in out
    assert files(tmp_path) == {"in.png", "m.png", "out.png", "mask.png"}
    before, after = np.asarray(picture), np.asarray(Image.open(tmp_path / "out.png"))
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert np.array_equal(before[mask == 0], after[mask == 0]) and not mask[painted == 0].any()
    made = recipe.read(tmp_path / "out.png")
    assert (made.kind, made.prompt, made.seed, made.num_inference_steps) == (
        *("edit", "make the car blue"),
        *(7, 2),
    )
    assert made.guidance_scale is not None and made.image_guidance_scale is not None
    assert (made.width, made.height, made.preserve_unchanged) == (300, 200, True)
    assert made.source_sha256 == recipe.pixels_sha256(picture)
    assert made.mask_sha256 == recipe.pixels_sha256(Image.fromarray(painted))
    assert made.checkpoint == smoke_checkpoint.name
    assert made.checkpoint_sha256 == recipe.folder_sha256(smoke_checkpoint)


def test_every_setting_reaches_the_pipeline_and_the_recipe(run, picture, tmp_path, smoke_checkpoint):
    settings = {"num_inference_steps": 3, "guidance_scale": 1.5, "guidance_interval": (0.1, 0.9)}
    settings["negative_prompt"] = "a dog"
    options = ("--steps", "3", "--guidance-scale", "1.5", "--guidance-interval", "0.1", "0.9")
    options += ("--negative-prompt", "a dog", "--seed", "5", "--dtype", "float32")
    assert run("generate", "a cat", "-o", "a.png", *options)[0] == 0
    asked = ("edit", "in.png", "make it blue", "-o", "b.png", *options)
    assert run(*asked, "--image-guidance-scale", "1.2", "--no-preserve-unchanged")[0] == 0
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    drawn = pipe("a cat", generator=torch.Generator().manual_seed(5), **settings)
    of_edit = settings | {"image_guidance_scale": 1.2, "preserve_unchanged": False}
    edited = pipe("make it blue", image=picture, generator=torch.Generator().manual_seed(5), **of_edit)
    for name, result, wanted in (("a.png", drawn, settings), ("b.png", edited, of_edit)):
        assert np.array_equal(Image.open(tmp_path / name), result.images[0])
        made = recipe.read(tmp_path / name)
        assert {setting: getattr(made, setting) for setting in wanted} == wanted
    assert run("generate", "a cat", "-o", "c.png", *options[:-1], "bfloat16")[0] == 0
    assert recipe.read(tmp_path / "c.png").dtype == "bfloat16"


def test_a_seed_repeats_a_picture_and_is_told_when_drawn(run, tmp_path):
    code, out, _ = run("generate", "a cat to the left of a red car", "-o", "a.png")
    seed = out.split()[1]
    assert code == 0 and int(seed) == recipe.read(tmp_path / "a.png").seed
    run("generate", "a cat to the left of a red car", "-o", "b.png", "--seed", seed)
    run("generate", "a cat to the left of a red car", "-o", "c.png", "--seed", str(int(seed) + 1))
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_reconstruct_gives_the_pictures_size_back(run, picture, tmp_path, smoke_checkpoint):
    assert run("reconstruct", "in.png", "-o", "out.png") == (0, "out.png: 300x200\n", "")
    made = recipe.read(tmp_path / "out.png")
    assert (made.kind, made.width, made.prompt) == ("reconstruct", 300, None)
    code, *_ = run("reconstruct", "in.png", "-o", "same.png", "--checkpoint", str(smoke_checkpoint / "vae"))
    assert code == 0
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("out.png", "same.png")))


def test_the_library_gives_the_same_reconstruction(run, picture, tmp_path, smoke_checkpoint):
    run("reconstruct", "in.png", "-o", "out.png")
    expected = RPiAEPipeline.from_pretrained(smoke_checkpoint).reconstruct(picture)
    assert np.array_equal(expected, np.asarray(Image.open(tmp_path / "out.png")))


def test_compare_keeps_a_row_for_a_tokenizer_that_is_not_there(run, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = ("compare", "in.png", "--tokenizers", "rpiae,sd-vae", "-o", "sheet.png")
    code, out, err = run(*asked, "--table", "table.csv")
    assert code == 0 and "dB, SSIM" in out and "encode" in out and "sheet.png" in out
    ours, other = csv.DictReader((tmp_path / "table.csv").open())
    assert f"rpiae: {float(ours['psnr']):.2f} dB, SSIM {float(ours['ssim']):.3f}" in out
    assert other["psnr"] == "" and "not on this machine" in other["error"]
    run(*asked, "--table", "table.json")
    report = json.loads((tmp_path / "table.json").read_text())
    assert report["picture"]["width"] == picture.width and report["tokenizers"][0]["sha256"] == ours["sha256"]
    run(*asked, "--table", "TABLE.CSV")
    assert (tmp_path / "TABLE.CSV").read_text().startswith("name,psnr,")
    assert err.startswith("sd-vae: ") and "not on this machine" in err
    assert Image.open(tmp_path / "sheet.png").width > 3 * 200


@pytest.fixture
def breaking(monkeypatch):
    """breaking(fault): the study's tokenizers raise it when they are loaded."""
    from rpiae.tokenizers import compact

    def breaking(fault: BaseException) -> None:
        def load(name, source=None):
            raise fault

        monkeypatch.setattr(compact, "load", load)

    return breaking


def test_compare_goes_on_after_a_tokenizer_that_breaks(run, picture, tmp_path, breaking, caplog):
    breaking(RuntimeError("no\nkernel"))
    code, out, err = run("compare", "in.png", "--tokenizers", "compact-x=here,rpiae", "-o", "a.png", "--table", "a.csv")
    broken, ours = csv.DictReader((tmp_path / "a.csv").open())
    assert code == 0 and float(ours["psnr"]) > 0 and "rpiae: " in out
    assert broken["error"] == "RuntimeError: no kernel" and "compact-x: RuntimeError: no kernel" in err
    assert caplog.records[0].exc_info and "compact-x" in caplog.text  # with its trace
    breaking(KeyboardInterrupt())
    assert run("compare", "in.png", "--tokenizers", "compact-x=here,rpiae", "-o", "b.png")[0] not in (0, 2)
    assert not (tmp_path / "b.png").exists()


def test_compare_keeps_the_numbers_of_a_tokenizer_whose_model_breaks(run, picture, tmp_path, monkeypatch):
    def draw(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("rpiae.tokenizers.drawing.draw", draw)
    assert run("compare", "in.png", "--prompt", "make it blue", "-o", "a.png", "--table", "a.csv")[0] == 0
    [row] = csv.DictReader((tmp_path / "a.csv").open())
    assert float(row["psnr"]) > 0 and row["draw_error"] == "RuntimeError: no kernel"


def test_compare_tells_all_reasons_when_every_tokenizer_fails(run, picture, tmp_path, breaking):
    breaking(MemoryError())
    code, _, err = run("compare", "in.png", "--tokenizers", "compact-x=here,sd-vae=none", "-o", "a.png")
    assert code == 2 and "compact-x: MemoryError" in err and "sd-vae: " in err and "none" in err
    assert not (tmp_path / "a.png").exists()


def test_compare_takes_a_compact_tokenizer_from_its_folder(run, picture, smoke_checkpoint):
    asked = f"compact-mine={smoke_checkpoint / 'vae'}"
    code, out, _ = run("compare", "in.png", "--tokenizers", asked, "-o", "a.png")
    assert code == 0 and out.startswith("compact-mine: ")


def test_info_on_a_checkpoint_and_on_a_picture(run, tmp_path, smoke_checkpoint):
    code, out, _ = run("info")
    facts = json.loads(out)
    assert code == 0 and facts["latent_shape"] == [8, 16, 16]
    assert facts["parameters"]["vae"] > 0 and facts["region"]["min_component"] == 16
    assert json.loads(run("info", str(smoke_checkpoint))[1]) == facts
    run("generate", "a cat", "-o", "a.png", "--seed", "3")
    shown = json.loads(run("info", "a.png")[1])
    assert shown["seed"] == 3 and shown["checkpoint_sha256"] == facts["checkpoint_sha256"]


# --- mistakes --------------------------------------------------------------------------------------------

MISTAKES = {
    "empty instruction": (["edit", "in.png", " ", "-o", "out.png"], "instruction is empty"),
    "empty prompt": (["generate", "", "-o", "out.png"], "prompt is empty"),
    "no such picture": (["edit", "none.png", "make it blue", "-o", "out.png"], "no file 'none.png'"),
    "text as picture": (["edit", "text.png", "make it blue", "-o", "out.png"], "not a picture"),
    "cut off": (["reconstruct", "cut.png", "-o", "out.png"], "damaged or cut off"),
    "too small": (["edit", "small.png", "make it blue", "-o", "out.png"], "at least 16"),
    "too many pixels": (["edit", "large.png", "make it blue", "-o", "out.png"], "megapixel"),
    "bomb": (["reconstruct", "bomb.png", "-o", "out.png"], "megapixel"),
    "interval": (
        ["generate", "a cat", "-o", "out.png", "--guidance-interval", "0.9", "0.1"], "guidance interval"
    ),
    "mask size": (["edit", "in.png", "make it blue", "-o", "out.png", "--mask", "small.png"], "15x15"),
    "no png": (["generate", "a cat", "-o", "out.jpg"], "must end in .png"),
    "no folder": (["generate", "a cat", "-o", "none/out.png"], "no folder"),
    "no checkpoint": (["generate", "a cat", "-o", "out.png", "--checkpoint", "none"], "no checkpoint folder"),
    "no device": (["generate", "a cat", "-o", "out.png", "--device", "abacus"], "'abacus' cannot be used"),
    "no dtype": (["generate", "a cat", "-o", "out.png", "--dtype", "int8"], "float32, bfloat16"),
    "too long": (["generate", "cat " * 200, "-o", "out.png"], "pieces"),
    "mask of nothing": (
        ["edit", "in.png", "hi", "-o", "out.png", "--no-preserve-unchanged", "--mask-output", "mask.png"],
        "no change mask",
    ),
    "one name for two": (
        ["edit", "in.png", "hi", "-o", "out.png", "--mask-output", "./out.png"], "Give them different names"
    ),
    "tokenizer": (["compare", "in.png", "-o", "out.png", "--tokenizers", "rpiae,vae"], "no tokenizer 'vae'"),
    "compact tokenizer": (
        ["compare", "in.png", "-o", "out.png", "--tokenizers", "compact-nothing"],
        "no tokenizer 'compact-nothing'. Use one of: rpiae, ",
    ),
    "table": (["compare", "in.png", "-o", "out.png", "--table", "out.txt"], "must end in .csv or .json"),
    "no tokenizer": (["compare", "in.png", "-o", "out.png", "--tokenizers", ","], "names none"),
    "nothing": (["compare", "-o", "out.png"], "nothing to compare"),
    "no recipe": (["info", "in.png"], "holds no recipe"),
    "info on text": (["info", "text.png"], "not a picture"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_exit_code_2(mistake, run, picture, tmp_path):
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut.png").write_bytes((tmp_path / "in.png").read_bytes()[:5000])
    Image.new("RGB", (15, 15), "white").save(tmp_path / "small.png")
    Image.new("1", (8000, 5001)).save(tmp_path / "large.png")
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    before = files(tmp_path)
    arguments, words = MISTAKES[mistake]
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ") and words in err and err.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [["edit"], ["edit", "in.png", "hi"], ["paint"], ["generate", "a cat", "-o", "out.png", "--seed", "x"]],
)
def test_wrong_usage_is_exit_code_2(arguments, run):
    code, _, err = run(*arguments)
    assert code == 2 and "Error: " in err


def missing_file(folder):
    (folder / "transformer" / WEIGHTS).unlink()


def cut_file(folder):
    path = folder / "vae" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def renamed_key(folder):
    path = folder / "transformer" / WEIGHTS
    weights = load_file(path)
    weights["odd.weight"] = weights.pop(sorted(weights)[0])
    save_file(weights, path)


def foreign_file(folder):
    shutil.copy(folder / "vae" / WEIGHTS, folder / "transformer" / WEIGHTS)


@pytest.mark.parametrize("damage", [missing_file, cut_file, renamed_key, foreign_file])
def test_a_damaged_checkpoint_is_one_sentence_and_nothing_is_written(damage, run, smoke_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(smoke_checkpoint, folder)
    damage(folder)
    code, _, err = run("generate", "a cat", "-o", "out.png", "--checkpoint", str(folder))
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert "safetensors" in err
    assert files(tmp_path) == {"checkpoint"}


# --- as a program ----------------------------------------------------------------------------------------


def test_help_imports_no_model_library():
    code = (
        "import sys; from typer.testing import CliRunner; from rpiae.__main__ import app;"
        "result = CliRunner().invoke(app, ['edit', '--help']);"
        "assert result.exit_code == 0 and '--guidance-scale' in result.output, result.output;"
        "print(sorted({'torch', 'diffusers', 'transformers', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOUSE)
    assert done.stdout.strip() == "[]"


def test_as_a_program(tmp_path):
    (tmp_path / "text.png").write_text("text")
    command = [
        sys.executable,
        "-m",
        "rpiae",
        "edit",
        str(tmp_path / "text.png"),
        "make it blue",
        "-o",
        "out.png",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOUSE)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: 'text.png' is not a picture") and done.stderr.count("\n") == 1
