"""Deformable registration by self-similarity: a coupled discrete search, then gradient refinement.

Descriptors are MIND-SSC (Heinrich 2013, MICCAI 8149:187): each voxel says how alike its neighbours are to each other, which
survives other scanners, noise, shading and contrast. Large motion is found by testing every displacement of a window at once
and coupling neighbours convexly (Heinrich 2014, MICCAI 8674:57; Siebert 2022, LNCS 13166:174); what is left, to a fraction
of a voxel, by gradient descent on control points. Folding is excluded by construction of the last step: where a cell of the
control grid would come near it, the field is smoothed there until none does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn

from patient.errors import Cancelled
from patient.geometry import Box, Geometry
from patient.volume import Volume
from registration.method import Evidence, Fit, RegistrationContext
from registration.resampling import resampled_mask
from registration.rigid import rigid_start
from registration.transforms import Affine, Displacement, Rigid, Space, Transform, composed, linear_part
from registration.working import Working, checked_mask, working_pair

Tensor = torch.Tensor

VOXEL = 2.0
"""mm of the grid on which descriptors are compared, where memory allows."""
INVERSE_SPACING = 4.0
"""mm of that grid for the inverse registration, which only measures inverse consistency."""
FINEST = 0.55
"""Of the fixed image's own voxels: a finer grid would compare its noise."""
MOST_VOXELS = 9_000_000
"""Of that grid: 12 descriptors of either image must stay within a gigabyte."""
SEARCHES = ((12, 4), (12, 2), (6, 4), (4, 3), (3, 2), (2, 1))
"""(pixels of a cell, steps to either side) of the discrete searches: 96 mm in cells of 24, and so on down to 4 in 4."""
LARGEST_CELL = 30.0
"""mm: larger ones would hold nothing that is like itself elsewhere."""
COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""How strongly a cell is held to its neighbours' mean, from round to round."""
INERTIA = 0.03
"""What a displacement costs by itself, times its square in cells: where nothing is to be seen, noise moves nothing."""
REFINEMENTS = ((4, 60), (3, 60))
"""(pixels between control points, steps) of the descent."""
STRIDE = 3
"""Pixels between the voxels that are compared in one step of the descent; the next step takes others."""
RIM = 3
"""Voxels at the end of an image whose descriptors would look beyond it."""
BOUNDARY = 2
"""Voxels of air beyond the fixed image's mask that are compared too: where only the inside is, a skin slips along itself."""
STIFFNESS = 5.0
"""Weight of the slope between control points against the descriptors: what nothing holds stays where it is."""
BENDING = 50.0
"""Weight of the field's curvature: tissue turns and stretches, and hardly ever has a crease."""
SLIDING = 0.2
"""Of the way from air to soft tissue: neighbours that differ by more may slide along each other."""
LOOSE = 0.02
"""What holds them still."""
SHEAR, CREASE = 0.05, 0.02
"""Slope of the field, and its change from node to node, from which on more costs only in proportion."""
FIRM = 200.0
"""How much stiffer than tissue is what the caller wants kept rigid."""
LANDMARKS = 0.3
"""Weight of the landmarks' mean distance (pixels) against the descriptors'."""
RATE = 0.25
"""Pixels by which a control point moves in one step at first."""
SQUEEZED, FOLDING = 0.3, 10.0
"""Part of its volume below which a cell of the field is made to cost, and how much; tenfold in the last steps."""
LEAST_VOLUME = 0.05
"""No cell of the field that is given back shrinks below this part."""


class Deformable:
    """Rigid start, then a displacement field on the fixed image's grid.

    Args:
        voxel: mm of the grid on which descriptors are compared; coarser is faster and less exact.
    """

    name = "deformable"
    version = "1.0"

    def __init__(self, voxel: float = VOXEL) -> None:
        self._voxel = voxel

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """As `Method.fit`. Without `context.start` it makes its own rigid one.

        The field covers the fixed image's body and fades out beyond what both masks hold.
        """
        torch.manual_seed(context.seed)
        start = context.start if context.start is not None else rigid_start(fixed, moving, context)
        voxel = max(self._voxel, FINEST * float(np.cbrt(np.prod(fixed.geometry.spacing))))
        pair = working_pair(fixed, moving, start, context, voxel, MOST_VOXELS, RIM, BOUNDARY)
        context.progress(0.3, "descriptors")
        with torch.no_grad():
            here, there = (_descriptors(torch.from_numpy(v).to(context.device)) for v in (pair.fixed, pair.moving))
            known, seen = (torch.from_numpy(v).to(context.device) for v in (pair.fixed_valid, pair.moving_valid))
            searches = [search for search in SEARCHES if search[0] * pair.grid.spacing[0] <= LARGEST_CELL]
            a, b = (_Cells.of(values, valid) for values, valid in ((here, known), (there, seen)))
            field = torch.zeros(3, 1, 1, 1, device=context.device)
            for cell, reach in searches:
                _stop_if_asked(context)
                field = _searched(a[cell], b[cell], field, cell, reach)
            del a, b
        context.progress(0.6, "refining")
        material = _Material.of(pair, fixed.geometry, context)
        landmarks = _landmarks(pair, start, context)
        here, there = (v.flatten(1).T.contiguous().half() for v in (here, there))
        for spacing, steps in REFINEMENTS:
            field = _refined(here, there, known, seen, material, landmarks, field, spacing, steps, context)
        spacing = REFINEMENTS[-1][0]
        nodes, grid = _faded(field, _control_grid(field, pair.grid), spacing)
        vectors = _unfolded(nodes, spacing).cpu().numpy()
        millimetres = np.moveaxis(vectors, 0, -1) @ pair.grid.steps
        warp = Displacement(millimetres.astype(np.float32), grid, Space.of(fixed.geometry), Space.of(fixed.geometry))
        return Fit(composed(start, warp), Evidence(notes=pair.notes))


def inverse_registration(
    fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext, there: Transform
) -> Transform:
    """`fixed_from_moving`, coarse and registered independently: what inverse consistency is measured with.

    Args:
        fixed, moving, context: with which `there` was found.
        there: `moving_from_fixed`; its linear part, turned round, is the start.

    Raises:
        NotTrusted: there is no answer that way.
        Cancelled: asked to stop.
    """
    start = linear_part(there).inverse()
    back = replace(context, fixed_mask=context.moving_mask, moving_mask=context.fixed_mask, start=start)
    return Deformable(voxel=INVERSE_SPACING).fit(moving, fixed, back).moving_from_fixed


@dataclass(frozen=True)
class _Material:
    """What holds neighbouring points together, on the working grid.

    Args:
        tissue: 0 (air) to 1 (soft tissue and denser); by its own range in an image that is no CT.
        rigid: 1 in what the caller wants kept rigid.
    """

    tissue: Tensor
    rigid: Tensor

    @staticmethod
    def of(pair: Working, whole: Geometry, context: RegistrationContext) -> _Material:
        inside = pair.fixed[pair.fixed_valid]
        low, high = (-1000.0, 0.0) if pair.fixed.min() < -700 else (float(v) for v in np.percentile(inside, (0.5, 50.0)))
        tissue = np.clip((pair.fixed - low) / max(high - low, 1.0), 0.0, 1.0).astype(np.float32)
        rigid = np.zeros_like(tissue)
        mask = checked_mask(context.rigid, whole, "rigid structures'")
        if mask is not None:
            space = Space.of(whole)
            rigid = resampled_mask(Rigid.identity(space, space), mask, pair.grid).array.astype(np.float32)
        return _Material(*(torch.from_numpy(v).to(context.device) for v in (tissue, rigid)))

    def links(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Along each axis how firmly neighbouring control points hold to each other.

        Hardly, where air or lung meets tissue: there organs slide. Differences among tissues do not count: muscle, fat and
        bone move together. Very firmly inside what is rigid.

        Args:
            shape: of the control points.
        """
        tissue, rigid = (nn.interpolate(v[None, None], size=shape, mode="area")[0, 0] for v in (self.tissue, self.rigid))
        firm = []
        for axis in range(3):
            loose = (-(tissue.diff(dim=axis) / SLIDING).square()).exp().clamp(min=LOOSE)
            last = shape[axis] - 1
            both = torch.minimum(rigid.narrow(axis, 0, last), rigid.narrow(axis, 1, last))
            firm.append(torch.maximum(loose, FIRM * both))
        return firm


@dataclass(frozen=True)
class _Landmarks:
    """Places (fractional indices `[3, n]`) and the displacements (pixels `[3, n]`) that are known there."""

    places: Tensor
    displacements: Tensor


def _landmarks(pair: Working, start: Affine, context: RegistrationContext) -> _Landmarks | None:
    if context.landmarks is None or not len(context.landmarks.fixed):
        return None
    at = context.landmarks.fixed
    home = start.inverse().points(context.landmarks.moving, start.target)
    places = pair.grid.indices(at)
    apart = pair.grid.indices(home) - places
    inside = ((places >= 0) & (places <= np.array(pair.grid.shape) - 1)).all(axis=1)
    return _Landmarks(*(torch.from_numpy(v[inside].T.astype(np.float32)).to(context.device) for v in (places, apart)))


def _stop_if_asked(context: RegistrationContext) -> None:
    if context.cancelled.is_set():
        raise Cancelled("Registration was cancelled")


_NEIGHBOURS = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1))
_PAIRS = ((0, 1), (0, 2), (0, 3), (0, 5), (1, 2), (1, 3), (1, 4), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5))
"""The twelve pairs of the six neighbours that are not opposite each other: at a distance of a face's diagonal."""


def _descriptors(image: Tensor, apart: int = 2) -> Tensor:
    """MIND-SSC `[12, z, y, x]`, 0 to 1, float16, of an image `[z, y, x]`; neighbours lie `apart` voxels off."""
    shape = image.shape
    padded = nn.pad(image[None, None], (apart,) * 6, mode="replicate")[0, 0]
    around = [
        padded[tuple(slice(o * apart, o * apart + n) for o, n in zip(offset, shape, strict=True))] for offset in _NEIGHBOURS
    ]
    distances = torch.empty(len(_PAIRS), *shape, dtype=torch.float32)
    for row, (a, b) in zip(distances, _PAIRS, strict=True):
        square = (around[a] - around[b]).square_()
        row.copy_(_smooth(square))
    distances -= distances.amin(dim=0, keepdim=True)
    noise = distances.mean(dim=0, keepdim=True)
    middle = float(noise.mean())
    distances /= noise.clamp_(0.001 * middle, 1000.0 * middle)
    return distances.neg_().exp_()


def _grown(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A field `[3, ...]` on nodes at cell centres, on more or fewer of them."""
    if tuple(field.shape[1:]) == tuple(shape):
        return field
    return nn.interpolate(field[None], size=tuple(shape), mode="trilinear", align_corners=False)[0]


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Values `[c, z, y, x]` at fractional indices `[3, ...]`, linear; the border's beyond it."""
    size = torch.tensor(values.shape[1:], dtype=places.dtype, device=places.device).view(3, *(1,) * (places.dim() - 1))
    unit = (2.0 * places / (size - 1).clamp(min=1) - 1.0).flip(0).movedim(0, -1)
    flat, parts = unit.reshape(-1, 3), torch.get_num_threads()
    # torch shares this work out by batches alone, so each core is given a part of the places as its own.
    each = nn.pad(flat, (0, 0, 0, -len(flat) % parts)).reshape(parts, 1, 1, -1, 3)
    every = values[None].expand(parts, *values.shape)
    found = nn.grid_sample(every, each, mode="bilinear", padding_mode="border", align_corners=True)
    return found.movedim(1, 0).reshape(values.shape[0], -1)[:, : len(flat)].reshape(values.shape[0], *places.shape[1:])


def _indices(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=device) for n in shape), indexing="ij"))


def _smooth(field: Tensor) -> Tensor:
    """Mean of each 3 x 3 x 3 block of `[..., z, y, x]`, borders repeated; one axis after the other."""
    for axis in (-3, -2, -1):
        last = field.shape[axis] - 1
        total = torch.empty_like(field)
        torch.add(field.narrow(axis, 1, last), field.narrow(axis, 0, last), out=total.narrow(axis, 1, last))
        torch.mul(field.narrow(axis, 0, 1), 2.0, out=total.narrow(axis, 0, 1))
        total.narrow(axis, 0, last).add_(field.narrow(axis, 1, last))
        total.narrow(axis, last, 1).add_(field.narrow(axis, last, 1))
        field = total
    return field.div_(27.0)


@dataclass(frozen=True)
class _Cells:
    """An image's descriptors by cells.

    Args:
        values: `[12, z, y, x]`, means of what is valid.
        share: `[z, y, x]`, which part of a cell is.
    """

    values: Tensor
    share: Tensor

    @staticmethod
    def of(values: Tensor, valid: Tensor) -> dict[int, _Cells]:
        """Cells of every size that is searched, larger ones from smaller ones.

        Args:
            values: `[12, z, y, x]` by pixels.
            valid: bool `[z, y, x]`.
        """
        sizes = sorted({cell for cell, _ in SEARCHES})
        totals, shares = {1: values * valid}, {1: valid.float()[None]}
        for cell in sizes:
            part = max(size for size in totals if cell % size == 0)
            for known in (totals, shares):
                known[cell] = nn.avg_pool3d(known[part][None], cell // part)[0]
        return {cell: _Cells(totals[cell] / shares[cell].clamp(min=0.01), shares[cell][0]) for cell in sizes}


def _searched(here: _Cells, there: _Cells, field: Tensor, cell: int, reach: int) -> Tensor:
    """The field (pixels, by cells) after a discrete search around it in cells, in both directions, made consistent."""
    a, b, seen_share = here.values, there.values, there.share
    places = _indices(a.shape[1:], a.device)
    so_far = _grown(field, a.shape[1:]) / cell
    if bool(so_far.any()):
        b, seen_share = _at(b, places + so_far), _at(seen_share[None], places + so_far)[0]
    forth = _coupled(a, b, here.share, seen_share, reach)
    back = _coupled(b, a, seen_share, here.share, reach)
    forth, _ = _consistent(forth, back)
    # p is found at q = p + forth(p) in the warped image, which is the moving one at q + so_far(q).
    return cell * (forth + _at(so_far, places + forth))


def _coupled(a: Tensor, b: Tensor, known: Tensor, seen: Tensor, reach: int) -> Tensor:
    """Displacements `[3, ...]` in cells: the best of a window for every cell, held to its neighbours' ever more strongly."""
    shape, side = a.shape[1:], 2 * reach + 1
    padded = nn.pad(b[None], (reach,) * 6, mode="replicate")[0]
    present = nn.pad(seen[None, None], (reach,) * 6)[0, 0]
    steps = _indices((side,) * 3, a.device).reshape(3, -1) - reach
    cost = torch.empty(steps.shape[1], *shape, device=a.device)
    parts = [
        tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True)) for offset in (steps + reach).long().T.tolist()
    ]
    apart, total, held = torch.empty_like(a), torch.zeros(shape, device=a.device), torch.zeros(shape, device=a.device)
    for row, part in zip(cost, parts, strict=True):
        torch.sub(a, padded[(slice(None), *part)], out=apart).abs_()
        torch.sum(apart, dim=0, out=row)
        total.addcmul_(row, present[part])
        held.add_(present[part])
    usual = total / held.clamp(min=1e-6)
    # What leads out of sight costs what a cell's displacements cost on the average: nothing is gained by leaving.
    for row, part in zip(cost, parts, strict=True):
        row.copy_(_smooth((row - usual) * known * present[part]))
    cost += INERTIA * steps.square().sum(dim=0)[:, None, None, None]
    mean = _smooth(steps[:, cost.min(dim=0).indices])
    for strength in COUPLINGS:
        mean = _smooth(_held(cost, steps, mean, strength))
    return mean


def _held(cost: Tensor, steps: Tensor, mean: Tensor, strength: float) -> Tensor:
    """For every cell the displacement of least cost plus squared distance to its neighbours' mean; by planes, for memory."""
    out = torch.empty_like(mean)
    # |step - mean|^2 without |mean|^2, which is the same for all steps: one product of matrices.
    factors = strength * torch.cat([-2.0 * steps, steps.square().sum(dim=0, keepdim=True)]).T
    ones = torch.ones_like(mean[:1])
    for k in range(mean.shape[1]):
        held = torch.cat([mean[:, k], ones[:, k]]).reshape(4, -1)
        best = torch.addmm(cost[:, k].reshape(len(cost), -1), factors, held).min(dim=0).indices
        out[:, k] = steps[:, best].reshape(mean[:, k].shape)
    return out


def _consistent(forth: Tensor, back: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Two fields (cells) made each other's inverse (Christensen 2001, IEEE TMI 20:568)."""
    places = _indices(forth.shape[1:], forth.device)
    for _ in range(rounds):
        forth, back = 0.5 * (forth - _at(back, places + forth)), 0.5 * (back - _at(forth, places + back))
    return forth, back


def _refined(
    here: Tensor,
    there: Tensor,
    known: Tensor,
    seen: Tensor,
    material: _Material,
    landmarks: _Landmarks | None,
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
    control = _grown(field, tuple(-(-n // spacing) for n in shape)).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([control], lr=RATE)
    chance = torch.Generator(device="cpu").manual_seed(context.seed)
    visible, links = seen.float()[None], material.links(tuple(control.shape[1:]))
    for step in range(steps):
        _stop_if_asked(context)
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1.0 - 0.8 * step / steps)
        offset = torch.randint(STRIDE, (3,), generator=chance).tolist()
        lattice = tuple(slice(o, None, STRIDE) for o in offset)
        at = known[lattice].nonzero() * STRIDE + torch.tensor(offset, device=known.device)
        places = at.T.float()
        found = places + _at(control, (places + 0.5) / spacing - 0.5)
        with torch.no_grad():
            weight = _at(visible, found)[0]
        unlike = (_rows_at(there, shape, found) - here[_row(at.T, shape)]).square().sum(dim=1)
        loss = (unlike * weight).sum() / weight.sum().clamp(min=1.0)
        loss = loss + STIFFNESS * _slope(control, links, spacing) + BENDING * _curvature(control, links, spacing)
        if landmarks is not None:
            off = _at(control, (landmarks.places + 0.5) / spacing - 0.5) - landmarks.displacements
            loss = loss + LANDMARKS * (off.square().sum(dim=0) + 1.0).sqrt().mean()
        if step >= steps // 3:
            squeezed = SQUEEZED - _volumes(control / spacing, step % 8)
            last = step >= 3 * steps // 4
            loss = loss + FOLDING * (10.0 if last else 1.0) * squeezed.clamp(min=0.0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
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


def _control_grid(nodes: Tensor, grid: Geometry) -> Geometry:
    """Where control points lie that fill the working grid: the transform is stored coarse."""
    shape = tuple(nodes.shape[1:])
    steps = [s * n / m for s, n, m in zip(grid.spacing, grid.shape, shape, strict=True)]
    first = [0.5 * n / m - 0.5 for n, m in zip(grid.shape, shape, strict=True)]
    x, y, z = (float(v) for v in grid.points(first))
    return replace(grid, shape=shape, spacing=tuple(steps), origin=(x, y, z))


def _faded(nodes: Tensor, grid: Geometry, spacing: int) -> tuple[Tensor, Geometry]:
    """The field with a border in which it dies away, so wide that nothing folds there: beyond it nothing is known."""
    border = 2 + int(np.ceil(2.0 * float(nodes.norm(dim=0).max()) / spacing))
    wide = nn.pad(nodes[None], (border,) * 6, mode="replicate")[0]
    for axis in (1, 2, 3):
        n = wide.shape[axis]
        near = torch.minimum(torch.arange(n), n - 1 - torch.arange(n)).div(border).clamp(max=1.0).to(wide)
        wide = wide * near.view([n if a == axis else 1 for a in range(4)])
    start = tuple(-border for _ in range(3))
    stop = tuple(n + border for n in nodes.shape[1:])
    return wide, grid.cropped(Box(start, stop))  # type: ignore[arg-type]


def _unfolded(nodes: Tensor, spacing: int, rounds: int = 100) -> Tensor:
    """The field (pixels) smoothed where a cell's volume, measured at any of its corners, falls below `LEAST_VOLUME`."""
    for _ in range(rounds):
        low = _least_volume(nodes / spacing) < LEAST_VOLUME
        if not bool(low.any()):
            break
        near = nn.max_pool3d(low.float()[None, None], 3, stride=1, padding=1)[0]
        nodes = nodes + near * (_smooth(nodes) - nodes)
    return nodes


def _least_volume(field: Tensor) -> Tensor:
    """Of each node, the least volume of the eight cells around it (field in node distances)."""
    least = _volumes(field, 0)
    for corner in range(1, 8):
        least = torch.minimum(least, _volumes(field, corner))
    return least


def _volumes(field: Tensor, corner: int) -> Tensor:
    """Determinants of the map's derivative at each node, by differences to its neighbours on the side of a corner (0-7)."""
    framed = nn.pad(field[None], (1,) * 6, mode="replicate")[0]
    inner = slice(1, -1)
    middle = framed[(slice(None), inner, inner, inner)]
    slopes: list[Tensor] = []
    for axis in range(3):
        side = [inner] * 3
        ahead = bool(corner >> axis & 1)
        side[axis] = slice(None, -2) if ahead else slice(2, None)
        beside = framed[(slice(None), *side)]
        unit = torch.zeros(3, 1, 1, 1, device=field.device)
        unit[axis] = 1.0
        slopes.append((middle - beside if ahead else beside - middle) + unit)
    a, b, c = slopes
    return (a * torch.linalg.cross(b, c, dim=0)).sum(dim=0)
