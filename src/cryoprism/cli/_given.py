"""Which options the user really gave: everything else keeps the default of the configuration, which is the only one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from cryoprism.workflow import JobConfig

Settings = TypeVar("Settings", bound="JobConfig")

__all__ = ["given_values", "settings_of"]


def given_values(context: typer.Context, fields: Mapping[str, str]) -> dict[str, Any]:
    """Values of the options that were given, by the names of the configuration's fields.

    Parameters
    ----------
    context
        Of the running command.
    fields
        Name of the command's parameter to name of the configuration's field.
    """
    values = {}
    for name, field in fields.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name not in {"DEFAULT", "DEFAULT_MAP"}:
            values[field] = context.params[name]
    return values


def settings_of(context: typer.Context, fields: Mapping[str, str], kind: type[Settings], **more: Any) -> Settings:
    """Return the validated configuration: what was given wins over the file of ``--config``, that over the defaults.

    Parameters
    ----------
    context, fields
        As in :func:`given_values`.
    kind
        Class of the configuration.
    more
        Fields that the command has put together itself; they win over all.
    """
    config = context.params["config"]
    known = {} if config is None else kind.from_file(config).model_dump()
    return kind(**(known | given_values(context, fields) | more))
