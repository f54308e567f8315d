"""What a checkpoint can do, in numbers: reconstruction, text-to-image, editing, preservation of the rest.

Every function takes an `RPiAEPipeline` and a seed and returns plain dicts. Scenes, prompts and noise are the same for
the same seed, drawn from seeds apart from training's; (noun, colour) pairs that training never showed are included
and reported apart.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from rpiae import RPiAEPipeline
from rpiae.metrics import lpips, psnr, ssim

from ..data.scenes import CATEGORIES, VOCABULARY, Edit, draw, sample_edit, sample_scene, unseen_pairs
from .calibrate import WHOLE_PICTURE
from .claims import judge_claims
from .judge import Verdict, judge_scene
from .panel import judge_all
from .paraphrases import paraphrases
from .prompts import SKILLS, Prompt, sample_prompts

TAG = 0x6D656173757265  # "measure": apart from the seeds of training
BATCH = 8
EXAMPLES = 5  # failures kept per row, in words


def batches(items: Sequence) -> list[Sequence]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def seeded(seed: int, first: int, count: int) -> list[torch.Generator]:
    """One per picture: a seed belongs to a picture, not to a batch."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + first + i) for i in range(count)]


def tensor_of(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 (256, 256, 3) pictures -> float (B, 3, 256, 256) in [0, 1]."""
    return rearrange(torch.from_numpy(np.stack(pictures)), "b h w c -> b c h w").float() / 255


@torch.no_grad()
def round_trip(pipe: RPiAEPipeline, pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 (256, 256, 3) pictures through the tokenizer: float (B, 3, 256, 256) in [0, 1] on the CPU."""
    x = tensor_of(pictures).to(pipe.device, pipe.vae.dtype)
    latent = pipe.vae.encode(x).latent_dist.mode()
    return pipe.vae.decode(latent).sample.float().clamp(0, 1).cpu()


def to_uint8(pictures: torch.Tensor) -> list[np.ndarray]:
    """float (B, 3, H, W) in [0, 1] -> uint8 (H, W, 3) pictures."""
    rows = rearrange((pictures * 255).round().to(torch.uint8), "b c h w -> b h w c")
    return list(rows.numpy())


def evaluate_reconstruction(
    pipe: RPiAEPipeline, n: int = 64, seed: int = 0, filtered: float = 0.0
) -> dict[str, float | str | None]:
    """Mean PSNR, SSIM and LPIPS of n held-out scenes through the tokenizer, and the share the judge still accepts."""
    rng = np.random.default_rng([seed, TAG, 0])
    scenes = [sample_scene(rng, unseen=True, filtered=filtered) for _ in range(n)]
    values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": [], "judged": []}
    reason = None
    for batch in batches(scenes):
        drawn = [draw(scene) for scene in batch]
        x, y = tensor_of(drawn), round_trip(pipe, drawn)
        values["psnr"] += psnr(x, y).tolist()
        values["ssim"] += ssim(x, y).tolist()
        distance, reason = lpips(x, y)
        values["lpips"] += [] if distance is None else distance.tolist()
        values["judged"] += [float(verdict.ok) for verdict in judge_all(judge_scene, to_uint8(y), batch)]
    result = {name: float(np.mean(numbers)) if numbers else None for name, numbers in values.items()}
    return {"n": n} | result | {"lpips missing": reason}


def evaluate_text_to_image(pipe: RPiAEPipeline, n_per_skill: int = 20, seed: int = 0) -> dict[str, dict]:
    """Per GenEval skill: how many pictures show what the prompt says; prompts with unseen pairs apart."""
    result = {}
    for number, skill in enumerate(SKILLS):
        prompts = sample_prompts(skill, n_per_skill, seed)
        verdicts: list[Verdict] = []
        for batch in batches(prompts):
            generators = seeded(seed, 10_000 * number + len(verdicts), len(batch))
            pictures = pipe(prompt=[one.text for one in batch], generator=generators).images
            verdicts += judge_all(judge_claims, list(map(_array, pictures)), [one.claims for one in batch])
        result[skill] = _row(prompts, verdicts, [one.unseen for one in prompts])
    return result


def evaluate_editing(pipe: RPiAEPipeline, n_per_category: int = 20, seed: int = 0) -> dict[str, dict]:
    """Per category: how many edits show the target scene; edits that draw unseen pairs apart.

    "kept" is the share of the pixels outside the true change that are the input's own, for local edits; "psnr" and
    "psnr of the input" say how near the result and the untouched input are to the target picture.
    """
    result = {}
    for number, category in enumerate(CATEGORIES):
        edits = sample_edits(category, n_per_category, np.random.default_rng([seed, TAG, 1, number]))
        result[category] = _evaluate_edits(pipe, edits, seed, 200_000 + 10_000 * number)
    return result


def sample_edits(category: str, n: int, rng: np.random.Generator) -> list[Edit]:
    """Held-out edits, without those that the judge takes for done when nothing was (a move by a few pixels)."""
    edits: list[Edit] = []
    while len(edits) < n:
        drawn = [sample_edit(rng, category, unseen=True) for _ in range(n - len(edits))]
        undone = judge_all(judge_scene, [draw(one.source) for one in drawn], [one.target for one in drawn])
        edits += [one for one, verdict in zip(drawn, undone, strict=True) if not verdict.ok]
    return edits


def evaluate_paraphrases(pipe: RPiAEPipeline, seed: int = 0) -> dict:
    """The thirty instructions outside the grammar, judged as edits are."""
    return _evaluate_edits(pipe, paraphrases(), seed, 400_000)


def evaluate_preservation(
    sources: Sequence[np.ndarray], results: Sequence[np.ndarray], targets: Sequence[np.ndarray]
) -> float:
    """Mean share of the pixels outside the true change that equal the input bit for bit.

    All are uint8 (H, W, 3); the true change is where source and target differ.
    """
    shares = []
    for source, result, target in zip(sources, results, targets, strict=True):
        outside = (source == target).all(-1)
        shares.append(float((source == result).all(-1)[outside].mean()))
    return float(np.mean(shares))


def draws_unseen(edit: Edit) -> bool:
    """Whether the edit has to draw a (noun, colour) pair that training never showed, in other than the noun's own
    colours. A sticker that stays as it was, or goes, asks nothing of the model."""
    source, target = edit.source, edit.target
    alike = (source.style, source.filter) == (target.style, target.filter)
    stay = source.objects if alike else ()
    drawn = replace(target, objects=tuple(one for one in target.objects if one not in stay))
    return any(color not in VOCABULARY.nouns[noun].native(target.style) for noun, color in unseen_pairs(drawn))


def _evaluate_edits(pipe: RPiAEPipeline, edits: Sequence[Edit], seed: int, first: int) -> dict:
    verdicts: list[Verdict] = []
    sources, results, targets = [], [], []
    for batch in batches(edits):
        inputs = [draw(edit.source) for edit in batch]
        pictures = pipe(
            prompt=[edit.instruction for edit in batch],
            image=[Image.fromarray(picture) for picture in inputs],
            generator=seeded(seed, first + len(verdicts), len(batch)),
        ).images
        sources += inputs
        results += [_array(picture) for picture in pictures]
        targets += [draw(edit.target) for edit in batch]
        verdicts += judge_all(judge_scene, results[len(verdicts) :], [edit.target for edit in batch])
    row = _row(edits, verdicts, list(map(draws_unseen, edits)))
    local = [i for i, edit in enumerate(edits) if edit.category not in WHOLE_PICTURE]
    if local:
        row["kept"] = evaluate_preservation(*([some[i] for i in local] for some in (sources, results, targets)))
    row["psnr"] = float(psnr(tensor_of(results), tensor_of(targets)).clamp(max=100).mean())
    row["psnr of the input"] = float(psnr(tensor_of(sources), tensor_of(targets)).clamp(max=100).mean())
    return row


def _row(cases: Sequence[Prompt | Edit], verdicts: Sequence[Verdict], unseen: Sequence[bool]) -> dict:
    """Counts and shares of the accepted; which checks failed how often; some failures in words."""
    failed: dict[str, int] = {}
    examples = []
    for case, verdict in zip(cases, verdicts, strict=True):
        # "color 1" is the colour of the second object: the table wants "color".
        for name in {name.rstrip("0123456789 ").split(" of ")[0] for name in verdict.failed}:
            failed[name] = failed.get(name, 0) + 1
        if not verdict.ok and len(examples) < EXAMPLES:
            text = case.text if isinstance(case, Prompt) else case.instruction
            examples.append({"text": text, "failed": verdict.failed, "notes": verdict.notes})
    pairs = list(zip(verdicts, unseen, strict=True))
    return {
        "n": len(pairs),
        "share": _share([verdict.ok for verdict, _ in pairs]),
        "n seen": sum(not never for _, never in pairs),
        "share seen": _share([verdict.ok for verdict, never in pairs if not never]),
        "n unseen": sum(never for _, never in pairs),
        "share unseen": _share([verdict.ok for verdict, never in pairs if never]),
        "failed": dict(sorted(failed.items(), key=lambda item: -item[1])),
        "examples": examples,
    }


def _share(outcomes: list[bool]) -> float | None:
    return float(np.mean(outcomes)) if outcomes else None


def _array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))
