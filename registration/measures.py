"""What is measured of a registration: the figures that a physicist must look at (AAPM TG-132).

Nothing here stands only on what the fit itself minimised: points are matched again, the inverse is registered independently,
and structures that the caller knows in both images are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from patient.errors import FrameMismatch, InputError, NotTrusted
from patient.volume import Volume
from registration.agreement import Agreement, Pair, agreement
from registration.deformable import INVERSE_SPACING, RIM
from registration.features import RigidByFeatures, matches_around
from registration.local_evidence import LocalEvidence, local_evidence
from registration.method import Fit, RegistrationContext
from registration.mutual_information import normalised_mutual_information
from registration.resampling import resampled
from registration.rigid import split_half
from registration.transforms import Affine, Points, Rigid, Transform, displacements, jacobian, rigid_part, sampled
from registration.working import OVERVIEW, Working, measured, numbers, reduced, working_pair

AGREES = 4.0
"""mm: a matched point this near to where the result puts it agrees with it."""
MARGIN_OF_INVERSE = RIM * INVERSE_SPACING
"""mm from the end of the moving image within which the inverse registration compares nothing: it extrapolates what it found
inside."""
MOSTLY = 0.5
"""Part of what both images show that must lie deeper than that; where less does, nothing is left out."""
TOLD = 0.98
"""Part of it from which on what is left out is not worth a note."""


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
        local: what points that were searched without belief in the result say of it, region by region.
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
    local: LocalEvidence = field(default_factory=LocalEvidence)
    structures: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()


def measured_quality(
    fit: Fit,
    fixed: Volume[Any],
    moving: Volume[Any],
    context: RegistrationContext,
    structures: Sequence[Pair],
    inverse_registration: Transform | None,
    by_features: Affine | None,
) -> RegistrationQuality:
    """What is measured of a fit, of images in HU or any modality's numbers; arguments as of `registration.quality.judged`.

    Raises:
        NotTrusted: through the fit's rigid part the moving image holds hardly anything of the fixed one.
    """
    transform = fit.moving_from_fixed
    rigid = rigid_part(transform)
    fixed, moving = numbers(fixed, "fixed"), numbers(moving, "moving")
    pair = working_pair(fixed, moving, rigid, replace(context, start=None), OVERVIEW, 3_000_000)
    quality = RegistrationQuality(notes=(*fit.evidence.notes, *pair.notes))
    quality = _with_similarity(quality, pair, transform, fixed, moving)
    quality = _with_shape(quality, pair, transform, rigid)
    if inverse_registration is not None:
        quality = _with_inverse_consistency(quality, pair, moving, transform, inverse_registration)
    quality = _with_features(quality, pair, fixed, moving, context, transform, rigid, by_features)
    if quality.features_mm is None and isinstance(rigid, Rigid):
        halves = split_half(fixed, moving, rigid, context)
        quality = replace(quality, split_half_mm=halves.mm, split_half_degrees=halves.degrees)
    return replace(quality, structures=tuple(agreement(s, transform) for s in structures))


def _with_similarity(
    quality: RegistrationQuality, pair: Working, transform: Transform, fixed: Volume[Any], moving: Volume[Any]
) -> RegistrationQuality:
    """Before: as the headers place the two; after: through the whole transform."""
    small = reduced(moving, OVERVIEW)
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
    return normalised_mutual_information(np.histogram2d(*clipped, bins=bins)[0], 1.0)


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
    pair: Working,
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
        found, wide = matches_around(fixed, moving, alone, transform)
    except (InputError, NotTrusted) as error:
        if isinstance(error, FrameMismatch):
            raise
        return replace(quality, notes=(*quality.notes, f"Points could not be matched: {error.what}"))
    off = np.linalg.norm(transform.points(found.fixed, transform.source) - found.moving, axis=-1)
    agree = off < AGREES
    quality = replace(quality, matches=len(off), agreeing=int(agree.sum()), local=local_evidence(wide, transform, pair))
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
