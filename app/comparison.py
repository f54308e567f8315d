"""One picture through several tokenizers, a row each, and what their own models draw or edit. One that fails keeps its
row."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.outcome import Outcome, Progress, Row, Stopped, no_memory, sentence
from app.request import CompareRequest
from app.texts import say

if TYPE_CHECKING:
    from torch import Tensor

    from rpiae.pipeline import RPiAEPipeline
    from rpiae.tokenizers import Tokenizer
    from rpiae.tokenizers.comparison import Comparison as Compared

log = logging.getLogger(__name__)

OURS = "rpiae"
RANDOM = "=random"  # after a name, as on the command line: the real architecture with random weights


@dataclass(frozen=True)
class DrawnRow(Row):
    """A row with what the tokenizer's own model made of the words; `draw_error` says why there is no picture."""

    prompt: str = ""
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    draw_seconds: float | None = None
    drawn_sha256: str = ""
    draw_error: str | None = None
    drawn: Image.Image | None = None


class Comparison:
    """Answers comparisons.

    Args:
        ours: gives the loaded checkpoint's tokenizer; what is loaded may change between two comparisons.
        side: its picture size.
        device: where the others run.
        pipeline: gives the loaded checkpoint itself, None where it does not draw from text.
    """

    def __init__(
        self,
        ours: Callable[[], Tokenizer],
        side: Callable[[], int],
        device: Callable[[], str],
        pipeline: Callable[[], RPiAEPipeline | None] = lambda: None,
    ) -> None:
        self.ours, self.side, self.device, self.pipeline = ours, side, device, pipeline
        self._loaded: dict[str, Tokenizer] = {}

    def forget(self) -> None:
        """Drops the tokenizers that were loaded for comparisons."""
        self._loaded.clear()

    @staticmethod
    def names() -> list[str]:
        """What can be compared here: ours, then the others whose weights are on this machine."""
        from rpiae.tokenizers import available

        return [OURS, *(name for name in available() if name != OURS)]

    @classmethod
    def without_weights(cls) -> list[str]:
        """Those whose weights are not here, with random ones: their times and sizes are real."""
        from rpiae.tokenizers import NAMES

        here = cls.names()
        return [name + RANDOM for name in NAMES if name not in here]

    def run(self, request: CompareRequest, progress: Progress) -> Outcome:
        """A row for each tokenizer asked for, all of which are known (see `check`)."""
        from rpiae import images
        from rpiae.tokenizers.comparison import sheet

        total, found, drawing = len(request.tokenizers), [], True
        source = None if request.source is None else fitted(request.source, request.fit)
        for name in request.tokenizers:
            if progress.stop.is_set():
                break
            one = self._compare(name, source)
            if request.prompt and one.info is not None:
                one, drawing = self._draw(one, source, request, progress)
            if source is not None or drawing:
                found.append(one)
            drawn = one.drawing and one.drawing.picture
            shown = one.reconstruction if drawn is None else drawn
            progress.report(len(found), total, None if shown is None else images.to_pil(shown)[0])
        if not found:
            raise Stopped
        # The picture is shown as the tokenizer with the largest pictures was given it.
        side = max((one.info.image_size for one in found if one.info), default=self.side())
        square, frame = (None, None) if source is None else images.letterbox(source, side)
        return Outcome(
            rows=tuple(_row(one) for one in found),
            reference=square and square.crop(frame.box),
            sheet=sheet(source, found, side),
            stopped_at=None if drawing and len(found) == total else len(found),
        )

    def check(self, request: CompareRequest) -> None:
        """ValueError for a tokenizer that is not known."""
        from rpiae.tokenizers import NAMES

        known = self.names()
        for name in request.tokenizers:
            if name not in known and name not in [other + RANDOM for other in NAMES]:
                shown = name[:40].encode("utf-8", "backslashreplace").decode()  # halves of characters cannot be sent
                raise ValueError(say("error.unknown_tokenizer", name=shown, names=", ".join(known)))

    def _compare(self, name: str, picture: Image.Image | None) -> Compared:
        """What one tokenizer makes of the picture; without numbers, and with the reason, when it fails."""
        from rpiae.tokenizers.comparison import Comparison as Compared
        from rpiae.tokenizers.comparison import compare

        try:
            return replace(compare(self._tokenizer(name), picture), name=name)
        except Exception as fault:
            return Compared(name, reason=self._reason(name, fault))

    def _draw(
        self, one: Compared, picture: Image.Image | None, request: CompareRequest, progress: Progress
    ) -> tuple[Compared, bool]:
        """A row with what its tokenizer's own model draws or, given the picture, edits; whether that was not stopped.
        The model is not kept: it goes before the next one comes."""
        from rpiae.tokenizers.drawing import Drawing, draw, own_model

        def follow(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if progress.stop.is_set():
                raise Stopped
            return {}

        whole, reason = True, say("draw.none")
        try:
            tokenizer = self._tokenizer(one.name)
            pipeline = self.pipeline() if one.name == OURS else own_model(tokenizer)
            if pipeline is not None:
                drawing = draw(pipeline, request.prompt, picture, request.seed, follow)
                return replace(one, drawing=drawing), True
        except Stopped:
            reason, whole = say("draw.stopped"), False
        except Exception as fault:
            reason = self._reason(one.name, fault)
        return replace(one, drawing=Drawing(request.prompt, request.seed, reason=reason)), whole

    def _reason(self, name: str, fault: Exception) -> str:
        """Why a tokenizer, or its model, has nothing to show."""
        if not isinstance(fault, ValueError):
            log.exception("tokenizer %s failed", name)
        if no_memory(fault):  # the next one is to find the room there was before
            traceback.clear_frames(fault.__traceback__)
            self.forget()
        return sentence(fault)

    def _tokenizer(self, name: str) -> Tokenizer:
        """A tokenizer, loaded when first asked for; besides ours only the last one is kept in memory."""
        from rpiae.tokenizers import load

        if name == OURS:
            return self.ours()
        if name not in self._loaded:
            self._loaded.clear()
            stem, _, weights = name.partition("=")
            self._loaded[name] = load(stem, weights or None).to(self.device())
        return self._loaded[name]


def fitted(picture: Image.Image, fit: str) -> Image.Image:
    """The part of a picture that is compared: all of it, or the square in its middle."""
    if fit != "crop":
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _row(found: Compared) -> Row:
    """The numbers as `rpiae.tokenizers.comparison` gives them, and the pictures in 8 bits."""
    numbers = {name: value for name, value in found.numbers().items() if value is not None}
    pictures = {"reconstruction": found.reconstruction, "error_map": found.error, "latent_map": found.latent}
    kind = Row
    if found.drawing is not None:
        kind, pictures["drawn"] = DrawnRow, found.drawing.picture
    reasons = " ".join(filter(None, (found.ssim_reason, found.lpips_reason)))  # one note on all that is missing
    return kind(**numbers, lpips_reason=reasons, **{name: _shown(one) for name, one in pictures.items()})


def _shown(picture: Tensor | None) -> Image.Image | None:
    from rpiae import images

    return None if picture is None else images.to_pil(picture)[0]
