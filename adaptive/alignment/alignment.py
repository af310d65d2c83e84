"""Today's image registered to the plan's: rigid twice by ways that share nothing, then deformable, judged, inverted.

Today's image is the fixed one: `plan_from_today` maps whatever the plan knows onto today's voxels. An answer that is not
trusted is kept and marked; where there is none at all the images lie as their headers say, untrusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from patient.errors import NotTrusted
from patient.geometry import Geometry
from patient.parallel import each
from patient.trust import Trust
from patient.volume import Volume
from registration.deformable import Deformable, inverse_registration
from registration.features import RigidByFeatures
from registration.inverse import inverse_of
from registration.measures import RegistrationQuality
from registration.method import Fit, RegistrationContext
from registration.quality import judged
from registration.rigid import RigidByIntensity
from registration.transforms import Chain, Displacement, Rigid, Space, Transform

APART, APART_DEGREES = 3.0, 2.0
"""mm and degrees by which the two rigid answers may differ."""
ONE_WAY = 1.96 / 1.538
"""From the median length of an error in space, evenly spread over directions, to 95 % of its part along one direction."""
UNKNOWN = 8.0
"""mm, 95 %, taken where nothing was measured of the registration: as headers lie, or beyond what today's image shows."""
LEAST = 0.5
"""Of the side of a cube as large as today's voxels: no registration is said to be better than that."""


@dataclass(frozen=True, eq=False)
class RigidAnswer:
    """What one rigid method said: `plan_from_today`, or None and why not."""

    method: str
    plan_from_today: Rigid | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where today's points lie in the plan.

    Args:
        intensity, features: both rigid answers.
        apart, apart_degrees: how far they differ, mm at the isocentre; None where one is missing.
        rigid: the one that the couch correction is made of: by intensity, else by features, else as headers say.
        plan_from_today: the whole map; the rigid one where there is no deformable answer.
        today_from_plan: its inverse, found where it is asked for.
        inverse_left: mm that the inverse misses, 95th percentile.
        deformable: whether `plan_from_today` bends.
        quality: of the whole map.
        found_error: mm within which a point lies along any one direction with 95 % confidence, where today's image shows it,
            as far as the registration itself is right.
        error_from: what that stands on.
        reasons: why not trusted; empty where it is.
    """

    intensity: RigidAnswer
    features: RigidAnswer
    apart: float | None
    apart_degrees: float | None
    rigid: Rigid
    plan_from_today: Transform
    today_from_plan: Transform
    inverse_left: float
    deformable: bool
    quality: RegistrationQuality
    found_error: float
    error_from: str
    reasons: tuple[str, ...] = ()

    @property
    def trust(self) -> Trust:
        """Whether it may be used without clinical review."""
        return Trust(self.reasons)

    @property
    def error(self) -> float:
        """mm, 95 %, along any one direction: as found; no less than the unknown where the registration is not trusted."""
        return self.found_error if self.trust else max(UNKNOWN, self.found_error)

    @property
    def agree(self) -> bool:
        """Whether both rigid answers are there and say the same."""
        return self.apart is not None and self.apart <= APART and (self.apart_degrees or 0.0) <= APART_DEGREES


def aligned(
    today: Volume[Any],
    planned: Volume[Any],
    centre: ArrayLike,
    *,
    seed: int = 0,
    context: RegistrationContext | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> Alignment:
    """Register today's image (fixed) with the plan's (moving).

    Args:
        today, planned: the two images, HU.
        centre: LPS mm in the plan: where the two rigid answers are compared, the isocentre.
        seed: the same gives the same.
        context: masks, device, cancel; the seed of its own is not used.
        step: called with the name of each step as it begins.

    Raises:
        InputError: an image is constant or holds no numbers.
        Cancelled: asked to stop.
    """
    context = replace(context or RegistrationContext(), seed=seed)
    step("rigid")
    # Neither keeps both cores busy by itself, and neither knows of the other.
    intensity, features = each(
        lambda method: _answer(method, today, planned, context), (RigidByIntensity(), RigidByFeatures())
    )
    apart, degrees, reasons = _compared(intensity, features, centre)
    start = intensity.plan_from_today or features.plan_from_today
    if start is None:
        return _as_headers_say(today, planned, intensity, features)
    step("deformable")
    fit, back, failed = _bent(today, planned, replace(context, start=start))
    step("quality")
    check = features.plan_from_today if intensity.plan_from_today is not None else None
    registered = judged(fit, today, planned, context, inverse_registration=back, by_features=check)
    reasons = [*reasons, *failed, *registered.verdict.reasons]
    plan_from_today = registered.moving_from_fixed
    step("inverse")
    today_from_plan = inverse_of(plan_from_today)
    left = _left(plan_from_today, today_from_plan)
    error, said = _error(registered.quality, today.geometry)
    return Alignment(
        intensity,
        features,
        apart,
        degrees,
        start,
        plan_from_today,
        today_from_plan,
        left,
        fit.moving_from_fixed is not start,
        registered.quality,
        error,
        said,
        tuple(dict.fromkeys(reasons)),
    )


def _answer(
    method: RigidByIntensity | RigidByFeatures, today: Volume[Any], planned: Volume[Any], context: RegistrationContext
) -> RigidAnswer:
    try:
        found = method.fit(today, planned, replace(context, start=None)).moving_from_fixed
    except NotTrusted as error:
        return RigidAnswer(method.name, None, (error.what,))
    assert isinstance(found, Rigid)
    return RigidAnswer(method.name, found)


def _compared(a: RigidAnswer, b: RigidAnswer, centre: ArrayLike) -> tuple[float | None, float | None, list[str]]:
    """How far the two are apart at the isocentre, and what is to be said about it."""
    if a.plan_from_today is None or b.plan_from_today is None:
        missing = a if a.plan_from_today is None else b
        return None, None, [f"There is no rigid answer by {missing.method}: {'; '.join(missing.reasons)}"]
    one, other = a.plan_from_today.inverse(), b.plan_from_today.inverse()
    at = np.asarray(centre, dtype=np.float64)
    apart = float(np.linalg.norm(one.points(at, one.source) - other.points(at, other.source)))
    turn = one.rotation @ other.rotation.T
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    said = []
    if apart > APART or degrees > APART_DEGREES:
        found = f"differ by {apart:.1f} mm and {degrees:.1f} degrees at the isocentre"
        said.append(f"Rigid by intensity and by features {found}, limits {APART:g} mm and {APART_DEGREES:g} degrees")
    return apart, degrees, said


def _bent(
    today: Volume[Any], planned: Volume[Any], context: RegistrationContext
) -> tuple[Fit, Transform | None, tuple[str, ...]]:
    """The deformable answer and a coarse one of its own the other way; the rigid start where there is none; and why."""
    start = context.start
    assert start is not None
    try:
        fit = Deformable().fit(today, planned, context)
    except NotTrusted as error:
        return Fit(start), None, (f"There is no deformable answer: {error.what}",)
    try:
        return fit, inverse_registration(today, planned, context, fit.moving_from_fixed), ()
    except NotTrusted as error:
        return fit, None, (f"There is no deformable answer the other way, so that the two could be compared: {error.what}",)


def _as_headers_say(today: Volume[Any], planned: Volume[Any], intensity: RigidAnswer, features: RigidAnswer) -> Alignment:
    same = Rigid.identity(Space.of(today.geometry), Space.of(planned.geometry))
    why = "Neither rigid registration found an answer: the images lie as their headers say"
    return Alignment(
        intensity=intensity,
        features=features,
        apart=None,
        apart_degrees=None,
        rigid=same,
        plan_from_today=same,
        today_from_plan=same.inverse(),
        inverse_left=0.0,
        deformable=False,
        quality=RegistrationQuality(),
        found_error=UNKNOWN,
        error_from="nothing: no registration",
        reasons=(why, *intensity.reasons, *features.reasons),
    )


def _error(quality: RegistrationQuality, today: Geometry) -> tuple[float, str]:
    """What points matched again say; never less than half a voxel."""
    least = LEAST * float(np.cbrt(np.prod(today.spacing)))
    if quality.feature_error_median is None:
        return max(UNKNOWN, least), "no points could be matched: a value by default"
    found = ONE_WAY * quality.feature_error_median
    said = f"median {quality.feature_error_median:.2f} mm at points matched again"
    return (found, said) if found > least else (least, f"half a voxel of today's image ({said})")


def _left(plan_from_today: Transform, today_from_plan: Transform) -> float:
    """mm, 95th percentile of the inverse-consistency error, at places between the nodes that something moves."""
    parts = plan_from_today.parts if isinstance(plan_from_today, Chain) else (plan_from_today,)
    bent = next((part for part in parts if isinstance(part, Displacement)), None)
    if bent is None:
        return 0.0
    moved = np.argwhere(np.linalg.norm(bent.vectors, axis=-1) > 0.5)
    if not len(moved):
        return 0.0
    at = bent.grid.points(moved[:: max(1, len(moved) // 20_000)] + 0.37)
    there = plan_from_today.points(at, plan_from_today.source)
    return float(np.percentile(np.linalg.norm(today_from_plan.points(there, today_from_plan.source) - at, axis=-1), 95))
