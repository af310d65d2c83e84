"""Deformable registration by self-similarity: a coupled discrete search, then gradient refinement.

Descriptors are MIND-SSC (Heinrich 2013, MICCAI 8149:187): each voxel says how alike its neighbours are to each other, which
survives other scanners, noise, shading and contrast. Large motion is found by testing every displacement of a window at once
and coupling neighbours convexly (Heinrich 2014, MICCAI 8674:57; Siebert 2022, LNCS 13166:174); what is left, to a fraction
of a voxel, by gradient descent on control points. Folding is excluded by construction of the last step: where a cell of the
control grid would come near it, the field is smoothed there until none does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn
from numpy.typing import NDArray

from patient.errors import Cancelled
from patient.geometry import Geometry
from patient.volume import Volume
from registration.method import Evidence, Fit, RegistrationContext
from registration.transforms import Affine, Displacement, Space, composed
from registration.working import Working, working_pair

Tensor = torch.Tensor

VOXEL = 2.0
"""mm of the grid on which descriptors are compared, where memory allows."""
FINEST = 0.75
"""Of the fixed image's own voxels: a finer grid would compare its noise."""
MOST_VOXELS = 9_000_000
"""Of that grid: 12 descriptors of either image must stay within a gigabyte."""
SEARCHES = ((4, 4), (3, 2), (2, 1))
"""(pixels of a cell, steps to either side) of the discrete searches: 32 mm in cells of 8, then 12 in 6, then 4 in 4."""
COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""How strongly a cell is held to its neighbours' mean, from round to round."""
REFINEMENTS = ((4, 60), (2, 60))
"""(pixels between control points, steps) of the descent."""
STRIDE = 3
"""Pixels between the voxels that are compared in one step of the descent; the next step takes others."""
UNSEEN = 2.0
"""What a displacement costs that leads to where nothing is seen: as much as poor likeness of all descriptors together."""
STIFFNESS = 20.0
"""Weight of the control points' differences against the descriptors'."""
SLIDING = 0.2
"""Of the way from air to soft tissue: neighbours that differ by more may slide along each other."""
SHEAR = 0.05
"""Slope of the field from which on it costs no more than in proportion."""
LOOSE = 0.02
"""What holds them still."""
RATE = 0.25
"""Pixels by which a control point moves in one step at first."""
LEAST_VOLUME = 0.1
"""No cell of the field shrinks below this part of its volume."""


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
        start = context.start if context.start is not None else _rigid_start(fixed, moving, context)
        voxel = max(self._voxel, FINEST * float(np.cbrt(np.prod(fixed.geometry.spacing))))
        pair = working_pair(fixed, moving, start, context, voxel, MOST_VOXELS)
        context.progress(0.3, "descriptors")
        with torch.no_grad():
            here, there = (_descriptors(torch.from_numpy(v).to(context.device)) for v in (pair.fixed, pair.moving))
            known, seen = (torch.from_numpy(v).to(context.device) for v in (pair.fixed_valid, pair.moving_valid))
            field = torch.zeros(3, *here.shape[1:], device=context.device)
            for cell, reach in SEARCHES:
                _stop_if_asked(context)
                field = _searched(here, there, known, seen, field, cell, reach)
        context.progress(0.6, "refining")
        tissue = torch.from_numpy(_tissue(pair)).to(context.device)
        here, there = (v.flatten(1).T.contiguous().half() for v in (here, there))
        for spacing, steps in REFINEMENTS:
            field = _refined(here, there, known, seen, tissue, field, spacing, steps, context)
        nodes, grid = _control(field, pair.grid, REFINEMENTS[-1][0])
        vectors = _unfolded(nodes, REFINEMENTS[-1][0]).cpu().numpy()
        millimetres = np.moveaxis(vectors, 0, -1) @ pair.grid.steps
        warp = Displacement(millimetres.astype(np.float32), grid, Space.of(fixed.geometry), Space.of(fixed.geometry))
        return Fit(composed(start, warp), Evidence(notes=pair.notes))


def _tissue(pair: Working) -> NDArray[np.float32]:
    """The fixed image from air (0) to soft tissue (1); by its own range where it is no CT."""
    inside = pair.fixed[pair.fixed_valid]
    low, high = (-1000.0, 0.0) if pair.fixed.min() < -700 else (float(v) for v in np.percentile(inside, (0.5, 50.0)))
    return np.clip((pair.fixed - low) / max(high - low, 1.0), 0.0, 1.0).astype(np.float32)


def _rigid_start(fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Affine:
    from registration.rigid import RigidByIntensity

    found = RigidByIntensity().fit(fixed, moving, context).moving_from_fixed
    assert isinstance(found, Affine)
    return found


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
    flat = unit.reshape(1, 1, 1, -1, 3)
    found = nn.grid_sample(values[None], flat, mode="bilinear", padding_mode="border", align_corners=True)
    return found.reshape(values.shape[0], *places.shape[1:])


def _indices(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=device) for n in shape), indexing="ij"))


def _smooth(field: Tensor) -> Tensor:
    """Mean of each 3 x 3 x 3 block of `[..., z, y, x]`, borders repeated; one axis after the other."""
    for axis in (-3, -2, -1):
        last = field.shape[axis] - 1
        total = field.clone()
        total.narrow(axis, 1, last).add_(field.narrow(axis, 0, last))
        total.narrow(axis, 0, last).add_(field.narrow(axis, 1, last))
        total.narrow(axis, 0, 1).add_(field.narrow(axis, 0, 1))
        total.narrow(axis, last, 1).add_(field.narrow(axis, last, 1))
        field = total.div_(3.0)
    return field


def _searched(here: Tensor, there: Tensor, known: Tensor, seen: Tensor, field: Tensor, cell: int, reach: int) -> Tensor:
    """The field (pixels) after a discrete search around it in cells, there and back, made consistent."""
    a, known_share = _pooled(here, known, cell)
    b, seen_share = _pooled(there, seen, cell)
    places = _indices(a.shape[1:], a.device)
    so_far = _grown(field, a.shape[1:]) / cell
    if bool(so_far.any()):
        b, seen_share = _at(b, places + so_far), _at(seen_share[None], places + so_far)[0]
    forth = _coupled(a, b, known_share, seen_share, reach)
    back = _coupled(b, a, seen_share, known_share, reach)
    forth, _ = _consistent(forth, back)
    # p is found at q = p + forth(p) in the warped image, which is the moving one at q + so_far(q).
    return _grown(cell * (forth + _at(so_far, places + forth)), field.shape[1:])


def _pooled(values: Tensor, valid: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Means over cells of what is valid, and which part of each cell is."""
    share = nn.avg_pool3d(valid.float()[None, None], cell)[0, 0]
    return nn.avg_pool3d((values * valid)[None], cell)[0] / share.clamp(min=0.01), share


def _coupled(a: Tensor, b: Tensor, known: Tensor, seen: Tensor, reach: int) -> Tensor:
    """Displacements `[3, ...]` in cells: the best of a window for every cell, held to its neighbours' ever more strongly."""
    shape, side = a.shape[1:], 2 * reach + 1
    padded = nn.pad(b[None], (reach,) * 6, mode="replicate")[0]
    present = nn.pad(seen[None, None], (reach,) * 6)[0, 0]
    steps = _indices((side,) * 3, a.device).reshape(3, -1) - reach
    cost = torch.empty(steps.shape[1], *shape, device=a.device)
    for n, offset in enumerate((steps + reach).long().T.tolist()):
        part = tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
        unlike = (a - padded[(slice(None), *part)]).abs_().sum(dim=0)
        cost[n] = _smooth((unlike - UNSEEN) * known * present[part])
    mean = _smooth(steps[:, cost.min(dim=0).indices])
    for strength in COUPLINGS:
        mean = _smooth(_held(cost, steps, mean, strength))
    return mean


def _held(cost: Tensor, steps: Tensor, mean: Tensor, strength: float) -> Tensor:
    """For every cell the displacement of least cost plus squared distance to its neighbours' mean; by planes, for memory."""
    out = torch.empty_like(mean)
    length = steps.square().sum(dim=0)[:, None]
    for k in range(mean.shape[1]):
        apart = torch.addmm(length, steps.T, mean[:, k].reshape(3, -1), alpha=-2.0)
        best = (cost[:, k].reshape(len(apart), -1) + strength * apart).min(dim=0).indices
        out[:, k] = steps[:, best].reshape(mean[:, k].shape)
    return out


def _consistent(forth: Tensor, back: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Two fields (cells) brought to be each other's inverse (Christensen 2001, IEEE TMI 20:568)."""
    places = _indices(forth.shape[1:], forth.device)
    for _ in range(rounds):
        forth, back = 0.5 * (forth - _at(back, places + forth)), 0.5 * (back - _at(forth, places + back))
    return forth, back


def _refined(
    here: Tensor,
    there: Tensor,
    known: Tensor,
    seen: Tensor,
    tissue: Tensor,
    field: Tensor,
    spacing: int,
    steps: int,
    context: RegistrationContext,
) -> Tensor:
    """The field after descent on control points: likeness at voxels of the mask, others in every step, and smoothness.

    Args:
        here, there: descriptors as rows `[voxels, 12]`: what is read together lies together.
        known, seen: where either image is to be believed.
        tissue: the fixed image, 0 (air) to 1 (soft tissue).
        field: pixels, to begin with.
        spacing: pixels between control points.
        steps: of the descent.
        context: seed and cancel.
    """
    shape = tuple(field.shape[1:])
    control = _grown(field, tuple(-(-n // spacing) for n in shape)).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([control], lr=RATE)
    chance = torch.Generator(device="cpu").manual_seed(context.seed)
    visible, links = seen.float()[None], _links(tissue, tuple(control.shape[1:]))
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
        loss = (unlike * weight).sum() / weight.sum().clamp(min=1.0) + STIFFNESS * _roughness(control, links, spacing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _grown(control.detach(), shape)


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


def _roughness(control: Tensor, links: list[Tensor], spacing: int) -> Tensor:
    """Mean slope (pixels a pixel) between neighbouring control points, each link by its weight; squared where small."""
    total = torch.zeros((), device=control.device)
    for axis, weight in zip((1, 2, 3), links, strict=True):
        steep = control.diff(dim=axis).div(spacing).square().sum(dim=0).add(SHEAR**2).sqrt() - SHEAR
        total = total + 2.0 * SHEAR * (steep * weight).mean()
    return total


def _links(image: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """Along each axis how firmly neighbouring control points hold to each other: hardly where air or lung meets tissue.

    There organs slide. Differences among tissues do not count: muscle, fat and bone move together.

    Args:
        image: of the fixed image, 0 (air) to 1 (soft tissue and denser).
        shape: of the control points.
    """
    coarse = nn.interpolate(image[None, None], size=shape, mode="area")[0, 0]
    return [(-(coarse.diff(dim=axis) / SLIDING).square()).exp().clamp(min=LOOSE) for axis in range(3)]


def _control(field: Tensor, grid: Geometry, spacing: int) -> tuple[Tensor, Geometry]:
    """The field on every `spacing`-th node, and where these lie: the transform is stored coarse."""
    shape = tuple(-(-n // spacing) for n in field.shape[1:])
    nodes = _grown(field, shape)
    steps = [s * n / m for s, n, m in zip(grid.spacing, field.shape[1:], shape, strict=True)]
    first = [0.5 * n / m - 0.5 for n, m in zip(field.shape[1:], shape, strict=True)]
    x, y, z = (float(v) for v in grid.points(first))
    return nodes, replace(grid, shape=shape, spacing=tuple(steps), origin=(x, y, z))


def _unfolded(nodes: Tensor, spacing: int, rounds: int = 100) -> Tensor:
    """The field (pixels) smoothed where a cell's volume, measured at any of its corners, falls below `LEAST_VOLUME`."""
    for _ in range(rounds):
        low = _least_volume(nodes / spacing) < LEAST_VOLUME
        if not bool(low.any()):
            break
        near = nn.max_pool3d(low.float()[None, None], 5, stride=1, padding=2)[0]
        nodes = nodes + near * (_smooth(nodes) - nodes)
    return nodes


def _least_volume(field: Tensor) -> Tensor:
    """Of each node, the least determinant of the map's derivative in the eight cells around it (field in node distances)."""
    framed = nn.pad(field[None], (1,) * 6, mode="replicate")[0]
    inner = slice(1, -1)
    slopes: list[list[Tensor]] = []
    for axis in range(3):
        ahead, behind = [inner] * 3, [inner] * 3
        ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
        middle = framed[(slice(None), inner, inner, inner)]
        slopes.append([framed[(slice(None), *ahead)] - middle, middle - framed[(slice(None), *behind)]])
    least = torch.full(field.shape[1:], torch.inf)
    for corner in range(8):
        a, b, c = (slopes[axis][corner >> axis & 1].clone() for axis in range(3))
        a[0] += 1.0
        b[1] += 1.0
        c[2] += 1.0
        least = torch.minimum(least, (a * torch.linalg.cross(b, c, dim=0)).sum(dim=0))
    return least
