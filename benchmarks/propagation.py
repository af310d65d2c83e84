"""Structures propagated to a fraction, beside a rigid copy and SimpleITK's demons, against known truth.

python benchmarks/propagation.py             every pair: more than an hour on two cores
python benchmarks/propagation.py --pairs 2   a quick look, nothing written

Each pair is a validation patient who lost 10 to 30 % of both parotids, was bent by 4 to 12 mm and moved, and was then imaged
by a cone beam. Where every point of today lies in the plan is known in closed form between nodes, so that every structure's
place and volume today are known too. All methods pull the same planned surface, compared where today's image shows it; ours
as the head-and-neck policy wants it of each organ's tissue (`deformation` in the results: without that).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptive.alignment.alignment import Alignment, aligned
from adaptive.alignment.intensity import corrected, seen_by_both
from adaptive.change.structures import structure_change
from adaptive.decision.policy import load_policy
from adaptive.decision.rules import Propagation, StructurePolicy
from adaptive.propagation.planned_surface import Surface, surface_of
from adaptive.propagation.propagate import propagated
from adaptive.propagation.propagated import Stage
from adaptive.propagation.surface_distance import Ground
from benchmarks import peers
from benchmarks.known import FRAMES, Pair, field_of_view, head_neck_ct, head_neck_patients, random_bend, random_rigid, seen
from benchmarks.record import DATA, alone, record
from contour.evaluate import Agreement, compare
from data_samples.cone_beam import HEAD, as_cone_beam
from patient.geometry import Box, Geometry
from patient.outline import loops_of_mask
from patient.structures import Structure
from patient.trust import GIVEN
from patient.volume import Field, Mask, Volume
from registration.inverse import inverse_of
from registration.transforms import Chain, Displacement, Rigid, Space, Transform

PAIRS = 12
SHRINKING = ("Parotid_L", "Parotid_R")
LOST = (0.1, 0.3)
"""Part of their volume that is gone."""
LARGE = 5.0
"""cc from which on an organ counts as large."""
ROOM = 25.0
"""mm around a planned structure, placed rightly, within which it is looked for."""
TOLERANCE = 3.0
"""mm of the surface Dice."""
NODES = 4.0
"""mm between the nodes of a peer's inverse."""


@dataclass(frozen=True, eq=False)
class Case:
    """A plan, a fraction, and where everything went.

    Args:
        name: says patient and seed.
        plan, today: HU.
        truth: `plan_from_today`.
        structures, surfaces: the plan's organs.
        body, view: of the plan; where today was imaged.
        gone: part of an organ's volume that was taken away on purpose.
    """

    name: str
    plan: Volume[Any]
    today: Volume[Any]
    truth: Transform
    structures: Mapping[str, Structure]
    surfaces: Mapping[str, Surface]
    body: Mask
    view: Mask
    gone: Mapping[str, float]


def case(folder: Path, seed: int) -> Case:
    """A patient and his fraction; the same seed gives the same."""
    rng, name = np.random.default_rng([seed, 77]), f"{folder.name}-{seed}"
    plan, masks = head_neck_ct(folder)
    organs = {organ: mask for organ, mask in masks.items() if organ != "Body"}
    at_plan, at_today = Space.of(plan.geometry), Space(f"{name} today", FRAMES["moving"])
    at_bent, at_shrunk = Space(f"{name} bent", FRAMES["moving"]), Space(f"{name} shrunk", FRAMES["fixed"])
    gone = {organ: float(rng.uniform(*LOST)) for organ in SHRINKING if organ in organs}
    shrink = shrinking(organs, gone, plan.geometry, at_shrunk, at_plan)
    bend = random_bend(rng, plan.geometry, at_bent, at_shrunk, rng.uniform(25, 40), rng.uniform(4, 12))
    middle = plan.geometry.points(np.concatenate([np.argwhere(m.array) for m in organs.values()])).mean(axis=0)
    setup = random_rigid(rng, middle, 8.0, 4.0, at_today, at_bent)
    truth = Chain((setup, bend, shrink))
    k, j, i = plan.geometry.spacing
    centre = setup.inverse().points(middle, at_bent)
    found = field_of_view(rng, HEAD, centre, (max(0.9 * k, 1.0), max(0.9 * j, 1.0), max(0.9 * i, 1.0)))
    view = Volume(found.array, replace(found.geometry, image=at_today.image))
    today = as_cone_beam(rng, seen(truth, plan, view.geometry), view, HEAD)
    drawn = {organ: Structure(organ, drawn=loops_of_mask(mask)) for organ, mask in organs.items()}
    found_surfaces = {organ: surface_of(structure, plan.geometry) for organ, structure in drawn.items()}
    surfaces = {organ: surface for organ, surface in found_surfaces.items() if surface is not None}
    return Case(name, plan, today, truth, drawn, surfaces, masks["Body"], view, gone)


def shrinking(
    organs: Mapping[str, Mask], gone: Mapping[str, float], over: Geometry, source: Space, target: Space
) -> Displacement:
    """Where points lay before organs shrank: about each organ's middle, in proportions of its own width along its axes.

    Within its ellipsoid everything was larger by one factor; from there to twice its size the surroundings follow.
    """
    low, high = (over.points([[a * (n - 1) for n in over.shape]])[0] for a in (0, 1))
    low, high = np.minimum(low, high) - 10.0, np.maximum(low, high) + 10.0
    step = 3.0
    shape = tuple(int(n) + 1 for n in np.ceil((high - low) / step)[::-1])
    grid = Geometry(
        shape, (step,) * 3, tuple(map(float, low)), frame_of_reference=source.frame_of_reference, image=source.image
    )  # type: ignore[arg-type]
    at = grid.points(np.moveaxis(np.indices(shape), 0, -1))
    vectors = np.zeros((*shape, 3), dtype=np.float32)
    for organ, part in gone.items():
        points = over.points(np.argwhere(organs[organ].array))
        middle = points.mean(axis=0)
        white = np.linalg.cholesky(np.linalg.inv(np.cov(points.T))).T / np.sqrt(5.0)  # a full ellipsoid's own axes
        far = np.linalg.norm((at - middle) @ white.T, axis=-1)
        factor = (1 - part) ** (-1 / 3)
        inner = 1 / factor
        grown = np.where(
            far < inner, factor, np.where(far < 2, (1 + (far - inner) / (2 - inner)) / np.maximum(far, 1e-6), 1.0)
        )
        vectors += ((at - middle) * (grown - 1.0)[..., None]).astype(np.float32)
    return Displacement(vectors, grid, source, target)


def methods(of: Case, peer: bool) -> tuple[Alignment, dict[str, Transform], dict[str, Any]]:
    """Our alignment, `plan_from_today` of every method, and what else is said of them."""
    began = time.perf_counter()
    middle = of.plan.geometry.points((np.asarray(of.plan.geometry.shape) - 1) / 2)
    ours = aligned(of.today, of.plan, middle)
    said: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 1), "trusted": bool(ours.trust)}
    found: dict[str, Transform] = {"deformation": ours.plan_from_today, "rigid": ours.rigid}
    if peer:
        masks = {"Body": of.body}, {"FieldOfView": of.view}
        pair = Pair(of.name, of.plan, of.today, None, fixed_masks=masks[0], moving_masks=masks[1])
        try:
            answer = peers.run("simpleitk_demons", pair)
        except RuntimeError as error:
            said["simpleitk_demons"] = f"failed: {error}"
        else:
            found["simpleitk_demons"] = _way_back(answer.moving_from_fixed, of)
            said["simpleitk_demons_seconds"] = answer.seconds
    return ours, found, said


def _way_back(today_from_plan: Displacement, of: Case) -> Transform:
    """A peer goes from plan to today; structures are pulled the other way. Turned round by its own rigid part."""
    grid = of.view.geometry
    shape = tuple(max(2, int(n * s / NODES)) for n, s in zip(grid.shape, grid.spacing, strict=True))
    k, j, i = ((n - 1) * s / (c - 1) for n, s, c in zip(grid.shape, grid.spacing, shape, strict=True))
    nodes = replace(grid, shape=shape, spacing=(k, j, i))
    inside = today_from_plan.grid.points(np.argwhere(np.ones(today_from_plan.grid.shape, dtype=bool)[::4, ::4, ::4]) * 4)
    rigid = Rigid.nearest(
        inside, today_from_plan.points(inside, today_from_plan.source), today_from_plan.source, today_from_plan.target
    )
    return inverse_of(Chain((rigid, _rest(today_from_plan, rigid, nodes))))


def _rest(today_from_plan: Displacement, rigid: Rigid, nodes: Geometry) -> Displacement:
    """What a field does beyond its rigid part, in today's space."""
    at = nodes.points(np.moveaxis(np.indices(nodes.shape), 0, -1))
    plan = rigid.inverse().points(at, rigid.target)
    return Displacement(
        (today_from_plan.points(plan, today_from_plan.source) - at).astype(np.float32), nodes, rigid.target, rigid.target
    )


def by_policy(of: Case, alignment: Alignment) -> dict[str, Field | None]:
    """Every organ as a fraction has it: through the deformation, and as the head-and-neck policy says of its tissue."""
    seen = seen_by_both(of.today, of.plan, alignment.plan_from_today)
    image = corrected(of.today, of.plan, alignment.plan_from_today, seen)
    stage, policy = Stage((image, of.plan), alignment, seen, "HFS"), load_policy("head_neck")
    asked = {organ: StructurePolicy(Propagation.DEFORM, tissue=policy.for_structure(organ).tissue) for organ in of.surfaces}
    made = {organ: propagated(of.structures[organ], of.surfaces[organ], asked[organ], stage) for organ in of.surfaces}
    return {organ: one.whole for organ, one in made.items()}


def measured(of: Case, ours: Mapping[str, Field | None], found: Mapping[str, Transform]) -> list[dict[str, Any]]:
    """Every organ by every method: Dice, mean distance and HD95 (mm), slices missing and extra, error of volume."""
    ground, rows = Ground(of.view, "HFS", GIVEN), []
    for organ, surface in of.surfaces.items():
        true = _pulled(of.truth, surface, of.view.geometry, of.truth)
        if true is None:
            continue
        fields = {m: _pulled(transform, surface, of.view.geometry, of.truth) for m, transform in found.items()}
        for method, mine in {"recontour": ours.get(organ), **fields}.items():
            if mine is None:
                rows.append({"organ": organ, "method": method, "dice": 0.0})
                continue
            values = {m.quantity: m.figure.judged[0] for m in structure_change(organ, true, mine, ground).measurements}
            if "mean_surface_distance" not in values:
                continue
            volume = values["volume"]
            agreed = compare(mine.mask(), true.mask(), TOLERANCE)
            assert isinstance(agreed, Agreement)
            rows.append(
                {
                    "organ": organ,
                    "method": method,
                    "dice": values["dice"].value,
                    "mm": values["mean_surface_distance"].value,
                    "hd95": agreed.hd95,
                    "missing_slices": agreed.slices.missing,
                    "extra_slices": agreed.slices.extra,
                    "worst_slice": agreed.slices.worst,
                    "volume_error": volume.relative,
                    "cc": volume.planned,
                    "gone": of.gone.get(organ, 0.0),
                }
            )
    return rows


def _pulled(plan_from_today: Transform, surface: Surface, today: Geometry, truth: Transform) -> Field | None:
    """The planned surface on today's voxels, near where it truly lies."""
    nodes = today.points(np.argwhere(np.ones([-(-n // 4) for n in today.shape], dtype=bool)) * 4)
    there = surface.field.geometry.indices(truth.points(nodes, truth.source))
    near = ((there >= 0) & (there < surface.field.geometry.shape)).all(axis=-1)
    if not near.any():
        return None
    at = today.indices(nodes[near])
    room = ROOM / np.asarray(today.spacing)
    box = Box(tuple(int(v) for v in at.min(axis=0) - room), tuple(int(v) + 1 for v in at.max(axis=0) + room))  # type: ignore[arg-type]
    found = surface.distance.resampled(plan_from_today, today.cropped(box.padded(0, today.shape)))
    return found if found.mask().array.any() else None


def one(number: str, peer: str) -> dict[str, Any]:
    """One pair, in a process of its own."""
    patients = head_neck_patients()
    patients = patients[:: max(1, len(patients) // PAIRS)]
    of = case(patients[int(number)], int(number))
    alignment, found, said = methods(of, peer == "yes")
    return {
        "pair": of.name,
        **said,
        "organs": measured(of, by_policy(of, alignment), found),
        "peak_mib": peers.peak_mib(),
    }


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """By method and size, and by organ; the shrinking organs' error of volume."""
    rows = [row for pair in pairs for row in pair["organs"] if "mm" in row]
    out: dict[str, Any] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        sizes = {"large": [r for r in mine if r["cc"] > LARGE], "small": [r for r in mine if r["cc"] <= LARGE]}
        shrunk = [abs(row["volume_error"]) for row in mine if row["gone"]]
        out[method] = {size: _means(chosen) for size, chosen in sizes.items() if chosen} | {
            "organs": {
                organ: _means([r for r in mine if r["organ"] == organ]) for organ in sorted({r["organ"] for r in mine})
            },
            "shrunk_volume_error_mean": round(mean(shrunk), 4) if shrunk else None,
            "shrunk_volume_error_largest": round(max(shrunk), 4) if shrunk else None,
        }
    return out


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "dice": round(mean(r["dice"] for r in rows), 4),
        "mm": round(mean(r["mm"] for r in rows), 3),
        "hd95": round(mean(r["hd95"] for r in rows), 3),
        "missing_slices": round(mean(r["missing_slices"] for r in rows), 2),
        "extra_slices": round(mean(r["extra_slices"] for r in rows), 2),
        "worst_slice": round(max((r["worst_slice"] or 0.0 for r in rows), default=0.0), 1),
        "organs": len(rows),
    }


def main() -> None:
    """The whole, or one pair for `alone`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="so many, and nothing written")
    parser.add_argument("--no-peer", action="store_true", help="without demons")
    parser.add_argument("part", nargs="*")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(one(*asked.part)))
        return
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
        return
    pairs = [
        alone(str(Path(__file__).resolve()), str(n), "no" if asked.no_peer else "yes") for n in range(asked.pairs or PAIRS)
    ]
    figures = {"methods": summary(pairs), "pairs": pairs}
    if asked.pairs:
        print(json.dumps(figures["methods"], indent=1))
        for pair in pairs:
            print({k: v for k, v in pair.items() if k != "organs"})
    else:
        record("propagation", figures)


if __name__ == "__main__":
    main()
