"""DVHs against analytic ones: spheres, cones and cylinders in linear and Gaussian doses, on slices of 1, 2 and 3 mm.

python benchmarks/dvh_analytic.py

After Nelms 2015 (Med Phys 42:4435). A shape of 0.1 to 300 cc is cut by its slices and drawn as contours by an end rule: from
so far before its first contour to so far behind its last one. Truth is twofold. Of the contours: every one stands for its
slab, with the sections' exact areas; what the DVH makes of that is its own error. Of the smooth shape: what slices of that
thickness make of it is added, which no rule inverts. Volumes beyond a dose are integrals over slabs of exact areas: of a
circle's segment (linear dose across), of a circle (Gaussian around the axis).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptive.dose.dvh import dvh
from adaptive.dose.lattice import HALF_SLICE, NOTHING_BEYOND, End
from benchmarks.record import record
from patient.dose import Dose
from patient.geometry import Geometry
from patient.loop import Loop
from patient.structures import Structure
from patient.volume import Volume

FRAME, DOSE_MM, TOP, SIGMA, RATE = "1.2.3", 2.0, 60.0, 25.0, 0.4
SLICES, CC, PERCENT = (1.0, 2.0, 3.0), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), (95, 50, 2)
ENDS = (HALF_SLICE, NOTHING_BEYOND, End(0.25), End(0.5, most=1.0))
Floats = NDArray[np.float64]
Radius = Callable[[Floats], Floats]
FINE = 400
"""Heights a slab at which areas beyond a dose are summed, and doses at which they are asked for."""


@dataclass(frozen=True)
class Solid:
    """A shape around the axis z.

    Args:
        name: sphere, cone or cylinder.
        half: mm, from its middle to either end along the axis.
        radius: mm, at heights.
    """

    name: str
    half: float
    radius: Radius


def solid(name: str, cc: float) -> Solid:
    """Of a volume; cones and cylinders as high as wide."""
    if name == "sphere":
        r = float(np.cbrt(cc * 1000 * 3 / 4 / np.pi))
        return Solid(name, r, lambda z: np.sqrt(np.maximum(r * r - z * z, 0)))
    if name == "cone":
        r = float(np.cbrt(cc * 1000 * 3 / 2 / np.pi))
        return Solid(name, r, lambda z: np.clip((r - z) / 2, 0, r))
    r = float(np.cbrt(cc * 1000 / 2 / np.pi))
    return Solid(name, r, lambda z: np.full_like(z, r))


def heights(shape: Solid, spacing: float, end: End) -> Floats:
    """Of its contours: as many slices as come nearest to its height by the end rule."""
    count = max(2, round((2 * shape.half - 2 * end.beyond(spacing)) / spacing) + 1)
    return (np.arange(count) - (count - 1) / 2) * spacing


def drawn(radii: Floats, at: Floats) -> Structure:
    """Circles as polygons of the same area."""
    turn = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    unit = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.sqrt(2 * np.pi / 180 / np.sin(2 * np.pi / 180))
    return Structure(
        "S", drawn=tuple(Loop(np.column_stack([r * unit, np.full(180, z)])) for r, z in zip(radii, at, strict=True))
    )


def doses(reach: float) -> dict[str, Dose]:
    """Linear across (`RATE` Gy a mm around half of `TOP`) and Gaussian around the axis, on a grid of `DOSE_MM`."""
    n = int(np.ceil(reach / DOSE_MM)) + 2
    grid = Geometry((2 * n + 1,) * 3, (DOSE_MM,) * 3, (-n * DOSE_MM,) * 3, frame_of_reference=FRAME)
    z, _, x = np.meshgrid(*[np.arange(-n, n + 1) * DOSE_MM] * 3, indexing="ij")
    y = np.moveaxis(x, 2, 1)
    fields = {"linear": TOP / 2 + RATE * x, "Gaussian": TOP * np.exp(-(x * x + y * y + z * z) / (2 * SIGMA**2))}
    return {name: Dose(Volume(values.astype(np.float32), grid)) for name, values in fields.items()}


def beyond(dose: str, gray: float, radii: Floats, at: Floats) -> Floats:
    """mm² of circles of these radii at these heights that receive as much or more."""
    if dose == "linear":
        chord = np.clip((gray - TOP / 2) / RATE / np.maximum(radii, 1e-9), -1, 1)
        return radii**2 * (np.arccos(chord) - chord * np.sqrt(1 - chord**2))
    square = 2 * SIGMA**2 * np.log(TOP / gray) - at**2 if gray > 0 else np.full_like(at, np.inf)
    return np.pi * np.clip(square, 0, radii**2)


def truth(dose: str, radii: Floats, at: Floats, weights: Floats) -> tuple[float, dict[int, float]]:
    """cc, and D95, D50, D2 of circles that stand for so many mm each."""
    whole = float((np.pi * radii**2 * weights).sum())
    found = {}
    for percent in PERCENT:
        low, high = 1e-3, 2 * TOP
        for _ in range(60):
            gray = (low + high) / 2
            more = float((beyond(dose, gray, radii, at) * weights).sum()) > whole * percent / 100
            low, high = (gray, high) if more else (low, gray)
        found[percent] = low
    return whole / 1000, found


def case(name: str, cc: float, spacing: float, end: End) -> Iterator[dict[str, Any]]:
    """One shape's errors in both doses: of what its contours stand for, and of the smooth shape cut at the slabs' ends."""
    shape = solid(name, cc)
    at = heights(shape, spacing, end)
    radii = shape.radius(at)
    at, radii = at[radii > 0.02], radii[radii > 0.02]
    if len(at) < 2:
        return
    borders = np.concatenate([[at[0] - end.beyond(spacing)], (at[1:] + at[:-1]) / 2, [at[-1] + end.beyond(spacing)]])
    share = (np.arange(FINE) + 0.5) / FINE
    slabs = np.diff(borders)
    fine = (borders[:-1, None] + share * slabs[:, None]).ravel()
    thick = np.repeat(slabs / FINE, FINE)
    as_drawn = np.repeat(radii, FINE)
    for dose, given in doses(max(shape.half, float(radii.max())) + 4).items():
        found = dvh(drawn(radii, at), given, frame_of_reference=FRAME, plane_spacing=spacing, end=end)
        out: dict[str, Any] = {"shape": name, "cc": cc, "spacing": spacing, "end": str(end), "dose": dose}
        for what, there in (("contours", as_drawn), ("smooth", shape.radius(fine))):
            volume, gray = truth(dose, there, fine, thick)
            off = {percent: (found.dose_at_percent(percent) or 0.0) - gray[percent] for percent in PERCENT}
            out[what] = {
                "volume_percent": 100 * (found.volume_cc / volume - 1),
                **{f"D{percent}_percent_of_dose": 100 * off[percent] / max(gray.values()) for percent in PERCENT},
            }
        yield out


def summary(cases: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """The largest errors of cases alike."""
    return {
        "cases": len(cases),
        **{key: round(max(abs(one[what][key]) for one in cases), 3) for key in cases[0][what]},
    }


def main() -> None:
    """Every shape, volume, slice thickness and end rule."""
    found = [
        one
        for name in ("sphere", "cone", "cylinder")
        for cc in CC
        for spacing in SLICES
        for end in ENDS
        for one in case(name, cc, spacing, end)
    ]
    large, small = ([one for one in found if (one["cc"] >= 1) is big] for big in (True, False))
    figures: dict[str, Any] = {
        "reach": "D95, D50, D2 within 0.5 % of the shape's largest of them; volume within 1 % from 1 cc on",
        "largest error to what the contours stand for": {
            "1 cc and more": summary(large, "contours"),
            "below 1 cc": summary(small, "contours"),
        },
        "by dose, 1 cc and more": {
            d: summary([o for o in large if o["dose"] == d], "contours") for d in ("linear", "Gaussian")
        },
        "by end rule, 1 cc and more": {str(e): summary([o for o in large if o["end"] == str(e)], "contours") for e in ENDS},
        "largest error to the smooth shape, by volume": {
            f"{cc:g} cc": {
                f"{mm:g} mm": summary([o for o in found if (o["cc"], o["spacing"]) == (cc, mm)], "smooth") for mm in SLICES
            }
            for cc in CC
        },
    }
    record("dvh_analytic", figures)


if __name__ == "__main__":
    main()
