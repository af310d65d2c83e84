"""The front door for programmers: its example runs, its types are whole, and nothing else stands on it."""

import doctest
import inspect
from pathlib import Path

import recontour

ROOT = Path(__file__).parents[1]


def test_the_example_runs_as_it_is_written() -> None:
    done = doctest.testmod(recontour, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted >= 12
    assert done.failed == 0


def test_everything_public_has_a_docstring_and_types() -> None:
    for name in recontour.__all__:
        thing = getattr(recontour, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name
