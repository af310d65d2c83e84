"""Results of fractions that nobody computed, for courses and nights: figures by formula, decisions by the shipped policy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib import image as pictures

from adaptive.change.dose_metrics import ACCUMULATED
from adaptive.decision.decision import PlannedStructure, decide
from adaptive.decision.measurement import Measured, Measurement
from adaptive.decision.policy import load_policy
from patient.trust import Trust
from pipelines.outbox.job_key import patient_key
from pipelines.records.case import ImageRecord, Verdict
from pipelines.records.decision import DecisionRecord, MeasurementRecord
from pipelines.records.fraction import (
    DoseRecord,
    FractionProvenance,
    FractionRegistrationRecord,
    FractionResult,
    FractionStructureRecord,
    OutputRecord,
    PlanRecord,
    RigidRecord,
)
from pipelines.records.registration import QualityRecord
from tests.figures import measurement

COLOURS = {
    "Parotid_L": (255, 215, 0),
    "Parotid_R": (0, 170, 90),
    "GTVp": (220, 30, 30),
    "PTV_7000": (60, 90, 230),
    "SpinalCord": (0, 200, 230),
}


def figures(number: int, seed: int = 0) -> tuple[Measurement, ...]:
    """Of a patient whose parotids and tumour shrink."""
    rng = np.random.default_rng([seed, number])

    def one(structure: str, quantity: str, unit: str, planned: float | None, value: float, sure: float) -> Measurement:
        value += float(rng.normal(0, sure / 2))
        return measurement(structure, quantity, unit, value, planned, (value - sure, value + sure), basis="by formula")

    return (
        one("Parotid_L", "volume", "cc", 28.0, 28.0 * (1 - 0.012 * number), 0.6),
        one("Parotid_R", "volume", "cc", 31.0, 31.0 * (1 - 0.007 * number), 0.6),
        one("Parotid_L", "Dmean", "Gy", 21.0, 21.0 + 0.13 * number, 0.5),
        one("Parotid_R", "Dmean", "Gy", 26.5, 26.5 + 0.05 * number, 0.5),
        one("GTVp", "volume", "cc", 18.0, 18.0 * (1 - 0.02 * number), 0.5),
        one("PTV_7000", "D95%", "Gy", 68.4, 68.4 - 0.05 * number, 0.25),
        one("SpinalCord", "D2%", "Gy", 39.0, 39.0 + 0.02 * number, 0.4),
        one("SpinalCord", "D0.03cc", "Gy", 42.0, 42.0 + 0.02 * number, 0.4),
        one("", "separation_lateral@+0", "mm", 142.0, 142.0 - 0.5 * number, 1.0),
        one("", "setup", "mm", None, 2.0, 0.4),
        one("", "setup_rotation", "degrees", None, 1.0, 0.2),
        one("Parotid_L", f"Dmean{ACCUMULATED}", "Gy", None, 0.61 * number, 0.05 + 0.02 * number),
        one("PTV_7000", f"D95%{ACCUMULATED}", "Gy", None, 1.95 * number, 0.05 + 0.02 * number),
    )


def fraction_result(
    case: str,
    number: int,
    *,
    patient: str = "P1",
    patient_hash: str = "",
    series: str = "",
    acquired: str = "",
    plan: str = "1.2.826.0.1.20260105",
    label: str = "HN 70 Gy",
    trusted: bool = True,
    earlier: tuple[Measured, ...] = (),
    seed: int = 0,
) -> FractionResult:
    """A whole result.json."""
    structures = [PlannedStructure(name, 70.0 if name.startswith("PTV") else None) for name in COLOURS]
    today = Measured(number, figures(number, seed))
    doubts = () if trusted else ("rigid by intensity and by features are 7.1 mm apart",)
    decision = decide(load_policy("head_neck"), structures, today, earlier, registration=Trust(doubts))
    rigid = RigidRecord(method="rigid", matrix=None, trusted=trusted)
    unmeasured = {name: None for name in QualityRecord.model_fields if name not in ("structures", "notes")}
    quality = QualityRecord(**unmeasured, structures=(), notes=())
    image = ImageRecord(
        patient=patient,
        patient_hash=patient_hash or patient_key(patient),
        study_uid="1.2.3",
        series_uid=series or f"1.2.3.{number}",
        frame_of_reference_uid="1.2.4",
        modality="CT",
        acquired=acquired or f"202601{number:02d}",
        patient_position="HFS",
        shape=(2, 8, 8),
        spacing_mm=(3.0, 2.0, 2.0),
    )
    return FractionResult(
        case=case,
        verdict=Verdict.REVIEW if decision.reasons else Verdict.PUBLISH,
        reasons=decision.reasons,
        number=number,
        plan=PlanRecord(image=image, structure_set_uid="1.2.5", plan_uid=plan, label=label, fractions=35),
        image=image,
        registration=FractionRegistrationRecord(
            intensity=rigid,
            features=rigid,
            apart_mm=None,
            apart_degrees=None,
            agree=trusted,
            deformable=True,
            trusted=trusted,
            reasons=doubts,
            quality=quality,
            error_mm=2.0,
            error_from="made up",
            inverse_left_mm=None,
        ),
        couch=None,
        structures=tuple(
            FractionStructureRecord(name=name, number=n, color=color, asked="deform", made="deformed", trusted=trusted)
            for n, (name, color) in enumerate(COLOURS.items(), 1)
        ),
        measurements=tuple(MeasurementRecord.of(m) for m in today.measurements),
        decision=DecisionRecord.of(decision),
        dose=DoseRecord(
            source="placed",
            basis="plan's dose placed",
            counted=number,
            planned=35,
            accounting=(f"Fractions 1 to {number} stand on their own images",),
            error_mm=2.0,
            error_median=0.4,
            inverse_left_mm=None,
            unmapped=0.0,
            trusted=trusted,
        ),
        outputs=(OutputRecord(file="rtstruct.dcm", sop_instance_uid=f"1.2.826.0.1.9.{number}"),),
        provenance=FractionProvenance(
            version="0",
            policy="head_neck",
            policy_digest=decision.digest,
            template="head_neck",
            template_digest="",
            engines={},
            input_digest="",
            sources=(),
        ),
    )


def write_case(folder: Path, result: FractionResult, picture: bytes = b"") -> Path:
    """A case folder of it, as a night publishes it."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(result.model_dump_json(indent=1))
    (folder / "report.html").write_text("fine")
    (folder / "figures" / "01.png").write_bytes(picture or _dark())
    return folder


def _dark() -> bytes:
    out = io.BytesIO()
    y, x = np.mgrid[-1:1:200j, -3:3:600j]
    pictures.imsave(out, np.where((x % 2 - 1) ** 2 + y**2 < 0.6, 0.5, 0.0), cmap="gray", vmin=0, vmax=1, format="png")
    return out.getvalue()


def write_cases(folder: Path, count: int, **how) -> list[Path]:
    """The cases of a course under one plan, each judged with those before it."""
    made, earlier = [], []
    for number in range(1, count + 1):
        result = fraction_result(f"202601{number:02d}-{number:010x}", number, earlier=tuple(earlier), **how)
        earlier.append(result.measured())
        made.append(write_case(folder / result.case, result))
    return made
