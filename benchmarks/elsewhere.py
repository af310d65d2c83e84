"""The shipped networks on images of other parts of the body: what of their templates they claim to see there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import DATA, main, record
from contour.checks import centroid
from contour.engine import Absent, Context, Finding
from contour.shipped import Shipped, head_neck, head_neck_targets
from contour.template import load_template
from patient.read.images import open_folder

CORD = ("SpinalCord", "Esophagus")
CTS: dict[str, tuple[str, ...]] = {
    "lung-nsclc-001/CT": CORD,
    "lung-gtv-60/CT": CORD,
    "abdomen-ffs-41/CT": CORD,
    "sarcoma-ct-mr/CT": (),
}
"""What of the template may really be in each: a chest and an abdomen have a cord and an oesophagus, a thigh has neither."""


def _by_reason(answers: list[Absent]) -> dict[str, list[str]]:
    return {reason: [a.name for a in answers if a.reason == reason] for reason in sorted({a.reason for a in answers})}


def seen(engine: Shipped, template: str) -> dict[str, Any] | None:
    """Every CT; a structure that cannot be there is invented, one that can is named with its volume and place."""
    offers = engine.offers()
    if not offers:
        return None
    asked = tuple(
        w.name for w in load_template(template).structures if w.name in offers and w.engine in ("any", engine.name)
    )
    cts: dict[str, Any] = {}
    for name, possible in CTS.items():
        volume = open_folder(DATA / name).load()
        began = time.perf_counter()
        answers = list(engine.contour(volume, asked, Context()))
        seconds = time.perf_counter() - began
        found = {a.name: a for a in answers if isinstance(a, Finding)}
        cts[name] = {
            "shape": volume.array.shape,
            "seconds": round(seconds, 2),
            "invented": sorted(set(found) - set(possible)),
            "found": {
                n: {
                    "volume_cc": round(float(a.field.mask().array.sum()) * volume.geometry.voxel_cc, 2),
                    "centre": [round(c, 1) for c in centroid(a.field)],
                    "confidence": a.confidence,
                    "flags": [flag.code for flag in a.flags],
                }
                for n, a in found.items()
            },
            "not_found": _by_reason([a for a in answers if isinstance(a, Absent)]),
        }
    invented = sum(len(ct["invented"]) for ct in cts.values())
    return {"engine": f"{engine.name} {engine.version}", "asked": asked, "invented": invented, "cts": cts}


def whole() -> None:
    """Both models; one that is not installed is left out."""
    organs, targets = seen(head_neck(), "head_neck"), seen(head_neck_targets(), "head_neck_ptv")
    if organs is None:
        print("no head-and-neck model is installed: nothing measured")
        return
    record("elsewhere", {**organs, "targets": targets})


if __name__ == "__main__":
    main(whole, {})
