"""30 structures on 304 slices of 512 x 512: masks to RTSTRUCT on disk and back, beside rt-utils on the same masks."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import alone, main, record
from data_samples.patient import write_sample

WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-rtstruct"
SHAPE = (304, 512, 512)


def masks() -> Iterator[tuple[str, np.ndarray]]:
    """A body and 29 organs with holes and second parts."""
    rng = np.random.default_rng(1)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    for n in range(30):
        cz, cy, cx = rng.uniform(60, 240), rng.uniform(150, 350), rng.uniform(150, 350)
        r, rz = rng.uniform(15, 60), rng.uniform(20, 100)
        if n == 0:
            cz, cy, cx, r, rz = 152, 256, 256, 180, 400
        mask = ((z - cz) / rz) ** 2 + ((y - cy) / r) ** 2 + ((x - cx) / r / 1.2) ** 2 < 1
        mask |= (np.abs(z - cz) < rz / 2) & (((y - cy) / (r / 2)) ** 2 + ((x - cx - r) / (r / 2)) ** 2 < 1)
        mask &= ~((((y - cy) / (r / 3)) ** 2 + ((x - cx) / (r / 3)) ** 2 < 1) & (np.abs(z - cz) < rz))
        yield f"S{n:02d}", mask


class Grown:
    """Memory that a step needed on top of what was there, sampled every 20 ms; and its time."""

    def __enter__(self) -> Grown:
        self._process = psutil.Process()
        self._before = self._highest = self._process.memory_info().rss
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        self._start = time.perf_counter()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self.s = time.perf_counter() - self._start
        self._over.set()
        self._watch.join()
        self.mib = (self._highest - self._before) / 2**20


def ours() -> dict[str, Any]:
    from patient.geometry import Box
    from patient.outline import loops_of_mask
    from patient.read.images import open_folder
    from patient.structures import Structure, StructureSet
    from patient.volume import Volume
    from patient.write.rtstruct import write_structure_set

    image = open_folder(WORK / "ct")
    steps, made = [], []
    for name, mask in masks():
        with Grown() as step:
            box = Box.of(mask)
            loops = loops_of_mask(Volume(mask[box.slices], image.geometry.cropped(box)))
            made.append(Structure(name, interpreted_type="ORGAN", color=(255, 0, 0), algorithm="AUTOMATIC", drawn=loops))
        steps.append(step)
    (WORK / "ours.dcm").unlink(missing_ok=True)
    with Grown() as writing:
        write_structure_set(WORK / "ours.dcm", StructureSet(tuple(made)), image, version="0")
    return _summed(steps, writing)


def _summed(steps: list[Grown], writing: Grown) -> dict[str, Any]:
    """Seconds of all; memory of contour making (the largest step) and of writing."""
    seconds = sum(step.s for step in steps) + writing.s
    return {"s": seconds, "contour_making_mib": max(step.mib for step in steps), "writing_mib": writing.mib}


def peer() -> dict[str, Any]:
    from rt_utils import RTStructBuilder

    built = RTStructBuilder.create_new(dicom_series_path=str(WORK / "ct"))
    steps = []
    for name, mask in masks():
        turned = np.ascontiguousarray(mask.transpose(1, 2, 0))
        with Grown() as step:
            built.add_roi(mask=turned, name=name)
        steps.append(step)
    with Grown() as writing:
        built.save(str(WORK / "peer.dcm"))
    return _summed(steps, writing)


def ours_back() -> dict[str, Any]:
    from patient.read.images import open_folder
    from patient.read.rtstruct import read_structure_set

    start = time.perf_counter()
    grid = open_folder(WORK / "ct").geometry
    shapes = {s.mask(grid).placed_in(grid).array.shape for s in read_structure_set(WORK / "ours.dcm").structures}
    return {"s": time.perf_counter() - start, "shapes": sorted(shapes)}


def peer_back() -> dict[str, Any]:
    from rt_utils import RTStructBuilder

    start = time.perf_counter()
    built = RTStructBuilder.create_from(dicom_series_path=str(WORK / "ct"), rt_struct_path=str(WORK / "ours.dcm"))
    for name in built.get_roi_names():
        built.get_roi_mask_by_name(name)
    return {"s": time.perf_counter() - start}


def whole() -> None:
    if not (WORK / "ct").is_dir():
        write_sample(WORK / "ct", slices=SHAPE[0], size=SHAPE[1])
    figures = {part: alone(__file__, part) for part in ("ours", "peer", "ours_back", "peer_back")}
    ratios = {
        "write_times_faster": figures["peer"]["s"] / figures["ours"]["s"],
        "memory_times_less": figures["peer"]["contour_making_mib"] / max(1.0, figures["ours"]["contour_making_mib"]),
        "read_times_faster": figures["peer_back"]["s"] / figures["ours_back"]["s"],
    }
    record(
        "rtstruct", {"peer": "rt-utils 1.2.7", **figures, "ratios": ratios, "reach": "write 10x, memory 10x less, read 10x"}
    )


if __name__ == "__main__":
    main(whole, {"ours": ours, "peer": peer, "ours_back": ours_back, "peer_back": peer_back})
