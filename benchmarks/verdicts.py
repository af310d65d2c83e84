"""Verdicts: wrong pairs must be recognised, good ones must not be refused; each as `recontour register` treats it.

python benchmarks/verdicts.py               thirty of either: half an hour and more on two cores
python benchmarks/verdicts.py --only good   one kind alone; the other stays as it is recorded
python benchmarks/verdicts.py --pairs 3     a quick look: three of either, nothing written
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813 - as everybody writes it
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.known import Pair, breathing_pair, head_neck_pair, head_neck_patients, rigid_pair, wrong_pairs
from benchmarks.record import DATA, RESULTS, record
from patient.errors import NotTrusted
from pipelines.fraction.registration_case import Kind, register
from registration.method import RegistrationContext
from registration.quality import Verdict

PAIRS = 30


def wrong() -> Iterator[Callable[[], Pair]]:
    """Another patient, another part of the body, an image turned by 180 degrees, in turn."""
    seed = 0
    while True:
        for which in range(3):
            yield lambda seed=seed, which=which: wrong_pairs(seed)[which]
        seed += 1


def good() -> Iterator[Callable[[], Pair]]:
    """Head and neck moved, head and neck bent and moved twice, and every tenth a breathing chest."""
    patients, n = head_neck_patients(), 0
    while True:
        patient = patients[n % len(patients)]
        if n % 10 == 9:
            yield lambda n=n: breathing_pair(n)
        elif n % 3 == 0:
            yield lambda n=n, p=patient: rigid_pair(p, n, 20.0, 10.0)
        else:
            yield lambda n=n, p=patient: head_neck_pair(p, n)
        n += 1


KINDS: dict[str, tuple[Callable[[], Iterator[Callable[[], Pair]]], bool]] = {"wrong": (wrong, False), "good": (good, True)}
"""The pairs, and whether they are to be trusted."""
TABLES = {"good": "good_pairs_trusted", "wrong": "wrong_pairs_recognised"}


def said(kind: str, number: int) -> tuple[str, Verdict]:
    """A pair's name and what a night would say of it; without any mask but what the images themselves show.

    On one core: two pairs side by side are done sooner than two after each other on both.
    """
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    pair = next(islice(KINDS[kind][0](), number, None))()
    try:
        found = register(pair.fixed, pair.moving, Kind.DEFORMABLE, RegistrationContext()).verdict
    except NotTrusted as refusal:
        found = Verdict(False, (refusal.what,))
    print(f"{kind} {pair.name}: {json.dumps([found.trusted, found.reasons])}", file=sys.stderr, flush=True)
    return pair.name, found


def table(kind: str, count: int, cores: ProcessPoolExecutor) -> dict[str, Any]:
    """How many of the pairs got the verdict that is right for them; the others with what was said."""
    found = list(cores.map(said, [kind] * count, range(count)))
    odd = {name: verdict.reasons for name, verdict in found if verdict.trusted != KINDS[kind][1]}
    return {"pairs": count, "right": count - len(odd), "otherwise": odd}


def whole(count: int | None, kinds: tuple[str, ...]) -> None:
    """The tables, one process a core that this one may use; each written as it is done, unless pairs were left out."""
    path = RESULTS / "verdicts.json"
    before = json.loads(path.read_text(encoding="utf-8")) if count is None and path.exists() else {}
    figures = {name: before[name] for name in TABLES.values() if name in before}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as cores:
        for kind in kinds:
            figures[TABLES[kind]] = table(kind, count or PAIRS, cores)
            if count is None:
                record("verdicts", figures)
    if count is not None:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--pairs", type=int, help="so many of either; nothing is written")
        parser.add_argument("--only", choices=TABLES, help="one kind alone; the other stays as it is recorded")
        wanted = parser.parse_args()
        whole(wanted.pairs, (wanted.only,) if wanted.only else tuple(TABLES))
