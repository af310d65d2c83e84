"""Spoilt DICOM files, and the night over an inbox full of them: for the tests and for benchmarks/fuzz.py."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import re
import resource
import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from patient.read.images import open_image
from pipelines.configuration import Configuration
from pipelines.fraction.files import FractionFiles, _linked
from pipelines.fraction.plan_folder import read_fraction_folder, read_plan_folder
from pipelines.night import run as night
from pipelines.night.work import run_case
from pipelines.planning.case import CaseRequest, _entry
from tests.planning import identity, image, plan, registration
from tests.scenarios.trivial import fraction, succeed

KINDS = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG")
QUIET = Configuration(settle_minutes=0, workers=1)
_NUMBER = b"77777777"
"""Stands in every UID and Patient ID of the model patient; each copy has its own in its place."""
_OTHER_VALUES = (b"12,5", b"A1", b"\xff\xfe", b"1e999", b"-0", b"\\\\", b"nan", b"\x00\x00\x00\x80", b"../../x", b"<script>")
_VRS = (b"DS", b"IS", b"SQ", b"UI", b"US", b"OW", b"UN", b"FD", b"ZZ")
_BOMB = 200 << 20
_IDENTITY = (0x00080016, 0x00080018, 0x00080060, 0x00100020, 0x0020000D, 0x0020000E)
_TAG = re.compile(rb"[\x08\x10\x18\x20\x28\x04\x06\x0a\x0c][\x00\x30]..", re.DOTALL)


@dataclass
class Told:
    """What came of nights.

    Args:
        files: that were spoilt.
        lost: nights that ended with an exception.
        tracebacks: of unexpected errors, wherever they came up.
        missing: good cases that were not published.
    """

    files: int = 0
    lost: int = 0
    tracebacks: list[str] = field(default_factory=list)
    missing: int = 0


@cache
def model_patient() -> dict[str, bytes]:
    """Every file of the model, once a process."""
    with TemporaryDirectory() as place:
        return _model_in(Path(place))


def _model_in(folder: Path) -> dict[str, bytes]:
    """Every file of a patient with planning CT, plan and its objects, fraction and REG, by a name that says its kind."""
    who = image(folder / "CT", identity("7" * 8, "20260102"), "P77777777", planes=3)
    plan(folder / "plan", who, "P77777777", date="20260105")
    today = image(folder / "fraction", identity("fraction " + "7" * 8, "20260107", "CBCT"), "P77777777", planes=3)
    registration(folder / "reg.dcm", who, today, "P77777777")
    _draw(folder / "plan" / "plan-structures.dcm")
    files = {}
    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        _number(dataset)
        dataset.save_as(path)
        kind = "fraction" if path.parent.name == "fraction" else str(dataset.Modality)
        files[f"{kind}-{len(files):02d}.dcm"] = path.read_bytes()
    return files


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """One file, spoilt in one way."""
    return chance.choice((_flipped, _cut, _longer, _other_value, _other_vr, _bomb))(bytearray(content), chance)


def inbox(folder: Path, kind: str, count: int, seed: int) -> None:
    """Patients of whom one file of a kind is spoilt each, under names of any bytes; and a good one beside them."""
    model = model_patient()
    for n in range(count):
        chance = random.Random(f"{kind} {seed} {n}")
        mine = _of(model, f"{seed % 10000:04d}{n:04d}".encode())
        which = chance.choice([name for name in mine if name.startswith(kind)])
        mine[which] = spoilt(mine[which], chance)
        _write(folder / f"{n:04d}", mine, bytes(chance.choice(range(1, 256)) for _ in range(6)).replace(b"/", b"_"))
    _write(folder / "good", _of(model, b"88888888"), b"good")
    alone = {name: content for name, content in _of(model, b"99999999").items() if name.startswith("CT")}
    _write(folder / "good", alone, b"alone")


def night_over(folder: Path, outbox: Path, told: Told) -> None:
    """One night over such an inbox; cases are read as workers read them, and not computed."""
    with (
        patch.object(night, "cluster", lambda *how: nullcontext()),
        patch.object(
            night, "run_all", lambda client, queues, limit, function, started, *clock: _made(queues, started, told)
        ),
    ):
        try:
            record = night.run_night(folder, outbox, QUIET)
        except Exception:
            told.lost += 1
            told.tracebacks.append(traceback.format_exc())
            return
    told.tracebacks += [p.what for p in record.problems if "unexpected" in p.what]
    told.tracebacks += [r for c in record.cases for r in c.reasons if "unexpected" in r]
    good = [c for c in record.cases if c.folder and (outbox / "private" / f"{c.case}.json").is_file()]
    names = "".join((outbox / "private" / f"{c.case}.json").read_text(encoding="utf-8") for c in good)
    told.missing += ("P88888888" not in names) + ("P99999999" not in names)


def night_alone(kind: str, count: int, seed: int) -> tuple[Told, int]:
    """A night over such an inbox in a process of its own: what came of it, and the most memory that it took, MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_measured, (kind, count, seed))


def _measured(kind: str, count: int, seed: int) -> tuple[Told, int]:
    warnings.simplefilter("ignore")  # They quote bytes that no terminal can show.
    told = Told(files=count)
    with TemporaryDirectory() as place:
        inbox(Path(place, "in"), kind, count, seed)
        night_over(Path(place, "in"), Path(place, "out"), told)
    return told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def read_only(request: CaseRequest | FractionFiles) -> object:
    """A worker's case without its computing: everything is read as far as a worker reads it."""
    if isinstance(request, CaseRequest):
        open_image(_entry(request)).load()
        return succeed(request)
    with TemporaryDirectory() as place:
        planned, today = Path(place, "plan"), Path(place, "fraction")
        of = request.plan
        _linked(planned, (*of.image, of.structure_set, of.plan, *of.doses))
        _linked(today, request.files)
        read = read_plan_folder(planned, of.plan_uid)
        read.image.load()
        found, *_ = read_fraction_folder(today, read)
        found.load()
    return fraction(request)


def _made(queues, started, told: Told) -> Iterator:
    for queue in queues:
        for request in queue:
            started(request.case)
            outcome = run_case(request, "tests.fuzzing:read_only")
            if outcome.detail:
                told.tracebacks.append(outcome.private)
            yield outcome


def _draw(path: Path) -> None:
    """Two loops of one structure."""
    d = pydicom.dcmread(path)
    roi, contour, observation = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, "PTV", "MANUAL"
    roi.ReferencedFrameOfReferenceUID = d.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    contour.ReferencedROINumber, contour.ROIDisplayColor, contour.ContourSequence = 1, [255, 0, 0], []
    for z in (0, 3):
        loop = Dataset()
        loop.ContourGeometricType, loop.NumberOfContourPoints = "CLOSED_PLANAR", 4
        loop.ContourData = [-4, -4, z, 4, -4, z, 4, 4, z, -4, 4, z]
        contour.ContourSequence.append(loop)
    observation.ObservationNumber = observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "PTV", ""
    d.StructureSetROISequence, d.ROIContourSequence, d.RTROIObservationsSequence = [roi], [contour], [observation]
    d.save_as(path, enforce_file_format=True)


def _number(dataset: Dataset) -> None:
    """Let every UID of the patient's own end with the number, so that copies are other patients' objects."""
    for element in dataset.iterall():
        if element.VR == "UI" and not element.keyword.endswith("ClassUID") and str(element.value).startswith("1.2.826.0.1"):
            element.value = f"{str(element.value)[:54]}.{_NUMBER.decode()}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _of(model: dict[str, bytes], number: bytes) -> dict[str, bytes]:
    number = b"1" + number[1:] if number.startswith(b"0") else number
    return {name: content.replace(_NUMBER, number) for name, content in model.items()}


def _write(folder: Path, files: dict[str, bytes], name: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in files.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name + kind.encode())).write_bytes(content)


def _flipped(content: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(132, len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _cut(content: bytearray, chance: random.Random) -> bytes:
    return bytes(content[: chance.randrange(len(content))])


def _longer(content: bytearray, chance: random.Random) -> bytes:
    """The length of one element changed."""
    at = _element(content, chance)
    content[at + 4 : at + 8] = chance.choice((0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)).to_bytes(4, "little")
    return bytes(content)


def _other_value(content: bytearray, chance: random.Random) -> bytes:
    at, value = _element(content, chance), chance.choice(_OTHER_VALUES)
    room = int.from_bytes(content[at + 4 : at + 8], "little")
    if 0 < room < 4096:
        content[at + 8 : at + 8 + room] = value.ljust(room, b" ")[:room]
    return bytes(content)


def _other_vr(content: bytearray, chance: random.Random) -> bytes:
    at = _element(content, chance)
    content[at + 4 : at + 6] = chance.choice(_VRS)
    return bytes(content)


def _bomb(content: bytearray, chance: random.Random) -> bytes:
    """Deflated, and much larger than the file says: file meta and identity, then a huge private element."""
    dataset = pydicom.dcmread(io.BytesIO(bytes(content)))
    head, out = Dataset(), io.BytesIO()
    head.update({tag: dataset[tag] for tag in _IDENTITY})
    head.file_meta = dataset.file_meta
    head.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(out, head, enforce_file_format=True)
    whole = out.getvalue()
    meta = 144 + int.from_bytes(whole[140:144], "little")
    plain = zlib.decompress(whole[meta:], -15)
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return whole[:meta] + made.compress(plain + b"\x21\x00\x10\x10OB\x00\x00" + _BOMB.to_bytes(4, "little")) + _tail(made)


def _tail(made: zlib._Compress) -> bytes:
    """Zeros beyond all measure; deflated once for all bombs."""
    return made.flush(zlib.Z_FULL_FLUSH) + _zeros()


@cache
def _zeros() -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(made.compress(bytes(1 << 20)) for _ in range(_BOMB >> 20)) + made.flush()


def _element(content: bytearray, chance: random.Random) -> int:
    """Where one of its elements begins, most likely."""
    places = [found.start() for found in _TAG.finditer(content) if 132 < found.start() < len(content) - 12]
    return chance.choice(places or [140])
