from functools import reduce

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive.dose.dvh import dvh
from adaptive.propagation.planned_surface import surface_of
from patient.dose import Dose
from patient.geometry import Geometry
from patient.loop import Loop
from patient.manual_contours import field_of_structure
from patient.outline import loops_of_mask
from patient.rasterisation import mask_of_loops
from patient.region import region_of
from patient.structures import Structure
from patient.volume import Volume

TILTED = ((0.0, np.sin(0.2), np.cos(0.2)), (0.0, np.cos(0.2), -np.sin(0.2)), (1.0, 0.0, 0.0))
G = Geometry((15, 60, 60), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0), frame_of_reference="1.2")


def circle(radius, k, centre=(30.0, 30.0), grid=G, points=90):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    kji = np.column_stack(
        [np.full(points, float(k)), centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)]
    )
    return Loop(grid.points(kji))


def mask(loops, grid=G):
    return mask_of_loops(loops, grid).placed_in(grid).array


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 89), st.booleans(), st.floats(-0.02, 0.02), st.floats(3.0, 20.0), st.booleans())
def test_a_contour_that_is_there_again_counts_once_whatever_its_start_direction_and_rounding(
    start, back, shift, radius, tilt
):
    grid = Geometry(G.shape, G.spacing, (5, -7, 11), TILTED) if tilt else G
    once = [circle(radius, k, grid=grid) for k in (2, 3)]
    again = [np.roll(loop.points, start, axis=0)[:: -1 if back else 1] + shift * np.asarray(grid.axes[2]) for loop in once]
    both = [*once, *map(Loop, again)]
    assert (mask(both, grid) == mask(once, grid)).all()
    region = region_of(both)
    assert (len(region.loops), region.repeated, region.crossing) == (2, 2, 0)


@settings(max_examples=60, deadline=None)
@given(st.floats(4, 12), st.floats(4, 12), st.floats(0, 30))
def test_what_two_contours_of_a_slice_enclose_is_a_ring_or_their_union(one, other, apart):
    a, b = circle(one, 2, (20, 20)), circle(other, 2, (20, 20 + apart))
    first, second = (shapely.Polygon(loop.points[:, :2]) for loop in (a, b))
    region = region_of([a, b])
    enclosed = reduce(shapely.symmetric_difference, [shapely.Polygon(lo.points[:, :2]) for lo in region.loops]).area
    shared = first.intersection(second).area
    if region.repeated:
        assert shared == pytest.approx(max(first.area, second.area), rel=0.06)
    elif region.crossing:
        assert enclosed == pytest.approx(first.union(second).area, rel=1e-6)
        assert region.area_mm2 == pytest.approx(enclosed)
        assert region.exclusive_mm2 == pytest.approx(first.symmetric_difference(second).area)
    else:
        rounding = 0.05 * min(first.area, second.area)
        assert shared <= rounding + 1e-6 or min(first.area, second.area) - shared <= rounding + 1e-6


def test_a_ring_with_an_island_and_parts_beside_each_other_stay_as_they_were_drawn():
    loops = [circle(20, 4), circle(12, 4), circle(5, 4), circle(3, 4, (55, 55)), circle(20, 5)]
    region = region_of(loops)
    assert region.loops == tuple(loops)
    assert region.remark(3.0) == ""


def test_a_hole_that_was_cut_as_a_keyhole_and_an_island_in_it_are_no_crossing():
    y, x = np.mgrid[:60, :60]
    away = np.hypot(y - 30, x - 30)
    array = np.repeat((((away < 20) & (away > 10)) | (away < 5))[None], 3, axis=0)
    part = Geometry((3, 60, 60), G.spacing)
    assert region_of(loops_of_mask(Volume(array, part))).remark(3.0) == ""


def test_contours_typed_exclusive_or_are_taken_by_their_word():
    loops = [Loop(circle(10, 4, (30, 30 + n)).points, kind="CLOSEDPLANAR_XOR") for n in (0, 8)]
    assert region_of(loops).loops == tuple(loops)
    assert mask(loops)[4, 30, 34] == np.False_


def test_both_volumes_of_contours_that_cross_are_told():
    loops = [circle(10, k, (30, 25 + shift)) for k in range(3, 8) for shift in (0, 8)]
    said = region_of(loops).remark(3.0)
    assert said.startswith("contours cross on 5 slices and are united: ")
    assert "exclusive-or" in said


def _ball(every, reach=5, radius=18.0):
    planes = [k for k in range(7 - reach, 8 + reach) if (k - 7) % every == 0]
    return Structure("Organ", drawn=tuple(circle(np.sqrt(radius**2 - (3.0 * (k - 7)) ** 2), k) for k in planes))


def _measured(structure):
    """cc by the mask, by the drawn field, by the surface that is carried to a fraction, and by the DVH."""
    surface = surface_of(structure, G)
    field = field_of_structure(structure, G)
    dose = Dose(Volume(np.ones(G.shape, np.float32), G), plan_uid="1.2.3")
    assert surface is not None
    assert field is not None
    return [
        structure.mask(G).array.sum() * G.voxel_cc,
        (field.volume.array < 0).sum() * G.voxel_cc,
        surface.field.mask().array.sum() * surface.field.geometry.voxel_cc,
        dvh(structure, dose, plane_spacing=3.0, frame_of_reference="1.2").volume_cc,
    ]


@pytest.mark.parametrize("every", [2, 3])
def test_an_organ_drawn_on_every_nth_slice_has_one_volume_in_mask_field_propagation_and_dvh(every):
    skipped = _ball(every)
    reach = 7 - round(skipped.loops[0].points[0, 2] / 3.0)
    assert _measured(skipped) == pytest.approx(_measured(_ball(1, reach)), rel=0.06)
    assert skipped.region_on(G).interpolated == 2 * reach + 1 - len(skipped.loops)


def test_a_slice_that_is_missing_among_neighbours_is_a_gap_and_stays_one():
    structure = Structure("Two parts", drawn=tuple(circle(10, k) for k in (2, 3, 4, 6, 7)))
    assert structure.region_on(G).interpolated == 0
    assert not structure.mask(G).placed_in(G).array[5].any()


def test_contours_far_apart_are_parts_of_their_own():
    structure = Structure("Markers", drawn=tuple(circle(2, k) for k in (1, 6, 11)))
    assert structure.region_on(G).interpolated == 0
