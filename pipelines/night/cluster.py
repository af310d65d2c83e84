"""Work on Dask: one case a task, one task a worker at a time. A task carries paths and hashes, never pixels.

A case that hangs loses its worker, as does one that eats its memory; the others go on.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from patient.errors import InputError, OutOfResources
from pipelines.night.work import Outcome, Request, run_case
from pipelines.outbox.job import State

BEAT = 0.5
"""Seconds between looks at what is running."""
NO_WORKER = 45.0
"""Seconds without any worker, after which a night gives up."""


@contextmanager
def cluster(workers: int, memory_limit_mib: int, scheduler: str | None, scratch: Path) -> Iterator[Client]:
    """A local cluster of worker processes, which keep their own files in `scratch`; or an existing one by its address.

    Raises:
        InputError: no scheduler answers at the address.
    """
    quiet = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.daemon": False,
        # By default all freed memory is given back at once (MALLOC_TRIM_THRESHOLD_), and a descent takes twice its time.
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.logging.distributed": "critical",
        "temporary-directory": str(scratch),
    }
    with dask_config.set(quiet):
        if scheduler:
            try:
                client = Client(scheduler, timeout="10s")
            except (OSError, TimeoutError, ValueError) as error:
                raise InputError(
                    f"No Dask scheduler answers at {scheduler}", remedy="Start one, or leave --scheduler out"
                ) from error
            with client:
                yield client
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
            os.environ.setdefault(variable, str(threads))
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                memory_limit=f"{memory_limit_mib}MiB",
                silence_logs=50,
            ) as local,
            Client(local) as client,
        ):
            yield client


def run_all(
    client: Client,
    queues: Iterable[Iterable[Request]],
    time_limit: float,
    function: str,
    started: Callable[[str], None],
    beat: Callable[[Sequence[str]], None],
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Outcomes as they come; one for every request.

    Args:
        client: of a cluster.
        queues: what is to be done. Queues run side by side; a queue is asked for its next request once the caller has taken
            the outcome of the one before, on which it may stand (a fraction on earlier ones).
        time_limit: seconds from a task's start on a worker.
        function: as for `run_case`.
        started: called when a case is given to the cluster.
        beat: called now and then with the cases still under way.
        now: seconds, by the clock that limits are kept by.

    Raises:
        OutOfResources: no worker is left, or the scheduler is gone; what is under way has no outcome.
    """
    waiting = deque(iter(queue) for queue in queues)
    running: dict[Any, _Task] = {}
    workers = _Workers(client, now)
    last = now()
    finished = as_completed(raise_errors=False)
    while waiting or running:
        while waiting and len(running) < workers.slots:
            queue = waiting.popleft()
            if (request := next(queue, None)) is None:
                continue
            started(request.case)
            future = client.submit(
                run_case, request, function, key=f"case-{request.case}-{time.time_ns()}", pure=False, retries=0
            )
            running[future] = _Task(request, queue)
            finished.add(future)
        if not waiting and not running:
            break
        done = _next(finished)
        if done is not None and done in running:
            outcome = _outcome(done, running[done].request, running[done].lasted(now()))
            waiting.appendleft(running.pop(done).queue)
            yield outcome
        for future in [future for future, task in running.items() if task.lasted(now()) > time_limit]:
            task = running.pop(future)
            _stop(client, future)
            said = f"took longer than {time_limit:g} s and was stopped"
            yield Outcome(task.request.case, State.FAILED, (said,), wall_s=task.lasted(now()))
            waiting.appendleft(task.queue)
        workers.look()
        if now() - last > BEAT * 4:
            beat([task.request.case for task in running.values()])
            last = now()


@dataclass(eq=False)
class _Task:
    """A case under way. Its time counts from when a worker has made its folder: until then it waits for a worker."""

    request: Request
    queue: Iterator[Request]
    begun: float | None = None

    def lasted(self, now: float) -> float:
        if self.begun is None and Path(self.request.folder).exists():
            self.begun = now
        return now - self.begun if self.begun is not None else 0.0


@dataclass(eq=False)
class _Workers:
    """How many there are, as the scheduler says."""

    client: Client
    now: Callable[[], float]
    slots: int = 0

    def __post_init__(self) -> None:
        self._last = self.now()
        self._asked = time.monotonic()
        self.slots = len(_asked(self.client)["workers"])

    def look(self) -> None:
        """Ask again, once a beat. Raises OutOfResources where there has been none for too long."""
        if time.monotonic() - self._asked < BEAT:
            return
        self._asked = time.monotonic()
        self.slots = len(_asked(self.client)["workers"])
        if self.slots:
            self._last = self.now()
        elif self.now() - self._last > NO_WORKER:
            raise OutOfResources(
                f"There has been no worker for {NO_WORKER:g} s",
                why="Nobody can work on the cases; they are ready for the next night, and none counts as tried",
                remedy="Start workers and the night again",
            )


def _asked(client: Client) -> Any:
    """What the scheduler says of itself.

    Raises:
        OutOfResources: it does not answer.
    """
    try:
        if client.status != "running":
            raise OSError(client.status)
        return client.scheduler_info(n_workers=-1)
    except (OSError, TimeoutError, ValueError) as error:
        raise _gone() from error


def _gone() -> OutOfResources:
    return OutOfResources(
        "The Dask scheduler is gone",
        why="Cases under way are lost with it; they are ready for the next night, and none counts as tried",
        remedy="Start the scheduler and the night again",
    )


def _next(finished: Any) -> Any:
    """The next finished future, or None after a beat."""
    deadline = time.monotonic() + BEAT
    while time.monotonic() < deadline:
        if finished.has_ready():
            return next(finished)
        time.sleep(0.002)
    return None


def _outcome(future: Any, request: Request, wall: float) -> Outcome:
    """What a finished task came to. Raises OutOfResources where it was taken away, which only a scheduler that goes does."""
    if future.status == "finished":
        return future.result()
    if future.status in ("cancelled", "lost"):
        raise _gone()
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Outcome(request.case, State.FAILED, ("its worker died: out of memory, or killed",), wall_s=wall)
    return Outcome(request.case, State.FAILED, (f"its task was lost ({future.status})",), private=repr(error), wall_s=wall)


def _stop(client: Client, future: Any) -> None:
    """Cancel a task that hangs; its worker is restarted, since a thread cannot be stopped."""
    processing: Any = client.processing()
    address = next((worker for worker, tasks in processing.items() if future.key in tasks), None)
    future.cancel(force=True)
    if address is not None:
        client.restart_workers([address], timeout=30, raise_for_error=False)
