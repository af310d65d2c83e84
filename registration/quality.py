"""What a registration is worth: the measures that a physicist must look at (AAPM TG-132), and a verdict by a policy.

Nothing here stands only on what the fit itself minimised: points are matched again, the inverse is registered independently,
and structures that the caller knows in both images are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import edt
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked
from scipy import ndimage

from patient.errors import FrameMismatch, InputError, NotTrusted
from patient.geometry import Box, Geometry
from patient.settings import parsed, read_source
from patient.volume import Field as Surface
from patient.volume import Mask, Volume
from registration.deformable import INVERSE_SPACING, RIM
from registration.features import RigidByFeatures, find_matches
from registration.method import Fit, RegistrationContext
from registration.resampling import resampled, resampled_field
from registration.rigid import split_half
from registration.transforms import (
    Affine,
    Chain,
    Displacement,
    Points,
    Rigid,
    Transform,
    displacements,
    jacobian,
    linear_part,
    sampled,
)
from registration.working import Working, foreground, measured, numbers, reduced, working_pair

VOXEL = 4.0
"""mm of the grid on which a whole registration is looked at."""
FINE = 1.0
"""mm of the cubes on which structures are compared, or the fixed image's smallest spacing."""
BENT = 1.0
"""mm beyond its rigid part from which on a result is a deformable one."""
ROOM = 25.0
"""mm around a structure within which the other image's is looked for."""
AGREES = 4.0
"""mm: a matched point this near to where the result puts it agrees with it."""
MARGIN_OF_INVERSE = RIM * INVERSE_SPACING
"""mm from the end of the moving image within which the inverse registration compares nothing: it extrapolates what it found
inside."""
MOSTLY = 0.5
"""Part of what both images show that must lie deeper than that; where less does, nothing is left out."""
TOLD = 0.98
"""Part of it from which on what is left out is not worth a note."""


Limit = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, config=_STRICT)
class _Limits:
    overlap: Limit
    folded: Limit
    inverse_consistency: Limit
    feature_error_median: Limit
    matches_share: Limit
    matches: Limit
    matches_settle: Limit
    agreement_mm: Limit
    agreement_degrees: Limit
    split_half_mm: Limit
    split_half_degrees: Limit
    structure_dice: Limit


@checked(frozen=True, config=_STRICT)
class Policy(_Limits):
    """Limits of trust, from TOML; names as in `policy.toml`."""

    version: str = ""

    @staticmethod
    def read(path: Path | None = None) -> Policy:
        """The policy of a file; without one, the one that comes with the package.

        Raises:
            PolicyError: not there, not TOML, or a key is unknown or missing, or a value no number; says all, by line.
        """
        read = parsed(read_source(path or Path(__file__).with_name("policy.toml"), "policy"), _File)
        return Policy(**asdict(read.limits), version=read.version)


class _File(BaseModel):
    model_config = _STRICT

    schema_version: Literal[1] = Field(alias="schema")
    version: str = ""
    limits: _Limits


@dataclass(frozen=True)
class Pair:
    """A structure that the caller knows in both images, each as a mask (bool) on its own image's grid or a crop of it."""

    name: str
    fixed: Mask
    moving: Mask


@dataclass(frozen=True)
class Agreement:
    """A structure of the moving image, mapped through the result, beside the fixed image's own.

    Args:
        name: of the structure.
        volume_cc: of the fixed image's.
        dice: overlap, 0 to 1.
        mean_surface_distance, hd95: mm, symmetric.
    """

    name: str
    volume_cc: float
    dice: float
    mean_surface_distance: float
    hd95: float


@dataclass(frozen=True)
class RegistrationQuality:
    """What was measured; None where it could not be.

    Args:
        similarity_before, similarity_after: normalised mutual information (Studholme 1999) inside the fixed mask, 1 to 2.
        overlap: part of the fixed mask that the moving image shows.
        displacement_mean, displacement_max: mm inside the fixed mask, of the whole transform beyond its rigid part.
        jacobian_min, jacobian_max: volume change inside the fixed mask.
        folded: part of the fixed mask with a Jacobian of 0 or less.
        inverse_consistency_mean, inverse_consistency_p95: mm there by this result and back by a registration of its own, at
            points put at least `MARGIN_OF_INVERSE` mm inside the end of the moving image; a note says how many are not.
        feature_error_mean, feature_error_median, feature_error_p95: mm at points matched again that agree.
        matches: points matched again around the result.
        agreeing: of them, how many lie within 4 mm of where the result puts them.
        features_mm, features_degrees: how far the rigid part is from a rigid registration by features alone.
        split_half_mm, split_half_degrees: how far halves of the body, each registered independently, lie from the answer of
            the whole; only where matched points give no answer of their own.
        structures: agreement of what the caller knows in both images.
        notes: what could not be measured and why.
    """

    similarity_before: float | None = None
    similarity_after: float | None = None
    overlap: float | None = None
    displacement_mean: float | None = None
    displacement_max: float | None = None
    jacobian_min: float | None = None
    jacobian_max: float | None = None
    folded: float | None = None
    inverse_consistency_mean: float | None = None
    inverse_consistency_p95: float | None = None
    feature_error_mean: float | None = None
    feature_error_median: float | None = None
    feature_error_p95: float | None = None
    matches: int | None = None
    agreeing: int | None = None
    features_mm: float | None = None
    features_degrees: float | None = None
    split_half_mm: float | None = None
    split_half_degrees: float | None = None
    structures: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a registration may be used without clinical review, and why not."""

    trusted: bool
    reasons: tuple[str, ...]

    def doubted(self, doubts: Sequence[str]) -> Verdict:
        """The same for images of which something may be missing or wrong: not trusted for that, besides what it says."""
        return Verdict(False, (*self.reasons, *doubts)) if doubts else self


@dataclass(frozen=True, eq=False)
class Registered:
    """A transform with what it is worth."""

    moving_from_fixed: Transform
    quality: RegistrationQuality
    verdict: Verdict


def judged(
    fit: Fit,
    fixed: Volume[Any],
    moving: Volume[Any],
    context: RegistrationContext,
    *,
    structures: Sequence[Pair] = (),
    inverse_registration: Transform | None = None,
    by_features: Affine | None = None,
    policy: Policy | None = None,
) -> Registered:
    """A fit with its quality and verdict.

    Args:
        fit: from a method.
        fixed, moving: the two images: HU or any modality's numbers.
        context: with which it was made.
        structures: known in both images.
        inverse_registration: `fixed_from_moving`, registered independently; None leaves inverse consistency out.
        by_features: the rigid answer by features alone, where it is there already; None has it found here.
        policy: limits of trust; the package's own where None.
    """
    policy = policy or Policy.read()
    transform = fit.moving_from_fixed
    rigid = rigid_part(transform)
    fixed, moving = numbers(fixed, "fixed"), numbers(moving, "moving")
    try:
        pair = working_pair(fixed, moving, rigid, replace(context, start=None), VOXEL, 3_000_000)
    except NotTrusted as error:
        return Registered(transform, RegistrationQuality(notes=fit.evidence.notes), Verdict(False, (error.what,)))
    quality = RegistrationQuality(notes=(*fit.evidence.notes, *pair.notes))
    quality = _with_similarity(quality, pair, transform, fixed, moving)
    quality = _with_shape(quality, pair, transform, rigid)
    if inverse_registration is not None:
        quality = _with_inverse_consistency(quality, pair, moving, transform, inverse_registration)
    quality = _with_features(quality, fixed, moving, context, transform, rigid, by_features)
    if quality.features_mm is None and isinstance(rigid, Rigid):
        halves = split_half(fixed, moving, rigid, context)
        quality = replace(quality, split_half_mm=halves.mm, split_half_degrees=halves.degrees)
    quality = replace(quality, structures=tuple(_agreement(s, transform) for s in structures))
    return Registered(transform, quality, verdict_on(quality, policy))


def verdict_on(quality: RegistrationQuality, policy: Policy) -> Verdict:
    """What in a quality is beyond a policy's limits, in sentences."""
    reasons: list[str] = []

    def most(value: float | None, limit: float, what: str, unit: str) -> None:
        if value is not None and not value <= limit:
            reasons.append(f"{what} is {value:.3g}{unit}, more than {limit:g}{unit}")

    def least(value: float | None, limit: float, what: str) -> None:
        if value is not None and not value >= limit:
            reasons.append(f"{what} is {value:.3g}, less than {limit:g}")

    least(quality.overlap, policy.overlap, "the part of the fixed image that the moving one shows")
    most(quality.folded, policy.folded, "the folded part of the body", "")
    most(quality.inverse_consistency_mean, policy.inverse_consistency, "the inverse-consistency error (mean)", " mm")
    if quality.matches is None:
        reasons.append("no points could be matched, so that nothing independent speaks for the result")
    else:
        least(quality.agreeing, policy.matches, "the number of matched points that agree with the result")
        least(
            (quality.agreeing or 0) / max(1, quality.matches), policy.matches_share, "the share of matched points that agree"
        )
        most(quality.feature_error_median, policy.feature_error_median, "the median distance at matched points", " mm")
    share = (quality.agreeing or 0) / max(1, quality.matches or 0)
    bent = (quality.displacement_max or 0.0) > BENT
    # Where organs moved against each other, two rigid answers may differ and both be right: then the points decide.
    if not (bent and share >= policy.matches_settle):
        most(quality.features_mm, policy.agreement_mm, "the distance to the rigid result by features", " mm")
        most(quality.features_degrees, policy.agreement_degrees, "the angle to the rigid result by features", "°")
        if quality.features_mm is None and quality.matches is not None:
            reasons.append("by features alone there is no rigid answer that could be compared")
    if not bent:
        ambiguous = "ambiguous: the distance between the answers of the body and of its halves"
        most(quality.split_half_mm, policy.split_half_mm, ambiguous, " mm")
        most(quality.split_half_degrees, policy.split_half_degrees, "ambiguous: the angle between them", "°")
    for structure in quality.structures:
        if structure.volume_cc > 5.0:
            least(structure.dice, policy.structure_dice, f"the Dice of {structure.name}")
    return Verdict(not reasons, tuple(reasons))


def rigid_part(transform: Transform) -> Affine:
    """The product of a chain's matrices; the transform itself where it is one."""
    for part in transform.parts if isinstance(transform, Chain) else (transform,):
        if not isinstance(part, Affine | Displacement):
            raise TypeError(f"a {type(part).__name__} has no rigid part")
    matrix = linear_part(transform).matrix
    return (
        Rigid(matrix, transform.source, transform.target)
        if _is_rigid(matrix)
        else Affine(matrix, transform.source, transform.target)
    )


def _is_rigid(matrix: NDArray[np.float64]) -> bool:
    turn = matrix[:3, :3]
    return bool(np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) and np.linalg.det(turn) > 0)


def _with_similarity(
    quality: RegistrationQuality, pair: Working, transform: Transform, fixed: Volume[Any], moving: Volume[Any]
) -> RegistrationQuality:
    """Before: as the headers place the two; after: through the whole transform."""
    small = reduced(moving, VOXEL)
    low = float(small.array.min())
    header = Rigid.identity(transform.source, transform.target)
    look = pair.fixed_valid
    before, after = (
        _information(pair.fixed[look], resampled(t, small, pair.grid, low).array[look]) for t in (header, transform)
    )
    shown = float((pair.fixed_valid & pair.moving_valid).sum() / max(1, pair.fixed_valid.sum()))
    return replace(quality, similarity_before=before, similarity_after=after, overlap=shown)


def _information(a: NDArray[np.float32], b: NDArray[np.float32], bins: int = 48) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b), 1 to 2 (Studholme 1999, Pattern Recogn 32:71)."""
    clipped = [np.clip(v, *np.percentile(v, (1, 99))) for v in (a, b)]
    joint, _, _ = np.histogram2d(*clipped, bins=bins)
    share = joint / joint.sum()

    def entropy(p: NDArray[np.float64]) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    both = entropy(share.ravel())
    return (entropy(share.sum(axis=0)) + entropy(share.sum(axis=1))) / both if both > 0 else 1.0


def _with_shape(quality: RegistrationQuality, pair: Working, transform: Transform, rigid: Affine) -> RegistrationQuality:
    inside = pair.fixed_valid
    beyond = np.linalg.norm(displacements(transform, pair.grid) - displacements(rigid, pair.grid), axis=-1)[inside]
    volume = jacobian(transform, pair.grid).array[inside]
    return replace(
        quality,
        displacement_mean=float(beyond.mean()),
        displacement_max=float(beyond.max()),
        jacobian_min=float(volume.min()),
        jacobian_max=float(volume.max()),
        folded=float((volume <= 0).mean()),
    )


def _with_inverse_consistency(
    quality: RegistrationQuality, pair: Working, moving: Volume[Any], transform: Transform, inverse_registration: Transform
) -> RegistrationQuality:
    """Inverse consistency, at the points where the inverse registration compares something.

    What went out of the moving image's view cannot be followed by any field: it is squeezed into the end of the view, where
    the inverse registration compares nothing. Such points are left out and counted. They are a rim: a result that puts most
    of the image there is wrong, and is measured with all of it.
    """
    at = pair.grid.points(np.argwhere(pair.fixed_valid & pair.moving_valid)[::7])
    if not len(at):
        return quality
    there = transform.points(at, transform.source)
    off = np.linalg.norm(inverse_registration.points(there, transform.target) - at, axis=-1)
    seen = _depth(moving, there) > MARGIN_OF_INVERSE
    share = float(seen.mean())
    notes = quality.notes
    if share < MOSTLY:
        seen[:] = True
        notes = (*notes, f"{100 * (1 - share):.0f} % of what both images show is put at the moving image's end or beyond")
    elif share < TOLD:
        notes = (*notes, f"Inverse consistency without the {100 * (1 - share):.0f} % that lie at the moving image's end")
    return replace(
        quality,
        inverse_consistency_mean=float(off[seen].mean()),
        inverse_consistency_p95=float(np.percentile(off[seen], 95)),
        notes=notes,
    )


def _depth(image: Volume[Any], points: Points) -> NDArray[np.float64]:
    """mm from points `[n, 3]` to the nearest end of what an image measured; 0 beyond it."""
    known = measured(image)
    inside = edt.edt(known.array > 0.5, anisotropy=known.geometry.spacing, black_border=True)
    return sampled(inside, known.geometry, points)


def _with_features(
    quality: RegistrationQuality,
    fixed: Volume[Any],
    moving: Volume[Any],
    context: RegistrationContext,
    transform: Transform,
    rigid: Affine,
    other: Affine | None,
) -> RegistrationQuality:
    """Points matched again around the result, and the rigid result by features alone as independent check."""
    alone = replace(context, start=None)
    try:
        found = find_matches(fixed, moving, alone, transform)
    except (InputError, NotTrusted) as error:
        if isinstance(error, FrameMismatch):
            raise
        return replace(quality, notes=(*quality.notes, f"Points could not be matched: {error.what}"))
    off = np.linalg.norm(transform.points(found.fixed, transform.source) - found.moving, axis=-1)
    agree = off < AGREES
    quality = replace(quality, matches=len(off), agreeing=int(agree.sum()))
    if agree.any():
        near = off[agree]
        quality = replace(
            quality,
            feature_error_mean=float(near.mean()),
            feature_error_median=float(np.median(near)),
            feature_error_p95=float(np.percentile(near, 95)),
        )
    if other is None:
        try:
            answer = RigidByFeatures().fit(fixed, moving, alone).moving_from_fixed
        except NotTrusted as error:
            return replace(quality, notes=(*quality.notes, f"By features alone there is no answer: {error.what}"))
        assert isinstance(answer, Affine)
        other = answer
    middle = found.fixed.mean(axis=0) if len(found.fixed) else fixed.geometry.points(np.array(fixed.geometry.shape) / 2.0)
    apart = other.points(middle, other.source) - rigid.points(middle, rigid.source)
    turn = other.rotation @ np.linalg.inv(rigid.rotation)
    degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return replace(quality, features_mm=float(np.linalg.norm(apart)), features_degrees=float(degrees))


def foreground_box(image: Volume[Any]) -> Box:
    """The box of the body in an image's grid, with some room; the image in HU or any modality's numbers."""
    small = reduced(image, VOXEL)
    body = Box.of(foreground(small).array)
    if body.empty:
        return image.geometry.box
    ratio = [a / b for a, b in zip(small.geometry.spacing, image.geometry.spacing, strict=True)]
    start = tuple(int(a * r) for a, r in zip(body.start, ratio, strict=True))
    stop = tuple(int(np.ceil(b * r)) for b, r in zip(body.stop, ratio, strict=True))
    return Box(start, stop).padded(5, image.geometry.shape)  # type: ignore[arg-type]


def _agreement(pair: Pair, transform: Transform) -> Agreement:
    """Dice on the fixed image's voxels; surface distances on cubes, since thick slices make terraces of a surface."""
    still = Rigid.identity(transform.source, transform.source)
    whole = _with_room(pair.fixed.geometry, ROOM)
    mine = pair.fixed.placed_in(whole).array
    theirs = resampled_field(transform, Surface.of_mask(pair.moving), whole).mask().array
    together = float(mine.sum() + theirs.sum())
    dice = 2 * float((mine & theirs).sum()) / together if together else 0.0
    cc = float(mine.sum()) * whole.voxel_cc
    if not mine.any() or not theirs.any():
        return Agreement(pair.name, cc, dice, float("inf"), float("inf"))
    cubes = _with_room(_cubes(pair.fixed.geometry, max(FINE, min(pair.fixed.geometry.spacing))), ROOM)
    a, b = (
        resampled_field(by, Surface.of_mask(mask), cubes).mask().array
        for by, mask in ((still, pair.fixed), (transform, pair.moving))
    )
    both = np.concatenate([_distances(a, b, cubes.spacing), _distances(b, a, cubes.spacing)])
    if not both.size:
        return Agreement(pair.name, cc, dice, float("inf"), float("inf"))
    return Agreement(pair.name, cc, dice, float(both.mean()), float(np.percentile(both, 95)))


def _cubes(grid: Geometry, side: float) -> Geometry:
    """The same place in cubes of a side (mm)."""
    shape = tuple(max(1, int(np.ceil(n * s / side))) for n, s in zip(grid.shape, grid.spacing, strict=True))
    x, y, z = (float(v) for v in grid.points([0.5 * (side / s - 1.0) for s in grid.spacing]))
    return replace(grid, shape=shape, spacing=(side, side, side), origin=(x, y, z))


def _with_room(grid: Geometry, mm: float) -> Geometry:
    room = [int(np.ceil(mm / s)) for s in grid.spacing]
    start = tuple(-r for r in room)
    stop = tuple(n + r for n, r in zip(grid.shape, room, strict=True))
    return grid.cropped(Box(start, stop))  # type: ignore[arg-type]


def _distances(of: NDArray[np.bool_], to: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """mm from the surface voxels of one mask (those with a neighbour outside) to the nearest of the other's."""
    edge, surface = (mask & ~ndimage.binary_erosion(mask) for mask in (of, to))
    return edt.edt(np.ascontiguousarray(~surface), anisotropy=spacing)[edge]
