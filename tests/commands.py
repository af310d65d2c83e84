"""The command line, called in this process: what it says, and its exit code. Scenarios start processes of their own."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from pipelines.app import main


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


def recontour(*arguments: object) -> Said:
    """Run `recontour` with such arguments."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["recontour", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())
