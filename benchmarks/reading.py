"""Reading 304 slices of 512 x 512, with everything checked, beside SimpleITK's series reader; in turn, medians of five."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import SimpleITK as sitk  # noqa: N813 - as everybody writes it

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import main, record
from data_samples.patient import write_sample
from patient.read.images import open_folder

WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-rtstruct" / "ct"


def _ours() -> int:
    return int(open_folder(WORK).load().array.sum())


def _peer() -> int:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(WORK)))
    return int(sitk.GetArrayFromImage(reader.Execute()).sum())


def whole() -> None:
    if not WORK.is_dir():
        write_sample(WORK, slices=304, size=512)
    if _ours() != _peer():
        raise RuntimeError("the two readers disagree")
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(5):
        for name, read in (("ours", _ours), ("peer", _peer)):
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    ours, peer = median(seconds["ours"]), median(seconds["peer"])
    record(
        "reading",
        {
            "peer": f"SimpleITK {sitk.Version.VersionString()} ImageSeriesReader",
            "ours_s": ours,
            "peer_s": peer,
            "ratio": ours / peer,
            "reach": "at most 1.2",
        },
    )


if __name__ == "__main__":
    main(whole, {})
