"""Every engine that a site has: those that are installed and the models of its store."""

from __future__ import annotations

from importlib.metadata import entry_points

from contour.engine import Engine
from contour.model_registry import ModelRegistry
from contour.registered_models import registered_engines
from patient.errors import InputError


def installed_engines() -> dict[str, Engine]:
    """Every engine that is installed, and every model in the store, by name; a wrong one is refused here rather than later.

    Raises:
        InputError: an entry point gives no engine, or a model has the name of one.
        ModelError: a model's record cannot be read.
    """
    engines: dict[str, Engine] = {}
    for point in entry_points(group="recontour.engines"):
        engine = point.load()()
        if not isinstance(engine, Engine):
            raise InputError(
                f"Entry point {point.name!r} of recontour.engines gives no engine",
                why="It lacks name, version, offers or contour",
            )
        engines[engine.name] = engine
    for registered in registered_engines(ModelRegistry()):
        if registered.name in engines:
            raise InputError(
                f"The model {registered.name!r} in the store has the name of an installed engine",
                why="A template could mean either",
                remedy="Move it out of the store and add it again with another --name",
            )
        engines[registered.name] = registered
    return engines
