"""Ledger and scheduling: 200 trivial cases on warm workers, from job to published folder."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import main, record
from pipelines.night.cluster import cluster, run_all
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.publish import CASES, WORK, free_name, locked, publish
from pipelines.planning.case import CaseRequest

CASES_WANTED = 200
TRIVIAL = "tests.scenarios.trivial:succeed"


def whole() -> None:
    with tempfile.TemporaryDirectory() as folder, locked(Path(folder)), Ledger(Path(folder) / "ledger.sqlite") as ledger:
        outbox = Path(folder)
        requests = [CaseRequest(f"case{n:03d}", (), "1", str(outbox / WORK / f"case{n:03d}")) for n in range(CASES_WANTED)]
        attempts: dict[str, int] = {}

        def started(case: str) -> None:
            attempts[case] = ledger.start(case)

        with cluster(2, 2000, None, outbox / WORK) as client:
            warm = [CaseRequest(f"warm{n}", (), "1", str(outbox / WORK / f"warm{n}")) for n in range(4)]
            list(run_all(client, [[w] for w in warm], 60, TRIVIAL, lambda case: None, lambda cases: None))
            begun = time.perf_counter()
            for request in requests:
                ledger.move(request.case, State.READY, case=request.case, key="k")
            for outcome in run_all(client, [[r] for r in requests], 60, TRIVIAL, started, lambda cases: None):
                name = free_name(outbox, outcome.case)
                output = ledger.intend(outcome.case, name, outcome.rtstruct_uid, outcome.state, outcome.reasons)
                publish(outbox / WORK / outcome.case, outbox / CASES / name)
                ledger.published(output, attempts[outcome.case])
            seconds = time.perf_counter() - begun
        done = len(ledger.jobs(State.DONE))
    if done != CASES_WANTED:
        raise RuntimeError(f"{done} of {CASES_WANTED} cases are done")
    record("ledger", {"cases": CASES_WANTED, "ms_a_case": 1000 * seconds / CASES_WANTED, "reach": "under 50 ms"})


if __name__ == "__main__":
    main(whole, {})
