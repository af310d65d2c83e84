"""RTDOSE out (PS3.3 A.18): a new object that says in every place a person looks that it is no plan's dose.

What is written was placed, mapped or accumulated by software. It goes out with its derivation, the registrations it stands
on (Spatial Transform of Dose, Referenced Spatial Registration Sequence) and a label that its caller must give.

A sum of some of a plan's fractions is PLAN_OVERVIEW. By PS3.3 C.8.8.3 PLAN is the entire delivery of a plan, FRACTION that
of a fraction group, FRACTION_SESSION a single fraction, MULTI_PLAN two plans and more, RECORD what a treatment record says
was delivered; PLAN_OVERVIEW alone states how many of a plan's fractions are in it (Number of Fractions Included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeformableSpatialRegistrationStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

from patient.dose import Dose
from patient.errors import OutputRefused
from patient.geometry import SAME_PLACE_MM
from patient.series import ImageSeries
from patient.trust import Estimated, Trust
from patient.write.decimals import decimals
from patient.write.identity import new_object, write_new
from patient.write.series_number import Kind, series_number
from patient.write.text import plain

TEXT = 64
"""Characters of a Long String: Series Description, Dose Comment."""
SUMMATIONS = ("PLAN", "FRACTION", "BEAM", "PLAN_OVERVIEW")
"""Dose Summation Types that are written; others refer to several plans, sessions or records."""
DOUBTED = "NOT TRUSTED"
"""Begins the label of a dose that stands on something that is not trusted."""
_OFFSETS = 0x3004000C


@dataclass(frozen=True)
class Registration:
    """A registration object that a dose stands on.

    Args:
        sop_instance_uid: of the REG.
        deformable: a Deformable Spatial Registration; else a Spatial Registration.
    """

    sop_instance_uid: str
    deformable: bool = False


def accumulated_label(counted: int, planned: int | None, trust: Trust) -> str:
    """What an accumulated dose is called, so that nobody takes it for the plan's or the delivered dose."""
    begin = "Accumulated" if trust else f"{DOUBTED}:"
    return f"{begin} {counted} of {planned or '?'} fractions, research, not delivered dose"


def write_dose(
    path: Path,
    estimated: Estimated[Dose],
    image: ImageSeries,
    *,
    version: str,
    label: str,
    derivation: str,
    registrations: Sequence[Registration] = (),
    plan_class: str = RTPlanStorage,
    plan_label: str = "",
    fraction: int | None = None,
) -> str:
    """Write a dose as a new RTDOSE, whole and synced to disk.

    Numbers are 32 bits wide, unsigned, signed for Dose Type ERROR; Dose Grid Scaling is rounded to what its 16 characters
    hold before they are made, so that a reader gets every voxel to better than 1e-9 of the highest.

    Args:
        path: of the file; must not exist.
        estimated: in the image's frame of reference; `summation`, `kind`, `transformed`, `plan_uid`, `beam` and `fractions`
            are written as they stand. Its grid may be left-handed: frames then go out from the other end. Where it is not
            trusted, label and derivation say so, and why.
        image: the new object belongs to its patient, study and frame of reference. For an accumulated dose: the plan's.
        version: of the software.
        label: what it is, at most 64 characters; becomes Series Description and begins Dose Comment, before the dose's own.
        derivation: how it was made (Derivation Description, at most 1024 characters).
        registrations: every registration object it stands on.
        plan_class: SOP Class of the plan that `dose.plan_uid` names.
        plan_label: its RT Plan Label, for a plan overview.
        fraction: the latest that is in it, for the Series Number; None where it is of none.

    Returns:
        The new SOP Instance UID.

    Raises:
        FrameMismatch: the dose is of another frame of reference.
        OutputRefused: it names no plan; a plan overview without its fractions; was transformed and names no registration; an
            effective dose without its recipe in the comment; a value that is no number, or negative where it is no error; an
            empty or overlong label, or one that does not begin with `DOUBTED` where the dose is not trusted.
    """
    dose, trust = estimated.mapped(lambda one: one.on(image.geometry)).judged
    if not trust and not label.startswith(DOUBTED):
        raise OutputRefused("A dose that is not trusted has a label that does not say so", why="; ".join(trust.doubts))
    _admit(dose, label, registrations)
    number = series_number(image, Kind.DOSE_ERROR if dose.kind == "ERROR" else Kind.DOSE, fraction)
    dataset = new_object(image, RTDoseStorage, "RTDOSE", series_description=plain(label), number=number, version=version)
    dataset.InstanceNumber = 1
    dataset.ContentDate, dataset.ContentTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    doubts = f"{DOUBTED}: {'; '.join(trust.doubts)}. " if not trust else ""
    dataset.DerivationDescription = plain(doubts + derivation)[:1024]
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = "GY", dose.kind, dose.summation
    dataset.DoseComment = plain("; ".join(filter(None, (label, dose.comment))))[:TEXT]
    dataset.SpatialTransformOfDose = dose.transformed
    if registrations:
        dataset.ReferencedSpatialRegistrationSequence = Items([_registration(one) for one in registrations])
    if dose.plan_uid:
        dataset.ReferencedRTPlanSequence = Items([_plan(dose, plan_class)])
    if dose.summation == "PLAN_OVERVIEW":
        dataset.PlanOverviewSequence = Items([_overview(dose, plan_label)])
    _place(dataset, dose)
    return write_new(path, dataset)


def _admit(dose: Dose, label: str, registrations: Sequence[Registration]) -> None:
    if not label or len(label) > TEXT:
        raise OutputRefused(f"A label of {len(label)} characters does not say what the dose is: 1 to {TEXT} are needed")
    if dose.summation not in SUMMATIONS or (dose.summation == "BEAM" and dose.beam is None):
        raise OutputRefused(f"A dose of summation {dose.summation!r} (beam {dose.beam}) is not written here")
    if dose.summation == "PLAN_OVERVIEW" and not dose.fractions:
        raise OutputRefused("A plan overview does not say how many fractions are in it")
    if not dose.plan_uid:
        raise OutputRefused(f"A {dose.summation} dose names no plan", remedy="Give the RTPLAN with the dose")
    if dose.transformed != "NONE" and not registrations:
        raise OutputRefused(
            f"A dose that was transformed ({dose.transformed}) names no registration",
            why="Nobody could tell what it stands on",
        )
    if dose.kind == "EFFECTIVE" and len(f"{label}; {dose.comment}") > TEXT * bool(dose.comment):
        raise OutputRefused(
            "An effective dose must say in its comment how it was reckoned, within 64 characters with its label",
            remedy="Give a shorter label or comment",
        )
    low = float(dose.volume.array.min())
    if not np.isfinite(dose.volume.array).all() or (low < 0 and dose.kind != "ERROR"):
        raise OutputRefused(f"A {dose.kind} dose holds a value that is no number, or is negative (lowest {low:g} Gy)")


def _place(dataset: Dataset, dose: Dose) -> None:
    """Grid and numbers (PS3.3 C.7.6.2, C.7.6.3, C.8.8.3), frames along rows x columns."""
    grid, gray = dose.volume.geometry, dose.volume.array
    depth, column, row = (np.asarray(axis) for axis in grid.axes)
    first = 0
    if float(np.cross(row, column) @ depth) < 0:
        first, gray = grid.shape[0] - 1, gray[::-1]
    dataset.ImagePositionPatient = decimals(grid.points((first, 0, 0)))
    dataset.ImageOrientationPatient = decimals([row, column])
    dataset.PixelSpacing = decimals(grid.spacing[1:])
    dataset.SliceThickness = decimals([grid.spacing[0]])[0]
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = grid.shape
    dataset.FrameIncrementPointer = _OFFSETS
    dataset.GridFrameOffsetVector = decimals(np.arange(grid.shape[0]) * grid.spacing[0])
    off = np.linalg.norm(np.cross(row, column) - (depth if first == 0 else -depth)) * grid.shape[0] * grid.spacing[0]
    if off > SAME_PLACE_MM:
        raise OutputRefused(f"The grid's depth axis runs {off:.3f} mm off the normal of its planes")
    signed = dose.kind == "ERROR"
    stored, scaling = quantised(gray, signed=signed)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelRepresentation = int(signed)
    dataset.DoseGridScaling = scaling
    dataset.PixelData = stored.tobytes()


def quantised(gray: NDArray[np.float32], *, signed: bool) -> tuple[NDArray[np.uint32] | NDArray[np.int32], str]:
    """Stored numbers, little endian, and the Dose Grid Scaling (a Decimal String) that makes Gy of them."""
    most = 2**31 - 1 if signed else 2**32 - 1
    highest = float(np.abs(gray).max())
    scaling = f"{highest / most * (1 + 1e-9):.9e}" if highest > 0 else "1e-06"
    stored = np.empty(gray.shape, dtype="<i4" if signed else "<u4")
    for out, values in zip(stored, gray, strict=True):
        out[:] = np.rint(values / np.float64(scaling))
    return stored, scaling


def _registration(one: Registration) -> Dataset:
    return _reference(
        DeformableSpatialRegistrationStorage if one.deformable else SpatialRegistrationStorage, one.sop_instance_uid
    )


def _plan(dose: Dose, plan_class: str) -> Dataset:
    item = _reference(plan_class, dose.plan_uid)
    if dose.summation in ("FRACTION", "BEAM"):
        group = Dataset()
        group.ReferencedFractionGroupNumber = 1
        if dose.beam is not None:
            beam = Dataset()
            beam.ReferencedBeamNumber = dose.beam
            group.ReferencedBeamSequence = Items([beam])
        item.ReferencedFractionGroupSequence = Items([group])
    if dose.summation == "PLAN_OVERVIEW":
        item.ReferencedPlanOverviewIndex = 1
    return item


def _overview(dose: Dose, label: str) -> Dataset:
    """Of the one plan; site and prescription (type 2) are left to the plan."""
    item = Dataset()
    item.PlanOverviewIndex, item.RTPlanLabel = 1, plain(label)[:16]
    item.NumberOfFractionsIncluded = dose.fractions
    item.TreatmentSite = ""
    item.TreatmentSiteCodeSequence, item.PrescriptionOverviewSequence = Items([]), Items([])
    if dose.structure_set_uid:
        item.ReferencedStructureSetSequence = Items([_reference(RTStructureSetStorage, dose.structure_set_uid)])
    return item


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item
