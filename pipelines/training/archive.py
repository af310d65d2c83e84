"""A clinic's archive before anything is learnt from it: what its names mean, who has what, who is held back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from contour.cases import MOST_STRUCTURES
from contour.planning import Fingerprint, plan
from patient.errors import InputError, RecontourError
from patient.geometry import Box
from patient.names import lookup
from patient.naming import Naming, understand
from patient.reorientation import Reorientation
from pipelines.evaluation.drawings import Drawing, Found, said_of
from pipelines.records.training import LearntStructure, PlanRecord, PreparedCase, TrainingRecord, UnknownName

HELD_BACK = 0.2
"""Share of the patients that are measured on."""
FEWEST = 3
"""Patients who have a structure: of fewer nothing is learnt unless it is asked for by name."""
SPLIT = (
    "By patient: one fifth by the first 8 hex digits of a hash of the Patient ID, the same ones for whatever else is trained"
)
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class _Looked:
    """A case, opened once."""

    drawing: Drawing
    names: Mapping[str, str]
    fingerprint: Fingerprint
    unknown: tuple[str, ...]
    empty: tuple[str, ...]
    remarks: tuple[str, ...]


def archive_key(found: Found, wanted: Sequence[str], naming: Naming) -> str:
    """Changes with any structure set, image, asked structure or a site's own name."""
    digest = hashlib.sha256(repr((sorted(wanted), sorted(naming.own.items()))).encode())
    for drawing in found.drawings:
        digest.update(drawing.case.encode())
        if drawing.source.is_file():
            digest.update(hashlib.sha256(drawing.source.read_bytes()).digest())
        else:
            files = sorted(p for p in drawing.source.rglob("*") if p.is_file())
            digest.update(repr([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]).encode())
        for uid in drawing.image.sop_instance_uids if drawing.image is not None else ():
            digest.update(uid.encode())
    return digest.hexdigest()


def survey(found: Found, wanted: Sequence[str], naming: Naming, key: str, progress: Progress) -> TrainingRecord:
    """Open every case, and plan.

    Args:
        wanted: structures that shall be learnt; empty for all that enough patients have.

    Raises:
        InputError: nothing that could be learnt.
    """
    looked: list[_Looked] = []
    left_out = list(found.left_out)
    for number, drawing in enumerate(found.drawings):
        progress(number / len(found.drawings), drawing.case)
        try:
            looked.append(_look(drawing, naming))
        except RecontourError as error:
            left_out.append(f"{drawing.case}: {said_of(error)}")
    structures, not_learnt = _structures(looked, wanted)
    used = [case for case in looked if set(case.names) & set(structures)]
    left_out += [f"{case.drawing.case} has none of the structures" for case in looked if case not in used]
    if not structures or not used:
        raise InputError(
            "There is nothing to learn in the archive",
            why="; ".join([*not_learnt, *left_out][:4]),
            remedy="Name structures with --structures, and the clinic's own spellings with --names",
        )
    parts = split({case.drawing.patient for case in used})
    planned = plan([case.fingerprint for case in used if parts[case.drawing.patient] == "train"], structures)
    shape = planned.architecture
    unknown = Counter(name for case in looked for name in set(case.unknown))
    return TrainingRecord(
        key=key,
        structures=tuple(_learnt(name, used, parts) for name in structures),
        not_learnt=tuple(not_learnt),
        unknown=tuple(UnknownName(name=name, cases=count) for name, count in unknown.most_common()),
        empty=tuple(f"{case.drawing.case}: {', '.join(case.empty)}" for case in looked if case.empty),
        left_out=tuple(left_out),
        cases=tuple(
            PreparedCase(
                case=case.drawing.case,
                part=parts[case.drawing.patient],
                names={name: written for name, written in case.names.items() if name in structures},
            )
            for case in used
        ),
        split=SPLIT,
        plan=PlanRecord(
            spacing=shape.spacing,
            finest=planned.finest,
            coarsest=planned.coarsest,
            patch=shape.patch,
            filters=shape.filters,
            open_ends=tuple(end.structure for end in planned.open_ends),
        ),
        remarks=tuple(remark for case in looked for remark in case.remarks),
    )


def split(patients: set[str]) -> dict[str, Literal["train", "validation"]]:
    """Which patients are held back. At least one of two and more on either side.

    Args:
        patients: hashes, as `pipelines.outbox.job_key.patient_key` makes them.
    """
    places = {patient: int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32 for patient in patients}
    held = {patient for patient, place in places.items() if place < HELD_BACK}
    ordered = sorted(places, key=places.__getitem__)
    if not held and len(ordered) > 1:
        held = {ordered[0]}
    if held == patients:
        held = set(ordered[:-1])
    return {patient: "validation" if patient in held else "train" for patient in patients}


def _look(drawing: Drawing, naming: Naming) -> _Looked:
    if drawing.image is not None and drawing.image.modality != "CT":
        raise InputError(f"Was drawn on {drawing.image.modality}, and is learnt on CT")
    drawn = drawing.open()
    understood = understand(drawn.names, naming)
    reorientation = Reorientation.of(drawn.grid)
    extents: dict[str, tuple[float, float, float]] = {}
    empty: list[str] = []
    for name, written in understood.meant.items():
        mask = reorientation.upright(drawn.mask(written))
        box = Box.of(mask.array)
        if box.empty:
            empty.append(written)
        else:
            k, j, i = (n * s for n, s in zip(box.shape, mask.geometry.spacing, strict=True))
            extents[name] = (k, j, i)
    spacing = tuple(drawn.grid.spacing[axis] for axis in reorientation.order)
    size = tuple(drawn.grid.shape[axis] * drawn.grid.spacing[axis] for axis in reorientation.order)
    return _Looked(
        drawing=drawing,
        names={name: written for name, written in understood.meant.items() if name in extents},
        fingerprint=Fingerprint(spacing, size, extents),  # type: ignore[arg-type]
        unknown=understood.unknown,
        empty=tuple(empty),
        remarks=tuple(
            f"{drawing.case} has several structures that mean {name}, none is taken: {', '.join(written)}"
            for name, written in understood.ambiguous.items()
        ),
    )


def _structures(looked: Sequence[_Looked], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is learnt, in order of name, and what is not, with the reason."""
    patients: dict[str, set[str]] = {}
    for case in looked:
        for name in case.names:
            patients.setdefault(name, set()).add(case.drawing.patient)
    if wanted:
        missing = [name for name in wanted if name not in patients]
        if missing:
            raise InputError(
                f"No patient of the archive has {', '.join(missing)}",
                why=f"It has {', '.join(sorted(patients)) or 'nothing that is understood'}",
                remedy="Name the clinic's own spellings with --names",
            )
        return list(wanted), []
    reasons: dict[str, str] = {}
    for name, having in patients.items():
        listed = lookup(name)
        if listed is not None and listed.interpreted_type == "EXTERNAL":
            reasons[name] = "found without a network"
        elif len(having) < FEWEST:
            reasons[name] = f"only {len(having)} patients have it, and {FEWEST} are needed"
    kept = sorted((name for name in patients if name not in reasons), key=lambda name: -len(patients[name]))
    reasons |= dict.fromkeys(kept[MOST_STRUCTURES:], f"only {MOST_STRUCTURES} structures have room")
    return sorted(kept[:MOST_STRUCTURES]), [f"{name}: {reason}" for name, reason in sorted(reasons.items())]


def _learnt(name: str, used: Sequence[_Looked], parts: Mapping[str, str]) -> LearntStructure:
    having = {
        part: {c.drawing.patient for c in used if name in c.names and parts[c.drawing.patient] == part}
        for part in ("train", "validation")
    }
    return LearntStructure(
        structure=name,
        train=len(having["train"]),
        validation=len(having["validation"]),
        written=tuple(sorted({case.names[name] for case in used if name in case.names})),
    )
