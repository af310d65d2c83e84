"""quality.json: what a registration is worth, as a document."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from pipelines.records.case import VERSION
from registration.couch import CouchCorrection
from registration.measures import RegistrationQuality
from registration.quality import Verdict
from registration.transforms import Transform, rigid_part


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="null", json_schema_serialization_defaults_required=True
    )


class AgreementRecord(_Record):
    """A structure of the moving image through the registration, beside the fixed image's own (mm, cc)."""

    name: str
    volume_cc: float
    dice: float
    mean_surface_distance: float | None
    hd95: float | None


class LocalRecord(_Record):
    """As `registration.local_evidence.LocalEvidence`: mm, and parts of the body; null where nothing could be matched."""

    worst_mm: float | None
    worst_matches: int | None
    worst_where: str | None
    unconfirmed: float | None
    unconfirmed_lung: float | None


class QualityRecord(_Record):
    """As `registration.measures.RegistrationQuality`: mm; null where it could not be measured."""

    similarity_before: float | None
    similarity_after: float | None
    overlap: float | None
    displacement_mean: float | None
    displacement_max: float | None
    jacobian_min: float | None
    jacobian_max: float | None
    folded: float | None
    inverse_consistency_mean: float | None
    inverse_consistency_p95: float | None
    feature_error_mean: float | None
    feature_error_median: float | None
    feature_error_p95: float | None
    matches: int | None
    agreeing: int | None
    features_mm: float | None
    features_degrees: float | None
    split_half_mm: float | None = None
    split_half_degrees: float | None = None
    local: LocalRecord | None = None
    structures: tuple[AgreementRecord, ...]
    notes: tuple[str, ...]


class CouchRecord(_Record):
    """IEC 61217 deltas (mm, degrees) about a point of the fixed image (LPS mm)."""

    lateral: float
    longitudinal: float
    vertical: float
    pitch: float
    roll: float
    yaw: float
    centre: tuple[float, float, float]


class RegistrationResult(_Record):
    """The whole document.

    `matrix_moving_from_fixed` is the rigid part, row by row (LPS mm); null where there is no answer.
    """

    schema_version: int = 1
    version: str = VERSION
    kind: str
    trusted: bool
    reasons: tuple[str, ...]
    fixed_image: str
    moving_image: str
    matrix_moving_from_fixed: tuple[tuple[float, ...], ...] | None
    couch: CouchRecord | None
    quality: QualityRecord
    seconds: float


def result_of(
    kind: str,
    transform: Transform | None,
    quality: RegistrationQuality,
    verdict: Verdict,
    couch: CouchCorrection | None,
    seconds: float,
) -> RegistrationResult:
    """The document of a registration; without a transform, that of a refusal."""
    said = asdict(quality)
    matrix = None
    if transform is not None:
        matrix = tuple(tuple(float(v) for v in row) for row in rigid_part(transform).matrix)
    couch_record = None
    if couch is not None:
        moves = {
            name: float(getattr(couch, name)) for name in ("lateral", "longitudinal", "vertical", "pitch", "roll", "yaw")
        }
        x, y, z = (float(v) for v in couch.centre)
        couch_record = CouchRecord(**moves, centre=(x, y, z))
    return RegistrationResult(
        kind=str(kind),
        trusted=verdict.trusted,
        reasons=verdict.reasons,
        fixed_image=transform.source.image if transform is not None else "",
        moving_image=transform.target.image if transform is not None else "",
        matrix_moving_from_fixed=matrix,
        couch=couch_record,
        quality=QualityRecord(**said),
        seconds=round(seconds, 2),
    )
