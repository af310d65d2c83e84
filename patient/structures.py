"""Named structures: closed planar loops on native planes, or a field; the one made from the other when asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as attribute
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset

from patient.errors import FrameMismatch
from patient.geometry import Geometry
from patient.loop import Loop
from patient.outline import loops_of_field
from patient.rasterisation import mask_of_region
from patient.region import Region, region_of
from patient.volume import Field, Mask, Volume


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme ("SCT", "FMA", "DCM"), meaning; `modifier` holds laterality."""

    value: str
    scheme: str
    meaning: str
    modifier: Code | None = None


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest.

    Args:
        name: as TPS shows it; TG-263 for ours.
        number: ROI Number; 0 lets the writer choose a free one.
        interpreted_type: RT ROI Interpreted Type (EXTERNAL, ORGAN, PTV, ...); empty if unknown.
        color: red, green, blue, 0-255.
        algorithm: AUTOMATIC, SEMIAUTOMATIC, MANUAL or empty.
        description: what made it, with version and flags, at most 64 characters (ROI Generation Description).
        remark: what else a person should read of it, at most 1024 characters (ROI Description).
        observation_label: at most 16 characters.
        code: the anatomy as a coded concept.
        drawn: its loops; None where only the field is known.
        field: its surface; None where only loops are known.
        frame_of_reference: of its loops, by the file it was read from; empty where nobody said.
        as_read: the three items (ROI, contour, observation) it was read from, kept whole for writing back.
    """

    name: str
    number: int = 0
    interpreted_type: str = ""
    color: tuple[int, int, int] | None = None
    algorithm: str = ""
    description: str = ""
    remark: str = ""
    observation_label: str = ""
    code: Code | None = None
    drawn: tuple[Loop, ...] | None = None
    field: Field | None = None
    frame_of_reference: str = ""
    as_read: tuple[Dataset | None, Dataset | None, Dataset | None] | None = attribute(default=None, repr=False)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Its loops; from the field's surface on the field's own planes where it was not drawn."""
        return self.drawn if self.drawn is not None else self._contoured

    @cached_property
    def _contoured(self) -> tuple[Loop, ...]:
        return loops_of_field(self.field) if self.field is not None else ()

    @cached_property
    def region(self) -> Region:
        """What its loops enclose on the slices they lie on."""
        return region_of(self.loops)

    def region_on(self, grid: Geometry) -> Region:
        """What it encloses in its image: also on slices that were left out in drawing (`patient.skipped_slices`)."""
        from patient.skipped_slices import completed

        return completed(self.region, grid) if self.drawn is not None else self.region

    def remarks(self, grid: Geometry) -> tuple[str, ...]:
        """What is odd about how it was drawn, and changes its volume, in sentences."""
        region = self.region_on(grid)
        odd = [region.remark(grid.spacing[0])]
        if region.interpolated:
            odd.append(f"drawn on some slices only: {region.interpolated} slices between contours are interpolated")
        return tuple(filter(None, odd))

    def mask(self, grid: Geometry) -> Mask:
        """The voxels (bool) of `grid` whose centre is inside, cropped to the structure's box in that grid.

        Nested loops are holes, crossing ones are united, slices left out in drawing are interpolated. An empty structure
        gives a mask of one False voxel.

        Raises:
            FrameMismatch: loops do not lie on the grid's planes, or the field is of another frame.
        """
        if self.drawn is None and self.field is not None:
            own = self.field.mask()
            if grid.frame_of_reference == own.geometry.frame_of_reference:
                try:
                    grid.box_of(own.geometry)
                    return own
                except FrameMismatch:
                    pass
        return mask_of_region(self.region_on(grid), grid)


@dataclass(frozen=True, eq=False)
class StructureSet:
    """Structures that belong to one image.

    Args:
        structures: in writing order; names unique without regard to case.
        label: Structure Set Label, at most 16 characters.
        name, description: Structure Set Name (empty: the label), and what the Structure Set Description says beside who made
            it, of a set that is written.
        frame_of_reference, study_uid, series_uid: of the image they were drawn on; empty where unknown.
        image_uids: every plane of that image as the set lists it.
        sop_instance_uid: of the RTSTRUCT it was read from; empty for a new one.
        header: the attributes of the RTSTRUCT it was read from without its contours; None for a new one.
        notes: what was odd and tolerated in reading, in words.
    """

    structures: tuple[Structure, ...]
    label: str = ""
    frame_of_reference: str = ""
    study_uid: str = ""
    series_uid: str = ""
    image_uids: frozenset[str] = frozenset()
    sop_instance_uid: str = ""
    header: Dataset | None = attribute(default=None, repr=False)
    notes: tuple[str, ...] = ()
    name: str = ""
    description: str = ""

    def __getitem__(self, name: str) -> Structure:
        """By name, without regard to case. Raises KeyError with the names there are."""
        for structure in self.structures:
            if structure.name.casefold() == name.casefold():
                return structure
        raise KeyError(f"no structure {name!r} among {', '.join(s.name for s in self.structures)}")

    def on(self, image: Geometry, where: str = "") -> StructureSet:
        """The structures in an image's frame of reference; those of another one are left out, by name in the notes.

        A set may hold what was drawn on an MR beside what was drawn on the CT: the same coordinates, another place.

        Args:
            where: the set's file, for messages.

        Raises:
            FrameMismatch: nothing that was drawn is in the image's frame.
        """
        frame = image.frame_of_reference
        if not frame:
            return self
        own = tuple(s for s in self.structures if (s.frame_of_reference or self.frame_of_reference or frame) == frame)
        others = [s for s in self.structures if all(s is not one for one in own)]
        if others and not any(s.drawn or s.field for s in own):
            raise FrameMismatch(
                "The structure set is in another frame of reference than the image",
                where=where,
                why="Its contours would land elsewhere in the patient",
                remedy="Give the set drawn on this image, or the image that this set was drawn on",
            )
        said = [f"{s.name or s.number} is in another frame of reference than the image and was left out" for s in others]
        return replace(self, structures=own, notes=(*self.notes, *said)) if others else self

    def with_added(self, *more: Structure) -> StructureSet:
        """The same set with more structures behind."""
        return replace(self, structures=(*self.structures, *more))


def union_of_masks(masks: list[Mask], grid: Geometry) -> Mask:
    """The union of cropped masks (bool) on the smallest box of `grid` that holds them all."""
    box = grid.box_of(masks[0].geometry)
    for mask in masks[1:]:
        box = box.union(grid.box_of(mask.geometry))
    whole = grid.cropped(box)
    array = np.zeros(whole.shape, dtype=bool)
    for mask in masks:
        array |= mask.placed_in(whole).array
    return Volume(array, whole)
