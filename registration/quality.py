"""What a registration is worth: its measures (AAPM TG-132, `registration.measures`), and a verdict by a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from patient.errors import NotTrusted
from patient.settings import parsed, read_source
from patient.volume import Volume
from registration.agreement import Pair
from registration.measures import RegistrationQuality, measured_quality
from registration.method import Fit, RegistrationContext
from registration.transforms import Affine, Transform

BENT = 1.0
"""mm beyond its rigid part from which on a result is a deformable one."""
Limit = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, config=_STRICT)
class _Limits:
    overlap: Limit
    folded: Limit
    inverse_consistency: Limit
    region_error: Limit
    unconfirmed: Limit
    unconfirmed_lung: Limit
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
    try:
        quality = measured_quality(fit, fixed, moving, context, structures, inverse_registration, by_features)
    except NotTrusted as error:
        quality, verdict = RegistrationQuality(notes=fit.evidence.notes), Verdict(False, (error.what,))
    else:
        verdict = verdict_on(quality, policy)
    return Registered(fit.moving_from_fixed, quality, verdict)


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
    local = quality.local
    # A rigid result does not claim to follow every region.
    if bent:
        region = f"the median distance at matched points in a region ({local.worst_where})"
        most(local.worst_mm, policy.region_error, region, " mm")
        most(local.unconfirmed, policy.unconfirmed, "the part of the body without points that confirm the result", "")
        most(local.unconfirmed_lung, policy.unconfirmed_lung, "the part of the lungs without points that confirm it", "")
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
