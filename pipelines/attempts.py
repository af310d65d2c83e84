"""What comes of each attempt of a night: published, or ended with its reasons; in the ledger and in the night's lines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patient.errors import OutOfResources
from pipelines.ledger import Ledger, State
from pipelines.publish import CASES, KEPT, WORK, free_name, publish
from pipelines.redaction import name_parts, redacted
from pipelines.work import Outcome
from pipelines.worklist import Worklist


@dataclass(eq=False)
class Attempts:
    """Of one night."""

    outbox: Path
    ledger: Ledger
    worklist: Worklist
    _numbers: dict[str, int] = field(default_factory=dict)

    def start(self, case: str) -> None:
        self._numbers[case] = self.ledger.start(self.worklist.images[case])

    def beat(self, cases: Sequence[str]) -> None:
        self.ledger.beat([self.worklist.images[case] for case in cases])

    def record(self, outcome: Outcome) -> None:
        image = self.worklist.images[outcome.case]
        names = name_parts(self.worklist.entries[image])
        reasons = tuple(redacted(reason, names) for reason in outcome.reasons)
        folder = log = ""
        made = next((self.outbox / WORK).glob(f"{outcome.case}-*"), None)
        state = outcome.state
        if state in (State.DONE, State.REVIEW) and made is not None:
            try:
                folder = self._publish(image, made, outcome, reasons)
            except OutOfResources as error:
                state, reasons = State.FAILED, (str(error),)
        if not folder:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            log = self._keep_log(outcome, names) if outcome.detail else ""
            said = (*reasons, f"log in {log}") if log else reasons
            self.ledger.end(image, self._numbers[outcome.case], state, said)
        if state is not State.FAILED:
            shutil.rmtree(self.outbox / KEPT / outcome.case, ignore_errors=True)
        said = {"state": state, "reasons": reasons, "folder": folder, "log": log, "wall_s": outcome.wall_s}
        self.worklist.lines[image] = self.worklist.lines[image].model_copy(
            update={**said, "decision": outcome.decision if folder else ""}
        )

    def _publish(self, image: str, made: Path, outcome: Outcome, reasons: tuple[str, ...]) -> str:
        name = free_name(self.outbox, outcome.case)
        output = self.ledger.intend(image, name, outcome.rtstruct_uid, outcome.state, reasons)
        publish(made, self.outbox / CASES / name)
        self.ledger.published(output, self._numbers[outcome.case])
        return f"{CASES}/{name}"

    def _keep_log(self, outcome: Outcome, names: Sequence[str]) -> str:
        """The traceback of an unexpected error, in a folder of the case's own; empty where there is no room for it."""
        folder = self.outbox / WORK / f"{outcome.case}-log"
        name = free_name(self.outbox, f"{outcome.case}-failed")
        try:
            folder.mkdir(exist_ok=True)
            (folder / "log.txt").write_text(redacted(outcome.detail, names), encoding="utf-8")
            publish(folder, self.outbox / CASES / name)
        except (OSError, OutOfResources):
            shutil.rmtree(folder, ignore_errors=True)
            return ""
        return f"{CASES}/{name}/log.txt"
