"""The micrographs of a job, as its configuration names them."""

from __future__ import annotations

from typing import Any

from cryoprism.formats import Catalogue, read_catalogue
from cryoprism.workflow.jobs.config import MicrographsConfig

__all__ = ["read_micrographs"]


def read_micrographs(config: MicrographsConfig, **more: Any) -> Catalogue:
    """Catalogue of the inputs of a job; what was given about the microscope wins over the metadata.

    Parameters
    ----------
    config
        Of the job.
    more
        Further values for ``formats.read_catalogue``.

    Raises
    ------
    InputError
        The inputs cannot be read, or do not say what is needed.
    """
    source: str | list[str] = config.inputs[0] if len(config.inputs) == 1 else list(config.inputs)
    return read_catalogue(source, **config.lens_values(), **more)
