"""The head-and-neck patients as training cases: NIfTI to .npz, nothing resampled.

python benchmarks/headneck_cases.py OUT    OUT/train, OUT/calibration (every tenth training patient), OUT/validation
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import DATA
from contour.cases import TrainingCase, write_case

BITS = (
    "Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Esophagus", "Larynx", "Bone_Mandible",
    "PTV_7000", "PTV_6300", "PTV_5600",
)  # fmt: skip
EVERY = 10


def case(folder: Path) -> TrainingCase:
    """One patient of the OpenKBP folders."""
    image, bits = sitk.ReadImage(str(folder / "ct.nii.gz")), sitk.ReadImage(str(folder / "structures.nii.gz"))
    labels = (sitk.GetArrayFromImage(bits).astype(np.uint32)) & np.uint32((1 << len(BITS)) - 1)
    x, y, z = image.GetSpacing()
    known = tuple(name for n, name in enumerate(BITS) if (labels >> np.uint32(n) & np.uint32(1)).any())
    return TrainingCase(folder.name, sitk.GetArrayFromImage(image).astype(np.int16), labels, known, (z, y, x))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for n, folder in enumerate(sorted((DATA / "headneck" / "train").glob("pt_*"))):
        write_case(case(folder), out / ("calibration" if n % EVERY == EVERY - 1 else "train"))
    for folder in sorted((DATA / "headneck" / "validation").glob("pt_*")):
        write_case(case(folder), out / "validation")
