"""What a checkpoint is and how it is loaded: this library's folders, the authors' files, copies from the hub.

    place = find("assets/checkpoints/stickers-256")     # where it lies and what it can do; looks at names and JSON
    held = read(place, device)                          # the models, and facts that a person can check

Sentences about what is wrong name the last part of a path only. `rpiae` is imported inside, see `app.library`.
"""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import hub
from app.library import import_library
from app.outcome import Facts, sentence
from app.texts import Mistake

if TYPE_CHECKING:
    from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, RPiAEPipeline
    from rpiae.tokenizers import Tokenizer

EDITOR, CLASSES, TOKENIZER = "editor", "classes", "tokenizer"
KINDS = {"RPiAEPipeline": EDITOR, "ClassConditionalPipeline": CLASSES, "AutoencoderRPiAE": TOKENIZER}
ABILITIES = {
    EDITOR: frozenset({"edit", "text", "reconstruct", "compare"}),
    CLASSES: frozenset({"class", "reconstruct", "compare"}),
    TOKENIZER: frozenset({"reconstruct", "compare"}),
}


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies on this machine, and its kind. `files`: the authors' tokenizer and, to draw, their
    LightningDiT; empty for a folder of this library's."""

    source: str
    path: Path
    kind: str
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return short_name(self.source)


@dataclass(frozen=True)
class Held:
    """A loaded checkpoint. `pipeline` is None where there is a tokenizer alone."""

    place: Place
    pipeline: RPiAEPipeline | ClassConditionalPipeline | None
    vae: AutoencoderRPiAE
    tokenizer: Tokenizer
    facts: Facts


def short_name(source: str) -> str:
    """What the page calls a checkpoint: the last part of its path or id."""
    return Path(source.removeprefix(hub.PREFIX)).name or source


def check(checkpoint: str) -> None:
    """ValueError when a path is plainly no checkpoint: the cheap look, before anything is imported."""
    path = Path(checkpoint)
    inside = [*path.glob("*.json"), *path.glob("vae/config.json"), *path.glob("*.pt")] if path.is_dir() else []
    if not checkpoint.startswith("hf:") and not path.is_file() and not inside:
        raise Mistake("error.checkpoint", folder=checkpoint)


def find(source: str, fetch: bool = False) -> Place:
    """Where a checkpoint is and what it can do; `fetch` lets "hf:" ask the hub for what is not here yet.

    Raises:
        ValueError: there is none, or what is there cannot be used alone.
    """
    if source.startswith(hub.PREFIX):
        path = hub.local(source) if not fetch else hub.fetch_here(source)
        if path is None:
            raise Mistake("error.not_fetched", source=source)
    else:
        path = _path(source)
    name = short_name(source)
    try:
        kind, files = _identify(path, name)
    except OSError as fault:  # no permission, a name too long, a broken disk
        raise Mistake("error.checkpoint_closed", name=name[:80], why=fault.strerror) from fault
    return Place(source, path, kind, files)


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~somebody, who is not here
        return Path(source)


def known_kind(source: str) -> str | None:
    """The kind, as far as a folder's JSON tells it without a look into weights; None when it does not."""
    path = _path(source)
    if source.startswith(hub.PREFIX) or not path.is_dir():
        return None
    return _kind_of_folder(path)


def _kind_of_folder(folder: Path) -> str | None:
    """The kind that the JSON of a folder of this library's names."""
    for name in ("model_index.json", "config.json"):
        if (folder / name).is_file():
            return KINDS.get(_class_name(folder / name))
    return TOKENIZER if (folder / "vae" / "config.json").is_file() else None


def _class_name(file: Path) -> str:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("_class_name", "")) if isinstance(content, dict) else ""


def _identify(path: Path, name: str) -> tuple[str, tuple[Path, ...]]:
    if path.is_file():
        return _identify_files([path], name)
    if not path.is_dir():
        raise Mistake("error.no_checkpoint_there", name=name)
    if kind := _kind_of_folder(path):
        return kind, ()
    if files := sorted([*path.glob("*.pt"), *path.glob("LightningDiT/*.pt")]):
        return _identify_files(files, name)
    index = next((one for one in ("model_index.json", "config.json") if (path / one).is_file()), None)
    if index is None:
        raise Mistake("error.no_checkpoint_there", name=name)
    if found := _class_name(path / index):
        raise Mistake("error.other_checkpoint", name=name, found=found[:60])
    raise Mistake("error.broken_checkpoint", name=name, file=index)


def _identify_files(files: list[Path], name: str) -> tuple[str, tuple[Path, ...]]:
    """Sorts the authors' files by what they hold; other files beside them do not matter."""
    import_library()
    from rpiae import official

    kinds: dict[str, list[Path]] = {official.TOKENIZER: [], official.TRANSFORMER: []}
    faults: list[str] = []
    for file in files:
        try:
            kind = official.read(file).kind
        except ValueError as fault:
            faults.append(sentence(fault))
            continue
        kinds.setdefault(kind, []).append(file)
    tokenizers = kinds[official.TOKENIZER]
    released = [file for file in tokenizers if file.name == official.RELEASED_TOKENIZER]
    tokenizers = released or tokenizers
    if len(tokenizers) > 1:
        names = ", ".join(file.name for file in tokenizers[:4])
        raise Mistake("error.several_tokenizers", name=name, names=names)
    if not tokenizers:
        if kinds[official.TRANSFORMER]:
            raise Mistake("error.transformer_alone", name=name)
        found = next((official.KINDS[kind] for kind, some in kinds.items() if some), "")
        raise Mistake("error.other_file", name=name, found=found) if found else ValueError(faults[0])
    transformers = sorted(kinds[official.TRANSFORMER], key=_epoch)
    return (CLASSES, (tokenizers[0], transformers[-1])) if transformers else (TOKENIZER, (tokenizers[0],))


def _epoch(file: Path) -> int:
    """Of several transformers the one that was trained longest draws; a lesser one is for autoguidance."""
    found = re.search(r"ep-(\d+)", file.stem)
    return int(found[1]) if found else -1


def read(place: Place, device: str | None, dtype: str, warm: bool, together: Callable[[str], int]) -> Held:
    """Loads a checkpoint and, if `warm`, warms it up. With dtype "auto" its transformer runs in what is fast where
    `together` pictures of several requests share a batch, by the device. ValueError, without a folder of this machine,
    says what is wrong with it."""
    start = time.perf_counter()
    import_library()
    device = _device(device)
    try:
        pipeline, vae = _models(place)
        _bring(pipeline, vae, device, dtype, batches=together(device) > 1)
        return _hold(place, pipeline, vae, start, warm)
    except ValueError as fault:
        raise ValueError(_without_folders(str(fault), place)) from fault


def _models(place: Place) -> tuple[Any, AutoencoderRPiAE]:
    from rpiae import AutoencoderRPiAE, ClassConditionalPipeline, LightningDiT2DModel, RPiAEPipeline

    if place.kind == TOKENIZER:
        if place.files:
            return None, AutoencoderRPiAE.from_official(place.files[0])
        inside = place.path / "vae"
        return None, AutoencoderRPiAE.from_pretrained(inside if inside.is_dir() else place.path)
    if not place.files:
        cls = RPiAEPipeline if place.kind == EDITOR else ClassConditionalPipeline
        pipeline = cls.from_pretrained(place.path)
    else:
        tokenizer, transformer = place.files
        pipeline = ClassConditionalPipeline(
            vae=AutoencoderRPiAE.from_official(tokenizer),
            transformer=LightningDiT2DModel.from_official(transformer, num_heads=_heads(transformer)),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, pipeline.vae


def _heads(transformer: Path) -> int:
    """A LightningDiT's own number of heads, which the shapes of its norms tell."""
    from rpiae import official

    return official.shape_settings(official.read(transformer))["num_heads"]


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _bring(pipeline: Any, vae: AutoencoderRPiAE, device: str, dtype: str, batches: bool) -> None:
    """Models to the device and into their number format."""
    from rpiae import precision

    vae.to(device)
    if pipeline is not None:
        pipeline.to(device)
        if dtype == "auto":
            precision.speed_up(pipeline, batches)


def _hold(place: Place, pipeline: Any, vae: AutoencoderRPiAE, start: float, warm: bool) -> Held:
    from rpiae.tokenizers.base import OwnTokenizer
    from rpiae.tokenizers.rpiae import NAME, licence

    said = licence(place.path) if place.path.is_dir() else "not stated"
    tokenizer = OwnTokenizer(vae, NAME, place.name, said)
    if warm:
        _warm_up(place, pipeline, tokenizer)
    about = describe(place, pipeline, vae)
    parts = _parts(pipeline, vae)
    facts = Facts(
        name=place.name,
        kind=place.kind,
        source=place.source if place.source.startswith(hub.PREFIX) else place.name,
        official=bool(place.files),
        device=str(about["device"]).replace("cpu", "CPU").replace("cuda", "GPU"),
        dtype=about["dtype"],
        attention=about["attention"],
        sha256=about["checkpoint_sha256"],
        licence=said,
        parameters=sum(one.numel() for part in parts for one in part.parameters()),
        memory=sum(one.nbytes for part in parts for one in (*part.parameters(), *part.buffers())),
        latent_shape=tuple(vae.latent_shape),
        side=int(vae.config.image_size),
        classes=int(pipeline.transformer.config.num_classes) if place.kind == CLASSES else None,
        seconds=time.perf_counter() - start,
    )
    return Held(place, pipeline, vae, tokenizer, facts)


def _parts(pipeline: Any, vae: Any) -> list[Any]:
    import torch

    if pipeline is None:
        return [vae]
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def _warm_up(place: Place, pipeline: Any, tokenizer: Tokenizer) -> None:
    """One step of each kind of work, so that the first person does not wait for lazy set-up."""
    import torch
    from PIL import Image

    if place.kind == EDITOR:
        pipeline("a grey square", num_inference_steps=1)
        pipeline("make it grey", image=Image.new("RGB", (64, 64), (128, 128, 128)), num_inference_steps=1)
        return
    if place.kind == CLASSES:
        pipeline(0, num_inference_steps=2)  # the authors' grid of two points is one step
    side = tokenizer.info.image_size
    tokenizer.decode(tokenizer.encode(torch.full((1, 3, side, side), 0.5)))


def describe(place: Place, pipeline: Any, vae: Any) -> dict[str, Any]:
    """The part of every recipe that says what ran where."""
    from rpiae.recipe import circumstances, describe_pipeline

    source = place.source if place.source.startswith(hub.PREFIX) else place.path
    if pipeline is not None:
        return describe_pipeline(pipeline, source)
    return circumstances(source, vae.device, vae.dtype)


def give_back() -> None:
    """Returns the memory of models that nothing refers to any more."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _without_folders(words: str, place: Place) -> str:
    """What went wrong, with the checkpoint's short name where the message has its folder."""
    for folder in (place.path, place.path.resolve()):
        words = words.replace(str(folder), place.name)
    return sentence(ValueError(words))
