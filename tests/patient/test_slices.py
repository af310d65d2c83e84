"""Images whose slices make no regular grid: uneven spacing, tilted gantry. Worked on a grid, drawn on the slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive.dose.lattice import lattice
from adaptive.propagation.planned_surface import surface_of
from patient import errors
from patient.conformance.check import check_file
from patient.geometry import Geometry, Slices
from patient.loop import Loop
from patient.manual_contours import field_of_structure
from patient.outline import loops_of_field, loops_of_mask
from patient.rasterisation import mask_of_loops
from patient.read.completeness import UNTOLD
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure, StructureSet
from patient.volume import Field, Level, Volume
from patient.write.rtstruct import write_structure_set
from tests.making import write_ct

BLOCKS = np.cumsum([0.0, *[3.0] * 11, *[6.0] * 8])
ODD = np.cumsum([0.0, *[5.0] * 5, *[2.5] * 10, *[4.0] * 6])
PIXEL = (40, 48)
TILT = 0.25


def folder(path, places=BLOCKS, slope=0.0, cosine=1.0):
    """A CT whose slices lie at `places` along z, each `slope` mm further back for each mm; HU tell where a voxel lies."""
    sine = np.sqrt(1 - cosine**2)

    def change(k, d):
        position = np.array([-36.0, -30.0 + slope * places[k], places[k]])
        d.ImageOrientationPatient = [1, 0, 0, 0, cosine, sine]
        d.ImagePositionPatient = [f"{v:.6f}" for v in position]
        rows, columns = np.meshgrid(np.arange(PIXEL[0]) * 1.5, np.arange(PIXEL[1]) * 1.5, indexing="ij")
        points = position + rows[..., None] * (0, cosine, sine) + columns[..., None] * (1, 0, 0)
        d.PixelData = (np.rint(ramp(points)) + 1024).astype("<u2").tobytes()

    return write_ct(path, np.zeros((len(places), *PIXEL), np.int16), change)


def ramp(points):
    return 300 + points @ (2.0, 5.0, 4.0)


@pytest.mark.parametrize("places", [BLOCKS, ODD], ids=["blocks", "odd"])
@pytest.mark.parametrize(
    ("slope", "cosine"), [(0.0, 1.0), (TILT, 1.0), (0.0, np.cos(0.3))], ids=["upright", "sheared", "tilted"]
)
def test_the_grid_shows_every_point_where_the_slices_show_it(tmp_path, places, slope, cosine):
    image = open_folder(folder(tmp_path, places, slope, cosine))
    volume = image.load()
    grid = volume.geometry
    assert volume.array.dtype == np.int16
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    shown = volume.array > -1024
    assert shown.mean() > 0.6
    edge = 5.0 * 1.5 / 2 + 4.0 * 5  # half a pixel, and a plane, beyond the ends the last values are repeated
    assert np.abs(volume.array - ramp(points))[shown].max() < edge
    inner = shown[1:-1, 2:-2, 2:-2] & shown[1:-1, :-4, 2:-2] & shown[1:-1, 4:, 2:-2]
    assert np.abs(volume.array - ramp(points))[1:-1, 2:-2, 2:-2][inner].max() <= 1.01
    assert any("resampled" in note for note in image.notes)


def test_slices_that_are_planes_of_the_grid_keep_their_pixels(tmp_path):
    image = open_folder(folder(tmp_path))
    at = image.geometry.slices.on(image.geometry)
    assert (at == np.rint(at)).all()
    volume = image.load().array
    points = np.array([i.position for i in image.instances])
    assert (volume[at[:, 0].astype(int), 0, 0] == np.rint(ramp(points))).all()


def test_a_tilted_gantry_is_named_with_its_angle(tmp_path):
    image = open_folder(folder(tmp_path, BLOCKS[:12], cosine=np.cos(np.radians(20))))
    assert image.notes == (UNTOLD, "Gantry tilted by 20.0 degrees: resampled to 2.82 mm, drawn on the image's slices")
    assert len(image.instances) == 12


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.floats(1.0, 6.0), st.integers(3, 8)), min_size=2, max_size=4),
    centre=st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.floats(-0.1, 0.1)),
    slope=st.floats(-0.5, 0.5),
)
def test_a_structure_keeps_its_place_and_volume_there_and_back(blocks, centre, slope):
    """Surface on the grid -> loops on the slices -> mask, field and surface on the grid."""
    grid = _grid(np.cumsum([0.0, *[step for step, count in blocks for _ in range(count)]]), slope)
    depth = grid.slices.positions[-1][2]
    middle = grid.points((np.array(grid.shape) - 1) / 2) + (*centre[:2], centre[2] * depth)
    height = 0.35 * depth
    radii = np.array([16.0, 13.0, height])
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    off = (points - middle) / radii
    inside = np.linalg.norm(off, axis=-1)
    values = ((inside - 1) * 13.0).astype(np.float32)
    loops = loops_of_field(Field(Volume(values, grid), Level.DISTANCE))
    on = np.concatenate([loop.points for loop in loops])
    own = np.array([z for _, _, z in grid.slices.positions])
    assert np.abs(on[:, 2, None] - own).min(axis=1).max() < 1e-6
    assert np.abs(np.linalg.norm((on - middle) / radii, axis=1) - 1).max() < 0.15

    true = 4 / 3 * np.pi * np.prod(radii) / 1000
    coarse = max(step for step, _ in blocks) / height
    drawn = mask_of_loops(loops, grid)
    assert drawn.array.sum() * grid.voxel_cc == pytest.approx(true, rel=0.04 + coarse**2)
    field = field_of_structure(Structure("Drawn", drawn=tuple(loops)), grid)
    at = grid.slices.on(grid)[:, 0]
    on = at[at == np.rint(at)].astype(int)
    assert (field.mask().placed_in(grid).array[on] == drawn.placed_in(grid).array[on]).all()
    assert field.mask().array.sum() * grid.voxel_cc == pytest.approx(true, rel=0.04 + coarse**2)
    surface = surface_of(Structure("s", drawn=loops), grid)
    assert surface.field.mask().array.sum() * surface.field.geometry.voxel_cc == pytest.approx(true, rel=0.04 + coarse**2)
    centroid = grid.points(np.argwhere(drawn.placed_in(grid).array).mean(axis=0))
    assert np.abs(centroid - middle)[:2].max() < 0.3


def _grid(places, slope):
    step = min(np.diff(places))
    deep, pixel, rows = int(np.ceil(places[-1] / step - 1e-6)) + 1, 1.5, 32
    shift = int(np.ceil(abs(slope) * places[-1] / pixel))
    low = min(0.0, slope * places[-1])
    slices = Slices(tuple((0.0, slope * z - low, z) for z in places), (rows, 32))
    return Geometry((deep, rows + shift, 32), (step, pixel, pixel), slices=slices)


def test_what_is_drawn_on_uneven_slices_counts_as_thick_as_they_are(tmp_path):
    """A prism from the fifth to the last but two slices, 3 and 6 mm apart: each loop stands for half the way around it."""
    image = open_folder(folder(tmp_path))
    first, last = 4, len(BLOCKS) - 3
    square = np.array([(-10.1, -10.1), (10.1, -10.1), (10.1, 10.1), (-10.1, 10.1)])
    loops = [Loop(np.column_stack([square, np.full(4, BLOCKS[k])])) for k in range(first, last + 1)]
    thick = (BLOCKS[last] + BLOCKS[last + 1] - BLOCKS[first] - BLOCKS[first - 1]) / 2
    mask = mask_of_loops(loops, image.geometry)
    area = mask.array[0].sum() * 1.5**2
    assert mask.array.sum() * image.geometry.voxel_cc * 1000 == pytest.approx(thick * area, abs=1.5 * area + 1)
    surface = surface_of(Structure("s", drawn=tuple(loops)), image.geometry).field
    assert surface.mask().array.sum() * surface.geometry.voxel_cc == pytest.approx(thick * 20.2**2 / 1000, rel=0.05)


@pytest.mark.parametrize(
    ("slope", "cosine"), [(0.0, 1.0), (TILT, 1.0), (0.0, np.cos(0.3))], ids=["uneven", "sheared", "tilted"]
)
def test_contours_go_to_the_image_s_own_slices_and_pass_the_check(tmp_path, slope, cosine):
    image = open_folder(folder(tmp_path / "ct", BLOCKS, slope, cosine))
    grid = image.geometry
    middle = grid.points((np.array(grid.shape) - 1) / 2)
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    values = (np.linalg.norm(points - middle, axis=-1) - 20).astype(np.float32)
    ball = Structure("Ball", field=Field(Volume(values, grid), Level.DISTANCE))
    write_structure_set(tmp_path / "rs.dcm", StructureSet((ball,)), image, version="0")
    assert check_file(tmp_path / "rs.dcm", image=image).errors == ()
    read = read_structure_set(tmp_path / "rs.dcm")["Ball"]
    own = {i.sop_instance_uid: i.position for i in image.instances}
    normal = np.asarray(grid.axes[0])
    assert len(read.loops) >= 5
    for loop in read.loops:
        assert np.abs((loop.points - own[loop.image_uid]) @ normal).max() < 2e-3
        assert np.abs(np.linalg.norm(loop.points - middle, axis=1) - 20).max() < 0.6
    mask = read.mask(grid)
    assert mask.array.sum() * grid.voxel_cc == pytest.approx(4 / 3 * np.pi * 8, rel=0.06)


def test_a_mask_goes_to_the_slices_and_back(tmp_path):
    grid = open_folder(folder(tmp_path)).geometry
    array = np.zeros(grid.shape, bool)
    array[3:15, 10:20, 12:30] = True
    mask = Volume(array, grid)
    back = mask_of_loops(loops_of_mask(mask), grid).placed_in(grid).array
    assert (back[:, 14, 20] == array[:, 14, 20])[:12].all()
    assert (back[5] == array[5]).all()


def test_a_loop_between_slices_is_refused(tmp_path):
    grid = open_folder(folder(tmp_path)).geometry
    square = np.array([(0.0, 0.0, 36.0), (9.0, 0, 36), (9.0, 9, 36)])  # a plane of the grid, and no slice
    with pytest.raises(errors.FrameMismatch, match="nearest slice"):
        mask_of_loops([Loop(square)], grid)


FINE = np.cumsum([0.0, *[2.0] * 14, *[4.0] * 6])


@pytest.mark.parametrize(
    ("places", "drawn"),
    [(FINE, range(1, len(FINE), 2)), (BLOCKS, [1, 3, 5, 7, 9, *range(11, len(BLOCKS) - 1)])],
    ids=["every second slice", "every 6 mm"],
)
@pytest.mark.parametrize("slope", [0.0, 0.25], ids=["upright", "sheared"])
def test_an_organ_drawn_on_some_uneven_slices_has_one_volume_in_mask_field_propagation_and_dvh(places, drawn, slope):
    grid = _grid(places, slope)

    def prism(slices):
        """A cone whose corners go with the slices, so that between two contours nothing but its size changes."""
        square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
        at = [np.asarray(grid.slices.positions[k]) + (24.0, 24.0, 0.0) for k in slices]
        return [Loop(np.column_stack([square * (8 + 0.1 * z), np.zeros(4)]) + (x, y, z)) for x, y, z in at]

    skipped, whole = (Structure("Organ", drawn=tuple(prism(some))) for some in (drawn, range(min(drawn), max(drawn) + 1)))
    assert skipped.region_on(grid).interpolated == len(whole.drawn) - len(skipped.drawn)
    assert whole.region_on(grid).interpolated == 0
    on = {round(float(loop.points[0, 2]), 3) for loop in skipped.region_on(grid).loops}
    assert on == {round(float(loop.points[0, 2]), 3) for loop in whole.drawn}
    for measure in (_mask_cc, _field_cc, _surface_cc, _dvh_cc):
        assert measure(skipped, grid) == pytest.approx(measure(whole, grid), rel=0.02), measure


def test_a_slice_without_contour_among_neighbours_is_a_gap_on_uneven_slices_too():
    grid = _grid(FINE, 0.0)
    square = np.array([(9.0, 9.0), (30.0, 9.0), (30.0, 30.0), (9.0, 30.0)])
    loops = tuple(Loop(np.column_stack([square, np.full(4, FINE[k])])) for k in (2, 3, 4, 6, 7, 15, 17))
    assert Structure("Two parts", drawn=loops).region_on(grid).interpolated == 0


def _mask_cc(structure, grid):
    return structure.mask(grid).array.sum() * grid.voxel_cc


def _field_cc(structure, grid):
    return (field_of_structure(structure, grid).volume.array < 0).sum() * grid.voxel_cc


def _surface_cc(structure, grid):
    field = surface_of(structure, grid).field
    return field.mask().array.sum() * field.geometry.voxel_cc


def _dvh_cc(structure, grid):
    return sum(slab.cc for slab in lattice(structure, plane_spacing=grid.spacing[0], slices=grid.slices).slabs)
