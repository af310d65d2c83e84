"""For researchers: an image file without identity in, a label map and a result out. No RTSTRUCT: there is no patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from contour.checks import centroid, check
from contour.derived_structures import derive
from contour.engine import Absent, Context, Flag
from contour.hounsfield import must_be_hounsfield
from contour.postprocessing import postprocess
from contour.template import EXISTING, Wanted, load_template
from contour.truncation import Extent, abrupt_ends
from patient.geometry import Geometry
from patient.volume import Field
from pipelines.planning.contouring import pairs_compared, state_of
from pipelines.planning.engines import installed_engines
from pipelines.planning.image_file import read_image
from pipelines.planning.reasons import reasons_of
from pipelines.records.case import CaseResult, FlagRecord, State, StructureRecord, Verdict


def contour_array(path: Path, folder: Path, template_name: str, progress: Callable[[float, str], None]) -> CaseResult:
    """Write labels.nii.gz (one number a structure, later ones on top), labels.json and result.json.

    Raises:
        InputError: the image or the template cannot be used.
    """
    volume, template = read_image(path), load_template(template_name)
    must_be_hounsfield(volume)
    engines = installed_engines()
    fields: dict[str, Field] = {}
    records: list[StructureRecord] = []
    centres: dict[str, tuple[float, float, float]] = {}
    absent: dict[str, Absent] = {}
    noticed: dict[str, tuple[Flag, ...]] = {}
    extents: dict[str, Extent] = {}
    context = Context(progress=lambda done, what: progress(0.8 * done, what))
    for engine in engines.values():
        able = [w.name for w in template.structures if w.engine in (engine.name, "any") and w.name in engine.offers()]
        asked = [name for name in able if name not in fields]
        if not asked:
            continue
        for answer in engine.contour(volume, asked, context):
            if isinstance(answer, Absent):
                absent[answer.name] = answer
            else:
                fields[answer.name], noticed[answer.name] = answer.field, answer.flags
    labels = np.zeros(volume.geometry.shape, dtype=np.uint8)
    numbers: dict[str, int] = {}
    for wanted in template.structures:
        made = fields.get(wanted.name) if wanted.recipe is None else derive(wanted.recipe, fields, volume.geometry)
        flags = noticed.get(wanted.name, ())
        if wanted.clean is not None and isinstance(made, Field):
            postprocessed = postprocess(made, wanted.clean)
            made, flags = (
                (postprocessed, ())
                if isinstance(postprocessed, str)
                else (postprocessed.field, (*flags, *postprocessed.flags))
            )
        if made is None or isinstance(made, str):
            fields.pop(wanted.name, None)
            state, reason = _why(wanted, made, absent.get(wanted.name))
            records.append(StructureRecord(name=wanted.name, state=state, required=wanted.required, reason=reason))
            continue
        fields[wanted.name], centres[wanted.name] = made, centroid(made)
        mask = made.mask()
        numbers[wanted.name] = len(numbers) + 1
        labels[volume.geometry.box_of(mask.geometry).slices][mask.array] = numbers[wanted.name]
        if wanted.recipe is None and not wanted.is_target and (extent := Extent.of(made, volume.geometry)) is not None:
            extents[wanted.name] = extent
            flags = (*flags, *abrupt_ends(wanted.name, extent))
        said = {flag.code for flag in flags}
        flags = (*flags, *(f for f in check(wanted, made, volume.geometry, centres) if f.code not in said))
        records.append(
            StructureRecord(
                name=wanted.name,
                state="contoured",
                interpreted_type=wanted.interpreted_type,
                color=wanted.color,
                required=wanted.required,
                source=wanted.source,
                volume_cc=round(float(mask.array.sum()) * volume.geometry.voxel_cc, 2),
                flags=tuple(FlagRecord(code=f.code, detail=f.detail) for f in flags),
            )
        )
    _write_labels(labels, volume.geometry, folder / "labels.nii.gz")
    (folder / "labels.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    records = pairs_compared(records, extents)
    reasons = reasons_of(records)
    result = CaseResult(
        case=folder.name, verdict=Verdict.REVIEW if reasons else Verdict.PUBLISH, reasons=reasons, structures=tuple(records)
    )
    (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    return result


def _why(wanted: Wanted, made: str | None, absent: Absent | None) -> tuple[State, str]:
    """State and reason of what is not there."""
    if absent is not None:
        return state_of(absent), absent.reason
    if made is not None:
        return "not_in_image", made
    return ("not_drawn", "a person draws it") if wanted.engine == EXISTING else ("no_model", "no installed engine offers it")


def _write_labels(labels: np.ndarray, geometry: Geometry, path: Path) -> None:
    image = sitk.GetImageFromArray(labels)
    dz, dy, dx = geometry.spacing
    image.SetSpacing((dx, dy, dz))
    image.SetOrigin(geometry.origin)
    image.SetDirection(np.asarray(geometry.axes)[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path))
