"""A template's structures on one image: asked of the engines, postprocessed, derived, checked; one at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from contour.checks import centroid, check, sure_enough
from contour.derived_structures import derive
from contour.engine import Absent, Context, Engine, Flag, NoModel, NotConfident
from contour.postprocessing import postprocess
from contour.recipe import Recipe, ingredients, needs
from contour.small_contours import without_small
from contour.template import EXISTING, Template, Wanted
from contour.truncation import Extent, abrupt_ends, uneven_pairs
from patient.errors import InputError
from patient.geometry import Geometry
from patient.loop import Loop
from patient.outline import coarsely_simplified
from patient.series import ImageSeries
from patient.structures import Structure, StructureSet
from patient.volume import Field, Volume
from patient.write.text import plain
from pipelines.planning.existing_structures import existing_structure
from pipelines.planning.set_label import planning_label
from pipelines.records.case import (
    MADE,
    VERSION,
    FlagRecord,
    State,
    StructureRecord,
)

SAME_SLICE_MM = 0.1
Step = Callable[[str], AbstractContextManager[Any]]


@dataclass
class Contouring:
    """What came of each requested structure so far.

    Args:
        image: that is contoured.
        volume: its voxels in HU.
        template: what is wanted.
        existing: structures that are kept as they are; None for none.
    """

    image: ImageSeries
    volume: Volume[Any]
    template: Template
    existing: StructureSet | None
    records: list[StructureRecord] = field(default_factory=list)
    shown: list[Structure] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    _fields: dict[str, Field] = field(default_factory=dict)
    _centres: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    _extents: dict[str, Extent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for structure in self.existing.structures if self.existing else ():
            loops = structure.drawn or ()
            self.shown.append(structure)
            self.records.append(
                StructureRecord(
                    name=structure.name,
                    state="kept",
                    interpreted_type=structure.interpreted_type,
                    color=structure.color,
                    engine="as read",
                    loops=len(loops),
                    planes=_slices(loops, self.image.geometry),
                    flags=tuple(FlagRecord(code="drawn", detail=said) for said in structure.remarks(self.image.geometry)),
                )
            )

    def run(self, engines: dict[str, Engine], context: Context, step: Step = lambda name: nullcontext()) -> None:
        """Ask the engines, derive, compare pairs, put in order.

        Args:
            step: a context manager around each of the two long steps, `contour` and `derive`.

        Raises:
            InputError: nothing that the template asks for is in the image.
            Cancelled: asked to stop.
        """
        with step("contour"):
            self.contour(engines, context)
        with step("derive"):
            self.derive()
            self.compare_pairs()
        self.put_in_order()
        if not self.shown:
            raise InputError(
                "Nothing that the template asks for is in the image",
                why="; ".join(f"{record.name}: {record.reason}" for record in self.records[:4]),
                remedy="Look at the image, or give another template",
            )

    def contour(self, engines: dict[str, Engine], context: Context) -> None:
        """Ask each engine for what the template wants of it."""
        plan: dict[str, list[Wanted]] = {}
        for wanted in self.template.structures:
            if wanted.engine == EXISTING:
                self._take(wanted)
                continue
            if wanted.recipe is not None or self._kept(wanted):
                continue
            able = [e for e in engines.values() if wanted.engine in (e.name, "any") and wanted.name in e.offers()]
            if able:
                plan.setdefault(able[0].name, []).append(wanted)
            else:
                self._absent(wanted, "no_model", f"no installed engine offers it ({wanted.engine})")
        for name, asked in plan.items():
            engine, by_name = engines[name], {wanted.name: wanted for wanted in asked}
            self.engines[name] = engine.version
            for answer in engine.contour(self.volume, list(by_name), context):
                wanted = by_name[answer.name]
                if isinstance(answer, Absent):
                    self._absent(wanted, state_of(answer), answer.reason)
                elif isinstance(flags := sure_enough(wanted, answer), str):
                    self._absent(wanted, "not_confident", flags)
                else:
                    self._add(wanted, answer.field, f"{name} {engine.version}", flags, answer.confidence)

    def derive(self) -> None:
        """Make what the template derives, in its order."""
        for wanted in self.template.structures:
            if wanted.recipe is None or self._kept(wanted):
                continue
            made = derive(wanted.recipe, self._fields, self.image.geometry)
            if isinstance(made, str):
                self._absent(wanted, self._state_without(wanted.recipe), made)
            else:
                without = dict.fromkeys(name for name in ingredients(wanted.recipe) if name not in self._fields)
                said = f"made without {', '.join(without)}, which is not there: nothing was cropped by it"
                flags = (Flag("without_barrier", said),) if without else ()
                self._add(wanted, made, wanted.recipe_text, flags, None)

    def compare_pairs(self) -> None:
        """Flag the one of a pair that ends short of its twin or is much smaller."""
        self.records = pairs_compared(self.records, self._extents)

    def _state_without(self, recipe: Recipe) -> State:
        """Of what cannot be derived: the state of the first ingredient that is not there."""
        states: dict[str, State] = {record.name: record.state for record in self.records}
        missing: list[State] = [states.get(name, "not_in_image") for name in needs(recipe) if name not in self._fields]
        return "not_drawn" if not missing or missing[0] in MADE else missing[0]

    def put_in_order(self) -> None:
        """What was there already first, as it came; then the template's order, whoever made what when."""
        places = {wanted.name: place for place, wanted in enumerate(self.template.structures)}
        kept = len(self.existing.structures) if self.existing else 0
        self.records[kept:] = sorted(self.records[kept:], key=lambda record: places[record.name])
        self.shown[kept:] = sorted(self.shown[kept:], key=lambda structure: places[structure.name])

    def structure_set(self, label_length: int = 16) -> StructureSet:
        """All of them, the existing ones first and as they came; labelled within as many characters."""
        called = planning_label(self.template.name, self.image, label_length)
        return replace(
            self.existing or StructureSet(()),
            structures=tuple(self.shown),
            label=called.label,
            name=called.name,
            description=called.description,
        )

    def _kept(self, wanted: Wanted) -> bool:
        """Already in the existing set: by name, or as its one EXTERNAL."""
        for structure in self.existing.structures if self.existing else ():
            same = structure.name.casefold() == wanted.name.casefold()
            if same or (wanted.interpreted_type == structure.interpreted_type == "EXTERNAL"):
                if structure.drawn:
                    mask = structure.mask(self.image.geometry)
                    if mask.array.any():
                        self._fields[wanted.name] = Field.of_mask(mask)
                if not same:
                    self._absent(wanted, "withheld", f"the existing set has {structure.name} as EXTERNAL")
                return True
        return False

    def _take(self, wanted: Wanted) -> None:
        """What only a person draws becomes an ingredient, as finely as it was drawn."""
        found = existing_structure(wanted, self.existing, self.image.geometry)
        if isinstance(found, str):
            self._absent(wanted, "not_drawn", found)
            return
        if found.field is not None:
            self._fields[wanted.name] = found.field
        if found.name.casefold() != wanted.name.casefold():
            self._absent(wanted, "withheld", f"the existing set has {found.name}, which is taken for it")
        at = next(n for n, record in enumerate(self.records) if record.name == found.name)
        flags = tuple(FlagRecord(code=flag.code, detail=flag.detail) for flag in found.flags)
        self.records[at] = self.records[at].model_copy(update={"flags": (*self.records[at].flags, *flags)})

    def _absent(self, wanted: Wanted, state: State, reason: str) -> None:
        if all(r.name != wanted.name for r in self.records):
            required = wanted.required and state != "withheld"
            self.records.append(
                StructureRecord(
                    name=wanted.name,
                    state=state,
                    required=required,
                    reason=reason,
                    source=wanted.source,
                    interpreted_type=wanted.interpreted_type,
                    color=wanted.color,
                )
            )

    def _add(self, wanted: Wanted, found: Field, engine: str, flags: tuple[Flag, ...], confidence: float | None) -> None:
        if wanted.clean is not None:
            postprocessed = postprocess(found, wanted.clean)
            if isinstance(postprocessed, str):
                self._absent(wanted, "not_in_image", postprocessed)
                return
            found, flags = postprocessed.field, (*flags, *postprocessed.flags)
        self._fields[wanted.name] = found
        self._centres[wanted.name] = centre = centroid(found)
        if wanted.recipe is None and not wanted.is_target and (extent := Extent.of(found, self.image.geometry)) is not None:
            self._extents[wanted.name] = extent
            flags = (*flags, *abrupt_ends(wanted.name, extent))
        said = {flag.code for flag in flags}
        flags = (*flags, *(f for f in check(wanted, found, self.image.geometry, self._centres) if f.code not in said))
        structure = Structure(
            name=wanted.name,
            interpreted_type=wanted.interpreted_type,
            color=wanted.color,
            algorithm="AUTOMATIC",
            description=f"recontour {VERSION} {engine}"[:64],
            remark=plain(f"{engine}; {wanted.source}") if wanted.source else "",
            code=wanted.code,
            field=found,
        )
        if wanted.least_area_mm2:
            drawn, small = without_small(structure.loops, wanted.least_area_mm2, self.image.geometry.spacing[0])
            structure, flags = replace(structure, drawn=drawn), (*flags, *small)
        if coarse := coarsely_simplified(structure.loops, self.image.geometry):
            flags = (*flags, Flag("simplified", coarse))
        self.shown.append(structure)
        mask = found.mask().array
        self.records.append(
            StructureRecord(
                name=wanted.name,
                state="derived" if wanted.recipe is not None else "contoured",
                interpreted_type=wanted.interpreted_type,
                color=wanted.color,
                required=wanted.required,
                engine=engine,
                source=wanted.source,
                volume_cc=round(float(np.count_nonzero(mask)) * self.image.geometry.voxel_cc, 2),
                centroid_mm=(round(centre[0], 1), round(centre[1], 1), round(centre[2], 1)),
                planes=_slices(structure.loops, self.image.geometry),
                loops=len(structure.loops),
                confidence=confidence,
                flags=tuple(FlagRecord(code=flag.code, detail=flag.detail) for flag in flags),
            )
        )


def _slices(loops: Sequence[Loop], grid: Geometry) -> int:
    """How many slices of the image loops lie on."""
    heights = np.array([loop.points[0] for loop in loops if len(loop.points)]).reshape(-1, 3) @ np.asarray(grid.axes[0])
    return len(np.unique(np.rint(heights / SAME_SLICE_MM)))


def pairs_compared(records: Sequence[StructureRecord], extents: Mapping[str, Extent]) -> list[StructureRecord]:
    """With a flag on the one of a pair that ends short of its twin or is much smaller.

    Args:
        extents: of what was found, by name.
    """
    said: dict[str, list[FlagRecord]] = {}
    for name, flag in uneven_pairs(extents):
        said.setdefault(name, []).append(FlagRecord(code=flag.code, detail=flag.detail))
    return [r.model_copy(update={"flags": (*r.flags, *said.get(r.name, ()))}) for r in records]


def state_of(absent: Absent) -> State:
    """The record's word for an engine's kind of reason."""
    if isinstance(absent, NoModel):
        return "no_model"
    return "not_confident" if isinstance(absent, NotConfident) else "not_in_image"
