"""Which options the user really gave: everything else keeps the default of the configuration, which is the only one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

__all__ = ["given_values"]


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
