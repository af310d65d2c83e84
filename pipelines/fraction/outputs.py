"""What leaves of a fraction as DICOM: structure set, registrations, accumulated dose and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adaptive.fraction import Fraction
from adaptive.propagation.propagated import Propagated
from patient.errors import InputError
from patient.structures import Structure, StructureSet
from patient.trust import Estimated
from patient.write.rtdose import DOUBTED, Registration, accumulated_label, write_dose
from patient.write.rtstruct import write_structure_set
from pipelines.fraction.inputs import FractionInputs
from pipelines.fraction.registration_case import field_grid
from pipelines.planning.set_label import SetLabel
from pipelines.records.case import VERSION
from pipelines.records.fraction import OutputRecord
from registration.dicom import write_deformable, write_registration
from registration.transforms import Rigid


def write_objects(
    folder: Path, made: Fraction, read: FractionInputs, called: SetLabel, predecessor: str
) -> tuple[OutputRecord, ...]:
    """All DICOM objects of a fraction, in the order in which they refer to each other.

    Args:
        folder: that they are written into.
        made: what came of the fraction.
        read: what it was made from.
        called: its structure set.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.

    Raises:
        InputError: nothing of the plan lies in today's image.
    """
    outputs = [_structure_set(folder, made, read, called, predecessor)]
    registrations = _registrations(folder, made, read)
    outputs += [OutputRecord(file=name, sop_instance_uid=one.sop_instance_uid) for name, one in registrations.items()]
    return (*outputs, *_doses(folder, made, read, [*registrations.values()]))


def _structure_set(folder: Path, made: Fraction, read: FractionInputs, called: SetLabel, predecessor: str) -> OutputRecord:
    today = tuple(_today(one) for one in made.structures if one.field is not None)
    if not today:
        reasons = "; ".join(one.reason for one in made.structures[:4])
        raise InputError(
            "Nothing of the plan lies in today's image", why=reasons, remedy="Look whether they belong together"
        )
    before = [uid for uid in (read.plan.structures.sop_instance_uid, predecessor) if uid]
    drawn = StructureSet(today, label=called.label, name=called.name, description=called.description)
    uid = write_structure_set(
        folder / "rtstruct.dcm", drawn, read.image, version=VERSION, predecessors=before, fraction=read.number[0]
    )
    return OutputRecord(file="rtstruct.dcm", sop_instance_uid=uid)


def _registrations(folder: Path, made: Fraction, read: FractionInputs) -> dict[str, Registration]:
    """The rigid one, and the deformable one where there is one, by the names of their files."""
    plan, today, alignment = read.plan.image, read.image, made.alignment
    note = f"{DOUBTED}: see result.json" if read.doubted or not alignment.trust else ""
    said = {"version": VERSION, "note": note, "fraction": read.number[0]}
    inverse_registration = alignment.rigid.inverse()
    assert isinstance(inverse_registration, Rigid)
    rigid = write_registration(folder / "reg.dcm", inverse_registration, plan, today, **said)  # type: ignore[arg-type]
    found = {"reg.dcm": Registration(rigid)}
    if alignment.deformable:
        nodes = field_grid(today.geometry)
        bent = write_deformable(folder / "dreg.dcm", alignment.plan_from_today, nodes, today, plan, **said)  # type: ignore[arg-type]
        found["dreg.dcm"] = Registration(bent, deformable=True)
    return found


def _doses(
    folder: Path, made: Fraction, read: FractionInputs, registrations: Sequence[Registration]
) -> tuple[OutputRecord, ...]:
    """The accumulated dose and its error, on the plan's grid."""
    plan = read.plan
    if made.dose is None or plan.dose is None or not plan.dose.plan_uid:
        return ()
    summed, (total, trust) = made.dose.summed, made.dose.summed.dose.judged
    label = accumulated_label(summed.counted, made.plan_fractions, trust)
    derivation = (
        f"{'; '.join(summed.accounting)}. Today's: {made.dose.today.basis}. Mapped to the plan's grid by trilinear "
        "interpolation through the inverse of the referenced registration. Research; not delivered dose"
    )
    every = [*registrations, *(one for e in read.earlier for one in e.registrations())]
    transformed = "NON_RIGID" if any(one.deformable for one in every) else "RIGID"
    how = {"version": VERSION, "derivation": derivation, "registrations": every, "fraction": read.number[0]} | (
        {"plan_class": plan.plan.sop_class_uid, "plan_label": plan.plan.label} if plan.plan is not None else {}
    )
    dose = replace(total.dose, transformed=transformed, structure_set_uid=plan.structures.sop_instance_uid)
    uid = write_dose(folder / "dose.dcm", Estimated(dose, trust), plan.image, label=label, **how)  # type: ignore[arg-type]
    error = Estimated(replace(dose, volume=total.half_width, kind="ERROR"), trust)
    said = f"{'' if trust else f'{DOUBTED}: '}Error (95 %) of dose of {summed.counted} fractions, research"
    error_uid = write_dose(folder / "dose_error.dcm", error, plan.image, label=said, **how)  # type: ignore[arg-type]
    return (
        OutputRecord(file="dose.dcm", sop_instance_uid=uid),
        OutputRecord(file="dose_error.dcm", sop_instance_uid=error_uid),
    )


def _today(one: Propagated) -> Structure:
    """As it goes into the structure set: the plan's number, name and looks."""
    planned = one.structure
    flags = ",".join([*([] if one.trust else [DOUBTED]), *(flag.code for flag in one.flags)])
    return Structure(
        name=planned.name,
        number=planned.number,
        interpreted_type=planned.interpreted_type,
        color=planned.color,
        algorithm="AUTOMATIC",
        description=f"recontour {VERSION} {one.made.value}{' ' if flags else ''}{flags}"[:64],
        observation_label=planned.observation_label,
        code=planned.code,
        drawn=one.drawn,
        field=one.field,
    )
