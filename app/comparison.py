"""One picture through several tokenizers: the same pixels for all, a row each, one that fails keeps its row."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.outcome import Outcome, Progress, Row, Stopped, sentence
from app.request import CompareRequest
from app.texts import say

if TYPE_CHECKING:
    from rpiae.tokenizers import Tokenizer

log = logging.getLogger(__name__)

OURS = "rpiae"


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

    def run(self, request: CompareRequest, progress: Progress) -> Outcome:
        """A row for each tokenizer asked for. ValueError for one that is not known."""
        from rpiae import images

        known = self.names()
        for name in request.tokenizers:
            if name not in known:
                raise ValueError(say("error.unknown_tokenizer", name=name[:40], names=", ".join(known)))
        rows: list[Row] = []
        for index, name in enumerate(request.tokenizers):
            if progress.stop.is_set():
                break
            rows.append(self._row(name, request.source))
            progress.report(index + 1, len(request.tokenizers), None)
        if not rows:
            raise Stopped
        square, frame = images.letterbox(request.source, self.side())
        stopped_at = len(rows) if len(rows) < len(request.tokenizers) else None
        return Outcome(rows=tuple(rows), reference=square.crop(frame.box), stopped_at=stopped_at)

    def _row(self, name: str, picture: Image.Image) -> Row:
        try:
            return _measure(name, self._tokenizer(name), picture)
        except Exception as fault:
            if not isinstance(fault, ValueError):
                log.exception("tokenizer %s failed", name)
            return Row(name, error=sentence(fault))

    def _tokenizer(self, name: str) -> Tokenizer:
        """A tokenizer, loaded when first asked for; besides ours only the last one is kept in memory."""
        from rpiae.tokenizers import load

        if name == OURS:
            return self.ours()
        if name not in self._loaded:
            self._loaded.clear()
            self._loaded[name] = load(name).to(self.device())
        return self._loaded[name]


def _measure(name: str, tokenizer: Tokenizer, picture: Image.Image) -> Row:
    """The numbers of `rpiae.tokenizers.comparison`, and the time of a second encode and decode."""
    from rpiae import images, metrics
    from rpiae.tokenizers.comparison import compare

    found = compare(tokenizer, picture)  # also the first call, which sets things up and is not timed
    square, frame = images.letterbox(picture, tokenizer.info.image_size)
    latent, encode_ms = _timed(lambda: tokenizer.encode(images.to_tensor(square)))
    _, decode_ms = _timed(lambda: tokenizer.decode(latent))
    shown = images.to_tensor(square.crop(frame.box))
    return Row(
        name,
        psnr=found.psnr,
        ssim=found.ssim,
        lpips=found.lpips,
        latent_shape=tuple(tokenizer.info.latent_shape),
        compression=3 * tokenizer.info.image_size**2 / math.prod(tokenizer.info.latent_shape),
        parameters=tokenizer.info.parameters,
        encode_ms=encode_ms,
        decode_ms=decode_ms,
        source=tokenizer.info.source,
        reconstruction=images.to_pil(found.reconstruction)[0],
        error_map=images.to_pil(metrics.error_map(shown, found.reconstruction, gain=1.0))[0],
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work` and the milliseconds it took, all of the device's work included."""
    import torch

    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, 1000 * (time.perf_counter() - start)
