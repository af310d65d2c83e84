from dataclasses import replace

import numpy as np
import pytest

from adaptive.dose.lattice import HALF_SLICE, NOTHING_BEYOND, End, lattice
from adaptive.propagation.planned_surface import surface_of
from adaptive.propagation.shape import common, filled
from patient.geometry import Geometry
from patient.loop import Loop
from patient.structures import Structure

CT = Geometry((30, 64, 64), (3.0, 1.5, 1.5), (-48.0, -48.0, -45.0), frame_of_reference="1.2.3", image="plan")


def circle(radius: float, z: float, centre=(0.0, 0.0), n: int = 180) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(n, z)])


def ball(radius: float, name: str = "GTV") -> Structure:
    heights = [CT.origin[2] + k * CT.spacing[0] for k in range(CT.shape[0])]
    loops = [Loop(circle(np.sqrt(radius**2 - z**2), z)) for z in heights if abs(z) < radius]
    return Structure(name, drawn=tuple(loops))


def volume(surface) -> float:
    part = common(surface.field.geometry, surface.field)
    return float(filled(part, surface.field).sum(dtype=np.int64)) / 64 * part.voxel_cc


@pytest.mark.parametrize("radius", [8.2, 15.4, 24.7])
def test_a_ball_keeps_its_volume(radius):
    surface = surface_of(ball(radius), CT)
    assert volume(surface) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)


def test_distances_are_those_to_the_contour_itself():
    field = surface_of(Structure("A", drawn=(Loop(circle(20.0, 0.0)), Loop(circle(20.0, 3.0)))), CT).field
    points = field.geometry.points(np.argwhere(np.abs(field.volume.array) < 1.0))
    at_contour = (points[:, 2] > -0.1) & (points[:, 2] < 3.1) & (np.abs(points[:, 2] - 1.5) > 0.1)
    values = field.volume.array[np.abs(field.volume.array) < 1.0][at_contour]
    assert np.abs(values - (np.hypot(points[at_contour, 0], points[at_contour, 1]) - 20.0)).max() < 0.01


def test_a_keyhole_is_a_hole_without_a_slit():
    outer, inner = circle(20.0, 0.0), circle(8.0, 0.0)[::-1]
    ring = np.concatenate([outer, outer[:1], inner[-1:], inner, outer[:1]])
    keyhole, nested = (
        surface_of(Structure("A", drawn=loops), CT) for loops in ((Loop(ring),), (Loop(outer), Loop(circle(8.0, 0.0))))
    )
    assert volume(keyhole) == pytest.approx(volume(nested), rel=1e-3)
    inside = keyhole.field.volume.array < 0
    assert np.abs(keyhole.field.volume.array - nested.field.volume.array)[inside].max() < 0.05


def test_it_ends_half_a_slice_beyond_its_last_contour():
    field = surface_of(Structure("A", drawn=tuple(Loop(circle(15.0, z)) for z in (0.0, 3.0))), CT).field
    assert volume(surface_of(Structure("A", drawn=tuple(Loop(circle(15.0, z)) for z in (0.0, 3.0))), CT)) == pytest.approx(
        np.pi * 15.0**2 * 6.0 / 1000, rel=0.01
    )
    assert field.geometry.shape[0] * field.geometry.spacing[0] == pytest.approx(7 * 1.5)


@pytest.mark.parametrize("end", [NOTHING_BEYOND, HALF_SLICE, End(0.25), End(0.5, most=0.4)], ids=str)
def test_what_is_carried_over_has_the_planned_volume_under_every_end_rule_of_a_dvh(end):
    """Slices of today meet a surface at any height: only one half a slice longer than the contours, at each end, has as many
    contours today, on the average, as it had. A surface that stopped at its last contour would lose a slice at every go."""
    tube = Structure("A", drawn=tuple(Loop(circle(15.0, z)) for z in (0.0, 3.0, 6.0, 9.0)))
    field = surface_of(tube, CT).field
    column = field.volume.array[:, *np.array(field.geometry.shape[1:]) // 2]
    places = field.geometry.points(np.column_stack([np.arange(len(column)), *np.zeros((2, len(column)))]))[:, 2]
    today = []
    for start in np.arange(-9.0, -6.0, 0.1):
        at = start + 3.0 * np.arange(10)
        inside = at[np.interp(at, places, column) < 0]
        today.append(volume_by(Structure("A", drawn=tuple(Loop(circle(15.0, z)) for z in inside)), end))
    assert np.mean(today) == pytest.approx(volume_by(tube, end), rel=0.02)


def volume_by(structure, end) -> float:
    return sum(slab.cc for slab in lattice(structure, plane_spacing=3.0, end=end, resolution=1.0).slabs)


def test_planes_that_were_left_out_are_counted_and_not_filled():
    surface = surface_of(Structure("A", drawn=(Loop(circle(15.0, 0.0)), Loop(circle(15.0, 9.0)))), CT)
    assert surface.gaps == 2
    assert volume(surface) == pytest.approx(np.pi * 15.0**2 * 6.0 / 1000, rel=0.02)


def test_points_and_empty_structures_enclose_nothing():
    point = Loop(np.zeros((1, 3)), kind="POINT")
    assert surface_of(Structure("A", drawn=(point,)), CT) is None
    assert surface_of(Structure("A", drawn=()), CT) is None


def test_planes_that_run_from_head_to_feet_give_the_same_surface():
    turned = replace(CT, origin=CT.points((29, 0, 0)), axes=((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    assert volume(surface_of(ball(15.4), turned)) == pytest.approx(volume(surface_of(ball(15.4), CT)), rel=1e-6)
