"""Structures that somebody or something drew, wherever they lie: RTSTRUCT files on their images, or label files.

Label files are a case a folder: `labels.nii.gz` with `labels.json` (name to number), as `recontour contour` writes them, or
one mask file a structure, named after it (also in a folder `segmentations`). `ct.*` or `image.*` beside them is the image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from patient.errors import FrameMismatch, InputError, RecontourError, file_token
from patient.geometry import Box, Geometry
from patient.read.headers import Header
from patient.read.images import open_image
from patient.read.index import SeriesEntry
from patient.read.rtstruct import read_structure_set, referenced_image
from patient.read.scan import scan
from patient.volume import Mask, Volume
from pipelines.outbox.job_key import case_name, patient_key
from pipelines.planning.image_file import read_image

IMAGE_FILES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
IMAGE_NAMES = ("ct", "image", "img")
NO_STRUCTURES = ("dose", "dose_cgy", *IMAGE_NAMES)
IMAGE_FOLDERS = ("ct", "image", "scan")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Structures on the voxels of one image.

    Args:
        grid: of the image.
        names: as they are written; one that stands twice is there twice.
        mask: of a written name, cropped from the grid; without a voxel inside where nothing was drawn.
        load: the image in HU on that grid; None where there is none.
        confidence: 0 to 1 of those whose maker said it.
        absent: written names that were asked for and are not there, with the reason.
        remarks: what is odd about how a written name was drawn and changes its volume, in sentences.
        notes: what was odd about the structure set or its image and tolerated, or left out, in sentences.
    """

    grid: Geometry
    names: tuple[str, ...]
    mask: Callable[[str], Mask] = field(repr=False)
    load: Callable[[], Volume[Any] | None] | None = field(default=None, repr=False)
    confidence: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    remarks: Callable[[str], tuple[str, ...]] = field(default=lambda name: (), repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def image(self) -> Volume[Any] | None:
        """Read when first asked for."""
        return self.load() if self.load is not None else None


@dataclass(frozen=True, eq=False)
class Drawing:
    """Where drawn structures lie, and what they belong to. Nothing is read of them yet.

    Args:
        case: a name without anything of the patient: date and hash of the image, or the folder of label files.
        patient: the same for all images of a patient, without saying who it is.
        source: RTSTRUCT file, or folder of label files.
        image: the series that it was drawn on; None for label files, and where it was not found.
        series, frame: UIDs that it says it belongs to; empty where unknown.
        made: date and time of the structure set, as text that sorts; empty where unknown.
    """

    case: str
    patient: str
    source: Path
    image: SeriesEntry | None = None
    series: str = ""
    frame: str = ""
    made: str = ""

    @property
    def key(self) -> str:
        """The same for two drawings on one image."""
        return self.image.uid if self.image is not None else self.series or self.case

    def open(self, on: Drawn | None = None) -> Drawn:
        """Its structures.

        Args:
            on: drawn on the same image: its grid is taken, and its image where this one has none.

        Raises:
            InputError: unreadable, without its image, or of another image than `on`.
        """
        if self.source.is_dir():
            return _labels(self.source, on)
        return self._rtstruct(on)

    def _rtstruct(self, on: Drawn | None) -> Drawn:
        held = read_structure_set(self.source)
        doubts: tuple[str, ...] = ()
        if on is not None:
            grid, load = on.grid, (lambda: on.image)
        elif self.image is not None:
            series = open_image(self.image, drawn_on=held.image_uids)
            grid, load, doubts = series.geometry, series.load, series.doubts
        else:
            raise InputError(
                "The image that the structure set was drawn on is not there, or several could be it",
                where=self.source.name,
                remedy="Put it alone beside the structure set, or give its folder with --ct",
            )
        held = held.on(grid, self.source.name)
        by_name = {structure.name: structure for structure in reversed(held.structures)}
        return Drawn(
            grid=grid,
            names=tuple(structure.name for structure in held.structures),
            mask=lambda name: by_name[name].mask(grid),
            load=load,
            remarks=lambda name: by_name[name].remarks(grid),
            notes=(*held.notes, *(f"image: {doubt}" for doubt in doubts)),
        )


@dataclass(frozen=True)
class Found:
    """What a path holds: drawings in order of case, and what was left out, in sentences without a word of the patient."""

    drawings: tuple[Drawing, ...]
    left_out: tuple[str, ...]
    images: tuple[SeriesEntry, ...] = field(default=(), repr=False)


def find_drawings(path: Path, images: Sequence[SeriesEntry] = ()) -> Found:
    """All drawings of a file or folder tree, one an image.

    Of several structure sets on one image the newest is taken, by Structure Set Date and Time, and that is said; where their
    dates do not tell which is the newest, none is.

    Args:
        path: an RTSTRUCT file, a folder tree with them and their images, or with label files.
        images: series that may be meant besides those found there.

    Raises:
        InputError: no such path.
    """
    if not path.exists():
        raise InputError("No such file or folder", where=path.name)
    if (folders := _label_folders(path)) is not None:
        return Found(tuple(Drawing(f.resolve().name, f.resolve().name, f) for f in folders), ())
    index = scan(path)
    there = list(index.of("CT", "MR", "PT"))
    if path.is_file():
        there += [entry for folder in _beside(path) for entry in scan(folder).of("CT", "MR", "PT")]
    pool = [*there, *(entry for entry in images if entry.uid not in {own.uid for own in there})]
    drawings = [_drawing(header, pool) for entry in index.of("RTSTRUCT") for header in entry.headers]
    left_out = [f"{file_token(p.path)} cannot be read: {p.error.what}" for p in index.problems]
    kept, said = one_each(drawings)
    return Found(tuple(sorted(kept, key=lambda d: d.case)), (*left_out, *said), tuple(pool))


def one_each(drawings: Sequence[Drawing]) -> tuple[list[Drawing], list[str]]:
    """One drawing an image, the newest; and what was left out."""
    groups: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        groups.setdefault(drawing.key, []).append(drawing)
    kept: list[Drawing] = []
    said: list[str] = []
    for group in groups.values():
        newest = sorted(group, key=lambda d: d.made, reverse=True)
        if len(newest) == 1:
            kept.append(newest[0])
        elif newest[0].made > newest[1].made:
            kept.append(newest[0])
            said.append(f"{newest[0].case} has {len(group)} structure sets: the newest was taken")
        else:
            said.append(
                f"{newest[0].case} has {len(group)} structure sets and their dates do not say which is the newest: left out"
            )
    return kept, said


def _drawing(header: Header, pool: Sequence[SeriesEntry]) -> Drawing:
    frame, _, series, planes = referenced_image(header)
    image = next((entry for entry in pool if entry.uid == series), None)
    if image is None and planes:
        image = next((entry for entry in pool if planes & set(entry.sop_instance_uids)), None)
    if image is None and frame:
        # Of a CT and an MR in one frame nobody knows which was drawn on: the frame says only that they were registered.
        of_frame = [entry for entry in pool if entry.frame_of_reference == frame]
        image = of_frame[0] if len(of_frame) == 1 else None
    made = header.text("StructureSetDate") + header.text("StructureSetTime").split(".")[0].ljust(6, "0")
    case = case_name(image) if image is not None else patient_key(header.text("SOPInstanceUID"))[:10]
    patient = patient_key(header.text("PatientID") or header.text("StudyInstanceUID"))
    return Drawing(case, patient, header.path, image, series, frame, made if made.strip("0") else "")


def _beside(file: Path) -> list[Path]:
    """Where the image of an RTSTRUCT file may lie: in its folder, or in one beside that is called as images are."""
    own = file.resolve().parent
    near = [p for p in own.parent.iterdir() if p.is_dir() and p != own and p.name.casefold().startswith(IMAGE_FOLDERS)]
    return [own, *sorted(near)]


def _stem(path: Path) -> str:
    return next(
        (path.name[: -len(end)] for end in sorted(IMAGE_FILES, key=len, reverse=True) if path.name.endswith(end)), ""
    )


def _label_files(folder: Path) -> list[Path]:
    inner = folder / "segmentations"
    held = inner if inner.is_dir() else folder
    return [p for p in sorted(held.iterdir()) if p.is_file() and _stem(p) and _stem(p).casefold() not in NO_STRUCTURES]


def _label_folders(path: Path) -> list[Path] | None:
    """Folders of label files, the path itself or those in it; None where there are none."""
    if path.is_file():
        return [path.parent] if _stem(path) else None
    if _label_files(path):
        return [path]
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name != "segmentations" and _label_files(p)]
    return folders or None


def _labels(folder: Path, on: Drawn | None) -> Drawn:
    files = _label_files(folder)
    grid = _geometry(read_image(files[0]), on, files[0])
    masks: dict[str, Callable[[], Mask]] = {}
    for file in files:
        if file.with_name("labels.json").is_file() and _stem(file) == "labels":
            masks |= _numbered(file, grid)
        else:
            masks[_stem(file)] = lambda file=file: _cropped(_on_grid(file, grid) > 0, grid)
    image = next((p for p in sorted(folder.iterdir()) if p.is_file() and _stem(p).casefold() in IMAGE_NAMES), None)

    def load() -> Volume[Any] | None:
        if image is not None:
            return Volume(_on_grid(image, grid), grid)
        return on.image if on is not None else None

    return Drawn(grid, tuple(masks), lambda name: masks[name](), load)


def _numbered(file: Path, grid: Geometry) -> dict[str, Callable[[], Mask]]:
    """Structures of a label map."""
    try:
        numbers = json.loads(file.with_name("labels.json").read_text(encoding="utf-8"))
        pairs = [(str(name), int(number)) for name, number in numbers.items()]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError("labels.json does not give each name a number", where=str(file.parent.name)) from error
    array = _on_grid(file, grid)
    return {name: lambda number=number: _cropped(array == number, grid) for name, number in pairs}


def _geometry(volume: Volume[Any], on: Drawn | None, file: Path) -> Geometry:
    if on is None:
        return volume.geometry
    own = replace(volume.geometry, frame_of_reference=on.grid.frame_of_reference, image=on.grid.image)
    if not on.grid.same_grid(own):
        raise FrameMismatch(
            f"Label files are on other voxels than the reference: {own.shape} of {own.spacing} mm and "
            f"{on.grid.shape} of {on.grid.spacing} mm",
            where=file.parent.name,
            why="Resampling one of them would change what is measured",
            remedy="Write both on the grid of the same image",
        )
    return on.grid


def _on_grid(file: Path, grid: Geometry) -> np.ndarray:
    volume = read_image(file)
    own = replace(volume.geometry, frame_of_reference=grid.frame_of_reference, image=grid.image)
    if not grid.same_grid(own):
        raise FrameMismatch("Files of one case are on different voxels", where=f"{file.parent.name}/{file.name}")
    return volume.array


def _cropped(array: np.ndarray, grid: Geometry) -> Mask:
    box = Box.of(array)
    return Volume(array, grid).cropped(box if not box.empty else Box((0, 0, 0), (1, 1, 1)))


def said_of(error: RecontourError) -> str:
    """An error as a sentence for a table: what and why, and no path."""
    return ". ".join(part.rstrip(".") for part in (error.what, error.why) if part)
