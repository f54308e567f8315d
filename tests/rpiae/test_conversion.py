"""`convert` and `info` on the authors' files: the same numbers afterwards, one sentence for a wrong file."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel
from rpiae import __main__ as command_line
from rpiae.official import read

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKENIZER, STAGE_1, DIT = "rpiae_stage3_1_c8_ema.pt", "stage1_ep-0000016.pt", "dit_ep-0000800.pt"


@pytest.fixture(scope="module")
def vae() -> AutoencoderRPiAE:
    return AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, encoder_num_heads=3, decoder_num_heads=4)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rpiae", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return run


@torch.no_grad()
def test_a_converted_tokenizer_reconstructs_the_same(run, vae, golden, tmp_path):
    code, out, _ = run("convert", GOLDEN / TOKENIZER, "out", "--encoder-heads", 3, "--decoder-heads", 4)
    assert (code, out) == (0, "out: AutoencoderRPiAE\n")
    images = golden.tensors("tokenizer.safetensors")["images"]
    again = AutoencoderRPiAE.from_pretrained(tmp_path / "out")
    assert torch.equal(again(images), vae(images))
    facts = json.loads(run("info", "out")[1])
    assert facts["what"] == "AutoencoderRPiAE" and facts["parameters"] == sum(p.numel() for p in vae.parameters())


@torch.no_grad()
def test_a_stage_1_tokenizer_is_converted_without_a_bridge_and_in_half_the_bytes(run, tmp_path):
    heads = ("--encoder-heads", 2, "--decoder-heads", 3)
    assert run("convert", GOLDEN / STAGE_1, "out", "--no-bridge", *heads)[0] == 0
    again = AutoencoderRPiAE.from_pretrained(tmp_path / "out")
    official = AutoencoderRPiAE.from_official(GOLDEN / STAGE_1, 2, 3, bridge=False)
    images = torch.rand(1, 3, again.config.image_size, again.config.image_size)
    assert again.bridge is None and torch.equal(again(images), official(images))
    assert run("convert", GOLDEN / STAGE_1, "half", "--no-bridge", "--dtype", "float16", *heads)[0] == 0
    whole, half = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("out", "half"))
    assert 0.45 < half / whole < 0.6


@torch.no_grad()
def test_a_converted_transformer_predicts_the_same(run, golden, tmp_path):
    code, out, _ = run("convert", GOLDEN / DIT, "out", "--heads", 4)
    assert (code, out) == (0, "out: LightningDiT2DModel\n")
    x, t, y = (golden.tensors("dit.safetensors")[name] for name in "xty")
    again = LightningDiT2DModel.from_pretrained(tmp_path / "out")
    assert torch.equal(again(x, t, y).sample, LightningDiT2DModel.from_official(GOLDEN / DIT, 4)(x, t, y).sample)


def test_both_together_are_a_pipeline(run, tmp_path):
    heads = ("--encoder-heads", 3, "--decoder-heads", 4, "--heads", 4)
    code, out, _ = run("convert", GOLDEN / TOKENIZER, "out", "--transformer", GOLDEN / DIT, *heads)
    assert (code, out) == (0, "out: ClassConditionalPipeline\n")
    assert ClassConditionalPipeline.from_pretrained(tmp_path / "out").vae.latent_shape == (8, 4, 4)
    assert set(json.loads(run("info", "out")[1])) == {"what", "vae", "transformer"}


def test_info_says_what_an_official_file_is(run, vae):
    facts = json.loads(run("info", GOLDEN / TOKENIZER)[1])
    assert facts["what"].startswith("a whole tokenizer") and facts["layout"] == "bare state dict"
    assert facts["parameters"]["all"] == sum(p.numel() for p in vae.parameters())
    assert (facts["latent_shape"], facts["image_size"]) == ([8, 4, 4], 64)
    facts = json.loads(run("info", GOLDEN / DIT)[1])
    assert (facts["what"], facts["layout"]) == ("a LightningDiT", "training checkpoint")
    assert (facts["classes"], facts["heads"], facts["epoch"]) == (10, 4, read(GOLDEN / DIT).epoch)
    assert json.loads(run("info", GOLDEN / STAGE_1)[1])["what"].startswith("a stage-1 tokenizer")


@pytest.mark.parametrize("command", [["info", "x.pt"], ["convert", "x.pt", "out"]])
def test_a_bad_file_is_one_sentence_and_exit_code_2(command, run, tmp_path):
    (tmp_path / "x.pt").write_bytes((GOLDEN / DIT).read_bytes()[:20000])
    assert run(*command) == (2, "", "error: x.pt is cut off; fetch it again\n")
    assert os.listdir(tmp_path) == ["x.pt"]


def test_convert_overwrites_nothing(run, tmp_path):
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "mine.txt").write_text("mine")
    assert run("convert", GOLDEN / DIT, "new", "--heads", 4)[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["new", "new.part"]
    assert os.listdir(tmp_path / "new.part") == ["mine.txt"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, err = run("convert", GOLDEN / DIT, "out", "--heads", 4)
    assert code == 2 and "is there already" in err
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    code, _, err = run("convert", GOLDEN / DIT, "none/out")
    assert code == 2 and "no folder 'none'" in err
