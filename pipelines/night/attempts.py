"""What comes of each attempt of a night: published, or ended with its reasons; in the ledger and in the night's lines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patient.errors import OutOfResources
from pipelines.night.work import Outcome
from pipelines.night.worklist import Worklist
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.outbox import Outbox
from pipelines.outbox.publish import CASES, KEPT, WORK, Unconfirmed, free_name, publish


@dataclass(eq=False)
class Attempts:
    """Of one night."""

    outbox: Path
    ledger: Ledger
    worklist: Worklist
    place: Outbox
    _numbers: dict[str, int] = field(default_factory=dict)

    def start(self, case: str) -> None:
        """A case is given to the workers."""
        self._numbers[case] = self.ledger.start(self.worklist.images[case])

    def beat(self, cases: Sequence[str]) -> None:
        """Cases are still under way."""
        self.ledger.beat([self.worklist.images[case] for case in cases])

    def record(self, outcome: Outcome) -> None:
        """An attempt has ended: publish what it made, or say why there is nothing."""
        image, reasons = self.worklist.images[outcome.case], outcome.reasons
        self.place.must_be_there()
        if outcome.private:
            self.place.keep_log(outcome.case, outcome.private)
        made = next((self.outbox / WORK).glob(f"{outcome.case}-*"), None)
        if outcome.state in (State.DONE, State.REVIEW) and made is not None:
            try:
                folder = self._publish(image, made, outcome, reasons)
                self._say(outcome, outcome.state, reasons, folder=folder, decision=outcome.decision)
            except Unconfirmed as error:  # The ledger goes on saying what was intended: the next look at the disk decides.
                self._say(outcome, State.FAILED, (str(error),))
            except OutOfResources as error:
                self._end(outcome, State.FAILED, (str(error),), made)
            except OSError as error:
                self._end(outcome, State.FAILED, (f"It could not be published: {error.strerror}",), made)
        else:
            self._end(outcome, outcome.state, reasons, made)

    def give_back(self, why: str) -> None:
        """What is still under way is ready for the next night and does not count as tried."""
        given = self.ledger.give_back(why)
        self.ledger.confirm(self.outbox / CASES)
        for job in filter(None, (self.ledger.job(one.image) for one in given)):
            if job.image in self.worklist.lines:
                name, _ = self.ledger.last_output(job.image)
                folder = f"{CASES}/{name}" if job.state is not State.READY else ""
                said = {"state": job.state, "reasons": job.reasons, "folder": folder}
                self.worklist.lines[job.image] = self.worklist.lines[job.image].model_copy(update=said)

    def _publish(self, image: str, made: Path, outcome: Outcome, reasons: tuple[str, ...]) -> str:
        name = free_name(self.outbox, outcome.case)
        output = self.ledger.intend(image, name, outcome.rtstruct_uid, outcome.state, reasons)
        publish(made, self.outbox / CASES / name)
        self.ledger.published(output)
        return f"{CASES}/{name}"

    def _end(self, outcome: Outcome, state: State, reasons: tuple[str, ...], made: Path | None) -> None:
        """Without an output; what was made of it goes first, so that there is room to say so."""
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        log = self._keep_log(outcome) if outcome.detail else ""
        said = (*reasons, f"log in {log}") if log else reasons
        self.ledger.end(self.worklist.images[outcome.case], self._numbers[outcome.case], state, said)
        self._say(outcome, state, reasons, log=log)

    def _say(
        self, outcome: Outcome, state: State, reasons: tuple[str, ...], folder: str = "", log: str = "", decision: str = ""
    ) -> None:
        if state is not State.FAILED:
            shutil.rmtree(self.outbox / KEPT / outcome.case, ignore_errors=True)
        image = self.worklist.images[outcome.case]
        said = {"state": state, "reasons": reasons, "folder": folder, "log": log, "decision": decision}
        line = self.worklist.lines[image]
        self.worklist.lines[image] = line.model_copy(update={**said, "wall_s": outcome.wall_s})

    def _keep_log(self, outcome: Outcome) -> str:
        """Where an unexpected error was raised, in a folder of the case's own; empty where there is no room for it."""
        folder = self.outbox / WORK / f"{outcome.case}-log"
        name = free_name(self.outbox, f"{outcome.case}-failed")
        try:
            folder.mkdir(exist_ok=True)
            (folder / "log.txt").write_text(outcome.detail, encoding="utf-8")
            publish(folder, self.outbox / CASES / name)
        except (OSError, OutOfResources):
            shutil.rmtree(folder, ignore_errors=True)
            return ""
        return f"{CASES}/{name}/log.txt"
