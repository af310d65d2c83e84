"""Where figures go: one JSON file a table, with the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("RECONTOUR_DATA", ROOT.parent / "shared" / "data"))
REFEREES = Path(os.environ.get("RECONTOUR_REFEREES", ROOT.parent / "shared" / "referees"))


def record(name: str, figures: dict[str, Any]) -> None:
    """Write and print the figures of one table."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "date": date.today().isoformat()}
    text = json.dumps({"machine": machine, **figures}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {text}")


def alone(script: str, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run a part of a benchmark in a process of its own, so that its peak memory is its own; its last line is JSON.

    Args:
        python: of another environment, where a peer lives.
    """
    done = subprocess.run([python, script, *arguments], capture_output=True, encoding="utf-8", check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(whole: Callable[[], None], parts: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """A script's entry: a named part for `alone`, or the whole."""
    if len(sys.argv) > 1:
        print(json.dumps(parts[sys.argv[1]]()))
    elif not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        whole()
