"""A propagated structure and a re-segmented one: the one in the place of the other, or both joined by their confidences."""

from __future__ import annotations

from dataclasses import replace

import edt
import numpy as np
from numpy.typing import NDArray

from adaptive.alignment.intensity import part_seen
from adaptive.propagation.propagated import CUT, Made, Propagated, Stage, cropped, disagreement_of, finished
from adaptive.propagation.shape import common, inside
from contour.engine import Finding, Flag
from patient.geometry import Geometry
from patient.interpolation import gradient_at
from patient.trust import Trust
from patient.volume import Field, Level, Volume

UNSAID = 0.5
"""Confidence of an engine that says none."""
DOUBTED = ("suggestion", "low_confidence")
"""Flags of an engine's contour that nothing is decided on before a person has looked at it."""
Floats = NDArray[np.float32]


def resegmented(of: Propagated, fresh: Finding, stage: Stage) -> Propagated:
    """As the engine found it where today's image shows it, else as propagated."""
    sure = Trust.given_if(not _doubted(fresh), "its re-segmented contour requires clinical review")
    made = replace(of, made=Made.FRESH, basis="re-segmented", confidence=fresh.confidence, flags=(*of.flags, *fresh.flags))
    if of.whole is not None:
        made = replace(made, disagreement=disagreement_of(of.whole, fresh.field, stage))
        if part_seen(of.whole.mask(), stage.seen) < 1 - CUT:
            part = common(stage.today, of.whole, fresh.field)
            values = np.where(stage.ground.on(part), _distance(fresh.field, part), _distance(of.whole, part))
            whole = cropped(Field(Volume(values, part), Level.DISTANCE))
            basis = "re-segmented, and propagated outside the field of view"
            return finished(replace(made, whole=whole, basis=basis, trust=of.trust & sure), stage)
    return finished(replace(made, whole=fresh.field, trust=sure), stage)


def reconciled(of: Propagated, fresh: Finding, stage: Stage) -> Propagated:
    """Both signed distances, each weighing its confidence; the propagated one alone where today's image shows nothing.

    A re-segmented contour that requires review moves nothing: it is compared, and said to be.
    """
    assert of.whole is not None
    if _doubted(fresh):
        apart = disagreement_of(of.whole, fresh.field, stage)
        told = (
            "nowhere comparable" if apart is None else f"{apart.mean:.1f} mm apart on the mean (95 %: {apart.hd95:.1f} mm)"
        )
        said = f"re-segmented for comparison only, as that requires clinical review: {told}"
        return replace(of, disagreement=apart, flags=(*of.flags, Flag("compared_only", said)))
    part = common(stage.today, of.whole, fresh.field)
    a, b = _distance(of.whole, part), _distance(fresh.field, part)
    mine, theirs = of.confidence or UNSAID, UNSAID if fresh.confidence is None else fresh.confidence
    share = np.float32(theirs / max(mine + theirs, 1e-6))
    blended = np.where(stage.ground.on(part), (1 - share) * a + share * b, a).astype(np.float32)
    whole = cropped(Field(Volume(blended, part), Level.DISTANCE))
    basis = f"propagated ({1 - share:.0%}) and re-segmented ({share:.0%})"
    made = replace(of, made=Made.RECONCILED, whole=whole, basis=basis, confidence=max(mine, theirs))
    made = replace(made, flags=(*of.flags, *fresh.flags), disagreement=disagreement_of(of.whole, fresh.field, stage))
    if whole is None:
        return replace(made, made=of.made, whole=of.whole, field=of.field, basis=of.basis, confidence=of.confidence)
    return finished(made, stage)


def _doubted(fresh: Finding) -> bool:
    return any(flag.code in DOUBTED for flag in fresh.flags)


def _distance(field: Field, part: Geometry) -> Floats:
    """Signed distance in mm on a part of the grid: next to the surface by the field's own slope, further by voxels."""
    values = inside(field, part)
    within = values > 0
    spacing = part.spacing
    out = edt.sdf(within, anisotropy=spacing)
    half = np.float32(0.5 * min(spacing))
    np.subtract(np.where(within, half, -half), out, out=out)
    limit = np.float32(max(spacing[1:]))
    near = np.flatnonzero(np.abs(out) < np.float32(1.05) * limit)
    gradient_magnitude = np.linalg.norm(
        gradient_at(values, np.stack(np.unravel_index(near, values.shape), axis=-1), spacing), axis=1
    )
    own = values.ravel().take(near) / np.maximum(gradient_magnitude, 1e-3)
    np.put(out, near, np.clip(-own, -limit, limit))
    return out
