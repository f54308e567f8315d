"""Text-to-image skills and edit success of one row's generator, by the judge of sticker scenes.

The models' pictures are enlarged to the judge's 256 px; of true pictures that went the same way it accepts nearly all
(`ceiling` measures how many). Edits are judged as the model leaves them: no pixels of the input are put back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rpiae import RPiAEPipeline, images

from ..data.scenes import CATEGORIES, Edit, draw, sample_scene
from ..evaluate.claims import judge_claims
from ..evaluate.judge import Verdict, judge_scene
from ..evaluate.measure import batches, seeded
from ..evaluate.panel import judge_all
from ..evaluate.prompts import SKILLS, sample_prompts
from .config import WorldSettings
from .world import belongs, for_judge, sample_world_edit, seen

TAG = 70
PROMPT_SEED = 2_000  # apart from the tables' and the sampling study's


@dataclass(frozen=True)
class Judged:
    """Shares by skill and by category: of cases that pass every check, and of checks that pass.

    changed_error: root mean square error of the pixels that an edit changes, of a range of 1.
    """

    skills: dict[str, float]
    edits: dict[str, float]
    skill_checks: float
    edit_checks: float
    changed_error: float

    def summary(self) -> dict[str, float]:
        return {
            "skills": float(np.mean(list(self.skills.values()))),
            "edits": float(np.mean(list(self.edits.values()))),
            "skill_checks": self.skill_checks,
            "edit_checks": self.edit_checks,
            "changed_error": self.changed_error,
        }


def pictures_of(scenes: Sequence, world: WorldSettings) -> Tensor:
    """Scenes as the models see them, float (n, 3, side, side) in [0, 1]."""
    drawn = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    return seen(rearrange(drawn, "n h w c -> n c h w"), world).float() / 255


@torch.no_grad()
def evaluate(pipe: RPiAEPipeline, world: WorldSettings, prompts: int, edits: int) -> Judged:
    """`prompts` of each skill and `edits` of each category; the same cases and noise for every row and seed."""
    texts = {skill: sample_prompts(skill, prompts, PROMPT_SEED) for skill in SKILLS}
    drawn = draw_prompts(pipe, [one.text for some in texts.values() for one in some])
    claims = [one.claims for some in texts.values() for one in some]
    verdicts = iter(judge_all(judge_claims, for_judge(drawn), claims))
    by_skill = {skill: [next(verdicts) for _ in some] for skill, some in texts.items()}

    by_category, errors = {}, []
    for number, category in enumerate(CATEGORIES):
        if world.categories and category not in world.categories:
            continue
        rng = np.random.default_rng([TAG, number])
        cases = [sample_world_edit(rng, world, category) for _ in range(edits)]
        results = _edited(pipe, world, cases, 10_000 * number)
        errors += _changed_errors(results, cases, world)
        by_category[category] = judge_all(judge_scene, for_judge(results), [case.target for case in cases])
    return Judged(
        skills=_shares(by_skill, lambda verdict: float(verdict.ok)),
        edits=_shares(by_category, lambda verdict: float(verdict.ok)),
        skill_checks=float(np.mean(list(_shares(by_skill, _passed).values()))),
        edit_checks=float(np.mean(list(_shares(by_category, _passed).values()))),
        changed_error=float(np.sqrt(np.mean(errors))),
    )


@torch.no_grad()
def draw_prompts(pipe: RPiAEPipeline, texts: Sequence[str]) -> Tensor:
    """Pictures of prompts, float (n, 3, side, side) in [0, 1] on the CPU."""
    drawn: list[Tensor] = []
    for some in batches(texts):
        found = pipe(prompt=list(some), generator=seeded(TAG, 8 * len(drawn), len(some)), output_type="pt").images
        drawn.append(found.float().clamp(0, 1).cpu())
    return torch.cat(drawn)


def _edited(pipe: RPiAEPipeline, world: WorldSettings, cases: Sequence[Edit], first: int) -> Tensor:
    results: list[Tensor] = []
    for some in batches(cases):
        found = pipe(
            prompt=[case.instruction for case in some],
            image=images.to_pil(pictures_of([case.source for case in some], world)),
            generator=seeded(TAG, first + 8 * len(results), len(some)),
            preserve_unchanged=False, output_type="pt",
        ).images  # fmt: skip
        results.append(found.float().clamp(0, 1).cpu())
    return torch.cat(results)


def _changed_errors(results: Tensor, cases: Sequence[Edit], world: WorldSettings) -> list[float]:
    """Mean square error of each case where source and target differ."""
    sources, targets = (pictures_of([getattr(case, side) for case in cases], world) for side in ("source", "target"))
    changed = (sources != targets).any(1)
    squares = (results - targets).square().mean(1)
    return [float(one[where].mean()) for one, where in zip(squares, changed, strict=True) if where.any()]


def _shares(verdicts: dict[str, list[Verdict]], number: Callable[[Verdict], float]) -> dict[str, float]:
    return {name: float(np.mean([number(one) for one in some])) for name, some in verdicts.items() if some}


def _passed(verdict: Verdict) -> float:
    return float(np.mean(list(verdict.checks.values())))


def ceiling(world: WorldSettings, scenes: int) -> float:
    """The share of true pictures that the judge accepts when they are seen at the world's size and enlarged again."""
    rng = np.random.default_rng([TAG, 999])
    found = []
    while len(found) < scenes:
        scene = sample_scene(rng)
        if belongs(scene, world):
            found.append(scene)
    shown = for_judge(pictures_of(found, world))
    return float(np.mean([verdict.ok for verdict in judge_all(judge_scene, shown, found)]))
