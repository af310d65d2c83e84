"""Other people's registration, each with one signature: images, masks, landmarks in; moved landmarks, time, memory out.

    PEERS_HOME=.peers benchmarks/peers.sh      makes their environment, once
    python benchmarks/peers.py                 what is there and its version

They live in an environment of their own and are spoken to by files: fixed.mha, moving.mha, their masks, and back a
displacement field on the fixed image's grid. This file runs on both sides: what is above `run` needs numpy and SimpleITK and
nothing of ours. Every peer gets the same images, the fixed one cut to the body's box, the same masks and every core, and
starts where the headers place the images. Its seconds are those of reading the images and registering; its memory is the
highest its process ever held.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

if TYPE_CHECKING:
    from benchmarks.known import Pair
    from patient.volume import Volume
    from registration.transforms import Displacement, Points

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("PEERS_HOME", ROOT / ".peers"))
REFEREES = Path(os.environ.get("REFEREES_HOME", ROOT / ".referees"))
AIR = -1000.0


def peak_mib() -> int:
    """The highest this process held since it began or since `forget_peak`; what its parent held before is not counted."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def forget_peak() -> None:
    """Count the peak from here on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


# ---- the peers' side ------------------------------------------------------------------------------------------------


def _read(folder: Path) -> dict[str, sitk.Image]:
    images = {name: sitk.ReadImage(str(folder / f"{name}.mha")) for name in ("fixed", "moving", "fixed_mask", "moving_mask")}
    return {n: sitk.Cast(image, sitk.sitkUInt8 if "mask" in n else sitk.sitkFloat32) for n, image in images.items()}


def _rigid(images: dict[str, sitk.Image]) -> sitk.Transform:
    """Mattes mutual information, three levels, as SimpleITK's own guide has it."""
    fixed = images["fixed"]
    start = sitk.Euler3DTransform()
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([n / 2 for n in fixed.GetSize()]))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetMetricFixedMask(images["fixed_mask"])
    method.SetMetricMovingMask(images["moving_mask"])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 200, relaxationFactor=0.7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(images["fixed"], images["moving"])


def _field_of(transform: sitk.Transform, fixed: sitk.Image) -> sitk.Image:
    maker = sitk.TransformToDisplacementFieldFilter()
    maker.SetReferenceImage(fixed)
    maker.SetOutputPixelType(sitk.sitkVectorFloat64)
    return maker.Execute(transform)


def sitk_rigid(folder: Path) -> sitk.Image:
    """SimpleITK, the rigid start alone."""
    images = _read(folder)
    return _field_of(_rigid(images), images["fixed"])


def sitk_demons(folder: Path) -> sitk.Image:
    """SimpleITK: rigid, histogram matching, then diffeomorphic demons of symmetric forces on three levels."""
    images = _read(folder)
    fixed, rigid = images["fixed"], _rigid(images)
    moved = sitk.Resample(images["moving"], fixed, rigid, sitk.sitkLinear, AIR)
    seen = sitk.Resample(images["moving_mask"], fixed, rigid, sitk.sitkNearestNeighbor, 0)
    unseen = sitk.Cast(seen == 0, sitk.sitkUInt8)
    moved = sitk.HistogramMatching(moved, sitk.Mask(fixed, seen, AIR), 256, 15, True)
    moved = sitk.Mask(moved, seen) + sitk.Mask(fixed, unseen)  # where nothing was imaged, nothing pulls
    field: sitk.Image | None = None
    for shrink, sigma, rounds in ((4, 4.0, 100), (2, 2.0, 80), (1, 1.0, 40)):
        small = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigma), [shrink] * 3) for image in (fixed, moved)]
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(rounds)
        demons.SetStandardDeviations(1.5)
        demons.SetSmoothDisplacementField(True)
        field = sitk.Resample(field, small[0]) if field is not None else None
        field = demons.Execute(*small, field) if field is not None else demons.Execute(*small)
    assert field is not None
    field = sitk.Resample(field, fixed)
    chain = sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))])
    return _field_of(chain, fixed)


def sitk_bspline(folder: Path) -> sitk.Image:
    """SimpleITK: rigid, then a B-spline by correlation, its knots 60, 30, 15 mm apart.

    By mutual information the same takes more than 14 GB: Mattes' derivatives are kept for every knot.
    """
    images = _read(folder)
    fixed, rigid = images["fixed"], _rigid(images)
    mesh = [max(1, round(n * s / 60)) for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetMetricFixedMask(images["fixed_mask"])
    method.SetMetricMovingMask(images["moving_mask"])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=60, deltaConvergenceTolerance=1e-5)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMovingInitialTransform(rigid)
    bend = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    method.SetInitialTransformAsBSpline(bend, inPlace=True, scaleFactors=[1, 2, 4])
    method.Execute(fixed, images["moving"])
    return _field_of(sitk.CompositeTransform([rigid, bend]), fixed)


def elastix(folder: Path) -> sitk.Image:
    """itk-elastix: rigid, then B-spline of mutual information with bending energy, adaptive stochastic descent."""
    import itk  # type: ignore[import-not-found]

    images = {n: itk.imread(str(folder / f"{n}.mha"), itk.F) for n in ("fixed", "moving")}
    masks = {n: itk.imread(str(folder / f"{n}.mha"), itk.UC) for n in ("fixed_mask", "moving_mask")}
    parameters = itk.ParameterObject.New()
    common = {
        "AutomaticTransformInitialization": ["false"],
        "NumberOfSpatialSamples": ["5000"],
        "NewSamplesEveryIteration": ["true"],
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfHistogramBins": ["32"],
        "ErodeMask": ["false"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "WriteResultImage": ["false"],
    }
    rigid = parameters.GetDefaultParameterMap("rigid", 4)
    bend = parameters.GetDefaultParameterMap("bspline", 4, 12.0)
    for parameter_map in (rigid, bend):
        for key, value in common.items():
            parameter_map[key] = value
    rigid["MaximumNumberOfIterations"] = ["500"]
    bend["MaximumNumberOfIterations"] = ["500"]
    bend["Registration"] = ["MultiMetricMultiResolutionRegistration"]
    bend["Metric"] = ["AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"]
    bend["Metric0Weight"], bend["Metric1Weight"] = ["1.0"], ["50.0"]
    parameters.AddParameterMap(rigid)
    parameters.AddParameterMap(bend)
    _, result = itk.elastix_registration_method(
        images["fixed"], images["moving"], parameter_object=parameters, log_to_console=False, **masks
    )
    field = itk.transformix_deformation_field(images["moving"], result)
    itk.imwrite(field, str(folder / "raw.mha"))
    return sitk.ReadImage(str(folder / "raw.mha"))


def greedy(folder: Path) -> sitk.Image:
    """picsl_greedy: rigid by mutual information, then deformable by local correlation."""
    from picsl_greedy import Greedy3D  # type: ignore[import-not-found]

    tool = Greedy3D()
    inputs = f"-i {folder}/fixed.mha {folder}/moving.mha -gm {folder}/fixed_mask.mha -mm {folder}/moving_mask.mha"
    rigid = f"{folder}/rigid.mat"
    tool.execute(f"-d 3 -a -dof 6 {inputs} -ia-identity -m NMI -n 100x80x40 -o {rigid}")
    tool.execute(f"-d 3 {inputs} -it {rigid} -m NCC 4x4x4 -n 100x80x40 -s 2.5vox 0.7vox -o {folder}/warp.mha")
    tool.execute(f"-d 3 -rf {folder}/fixed.mha -r {folder}/warp.mha {rigid} -rc {folder}/raw.mha")
    return sitk.ReadImage(str(folder / "raw.mha"))


def ants(folder: Path) -> sitk.Image:
    """antspyx: antsRegistrationSyNQuick (rigid, affine, SyN of mutual information)."""
    import ants as package  # type: ignore[import-not-found]

    images = {n: package.image_read(str(folder / f"{n}.mha")) for n in ("fixed", "moving", "fixed_mask", "moving_mask")}
    done = package.registration(
        images["fixed"],
        images["moving"],
        type_of_transform="antsRegistrationSyNQuick[s]",
        mask=images["fixed_mask"],
        moving_mask=images["moving_mask"],
        mask_all_stages=True,
        initial_transform="identity",
        outprefix=f"{folder}/ants_",
    )
    path = package.apply_transforms(
        images["fixed"], images["moving"], transformlist=done["fwdtransforms"], compose=f"{folder}/whole_"
    )
    return sitk.ReadImage(str(path))


def plastimatch(folder: Path) -> sitk.Image:
    """plastimatch: rigid, then B-spline of mutual information in three stages with curvature regularisation."""
    program = shutil.which("plastimatch") or shutil.which("plastimatch", path=str(REFEREES / "bin"))
    if not program:
        raise FileNotFoundError("plastimatch is neither on PATH nor in REFEREES_HOME/bin")
    common = f"""[GLOBAL]
fixed={folder}/fixed.mha
moving={folder}/moving.mha
fixed_roi={folder}/fixed_mask.mha
moving_roi={folder}/moving_mask.mha
vf_out={folder}/raw.mha
default_value=-1000
[STAGE]
xform=rigid
optim=rsg
metric=mi
max_its=100
res=4 4 2
"""
    stages = "".join(
        f"""[STAGE]
xform=bspline
optim=lbfgsb
impl=plastimatch
threading=openmp
metric=mi
max_its=60
regularization_lambda=0.001
grid_spac={knots} {knots} {knots}
res={res}
"""
        for knots, res in ((60, "4 4 2"), (30, "2 2 1"), (15, "1 1 1"))
    )
    (folder / "parms.txt").write_text(common + stages, encoding="utf-8")
    done = subprocess.run([program, "register", f"{folder}/parms.txt"], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-500:])
    return sitk.ReadImage(str(folder / "raw.mha"))


METHODS: dict[str, Callable[[Path], sitk.Image]] = {
    "simpleitk_rigid": sitk_rigid,
    "simpleitk_demons": sitk_demons,
    "simpleitk_bspline": sitk_bspline,
    "elastix": elastix,
    "greedy": greedy,
    "ants": ants,
    "plastimatch": plastimatch,
}
NAMES = tuple(METHODS)


def _work(name: str, folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    field = METHODS[name](folder)
    seconds = time.perf_counter() - began
    peak = max(peak_mib(), round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
    sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(folder / "field.mha"))
    return {"seconds": round(seconds, 1), "peak_mib": peak}


# ---- our side -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answer:
    """What a peer said.

    Args:
        moving_points: `[n, 3]` LPS mm: where it says that the landmarks are.
        moving_from_fixed: the same as a field.
        seconds: of registering, reading its images included.
        peak_mib: the highest its process ever held.
    """

    moving_points: Points
    moving_from_fixed: Displacement
    seconds: float
    peak_mib: int


def run(name: str, pair: Pair, limit: float = 3600.0) -> Answer:
    """Let a peer register a pair.

    Args:
        name: one of NAMES.
        pair: its landmarks are asked for; its masks Body and FieldOfView are given.
        limit: seconds after which it is stopped.

    Raises:
        RuntimeError: it is not installed, failed, or took too long; its own words.
    """
    from patient.geometry import Box
    from registration.transforms import Displacement, Space, placed

    python = PEERS / "bin" / "python"
    if not python.exists():
        raise RuntimeError("no environment of peers: PEERS_HOME=.peers benchmarks/peers.sh")
    grid = pair.fixed.geometry
    mask = pair.fixed_masks["Body"]
    box = Box.of(mask.array).padded([int(np.ceil(20 / s)) for s in grid.spacing], grid.shape)
    files: dict[str, Volume[Any]] = {
        "fixed": pair.fixed.cropped(box),
        "moving": pair.moving,
        "fixed_mask": mask.cropped(box),
        "moving_mask": pair.moving_masks["FieldOfView"],
    }
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        for file, volume in files.items():
            array = volume.array.astype(np.uint8 if "mask" in file else np.int16)
            sitk.WriteImage(placed(sitk.GetImageFromArray(array), volume.geometry), str(folder / f"{file}.mha"))
        script = [str(python), str(Path(__file__).resolve()), name, there]
        try:
            done = subprocess.run(script, capture_output=True, encoding="utf-8", check=False, timeout=limit, cwd=there)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took more than {limit:.0f} s") from None
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300])
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        vectors = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "field.mha"))).astype(np.float32)
    at_fixed, at_moving = Space.of(pair.fixed.geometry), Space.of(pair.moving.geometry)
    field = Displacement(vectors, grid.cropped(box), at_fixed, at_moving)
    return Answer(field.points(pair.fixed_points, at_fixed), field, figures["seconds"], figures["peak_mib"])


def versions() -> dict[str, str]:
    """Of what is installed."""
    ask = "import importlib.metadata as m, json; d = m.distributions(); "
    ask += "print(json.dumps({x.metadata['Name'].lower(): x.version for x in d}))"
    python = PEERS / "bin" / "python"
    there: dict[str, str] = {}
    if python.exists():
        there = json.loads(subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout)
    program = shutil.which("plastimatch") or shutil.which("plastimatch", path=str(REFEREES / "bin"))
    said = (
        subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split() if program else []
    )
    wanted = ("simpleitk", "itk-elastix", "picsl_greedy", "antspyx")
    return {**{name: there.get(name, "absent") for name in wanted}, "plastimatch": said[-1] if said else "absent"}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print("\n" + json.dumps(_work(sys.argv[1], Path(sys.argv[2]))))
    else:
        print(json.dumps(versions(), indent=1))
