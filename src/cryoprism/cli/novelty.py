"""``cryoprism novelty``: an index of known shapes, and how new a map or a model is against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from ._given import settings_of
from ._options import Option, fields_of, job_options, with_options

if TYPE_CHECKING:
    from cryoprism.workflow import NoveltyIndexSummary

__all__ = ["ADD_FIELDS", "BUILD_FIELDS", "QUERY_FIELDS", "add", "app", "build", "query"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Has anything of this shape been seen: build an index of known shapes, add to it, ask it.",
)


def _options(kind: str) -> tuple[Option, ...]:
    # Nothing here is drawn at random, and one shape at a time is in memory.
    return tuple(one for one in job_options(kind, device=None, seed=None) if one.name != "max_memory")


_BUILD: Final = _options("NoveltyIndex")
_ADD: Final = _options("NoveltyAdd")
_QUERY: Final = _options("Novelty")
_SHARED: Final = {"assembly": "assembly", "pixel_size": "voxel_size_in_angstroms"}
#: Which field of ``workflow.NoveltyBuildConfig`` each option sets.
BUILD_FIELDS: Final = {
    "files": "inputs",
    "resolution": "resolution_in_angstroms",
    **_SHARED,
    **fields_of(*_BUILD),
}
#: Which field of ``workflow.NoveltyAddConfig`` each option sets.
ADD_FIELDS: Final = {"files": "inputs", "index": "index", **_SHARED, **fields_of(*_ADD)}
#: Which field of ``workflow.NoveltyQueryConfig`` each option sets.
QUERY_FIELDS: Final = {
    "model_or_map": "model_or_map",
    "index": "index",
    "neighbours": "neighbours",
    "prior": "prior",
    **_SHARED,
    **fields_of(*_QUERY),
}

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILES", help="Maps (.mrc, .map), models (.pdb, .cif), gzipped or not, or folders of them."),
]
Index = Annotated[str | None, typer.Option("--index", metavar="FOLDER", help="Folder of the index.")]
Assembly = Annotated[str | None, typer.Option(metavar="NAME", help="Biological assembly of the models, for example 1.")]
PixelSize = Annotated[
    float | None,
    typer.Option("--pixel-size", "--angpix", metavar="Å", help="Voxel size of the maps; replaces their headers'."),
]


@app.command("build", short_help="Build an index of the shapes of maps and models.")
@with_options(*_BUILD)
def build(
    context: typer.Context,
    files: Files = None,
    resolution: Annotated[
        float, typer.Option(metavar="Å", help="Common resolution; probabilities are calibrated at 10 Å.")
    ] = 10.0,
    assembly: Assembly = None,
    pixel_size: PixelSize = None,
) -> int:
    """Build an index of known shapes from maps and models.

    Up to 10,000 shapes are kept in full and compared one by one; more go into inverted lists of 8-bit vectors.

    Writes the index (index.json, shapes-*.faiss, entries-*.sqlite), job.json and run.log. Exit code 1: some files
    could not be used; they are named.

    \b
    Example:
    cryoprism novelty build structures/ --out known
    """
    from cryoprism.workflow import NoveltyBuildConfig, build_index

    from ._console import logging_to_console

    settings = settings_of(context, BUILD_FIELDS, NoveltyBuildConfig)
    with logging_to_console():
        result = build_index(settings)
    return _say(result)


@app.command("add", short_help="Add maps and models to an index.")
@with_options(*_ADD)
def add(
    context: typer.Context,
    files: Files = None,
    index: Index = None,
    assembly: Assembly = None,
    pixel_size: PixelSize = None,
) -> int:
    """Add the shapes of maps and models to an index; files that it holds already are left out.

    Until all are in, the index stays as it was. Exit code 1: some files could not be used; they are named.

    \b
    Example:
    cryoprism novelty add new_map.mrc --index known
    """
    from cryoprism.workflow import NoveltyAddConfig, add_to_index

    from ._console import logging_to_console

    settings = settings_of(context, ADD_FIELDS, NoveltyAddConfig)
    with logging_to_console():
        result = add_to_index(settings)
    return _say(result)


@app.command("query", short_help="Say how new the shape of a map or a model is.")
@with_options(*_QUERY)
def query(
    context: typer.Context,
    model_or_map: Annotated[
        str | None, typer.Argument(metavar="MODEL_OR_MAP", help="Model (.pdb, .cif) or map (.mrc), gzipped or not.")
    ] = None,
    index: Index = None,
    neighbours: Annotated[int, typer.Option(metavar="N", help="Nearest shapes to list.")] = 10,
    prior: Annotated[
        float, typer.Option(metavar="P", help="Probability that the index holds the shape, before looking.")
    ] = 0.5,
    assembly: Assembly = None,
    pixel_size: PixelSize = None,
) -> int:
    """Say how new the shape of a map or a model is against an index of known shapes.

    The value is the probability that the index holds no such shape. Shapes are compared whatever their orientation, at
    the resolution of the index, and without regard to the hand.

    Writes novelty.json, report.html with pictures of the nearest shapes, job.json and run.log.

    \b
    Example:
    cryoprism novelty query map.mrc --index known
    """
    from cryoprism.workflow import NoveltyQueryConfig, query_novelty

    from ._console import logging_to_console

    settings = settings_of(context, QUERY_FIELDS, NoveltyQueryConfig)
    with logging_to_console():
        result = query_novelty(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Report: {result.report}")
    return 0


def _say(result: NoveltyIndexSummary) -> int:
    if result.skipped:
        typer.echo(f"The index was built before: {result.entries} shapes.")
    else:
        typer.echo(f"{result.added} shapes added in {result.seconds:.1f} s; the index holds {result.entries}.")
    for name, why in result.failed:
        typer.echo(f"Left out: {why if name in why else f'{name}: {why}'}")
    typer.echo(f"Index: {result.index}")
    return 1 if result.failed else 0
