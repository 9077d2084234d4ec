"""One record per forward mechanism, so that every property test runs over all of them.

A module of this room lists its operators in a module-level tuple ``MECHANISMS``; :func:`all_mechanisms` gathers them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Generator, Tensor

__all__ = ["InputKind", "Mechanism", "Parameters", "all_mechanisms", "mechanism_named"]

InputKind = Literal["image", "wave", "movie", "volume", "spectrum"]
Parameters = Mapping[str, Tensor | float]


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A physical cause as a pure operator: ``apply(input, parameters, generator)`` returns a new tensor.

    Parameters
    ----------
    name
        Unique name, for example ``linear_drift``.
    cause
        The node of the causal graph that owns it, for example ``drift``.
    stage
        The module that holds it: potential, scattering, ice, dose, motion, optics, detector or contamination.
    apply
        The operator. The input has any number of leading batch axes before those that ``input_kind`` names: image
        (..., y, x) real, wave (..., y, x) complex, movie (..., t, y, x), volume (..., z, y, x), spectrum
        (..., h, w // 2 + 1). It never writes into its input. Everything it needs, the pixel size and the voltage
        included, stands in the parameters. The generator may be None unless ``random``.
    sample_parameters
        Draws a complete set of plain numbers (serialisable to JSON) from a generator.
    ideal
        The values of those parameters under which the mechanism does no harm; the others (pixel size, voltage) keep
        their sampled values.
    bounds
        Lowest and highest physical value of each parameter.
    units
        Unit of each parameter, as text; ``1`` for a plain number.
    linear
        Linear in its input (then it has an adjoint, by automatic differentiation).
    random
        Draws from the generator: independent numbers for every batch item.
    differentiable
        Gradients reach the input.
    input_kind
        See ``apply``.
    ideal_is_identity
        With the ideal parameters the output equals the input. If False, ``ideal_note`` says what it is instead.
    ideal_note
        What the ideal does where it is not the identity.
    gradient_parameters
        Names of parameters that gradients reach as well.
    """

    name: str
    cause: str
    stage: str
    apply: Callable[[Tensor, Parameters, Generator | None], Tensor]
    sample_parameters: Callable[[Generator], dict[str, float]]
    ideal: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    units: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    linear: bool
    random: bool
    differentiable: bool
    input_kind: InputKind
    ideal_is_identity: bool = True
    ideal_note: str = ""
    gradient_parameters: tuple[str, ...] = ()

    def with_ideal(self, parameters: Parameters) -> dict[str, Any]:
        """Return a copy of ``parameters`` with the ideal values set: the intervention do(cause = ideal)."""
        return {**parameters, **self.ideal}


def all_mechanisms() -> dict[str, Mechanism]:
    """Every mechanism of the room by name; modules are imported on the first call only.

    Raises
    ------
    ValueError
        Two mechanisms share a name.
    """
    package = importlib.import_module(__package__ or "cryoprism.microscope")
    found: dict[str, Mechanism] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for mechanism in getattr(module, "MECHANISMS", ()):
            if mechanism.name in found:
                raise ValueError(f"two mechanisms are named '{mechanism.name}'")
            found[mechanism.name] = mechanism
    return found


def mechanism_named(name: str) -> Mechanism:
    """Return the mechanism called ``name``.

    Raises
    ------
    KeyError
        No mechanism has this name; the message lists those that exist.
    """
    known = all_mechanisms()
    if name not in known:
        raise KeyError(f"no mechanism is called '{name}': use one of {', '.join(sorted(known))}")
    return known[name]
