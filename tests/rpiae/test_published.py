"""VA-VAE, LlamaGen's VQ and MaskGIT's VQGAN: files in their authors' layouts, and what the authors' layers give."""

import argparse

import pytest
import torch
from torch.nn import functional as F

from rpiae.tokenizers import Tokenizer, available, base, ldm, load, maskgit, published, va_vae, vqgan
from tests.rpiae import authors_autoencoders as authors

MODULES = {"va-vae": va_vae, "llamagen-vq": vqgan, "maskgit-vqgan": maskgit}
SIDE = 256


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
    """The real layers, narrow; and nothing of this machine's in sight."""
    monkeypatch.setitem(ldm.ARCHITECTURE, "block_out_channels", list(authors.WIDTHS))
    monkeypatch.setitem(ldm.ARCHITECTURE, "norm_num_groups", authors.GROUPS)
    monkeypatch.setitem(vqgan.CODEBOOK, "num_vq_embeddings", 64)
    monkeypatch.setitem(maskgit.ARCHITECTURE, "width", authors.WIDTHS[0])
    monkeypatch.setitem(maskgit.ARCHITECTURE, "codes", 64)
    monkeypatch.setattr(maskgit, "GROUPS", authors.GROUPS)
    monkeypatch.setattr(published, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def picture(seed=0):
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def authors_file(name, folder):
    """A file as the authors publish it, and what their layers make of it: (path, encode, decode)."""
    store = authors.Store(1)
    path = folder / MODULES[name].PUBLISHED.file
    folder.mkdir(parents=True, exist_ok=True)
    if name == "va-vae":
        network = authors.latent_diffusion

        def encode(x):
            return network.encode(store, 2 * x - 1).chunk(2, dim=1)[0]

        def decode(z):
            return (network.decode(store, z) + 1) / 2

        beside = {
            "loss.logvar": torch.zeros(()),
            "foundation_model.x": torch.ones(2),
            "linear_proj.weight": torch.ones(2),
        }
        content = {"state_dict": (store.tensors, beside), "epoch": 50}
    elif name == "llamagen-vq":
        network = authors.llamagen
        codes = store("quantize.embedding.weight", 64, 8)

        def encode(x):
            return nearest(F.normalize(network.encode(store, 2 * x - 1), dim=1), F.normalize(codes, dim=1))

        def decode(ids):
            return (network.decode(store, F.normalize(codes, dim=1)[ids].movedim(-1, 1)) + 1) / 2

        content = {
            "model": (store.tensors, {"quantize.codebook_used": torch.zeros(65536)}),
            "args": argparse.Namespace(codebook_size=64),
        }
    else:
        network = authors.maskgit
        codes = store("quantize.embedding.weight", 64, 256)

        def encode(x):
            return nearest(network.encode(store, x), codes)

        def decode(ids):
            return network.decode(store, codes[ids].movedim(-1, 1))

        content = (store.tensors, {})
    decode(encode(picture()))  # every tensor comes into being
    torch.save(merged(content), path)
    return path, encode, decode


def merged(content):
    if isinstance(content, tuple):
        return content[0] | content[1]
    return {key: merged(value) if isinstance(value, tuple) else value for key, value in content.items()}


def nearest(features, codes):
    """Written out: squared distances of every cell (B, h, w) to every code."""
    differences = features.movedim(1, -1)[..., None, :] - codes
    return differences.square().sum(-1).argmin(-1)


# --- weights and layers ------------------------------------------------------------------------------------


def test_va_vae_is_its_authors(tmp_path):
    path, encode, decode = authors_file("va-vae", tmp_path / "a")
    tokenizer = load("va-vae", path)
    x = picture(2)
    z = tokenizer.encode(x)
    assert isinstance(tokenizer, Tokenizer) and z.shape == (1, *tokenizer.info.latent_shape) == (1, 32, 16, 16)
    torch.testing.assert_close(z, encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokenizer.decode(z), decode(z).clamp(0, 1), atol=1e-4, rtol=1e-4)
    assert z.std() > 0.01 and tokenizer.decode(z).std() > 0.01  # not two pictures of nothing


@pytest.mark.parametrize("name", ["llamagen-vq", "maskgit-vqgan"])
def test_discrete_tokenizers_are_their_authors(name, tmp_path):
    path, encode, decode = authors_file(name, tmp_path / "a")
    tokenizer = load(name, path)
    x = picture(2)
    ids = tokenizer.ids(x)
    assert torch.equal(ids, encode(x)) and ids.shape == (1, 16, 16) and len(ids.unique()) > 3
    z = tokenizer.encode(x)
    assert isinstance(tokenizer, Tokenizer) and z.shape == (1, *tokenizer.info.latent_shape)
    assert torch.equal(z, tokenizer.from_ids(ids))
    torch.testing.assert_close(tokenizer.decode(z), decode(ids).clamp(0, 1), atol=1e-4, rtol=1e-4)
    assert tokenizer.decode(z).std() > 0.01
    with pytest.raises(ValueError, match="0 to 63, not 64 to 64"):
        tokenizer.from_ids(torch.full((1, 16, 16), 64))


def test_llamagens_codes_have_length_one(tmp_path):
    codes = load("llamagen-vq", authors_file("llamagen-vq", tmp_path / "a")[0]).codebook
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(64))


# --- where they are found ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_sources(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} are not on this machine.*{MODULES[name].PUBLISHED.hub_id}"):
        load(name)
    path, _, _ = authors_file(name, tmp_path / "mine")
    by_file, by_folder = load(name, path), load(name, tmp_path / "mine")
    assert (by_file.info.source, by_folder.info.source) == (path.name, "mine")
    z = by_file.encode(picture())
    assert torch.equal(by_folder.encode(picture()), z)
    authors_file(name, tmp_path / "assets" / name)
    assert name in available() and load(name).info.source == name
    assert torch.equal(load(name).encode(picture()), z)
    assert by_file.info.name == name and by_file.info.licence in ("MIT", "Apache-2.0")
    assert by_file.info.downsampling == 16 and by_file.info.parameters == load(name, "random").info.parameters
    with pytest.raises(ValueError, match="there is no file"):
        load(name, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=f"holds no {MODULES[name].PUBLISHED.file}"):
        load(name, tmp_path)


def test_what_the_hub_left_on_this_disk_is_found(tmp_path):
    home = tmp_path / "hub" / "models--hustvl--vavae-imagenet256-f16d32-dinov2"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    authors_file("va-vae", home / "snapshots" / "abc")
    assert available()[-1] == "va-vae"
    assert load("va-vae").info.source == "hustvl/vavae-imagenet256-f16d32-dinov2"


def test_random_weights_are_the_same_each_time():
    for name in MODULES:
        torch.manual_seed(5)
        expected = torch.rand(2)
        torch.manual_seed(5)
        first, second = load(name, "random"), load(name, "random")
        assert torch.equal(torch.rand(2), expected) and first.info.source == "random weights"
        assert torch.equal(first.encode(picture()), second.encode(picture()))


# --- strictness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_a_file_that_does_not_fit_is_refused_in_its_own_words(name, tmp_path):
    path, _, _ = authors_file(name, tmp_path / "a")
    content = torch.load(path, weights_only=False)
    wrapper = next((key for key in ("state_dict", "model") if key in content), None)
    weights = content[wrapper] if wrapper else content
    some = "decoder.norm_out.weight"

    def refused(changed, *words):
        torch.save({wrapper: changed} if wrapper else changed, path)
        with pytest.raises(ValueError) as caught:
            load(name, path)
        message = str(caught.value)
        assert all(word in message for word in (path.name, *words)) and str(tmp_path) not in message

    refused({key: one for key, one in weights.items() if key != some}, "1 missing", some)
    refused(weights | {"encoder.extra": torch.zeros(1)}, "1 unexpected", "encoder.extra")
    refused(weights | {some: torch.zeros(3)}, "of another shape", some)
    refused(weights | {some: weights[some].int()}, "not floating point", some)
    refused({"x": torch.zeros(1)}, "missing", "unexpected: x")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list"):
        load(name, path)
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="holds code"):
        load(name, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut off"):
        load(name, path)


# --- the published sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "latent_shape", "codes"),
    [
        ("va-vae", 69_836_067, (32, 16, 16), None),
        ("llamagen-vq", 71_883_403, (8, 16, 16), 16384),
        ("maskgit-vqgan", 54_515_587, (256, 16, 16), 1024),
    ],
)
def test_published_sizes(name, parameters, latent_shape, codes, monkeypatch):
    monkeypatch.undo()
    module = MODULES[name]
    with torch.device("meta"):
        model = module.build()
        x = torch.zeros(1, 3, 256, 256)
    info = module.PUBLISHED.info(model, "nowhere")
    assert (info.parameters, info.latent_shape, info.codes) == (parameters, latent_shape, codes)
    assert info.image_size // info.downsampling == latent_shape[1]
    kinds = {"va-vae": base.KLTokenizer, "llamagen-vq": vqgan.LlamaGenTokenizer}
    tokenizer = kinds.get(name, maskgit.MaskGITTokenizer)(model, info)
    with torch.no_grad():
        features = tokenizer.encode_(x) if codes is None else tokenizer.features_(x)
        assert features.shape == (1, *latent_shape)
        assert tokenizer.decode_(features).shape == x.shape
    if codes is not None:
        assert tokenizer.codebook.shape == (codes, latent_shape[0])
