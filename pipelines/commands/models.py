"""`recontour models`: what is in the site's store, adding to it, and looking whether it is still what was added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.terminal import DONE, INVALID_ARGUMENTS, Json, people, table_of

Where = Annotated[
    Path | None, typer.Option("--store", help="The store's folder. Else $RECONTOUR_MODELS, or among your own data.")
]

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The site's contouring models: list, add, verify.")


@models.command("list", epilog="Example: recontour models list --json")
def list_models(store: Where = None, as_json: Json = False) -> int:
    """The models in the store, their structures and licences."""
    from contour.model_registry import ModelRegistry

    at = ModelRegistry(store)
    records = [at.record(name) for name in at.names()]
    if as_json:
        print(json.dumps([record.model_dump(mode="json", exclude_defaults=True) for record in records]))
        return DONE
    table = table_of([(heading, "left") for heading in ("model", "version", "kind", "licence", "added", "structures")])
    for record in records:
        card = record.card
        table.add_row(
            card.name, card.version, card.kind, card.licence, f"{record.added:%Y-%m-%d}", ", ".join(card.structures)
        )
    people.print(table if records else f"No models in {at.folder}")
    return DONE


@models.command("add", epilog="Example: recontour models add Dataset291_TotalSegmentator_part1_organs_1559subj")
def add_model(
    source: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A model folder, nnU-Net results, a MONAI bundle, a .pt, .ts or .onnx file."),
    ],
    about: Annotated[Path | None, typer.Option(help="TOML with what the model's own files do not say.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, as SPDX; instead of what the files say.")] = "",
    name: Annotated[str, typer.Option(help="What templates shall call it; else its own name.")] = "",
    kind: Annotated[str, typer.Option(help="Where the folder could be taken for another kind.")] = "",
    store: Where = None,
    as_json: Json = False,
) -> int:
    """Copy a model into the store, once it has been checked and has answered."""
    from contour.model_registry import ModelRegistry

    record = ModelRegistry(store).add(source, kind=kind, about=about, licence=licence, name=name)
    if as_json:
        print(record.model_dump_json(exclude_defaults=True))
    else:
        card = record.card
        people.print(f"Added {card.name} {card.version} ({card.kind}, {card.licence}): {', '.join(card.structures)}")
        people.print("Look at its contours on a patient whose left and right you know before you use it.")
    return DONE


@models.command("verify", epilog="Example: recontour models verify")
def verify_models(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Of models; all without one.")] = None,
    store: Where = None,
    as_json: Json = False,
) -> int:
    """Every file against its digest, every licence against the site's policy. 2: something must not be used."""
    from contour.model_registry import ModelRegistry

    at = ModelRegistry(store)
    checks = [at.verify(name) for name in names or at.names()]
    if as_json:
        print(json.dumps([{"name": check.name, "problems": check.problems} for check in checks]))
    else:
        for check in checks:
            people.print(f"{check.name}: {'as it was added' if not check.problems else 'must not be used'}")
            for problem in check.problems:
                people.print(f"  {problem}")
    return INVALID_ARGUMENTS if any(check.problems for check in checks) else DONE
