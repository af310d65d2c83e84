"""How a structure's own tissue follows a registration: freely, as one rigid piece, or growing and shrinking as a whole.

A deformation is smooth, and gives up contrast for smoothness: it follows about half of what a gland or a tumour loses, and
bends what cannot bend. A dozen numbers of a structure's own, found from all the voxels in and around it, have neither fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adaptive.alignment.intensity import part_seen
from adaptive.propagation.planned_surface import Surface
from patient.geometry import Box
from patient.volume import Field, Mask, Volume, mask_at
from registration.point_map import point_map
from registration.transforms import Affine, Points, Rigid, Transform, composed

LEAST_POINTS, MOST_POINTS = 30, 4000
"""Of a rigid piece: fewer do not say how it lies, more say nothing new."""
AROUND = 10.0
"""mm around a structure that are looked at; there a voxel weighs 1/e of one inside."""
WINDOW = (-300.0, 400.0)
"""HU of what is compared: fat to the softest bone. Teeth and air would outweigh everything else."""
BLUR = 1.0
"""mm, standard deviation: below it the two images differ in noise and sharpness alone."""
ALIKE = 200.0
"""mm³ of tissue that say one thing: what two images differ by hangs together over some 6 mm."""
SHIFT, STRAIN = 1.0, 0.08
"""mm and mm a mm, standard deviations: what a registration leaves to be found, along each axis and of each slope."""
OUTLYING = 2.0
"""Standard deviations of the difference from which on a voxel weighs less (Cauchy's weights)."""
ROUNDS = 6
LEAST_GAIN = 0.1
"""HU of today's for one of the plan's; with less the fit would run away."""
STRETCHES = np.eye(9).reshape(9, 3, 3)
"""Slopes of any affine map."""
TURNS = np.array(
    [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], float
)
"""Those of a small rotation, about x, y and z."""
LEAST_CC = 2.0
"""A smaller structure has too few voxels to say a dozen things."""
LEAST_SEEN = 0.8
"""Part of a structure that today's image must show."""
LEAST_ALIKE = 0.5
"""Correlation of the two images in and around a structure below which intensities mean different things in them."""
MOST_CHANGED = 0.5
"""Part of its volume by which a structure may differ from what the registration says; more is no refinement of it."""
MOST_MOVED = 5.0
"""mm, likewise, of its middle."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Registered:
    """Two images and where points of one lie in the other.

    Args:
        today: HU, its shading taken off.
        plan: HU.
        plan_from_today, today_from_plan: the registration.
        seen: where both show the patient, on today's grid.
    """

    today: Volume[Any]
    plan: Volume[Any]
    plan_from_today: Transform
    today_from_plan: Transform
    seen: Mask


@dataclass(frozen=True, eq=False)
class Own:
    """A structure's own way.

    Args:
        plan_from_today: of its points.
        said: how it was found, in words.
    """

    plan_from_today: Transform
    said: str


def as_one_piece(surface: Surface, bent: Field, of: Registered) -> Own:
    """A rigid map of a structure: the one nearest to a registration (Kabsch 1976, Acta Cryst A32:922), then fitted.

    Args:
        surface: planned.
        bent: the structure on today's voxels, as the registration has it.
        of: the registration, and what it is of.
    """
    nodes = np.argwhere(surface.field.volume.array < 0)
    there = surface.field.geometry.points(nodes[:: max(1, len(nodes) // MOST_POINTS)])
    here = of.today_from_plan.points(there, of.today_from_plan.source)
    shown = mask_at(of.seen, here)
    if shown.sum() >= LEAST_POINTS:
        # Where nothing is seen the deformation is a guess: the rest of the piece says where that lies.
        here, there = here[shown], there[shown]
    nearest = Rigid.nearest(here, there, of.plan_from_today.source, of.plan_from_today.target)
    fit = _fitted(bent, nearest, of, TURNS)
    if isinstance(fit, str):
        return Own(nearest, f"as the nearest rigid body ({fit})")
    u, _, vt = np.linalg.svd(np.eye(3) + fit.slopes)
    own = Rigid.of(u @ vt, fit.middle + fit.shift - u @ vt @ fit.middle, nearest.source, nearest.source)
    return Own(composed(nearest, own), f"as a rigid body, locally refined ({fit.moved:.1f} mm)")


def as_it_shrank(bent: Field, of: Registered) -> Own:
    """A registration after an affine map of a structure's own.

    Where that cannot be believed the registration stays as it is, and it is said why.

    Args:
        bent: the structure on today's voxels, as the registration has it.
        of: the registration, and what it is of.
    """
    fit = _fitted(bent, of.plan_from_today, of, STRETCHES)
    if isinstance(fit, str):
        return Own(of.plan_from_today, f"not locally refined ({fit})")
    here, matrix = of.plan_from_today.source, np.eye(4)
    matrix[:3, :3] += fit.slopes
    matrix[:3, 3] = fit.shift - fit.slopes @ fit.middle
    said = f"then locally refined (volume {1 / fit.grown - 1:+.0%}, centroid shift {fit.moved:.1f} mm)"
    return Own(composed(of.plan_from_today, Affine(matrix, here, here)), said)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A map of today's points near a structure: p -> p + shift + slopes (p - middle).

    Args:
        slopes: `[3, 3]`, mm a mm.
        shift, middle: mm `[3]`, LPS.
        alike: correlation of the two images then.
    """

    slopes: NDArray[np.float64]
    shift: Points
    middle: Points
    alike: float

    @property
    def grown(self) -> float:
        """The planned volume that one of today comes from, for each that the registration has."""
        return float(np.linalg.det(np.eye(3) + self.slopes))

    @property
    def moved(self) -> float:
        """mm, of the middle."""
        return float(np.linalg.norm(self.shift))


def _fitted(bent: Field, plan_from_today: Transform, of: Registered, forms: NDArray[np.float64]) -> _Fit | str:
    """What makes the plan's image fit today's in and around a structure; or why nothing does, in words.

    Weighted least squares on HU, with gain, offset and a slope of today's image left free, and what is usual of a
    registration's error as a prior (Gauss-Newton; Lucas and Kanade 1981, IJCAI 674).
    """
    mask = bent.mask()
    if (cc := float(mask.array.sum()) * mask.geometry.voxel_cc) < LEAST_CC:
        return f"{cc:.1f} cc are too small for it"
    look = _Look.of(mask, of.today, of.seen)
    if look is None:
        return "too little of it is seen"
    fit = look.fitted(_planned(look.at, plan_from_today, of.plan), forms)
    if fit.alike < LEAST_ALIKE:
        return f"the images are too unlike, correlation {fit.alike:.2f}"
    if abs(fit.grown - 1) > MOST_CHANGED or fit.moved > MOST_MOVED:
        return f"rejected: volume by {1 / max(fit.grown, 0.01) - 1:+.0%}, centroid shift {fit.moved:.1f} mm"
    return fit


def _planned(around: Points, plan_from_today: Transform, plan: Volume[Any]) -> Callable[[Points], Floats]:
    """What the plan's image shows at today's points `[n, 3]`, near those given."""
    way = point_map(plan_from_today)
    at = plan.geometry.indices(way(around.T).T)
    room = np.ceil(2 * AROUND / np.asarray(plan.geometry.spacing))
    first, last = at.min(axis=0) - room, at.max(axis=0) + room + 1
    box = Box(tuple(int(v) for v in first), tuple(int(v) for v in last)).padded(0, plan.geometry.shape)  # type: ignore[arg-type]
    part = plan.cropped(box)
    values = _blurred(part)
    return lambda points: ndimage.map_coordinates(
        values, part.geometry.indices(way(np.ascontiguousarray(points.T)).T).T, np.float32, order=1, mode="nearest"
    )


def _blurred(image: Volume[Any]) -> Floats:
    values = np.clip(image.array.astype(np.float32), *WINDOW)
    return ndimage.gaussian_filter(values, [BLUR / s for s in image.geometry.spacing])


@dataclass(frozen=True, eq=False)
class _Look:
    """Today's image in and around a structure.

    Args:
        at: `[n, 3]` LPS mm.
        values: HU.
        weights: how much each voxel counts, in independent measurements.
        middle: of the structure, LPS mm.
        size: mm, root mean square distance of its points from there.
    """

    at: Points
    values: Floats
    weights: NDArray[np.float64]
    middle: Points
    size: float

    @staticmethod
    def of(mask: Mask, today: Volume[Any], seen: Mask) -> _Look | None:
        """None where too little of it is seen."""
        whole = today.geometry
        room = tuple(int(np.ceil(AROUND / s)) for s in whole.spacing)
        box = whole.box_of(mask.geometry)
        wide = Box(
            tuple(a - r for a, r in zip(box.start, room, strict=True)),  # type: ignore[arg-type]
            tuple(b + r for b, r in zip(box.stop, room, strict=True)),  # type: ignore[arg-type]
        ).padded(0, whole.shape)
        if wide.empty:
            return None
        image = today.cropped(wide)
        part = image.geometry
        inside, shown = mask.placed_in(part).array, seen.placed_in(part).array
        if part_seen(mask, seen) < LEAST_SEEN:
            return None
        distance = edt.edt(~inside, anisotropy=part.spacing)
        chosen = (distance <= AROUND) & shown
        at = part.points(np.argwhere(chosen))
        within = part.points(np.argwhere(inside))
        middle = within.mean(axis=0)
        weights = np.exp(-((distance[chosen] / AROUND) ** 2)) * (1000 * part.voxel_cc / ALIKE)
        size = float(np.sqrt(((within - middle) ** 2).sum(axis=1).mean()))
        return _Look(at, _blurred(image)[chosen], weights.astype(np.float64), middle, size)

    def fitted(self, planned: Callable[[Points], Floats], forms: NDArray[np.float64]) -> _Fit:
        """The structure's own map.

        Args:
            planned: what the plan's image shows at today's points `[n, 3]`.
            forms: `[k, 3, 3]`, the slopes that it may be made of.
        """
        slopes, shift = np.zeros((3, 3)), np.zeros(3)
        shares, alike = np.zeros(len(forms)), 0.0
        away = (self.at - self.middle) / self.size
        ways = np.einsum("kij,nj->nik", forms, away)
        prior = np.concatenate([np.full(len(forms), (STRAIN * self.size) ** -2.0), np.full(3, SHIFT**-2.0)])
        for _ in range(ROUNDS):
            points = self.middle + shift + (self.at - self.middle) @ (np.eye(3) + slopes).T
            there = planned(points).astype(np.float64)
            gradient = np.stack([(planned(points + axis) - planned(points - axis)) / 2 for axis in np.eye(3)], axis=1)
            free = np.column_stack([np.ones(len(there)), there, away])
            base, spread = self._explained(free)
            weights = self.weights / (1 + ((self.values - base) / (OUTLYING * spread)) ** 2)
            root = np.sqrt(weights)[:, None]
            gain = float(np.linalg.lstsq(free * root, self.values * root[:, 0], rcond=None)[0][1])
            moves = np.column_stack([np.einsum("ni,nik->nk", gradient, ways), gradient])
            design = np.column_stack([free, max(gain, LEAST_GAIN) * moves])
            weights /= spread**2
            normal = design.T @ (design * weights[:, None])
            right = design.T @ (weights * self.values)
            own = np.s_[free.shape[1] :]
            normal[own, own] += np.diag(prior)
            right[own] -= prior * np.concatenate([shares, shift])
            step = np.linalg.lstsq(normal, right, rcond=None)[0][own]
            shares, shift = shares + step[: len(forms)], shift + step[len(forms) :]
            slopes = np.einsum("k,kij->ij", shares, forms) / self.size
            alike = float(np.corrcoef(base, self.values)[0, 1]) if np.ptp(there) > 0 and gain > 0 else 0.0
        return _Fit(slopes, shift, self.middle, alike)

    def _explained(self, free: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """What gain, offset and slope make of the plan's image, and how far today's lies off (by the median)."""
        root = np.sqrt(self.weights)[:, None]
        base = free @ np.linalg.lstsq(free * root, self.values * root[:, 0], rcond=None)[0]
        return base, max(1.0, 1.4826 * float(np.median(np.abs(self.values - base))))
