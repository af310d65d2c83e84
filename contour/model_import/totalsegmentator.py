"""TotalSegmentator's installed weights: nnU-Net folders within `DatasetNNN_...`, whose classes are known.

Wasserthal et al., Radiology: AI 5 (2023) e230024. Which classes a dataset has at which number is data
(totalsegmentator.toml), and so is its licence; what the folder says is held against it: another order would exchange organs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from contour.model import ModelCard
from contour.model_import import nnunet
from contour.model_import.description import ABOUT, About, Described, channels_of, read_about
from contour.model_import.nnunet_plan import Results, read_results, results_folder
from patient.errors import ModelError
from patient.settings import Table

if TYPE_CHECKING:
    from contour.network import LoadedModel

KIND = "totalsegmentator"
_NAMED = re.compile(r"Dataset(\d{3})_\w*")
LIMITS = "Radiological classes: spinal_cord is not drawn by a radiotherapy guideline. Not a medical device."


class _Task(Table):
    datasets: tuple[int, ...]
    classes: tuple[str, ...]
    licensed: bool = False


class _File(Table):
    open: str
    licensed: str
    axes: str
    task: dict[str, _Task]


def tasks() -> tuple[str, ...]:
    """Names of what TotalSegmentator does, as far as it is known here."""
    return tuple(_file().task)


def classes_of(task: str) -> tuple[str, ...]:
    """Classes of one task, in the order of their numbers from 1."""
    return _file().task[task].classes


def found(source: Path) -> Mapping[str, Path] | None:
    """The files to keep, in a folder of the dataset's name; None if it is no dataset of TotalSegmentator."""
    folder = results_folder(source)
    if folder is None or _task_of(folder) is None:
        return None
    kept = nnunet.found(source) or {}
    return {f"{folder.parent.name}/{place}": path for place, path in kept.items()}


def described(folder: Path, digest: str) -> Described:
    """What is known of this dataset.

    Raises:
        ModelError: its classes are not those of TotalSegmentator.
    """
    results, name, task = _read(folder)
    about = read_about(folder / ABOUT, About)
    channels = channels_of(about, results.channel_of)
    card = ModelCard(
        name=about.name or f"totalsegmentator-{name.replace('_', '-')}-{task.datasets[0]}"[:40],
        version=about.version or f"v2-{_number(results.folder)}",
        kind=KIND,
        structures=tuple(channels),
        sha256=digest,
        licence=about.licence or (_file().licensed if task.licensed else _file().open),
        data=about.data or "TotalSegmentator v2, its makers' training set",
        limits=about.limits or LIMITS,
    )
    return Described(card, channels)


def load(folder: Path, model: Described) -> LoadedModel:
    """The network with its weights.

    Raises:
        ModelError: as `contour.model_import.nnunet.load`.
    """
    results, _, _ = _read(folder)
    about = read_about(folder / ABOUT, About)
    return nnunet.loaded(results, model, about.axes or _file().axes)


def _read(folder: Path) -> tuple[Results, str, _Task]:
    dataset = next((path for path in sorted(folder.iterdir()) if path.is_dir() and _NAMED.fullmatch(path.name)), folder)
    results = read_results(dataset)
    named = _task_of(results.folder)
    if named is None:
        raise ModelError("Not a dataset of TotalSegmentator that is known here", where=results.folder.name)
    name, task = named
    number_of = {written: number for number, written in enumerate(task.classes, start=1)}
    for written, number in results.channel_of.items():
        if number_of.get(written, number) != number:
            raise _not_its_own(f"{written} has the number {number}, not {number_of[written]}", results)
    if missing := [written for written in task.classes if written not in results.channel_of]:
        raise _not_its_own(f"{missing[0]} is missing: {len(results.channel_of)} classes, not {len(task.classes)}", results)
    return results, name, task


def _not_its_own(what: str, results: Results) -> ModelError:
    return ModelError(
        f"The classes are not TotalSegmentator's: {what}",
        where=results.folder.parent.name,
        why="Structures would be other organs than their names say",
        remedy="Take the weights from their source again; add a model of your own as nnU-Net folder (`--kind nnunet`)",
    )


def _task_of(results_folder: Path) -> tuple[str, _Task] | None:
    number = _number(results_folder)
    return next(((name, task) for name, task in _file().task.items() if number in task.datasets), None)


def _number(results_folder: Path) -> int:
    named = _NAMED.fullmatch(results_folder.parent.name)
    return int(named[1]) if named else 0


@cache
def _file() -> _File:
    text = files("contour.model_import").joinpath("totalsegmentator.toml").read_text(encoding="utf-8")
    return _File.model_validate(tomllib.loads(text))
