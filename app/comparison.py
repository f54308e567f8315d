"""One picture through several tokenizers: the same pixels for all, a row each, one that fails keeps its row."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from app.outcome import Outcome, Progress, Row, Stopped, no_memory, sentence
from app.request import CompareRequest
from app.texts import say

if TYPE_CHECKING:
    from rpiae.tokenizers import Tokenizer
    from rpiae.tokenizers.comparison import Comparison as Compared

log = logging.getLogger(__name__)

OURS = "rpiae"
RANDOM = "=random"  # after a name, as on the command line: the real architecture with random weights


class Comparison:
    """Answers comparisons. `ours` gives the loaded checkpoint's tokenizer, `side` its picture size, `device` where the
    others run: what is loaded may change between two comparisons."""

    def __init__(self, ours: Callable[[], Tokenizer], side: Callable[[], int], device: Callable[[], str]) -> None:
        self.ours, self.side, self.device = ours, side, device
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
        """A row for each tokenizer asked for. ValueError for one that is not known."""
        from rpiae import images
        from rpiae.tokenizers.comparison import sheet

        self._check(request)
        total, source = len(request.tokenizers), fitted(request.source, request.fit)
        found: list[Compared] = []
        for name in request.tokenizers:
            if progress.stop.is_set():
                break
            one = self._compare(name, source)
            found.append(one)
            shown = one.reconstruction
            progress.report(len(found), total, None if shown is None else images.to_pil(shown)[0])
        if not found:
            raise Stopped
        square, frame = images.letterbox(source, self.side())
        return Outcome(
            rows=tuple(_row(one) for one in found),
            reference=square.crop(frame.box),
            sheet=sheet(source, found, self.side()),
            stopped_at=len(found) if len(found) < total else None,
        )

    def _check(self, request: CompareRequest) -> None:
        from rpiae.tokenizers import NAMES

        known = self.names()
        for name in request.tokenizers:
            if name not in known and name not in [other + RANDOM for other in NAMES]:
                raise ValueError(say("error.unknown_tokenizer", name=name[:40], names=", ".join(known)))

    def _compare(self, name: str, picture: Image.Image) -> Compared:
        """What one tokenizer makes of the picture; without numbers, and with the reason, when it fails."""
        from rpiae.tokenizers.comparison import Comparison as Compared
        from rpiae.tokenizers.comparison import compare

        try:
            return replace(compare(self._tokenizer(name), picture), name=name)
        except Exception as fault:
            if not isinstance(fault, ValueError):
                log.exception("tokenizer %s failed", name)
            if no_memory(fault):  # the next one is to find the room there was before
                traceback.clear_frames(fault.__traceback__)
                self.forget()
            return Compared(name, reason=sentence(fault))

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
    from rpiae import images

    numbers = {name: value for name, value in found.numbers().items() if value is not None}
    if found.info is None:
        return Row(**numbers)
    return Row(
        **numbers,
        lpips_reason=found.lpips_reason,
        reconstruction=images.to_pil(found.reconstruction)[0],
        error_map=images.to_pil(found.error)[0],
        latent_map=None if found.latent is None else images.to_pil(found.latent)[0],
    )
