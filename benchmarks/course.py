"""A course of 35 fractions by `nightly` in one call: seconds a fraction, and whether later ones cost more.

Beside it what the night itself costs: fractions that are made by formula, and nights in which nothing is to be done.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from data_samples.course import write_course
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from tests.planning import identity, image, plan

FRACTIONS = 35
SLICES, SIZE = 133, 128
"""Of the planning CT; half of the sample's own, so that the whole takes minutes and not hours."""
WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-course"


def by_nightly(fractions: int = FRACTIONS) -> dict[str, Any]:
    """The sample course, all at once."""
    inbox, outbox = WORK / f"in-{fractions}", WORK / "out"
    if not inbox.is_dir():
        write_course(inbox, fractions=fractions, slices=SLICES, size=SIZE, nodes=24.0)
        shutil.rmtree(inbox / "truth")
    shutil.rmtree(outbox, ignore_errors=True)
    seconds, night = _night(inbox, outbox)
    again, idle = _night(inbox, outbox)
    walls = [case["wall_s"] for case in sorted(night["cases"], key=lambda case: case["fraction"])]
    if len(walls) != fractions or idle["unchanged"] != fractions or any(c["state"] == "failed" for c in night["cases"]):
        raise RuntimeError(f"{len(walls)} of {fractions} fractions were treated, {idle['unchanged']} unchanged afterwards")
    tenth = max(1, min(10, fractions // 3))
    return {
        "planes": [SLICES, SIZE, SIZE],
        "night_s": round(seconds, 1),
        "s_a_fraction": round(mean(walls), 2),
        f"last_{tenth}_over_first_{tenth}": round(mean(walls[-tenth:]) / mean(walls[:tenth]), 3),
        "s_between_fractions": round((seconds - sum(walls)) / fractions, 3),
        "s_of_a_night_with_nothing_to_do": round(again, 2),
    }


def _night(inbox: Path, outbox: Path) -> tuple[float, dict[str, Any]]:
    command = [sys.executable, "-m", "pipelines.app", "nightly", str(inbox), "-o", str(outbox)]
    start = time.perf_counter()
    done = subprocess.run([*command, "--settle-minutes", "0", "--workers", "1", "--json"], capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - start, json.loads(done.stdout)


def by_formula(fractions: int) -> dict[str, float]:
    """What the night costs without the work: tiny images, results by formula."""
    with tempfile.TemporaryDirectory() as folder:
        inbox, outbox = Path(folder) / "in", Path(folder) / "out"
        who = image(inbox / "ct", identity("plan", "20260102"))
        plan(inbox / "plan", who, date="20260105")
        for n in range(fractions):
            image(inbox / f"fraction{n}", identity(f"fraction {n}", f"2026{2 + n // 28:02d}{1 + n % 28:02d}", "CBCT"))
        quiet = Configuration(settle_minutes=0, workers=1)
        start = time.perf_counter()
        first = run_night(inbox, outbox, quiet, function="tests.scenarios.trivial:fraction")
        whole = time.perf_counter() - start
        start = time.perf_counter()
        idle = run_night(inbox, outbox, quiet, function="tests.scenarios.trivial:fraction")
        if len(first.cases) != fractions or idle.unchanged != fractions:
            raise RuntimeError("not every fraction was treated once")
        return {"night_s": round(whole, 2), "idle_s": round(time.perf_counter() - start, 2)}


def main() -> None:
    nights = {f"{n}_fractions": by_formula(n) for n in (9, 35, 70)}
    few, many = nights["35_fractions"]["night_s"], nights["70_fractions"]["night_s"]
    nights["s_each_further_fraction"] = {"night_s": round((many - few) / 35, 3)}
    if len(sys.argv) > 1 and sys.argv[1] == "formula":
        print(json.dumps(nights, indent=1))
        return
    fractions = int(sys.argv[1]) if len(sys.argv) > 1 else FRACTIONS
    reach = "one call, nothing twice, cost linear in fractions (ratio near 1)"
    record("course", {"nightly": by_nightly(fractions), "by_formula": nights, "reach": reach})


if __name__ == "__main__":
    main()
