"""An alignment on disk, so that a case that was stopped goes on behind its registration. No pickle: arrays and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from adaptive.alignment.alignment import Alignment, RigidAnswer
from patient.durable import replacing
from patient.errors import InputError
from patient.geometry import Geometry
from patient.read.npz import read_arrays
from registration.inverse import inverse_of
from registration.measures import RegistrationQuality
from registration.transforms import Affine, Chain, Displacement, Rigid, Space, Transform, composed

FORM = 4
_QUALITY, _GRID, _SPACE = TypeAdapter(RegistrationQuality), TypeAdapter(Geometry), TypeAdapter(Space)


@dataclass(frozen=True)
class AlignmentFile:
    """One alignment, and of what: anything but the same inputs is as good as nothing there.

    Args:
        path: of the file, `.npz`.
        digest: of everything that the alignment depends on.
    """

    path: Path
    digest: str

    def load(self) -> Alignment | None:
        """The alignment; None where there is none of these inputs, or the file is cut short."""
        try:
            arrays = read_arrays(self.path)
            said = json.loads(str(arrays.pop("said")))
            if said["form"] != FORM or said["digest"] != self.digest:
                return None
        except (InputError, ValueError, KeyError):
            return None
        rigid, plan_from_today = _read(said["rigid"], arrays), _read(said["plan_from_today"], arrays)
        assert isinstance(rigid, Rigid)
        return Alignment(
            intensity=_answer(said["intensity"], arrays),
            features=_answer(said["features"], arrays),
            rigid=rigid,
            plan_from_today=plan_from_today,
            today_from_plan=inverse_of(plan_from_today),
            quality=_QUALITY.validate_python(said["quality"]),
            **said["plain"] | {"reasons": tuple(said["plain"]["reasons"])},
        )

    def keep(self, alignment: Alignment) -> None:
        """Write it whole, or leave what was there."""
        arrays: dict[str, np.ndarray] = {}
        plain = ("apart", "apart_degrees", "inverse_left", "deformable", "found_error", "error_from", "reasons")
        said = {
            "form": FORM,
            "digest": self.digest,
            "intensity": _said(alignment.intensity, arrays),
            "features": _said(alignment.features, arrays),
            "rigid": _written(alignment.rigid, arrays),
            "plan_from_today": _written(alignment.plan_from_today, arrays),
            "quality": asdict(alignment.quality),
            "plain": {name: getattr(alignment, name) for name in plain},
        }
        with replacing(self.path) as file:
            np.savez(file, **{"said": np.array(json.dumps(said)), **arrays})  # type: ignore[arg-type]


def _said(answer: RigidAnswer, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    found = answer.plan_from_today
    return {
        "method": answer.method,
        "reasons": answer.reasons,
        "found": None if found is None else _written(found, arrays),
    }


def _answer(said: dict[str, object], arrays: dict[str, np.ndarray]) -> RigidAnswer:
    found = None if said["found"] is None else _read(said["found"], arrays)
    assert found is None or isinstance(found, Rigid)
    return RigidAnswer(str(said["method"]), found, tuple(said["reasons"]))  # type: ignore[arg-type]


def _written(transform: Transform, arrays: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """Its parts, in the order in which they act; the arrays go beside."""
    parts = []
    for part in transform.parts if isinstance(transform, Chain) else (transform,):
        name = f"a{len(arrays)}"
        said: dict[str, object] = {"array": name, "source": asdict(part.source), "target": asdict(part.target)}
        if isinstance(part, Displacement):
            arrays[name], said["grid"] = part.vectors, asdict(part.grid)
        elif isinstance(part, Affine):
            arrays[name], said["rigid"] = part.matrix, isinstance(part, Rigid)
        else:
            raise TypeError(f"a {type(part).__name__} is not kept")
        parts.append(said)
    return parts


def _read(parts: object, arrays: dict[str, np.ndarray]) -> Transform:
    whole: Transform | None = None
    assert isinstance(parts, list)
    for said in parts:
        source, target = _SPACE.validate_python(said["source"]), _SPACE.validate_python(said["target"])
        array = arrays[said["array"]]
        if "grid" in said:
            one: Transform = Displacement(array, _GRID.validate_python(said["grid"]), source, target)
        else:
            one = (Rigid if said["rigid"] else Affine)(array, source, target)
        whole = one if whole is None else composed(one, whole)
    assert whole is not None
    return whole
