"""The recipe of a picture: everything needed to repeat it, kept inside its PNG and as JSON.

    save_png(image, "out.png", recipe)      # two text chunks: `parameters` for people, `rpiae` for programs
    recipe = read("out.png")                # None where a picture has none

No recipe holds a path of the machine: a checkpoint goes by its name and its checksum, a source by its
pixels'.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image, PngImagePlugin
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .files import whole

if TYPE_CHECKING:
    import torch

    from .pipeline import RPiAEPipeline

CHUNK = "rpiae"
WEIGHTS = (".safetensors", ".pt")
CONFIGS = ("config.json", "model_index.json", "scheduler_config.json")
MOST = 64 * 1024  # bytes of a recipe: what somebody put into a picture may be of any size
NAMED = 5  # faults in a message
PACKAGES = ("torch", "diffusers", "transformers", "timm", "xformers", "pillow")


@dataclass(frozen=True)
class Recipe:
    """What was asked of which checkpoint, and on what it ran. What does not apply is None or empty."""

    # Read back strictly: a recipe that someone wrote by hand is told what is wrong with it.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    kind: Literal["edit", "generate", "reconstruct"]
    prompt: str | None = None  # by class: the class's name
    class_label: int | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None  # the times at which guidance is on
    image_guidance_scale: float | None = None
    preserve_unchanged: bool | None = None
    width: int | None = None  # of the picture, in pixels
    height: int | None = None
    checkpoint: str = ""  # a folder's or file's name, or "hf:org/name"
    checkpoint_sha256: str = ""  # as `folder_sha256` has it
    device: str = ""
    dtype: str = ""
    attention: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    source_sha256: str | None = None  # of the pixels, as `pixels_sha256` has it
    mask_sha256: str | None = None
    time: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))  # noqa: UP017

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Recipe":
        """Raises ValueError, in one sentence, for what is not JSON or not a recipe."""
        if len(text) > MOST:
            raise ValueError(f"This is not a recipe: it has more than {MOST // 1024} KiB of text.")
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            wrong = "; ".join(_place(fault["loc"]) + fault["msg"] for fault in faults[:NAMED])
            more = "; ..." if len(faults) > NAMED else ""
            raise ValueError(f"This is not a whole recipe ({wrong}{more}).") from error

    def parameters(self) -> str:
        """The recipe in one line for people."""
        parts = [" ".join((self.prompt or "").split()) or self.kind]
        parts += [f"without {' '.join(self.negative_prompt.split())}"] if self.negative_prompt else []
        parts += [f"{name} {value}" for name, value in self._numbers() if value is not None]
        parts += ["unchanged pixels kept"] if self.preserve_unchanged else []
        parts += [self.checkpoint] if self.checkpoint else []
        return " | ".join(parts)

    def _numbers(self) -> list[tuple[str, Any]]:
        size = f"{self.width}x{self.height}" if self.width and self.height else None
        return [
            ("class", self.class_label),
            ("seed", self.seed),
            ("steps", self.num_inference_steps),
            ("guidance", self.guidance_scale),
            ("image guidance", self.image_guidance_scale),
            ("size", size),
        ]


def save_png(image: Image.Image, path: str | os.PathLike, recipe: Recipe | None = None) -> None:
    """Write a PNG with its recipe: all of it or, when that fails, nothing, and what stood there stays.

    Raises ValueError for a place that cannot be written to, OSError where writing fails (a full disk).
    """
    texts = PngImagePlugin.PngInfo()
    if recipe is not None:
        texts.add_itxt("parameters", recipe.parameters())
        texts.add_itxt(CHUNK, recipe.to_json())
    check_writable(path)
    with whole(path) as part, part.open("xb") as stream:
        image.save(stream, "PNG", pnginfo=texts, compress_level=3)
        stream.flush()
        os.fsync(stream.fileno())


def check_writable(path: str | os.PathLike, endings: tuple[str, ...] = (".png",)) -> None:
    """Raise ValueError for a place where no file of these endings can be put: to be told before the work, not after."""
    path = Path(path)
    if path.suffix.lower() not in endings:
        why = ": the recipe is kept inside the PNG" if endings == (".png",) else ""
        raise ValueError(f"'{path.name}' must end in {' or '.join(endings)}{why}.")
    if path.is_dir():
        raise ValueError(f"'{path.name}' is a folder. Give the name of a file.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder '{path.parent}' for '{path.name}'. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"'{path.name}' cannot be written: its folder is read-only.")


def read(source: str | os.PathLike | Image.Image) -> Recipe | None:
    """The recipe in a picture, or None. Raises ValueError for what is no picture and for a broken recipe."""
    from . import images  # imports torch, which reading and writing a recipe can do without

    text = images.open_header(source).info.get(CHUNK)
    return None if text is None else Recipe.from_json(text)


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 over mode, size and pixels: the same for the same picture in whatever file format."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def folder_sha256(folder: str | os.PathLike) -> str:
    """SHA-256 over a checkpoint folder's weights and configs (or one file), with their names; kept while no file
    changes."""
    root = Path(folder)
    # Not every JSON file: measurements and the training's history lie there too, and change no picture.
    files = sorted(path for path in root.rglob("*") if path.suffix in WEIGHTS or path.name in CONFIGS)
    if root.is_file():
        root, files = root.parent, [root]
    stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _files_sha256(root, stamps)


def describe_pipeline(pipeline: "RPiAEPipeline", source: str | os.PathLike | None = None) -> dict[str, Any]:
    """The fields of a Recipe that say what ran where, see `circumstances`; `source` is what the pipeline came
    from."""
    from .compiled import is_compiled

    config, dtype = pipeline.transformer.config, pipeline.transformer.dtype
    compiled = is_compiled(pipeline.transformer)
    about = circumstances(source, pipeline.device, dtype, config.hidden_size // config.num_heads, compiled)
    if pipeline.vae.dtype != dtype:
        about["dtype"] += f" (tokenizer {_name(pipeline.vae.dtype)})"
    return about


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def circumstances(
    source: str | os.PathLike | None,
    device: "torch.device",
    dtype: "torch.dtype",
    head_size: int = 64,
    compiled: bool = False,
) -> dict[str, Any]:
    """checkpoint, checkpoint_sha256, device, dtype, attention and versions, as a Recipe takes them.

    `source` is a checkpoint's folder or file, or "hf:org/name"; without it the first two are empty.
    """
    from . import attention

    is_hub = str(source).startswith("hf:")
    folder = _hub_folder(str(source)) if is_hub else source and Path(source).resolve()
    return {
        "checkpoint": str(source) if is_hub else folder.name if folder else "",
        "checkpoint_sha256": folder_sha256(folder) if folder else "",
        "device": str(device),
        "dtype": _name(dtype),
        "attention": attention.describe(device, dtype, head_size, compiled),
        "versions": versions(),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that decide how a picture comes out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter:
    return TypeAdapter(Recipe)


def _hub_folder(source: str) -> Path | None:
    """Where the hub's client keeps a checkpoint that it fetched before; it is not asked for anew."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        name = "/".join(source.removeprefix("hf:").split("/")[:2])  # what follows is a file of it
        return Path(snapshot_download(name, local_files_only=True))
    except IncompleteSnapshotError as error:  # what a checkpoint needs was fetched, the rest of the repository not
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return None


def _place(location: tuple) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


@lru_cache(maxsize=16)
def _files_sha256(root: Path, stamps: tuple) -> str:
    digest = hashlib.sha256()
    for path, size, _ in stamps:
        digest.update(f"{path.relative_to(root).as_posix()} {size} ".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
