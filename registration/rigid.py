"""Where two images of one patient agree when nothing bends: six numbers, by mutual information.

Mutual information (Mattes 2003, IEEE Trans Med Imaging 22:120, as ITK has it) asks only that one image's numbers tell
something of the other's, so it serves CT to CT, CT to a CBCT whose HU have drifted, and CT to MR alike. Its weakness is its
short reach. So many places are tried on voxels of 7 mm first, by the overlap-invariant form (Studholme 1999, Pattern
Recognition 32:71); the best few are followed, and one of them is refined on 4 mm and 2 mm.

Work is done on grids binned from the images and cropped to the body, on one ITK thread an optimisation: ITK adds up
derivatives in the order in which threads finish, and the same inputs would not give the same answer.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from patient.errors import NotTrusted
from patient.volume import Mask, Volume
from registration.features import RigidByFeatures
from registration.levels import COARSE, FINE, MIDDLE, ROOM, Level, Pyramid, Vector, on_grid
from registration.method import Evidence, Fit, RegistrationContext
from registration.rigid_search import BINS, LEAST_OVERLAP, Frame, Judge, starts_of, tried
from registration.transforms import Rigid, Space

FOLLOWED = 4
"""How many of the places tried are followed to their optimum on the coarse level."""
LEAST_TOLD = 1.02
"""Of normalised mutual information: samples of pure noise reach 1.01, a CT and an MR of one thigh 1.08."""
SAMPLES = {COARSE: 10_000, MIDDLE: 20_000, FINE: 40_000}
RADIUS = 80.0
"""mm: where a turn is felt as much as a shift."""
ROUNDS = 100


@dataclass(frozen=True)
class RigidByIntensity:
    """Six degrees of freedom by mutual information, several starts on a coarse level, refined to 2 mm voxels.

    Args:
        starts: how many places are followed on the coarse level.
        workers: threads; the answer does not depend on it.
    """

    starts: int = FOLLOWED
    workers: int = 2
    name: str = "rigid"
    version: str = "1"

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """Where the points of the fixed image lie in the moving one: a Rigid.

        Args:
            fixed: `[z, y, x]`, HU or any modality's numbers, on a grid turned in any way.
            moving: the same.
            context: masks (found by threshold where absent), weight (samples are drawn mostly there), start, seed.

        Raises:
            NotTrusted: the two bodies nowhere overlap, or tell nothing of each other.
            InputError: an image or a mask is constant, empty, or holds no numbers.
            FrameMismatch: the start is of other images.
            Cancelled: asked to stop.
        """
        source, target = Space.of(fixed.geometry), Space.of(moving.geometry)
        context.progress(0.0, "rigid: reading the images")
        still = Pyramid.of(fixed, context.fixed_mask, "fixed")
        moved = Pyramid.of(moving, context.moving_mask, "moving")
        frame = Frame(still.centre(), source, target)
        context.progress(0.2, "rigid: looking for a start")
        judge = Judge.of(still, moved, frame, context)
        places = tried(judge, starts_of(frame, still, moved, context), context)[: self.starts]

        coarse, middle = (_Stage.of(still, moved, frame, mm, context) for mm in (COARSE, MIDDLE))

        def followed(place: Vector) -> Vector:
            return middle.climbed(coarse.climbed(place))

        with ThreadPoolExecutor(self.workers) as pool:
            ends = sorted(pool.map(followed, places), key=judge.score, reverse=True)
            context.progress(0.7, "rigid: refining")
            fine = _Stage.of(still, moved, frame, FINE, context)
            best = max(pool.map(fine.climbed, ends[:2]), key=judge.score)
        overlap, told = judge.overlap(best), judge.score(best)
        if overlap < LEAST_OVERLAP:
            raise _nothing_in_common(f"{overlap:.0%} of a body in common")
        if told < LEAST_TOLD:
            raise _nothing_in_common(f"nothing in common: one tells nothing of the other ({told:.3f}, from 1 to 2)")
        seen = f"{min(overlap, 1.0):.0%} of what could overlap does; normalised mutual information {told:.3f}"
        return Fit(frame.rigid(best), Evidence(notes=(seen,)))


def rigid_start(fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Rigid:
    """What a deformable method begins with: by intensity, or, where that finds nothing in common, by features.

    Raises:
        NotTrusted: neither finds an answer.
    """
    try:
        found = RigidByIntensity().fit(fixed, moving, context).moving_from_fixed
    except NotTrusted as nothing:
        try:
            found = RigidByFeatures().fit(fixed, moving, context).moving_from_fixed
        except NotTrusted:
            raise nothing from None
    assert isinstance(found, Rigid)
    return found


@dataclass(frozen=True)
class SplitHalf:
    """How far the answers of halves of the body lie from the answer of the whole: the largest of six halves.

    Args:
        mm: at the half's own middle.
        degrees: of the turn.
    """

    mm: float
    degrees: float


def split_half(fixed: Volume[Any], moving: Volume[Any], whole: Rigid, context: RegistrationContext) -> SplitHalf:
    """Whether one rigid map describes all of the body, and its optimum is the only one near.

    The body is halved across each of its three axes, and each half is registered independently from the answer of the whole.
    Halves of two images that one rigid map joins stay within a voxel; where a joint is bent otherwise, or where mutual
    information has several optima, they go apart (reliability by halves: Spearman 1910, Br J Psychol 3:271).

    Args:
        fixed, moving, context: as the method that found `whole` was given them.
        whole: the answer that is asked about.

    Raises:
        InputError: an image or a mask is constant, empty, or holds no numbers.
        Cancelled: asked to stop.
    """
    still = Pyramid.of(fixed, context.fixed_mask, "fixed")
    moved = Pyramid.of(moving, context.moving_mask, "moving")
    frame = Frame(still.centre(), Space.of(fixed.geometry), Space.of(moving.geometry))
    start = frame.six(whole.rotation, whole.points(frame.centre, whole.source))

    def apart(half: Pyramid) -> tuple[float, float]:
        found = frame.rigid(_Stage.of(half, moved, frame, MIDDLE, context).climbed(start))
        shift = found.points(half.centre(), found.source) - whole.points(half.centre(), whole.source)
        left = Rigid(found.matrix @ np.linalg.inv(whole.matrix), whole.target, whole.target)
        return float(np.linalg.norm(shift)), left.degrees()

    with ThreadPoolExecutor(2) as pool:
        mm, degrees = zip(*pool.map(apart, still.halves()), strict=True)
    return SplitHalf(max(mm), max(degrees))


def _nothing_in_common(what: str) -> NotTrusted:
    return NotTrusted(
        f"The two images have {what}",
        why="Nothing says how they lie to each other",
        remedy="Check that both are of the same region of the same patient, or register by hand",
    )


@dataclass(frozen=True)
class _Stage:
    """Both images on one level, ready to be optimised; a climb shares nothing with another that runs beside it."""

    fixed: Level
    moving: Level
    frame: Frame
    mm: float
    context: RegistrationContext

    @staticmethod
    def of(still: Pyramid, moved: Pyramid, frame: Frame, mm: float, context: RegistrationContext) -> _Stage:
        context.check_cancelled()
        if mm == COARSE:
            fixed, moving = still.level(mm, ROOM / 2), moved.level(mm, 2 * ROOM)
        else:
            fixed, moving = still.sharp(mm, ROOM / 3), moved.sharp(mm, ROOM)
        look = _weighted(fixed.mask, context)
        return _Stage(replace(fixed, mask=look).smooth(mm), moving.smooth(mm), frame, mm, context)

    def climbed(self, start: Vector) -> Vector:
        """Up the gradient of Mattes mutual information; the start again where ITK finds no samples."""
        self.context.check_cancelled()
        method, transform = sitk.ImageRegistrationMethod(), self.frame.euler(start)
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        (fixed, fixed_mask), (moving, moving_mask) = self.fixed.itk(), self.moving.itk()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricFixedMask(fixed_mask)
        method.SetMetricMovingMask(moving_mask)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = SAMPLES[self.mm] / max(int(self.fixed.mask.array.sum()), 1)
        method.SetMetricSamplingPercentage(min(1.0, share), self.context.seed % 2**31 + 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerScales([RADIUS**2] * 3 + [1.0] * 3)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.mm / 2, minStep=self.mm / 400, numberOfIterations=ROUNDS, relaxationFactor=0.8
        )
        method.SetInitialTransform(transform, inPlace=True)
        cancelled = self.context.cancelled
        method.AddCommand(sitk.sitkIterationEvent, lambda: method.Abort() if cancelled.is_set() else None)
        try:
            method.Execute(fixed, moving)
        except RuntimeError:
            return start
        self.context.check_cancelled()
        return np.asarray(transform.GetParameters())


def _weighted(look: Mask, context: RegistrationContext) -> Mask:
    """Where a region counts most: that region, and one in ten of the other voxels."""
    if context.weight is None:
        return look
    there = on_grid(context.weight, look.geometry)
    some = np.random.default_rng(context.seed).random(look.array.shape) < 0.1
    return Volume(look.array & (there | some), look.geometry)
