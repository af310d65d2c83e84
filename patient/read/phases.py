"""Several images in one series (phases of breathing, repeated or interleaved acquisitions), told apart by their headers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset

from patient.errors import MixedSeries
from patient.read.planes import Plane

TAGS = {
    "TemporalPositionIdentifier": "",
    "TemporalPositionIndex": "FrameContentSequence",
    "NominalPercentageOfRespiratoryPhase": "RespiratorySynchronizationSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "TriggerTime": "",
    "AcquisitionNumber": "",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "AcquisitionTime": "",
}
"""What tells two images of one series apart, the surest first, and the functional group that holds it in multi-frame files.

Numbers and times alone: phases are named by these values in messages and results, and free text may name the patient."""
SAME_PLACE_MM = 0.01
WHOLE = 0.8
"""A phase's slices cover at least this part of the series' length; less is a part of an image, not one of several."""


@dataclass(frozen=True)
class Phases:
    """Images of one series by the values of one attribute, in ascending order."""

    attribute: str
    planes: dict[str, list[Plane]]

    def __str__(self) -> str:
        each = ", ".join(f"{name} ({len(planes)} slices)" for name, planes in self.planes.items())
        return f"{self.attribute} {each}"


def one_phase(planes: list[Plane], wanted: str, drawn_on: frozenset[str]) -> tuple[list[Plane], tuple[str, ...]]:
    """The planes of one image where a series holds several, and a note; all of them where it holds one.

    Args:
        planes: of the series.
        wanted: the phase's name as the refusal gives it; empty where nobody chose.
        drawn_on: SOP Instance UIDs that a structure set refers to: the one phase that holds all of them is meant.

    Raises:
        MixedSeries: several images and no choice that fits; acquisitions that alternate along the stack.
    """
    interleaved = _interleaved(planes)
    if not interleaved and not _overlapping(planes):
        return planes, (_joined(planes) + ((f"Holds one image: phase {wanted} was not looked for",) if wanted else ()))
    phases = told_apart(planes)
    if phases is None:
        if interleaved:
            raise _refused(interleaved, planes, "Export each acquisition as a series of its own")
        return planes, ()
    named = {wanted} if wanted else _holding(phases, drawn_on)
    chosen = [name for name in phases.planes if name in named]
    if len(chosen) != 1:
        known = f"has no phase {wanted}" if wanted else f"holds {len(phases.planes)} images of one region"
        remedy = "Choose one by its value (contour --phase; `phase` in the configuration of a site), or separate the series"
        raise _refused(f"One series {known}: {phases}", planes, remedy)
    return phases.planes[chosen[0]], (f"One of {len(phases.planes)} images of the series: {phases.attribute} {chosen[0]}",)


def told_apart(planes: Sequence[Plane]) -> Phases | None:
    """The images that a series holds, by the first attribute that separates them; None where none does."""
    for keyword in TAGS:
        groups: dict[str, list[Plane]] = defaultdict(list)
        for plane in planes:
            groups[_value(plane, keyword)].append(plane)
        if len(groups) < 2 or not all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in groups):
            continue
        if _are_images(list(groups.values()), planes):
            by_name = dict(sorted(groups.items(), key=lambda item: float(item[0])))
            return Phases(dictionary_description(keyword), by_name)
    return None


def _value(plane: Plane, keyword: str) -> str:
    """As text without trailing zeros of a fraction; empty where absent."""
    places: list[Dataset] = [plane.header.dataset]
    if plane.frame is not None:
        frame = plane.header.dataset.PerFrameFunctionalGroupsSequence[plane.frame - 1]
        places = [*(frame.get(TAGS[keyword]) or []), *places] if TAGS[keyword] else places
    found = next((str(value).strip() for place in places if (value := place.get(keyword)) not in (None, "")), "")
    return found.rstrip("0").rstrip(".") if "." in found else found


def _heights(planes: Sequence[Plane]) -> np.ndarray:
    """mm along the first plane's normal, ascending."""
    return np.sort(np.array([plane.position for plane in planes]) @ planes[0].normal)


def _overlapping(planes: Sequence[Plane]) -> bool:
    return len(planes) > 1 and bool((np.diff(_heights(planes)) < SAME_PLACE_MM).any())


def _are_images(groups: Sequence[Sequence[Plane]], planes: Sequence[Plane]) -> bool:
    """Whether each group is a stack without a plane twice that is as long as the whole series."""
    whole = np.ptp(_heights(planes))
    return all(len(g) > 1 and not _overlapping(g) and np.ptp(_heights(g)) >= WHOLE * whole for g in groups)


def _acquisitions(planes: Sequence[Plane]) -> list[str]:
    """Acquisition Numbers of a CT in order along the stack, one a run of equal ones; planes without one say nothing."""
    if planes[0].header.text("Modality") != "CT":
        return []  # odd and even slices of an MR are acquired by turns, as a rule
    normal = planes[0].normal
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    said = [number for plane in ordered if (number := _value(plane, "AcquisitionNumber"))]
    return [number for number, _ in groupby(said)]


def _interleaved(planes: Sequence[Plane]) -> str:
    runs = _acquisitions(planes) if not _overlapping(planes) else []
    if len(runs) == len(set(runs)):
        return ""
    return f"{len(set(runs))} acquisitions alternate along the series ({len(runs) - 1} changes from one to another)"


def _joined(planes: Sequence[Plane]) -> tuple[str, ...]:
    runs = _acquisitions(planes)
    if not 1 < len(runs) < len(planes):
        return ()
    return (f"Joined from {len(runs)} acquisitions, one behind the other: the patient may have moved between them",)


def _holding(phases: Phases, drawn_on: frozenset[str]) -> set[str]:
    """Names of the phases that a structure set's references lie in; several where it refers to more than one."""
    return {
        name
        for name, planes in phases.planes.items()
        if drawn_on & {plane.header.text("SOPInstanceUID") for plane in planes}
    }


def _refused(what: str, planes: Sequence[Plane], remedy: str) -> MixedSeries:
    return MixedSeries(
        what,
        where=f"{planes[0].name}, {planes[-1].name}",
        why="The patient moved between them, and contours of one would lie wrongly on another",
        remedy=remedy,
    )
