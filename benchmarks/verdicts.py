"""Verdicts: wrong pairs must be recognised, good ones must not be refused; each as `recontour register` treats it.

python benchmarks/verdicts.py             thirty of either: half an hour and more on two cores
python benchmarks/verdicts.py --pairs 3   a quick look: three of either, nothing written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.known import Pair, breathing_pair, head_neck_pair, head_neck_patients, rigid_pair, wrong_pairs
from benchmarks.record import DATA, record
from patient.errors import NotTrusted
from pipelines.registration_case import Kind, register
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


def verdict(pair: Pair) -> Verdict:
    """What a night would say; without any mask but what the images themselves show."""
    try:
        return register(pair.fixed, pair.moving, Kind.DEFORMABLE, RegistrationContext()).verdict
    except NotTrusted as refusal:
        return Verdict(False, (refusal.what,))


def table(name: str, pairs: Iterator[Callable[[], Pair]], expected: bool) -> dict[str, Any]:
    """How many of the pairs got the verdict that is right for them; the others with what was said."""
    count, right, odd = 0, 0, {}
    for make in pairs:
        pair = make()
        said = verdict(pair)
        count += 1
        right += said.trusted == expected
        if said.trusted != expected:
            odd[pair.name] = said.reasons
        print(f"{name} {pair.name}: {json.dumps([said.trusted, said.reasons])}", file=sys.stderr, flush=True)
    return {"pairs": count, "right": right, "otherwise": odd}


def whole(count: int | None) -> None:
    """The table; written only where nothing was left out."""
    figures = {
        "wrong_pairs_recognised": table("wrong", islice(wrong(), count or PAIRS), False),
        "good_pairs_trusted": table("good", islice(good(), count or PAIRS), True),
    }
    if count is None:
        record("verdicts", figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--pairs", type=int, help="so many of either; nothing is written")
        whole(parser.parse_args().pairs)
