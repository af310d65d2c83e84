"""The descent on control points: likeness of descriptors against slope, curvature and folding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from registration.deformation.folding import volumes
from registration.deformation.material import Material
from registration.deformation.nodes import Tensor, at_places, grown
from registration.method import RegistrationContext
from registration.transforms import Affine
from registration.working import Working

STRIDE = 3
"""Pixels between the voxels that are compared in one step of the descent; the next step takes others."""
STIFFNESS = 5.0
"""Weight of the slope between control points against the descriptors: what nothing holds stays where it is."""
BENDING = 50.0
"""Weight of the field's curvature: tissue turns and stretches, and hardly ever has a crease."""
SHEAR, CREASE = 0.05, 0.02
"""Slope of the field, and its change from node to node, from which on more costs only in proportion."""
LANDMARKS = 0.3
"""Weight of the landmarks' mean distance (pixels) against the descriptors'."""
RATE = 0.25
"""Pixels by which a control point moves in one step at first."""
SQUEEZED, FOLDING = 0.3, 10.0
"""Part of its volume below which a cell of the field is made to cost, and how much; tenfold in the last steps."""


@dataclass(frozen=True)
class Landmarks:
    """Places (fractional indices `[3, n]`) and the displacements (pixels `[3, n]`) that are known there."""

    places: Tensor
    displacements: Tensor


def landmarks_in(pair: Working, start: Affine, context: RegistrationContext) -> Landmarks | None:
    if context.landmarks is None or not len(context.landmarks.fixed):
        return None
    at = context.landmarks.fixed
    home = start.inverse().points(context.landmarks.moving, start.target)
    places = pair.grid.indices(at)
    apart = pair.grid.indices(home) - places
    inside = ((places >= 0) & (places <= np.array(pair.grid.shape) - 1)).all(axis=1)
    return Landmarks(*(torch.as_tensor(v[inside].T.astype(np.float32), device=context.device) for v in (places, apart)))


def refined(
    here: Tensor,
    there: Tensor,
    known: Tensor,
    seen: Tensor,
    material: Material,
    landmarks: Landmarks | None,
    field: Tensor,
    spacing: int,
    steps: int,
    context: RegistrationContext,
) -> Tensor:
    """The field on control points after descent: likeness at voxels of the mask, others in every step, and smoothness.

    Args:
        here, there: descriptors as rows `[voxels, 12]`: what is read together lies together.
        known, seen: where either image is to be believed.
        material: what holds neighbours together.
        landmarks: what is known from elsewhere.
        field: pixels, to begin with, on nodes that fill the grid.
        spacing: pixels between control points.
        steps: of the descent.
        context: seed and cancel.
    """
    shape = tuple(known.shape)
    control = grown(field, tuple(-(-n // spacing) for n in shape)).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([control], lr=RATE)
    chance = torch.Generator(device="cpu").manual_seed(context.seed)
    visible, links = seen.float()[None], material.links(tuple(control.shape[1:]))
    for step in range(steps):
        context.check_cancelled()
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1.0 - 0.8 * step / steps)
        offset = [int(n) for n in torch.randint(STRIDE, (3,), generator=chance)]
        lattice = tuple(slice(o, None, STRIDE) for o in offset)
        at = known[lattice].nonzero() * STRIDE + torch.tensor(offset, device=known.device)
        places = at.T.float()
        found = places + at_places(control, (places + 0.5) / spacing - 0.5)
        with torch.no_grad():
            weight = at_places(visible, found)[0]
        unlike = (_rows_at(there, shape, found) - here[_row(at.T, shape)]).square().sum(dim=1)
        loss = (unlike * weight).sum() / weight.sum().clamp(min=1.0)
        loss = loss + STIFFNESS * _slope(control, links, spacing) + BENDING * _curvature(control, links, spacing)
        if landmarks is not None:
            off = at_places(control, (landmarks.places + 0.5) / spacing - 0.5) - landmarks.displacements
            loss = loss + LANDMARKS * (off.square().sum(dim=0) + 1.0).sqrt().mean()
        if step >= steps // 3:
            squeezed = SQUEEZED - volumes(control / spacing, step % 8)
            last = step >= 3 * steps // 4
            loss = loss + FOLDING * (10.0 if last else 1.0) * squeezed.clamp(min=0.0).square().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()  # pyright: ignore[reportUnknownMemberType] - torch leaves its closure untyped
    return control.detach()


def _row(at: Tensor, shape: tuple[int, ...]) -> Tensor:
    return (at[0] * shape[1] + at[1]) * shape[2] + at[2]


def _rows_at(rows: Tensor, shape: tuple[int, ...], places: Tensor) -> Tensor:
    """Rows `[n, c]` between voxels at fractional indices `[3, n]`, linear; the border's beyond it."""
    top = torch.tensor(shape, device=places.device)[:, None] - 1
    inside = torch.minimum(places.clamp(min=0.0), top)
    low = torch.minimum(inside.detach().long(), (top - 1).clamp(min=0))
    part = inside - low
    total = torch.zeros(places.shape[1], rows.shape[1], device=rows.device)
    for corner in range(8):
        ahead = [corner >> n & 1 for n in range(3)]
        share = torch.stack([part[n] if a else 1.0 - part[n] for n, a in enumerate(ahead)]).prod(dim=0)
        at = torch.minimum(low + torch.tensor(ahead, device=low.device)[:, None], top)
        total = total + share[:, None] * rows[_row(at, shape)].float()
    return total


def _robust(squares: Tensor, knee: float) -> Tensor:
    """Squares where small, in proportion to their root beyond a knee: a few jumps are cheaper than many slopes."""
    return 2.0 * knee * ((squares + knee**2).sqrt() - knee)


def _slope(control: Tensor, links: list[Tensor], spacing: int) -> Tensor:
    """Mean squared slope (pixels a pixel) between neighbouring control points, each link by its weight; robust."""
    total = torch.zeros((), device=control.device)
    for axis, weight in enumerate(links):
        slope = control.diff(dim=axis + 1).div(spacing)
        total = total + (_robust(slope.square().sum(dim=0), SHEAR) * weight).mean()
    return total


def _curvature(control: Tensor, links: list[Tensor], spacing: int) -> Tensor:
    """Mean squared change of the slope from one control point to the next, of all second derivatives; robust.

    A link between two points that slide holds nothing here either.
    """
    total = torch.zeros((), device=control.device)
    for a in range(3):
        slope = control.diff(dim=a + 1).div(spacing)
        for b in range(a, 3):
            held = _weaker(links[a], b) if a == b else torch.minimum(_weaker(links[a], b), _weaker(links[b], a))
            curve = _robust(slope.diff(dim=b + 1).square().sum(dim=0), CREASE)
            total = total + (1.0 if a == b else 2.0) * (curve * held).mean()
    return total


def _weaker(links: Tensor, axis: int) -> Tensor:
    """Of two links that follow each other along an axis the weaker one."""
    last = links.shape[axis] - 1
    return torch.minimum(links.narrow(axis, 0, last), links.narrow(axis, 1, last))
