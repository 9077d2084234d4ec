"""All in one: V and HyperScore with their uncertainty, weights from people's judgements, what to ask next."""

from .score import Estimate, Fusion, component_values, fuse, hyperscore
from .weights import (
    COMPONENTS,
    ENOUGH_JUDGEMENTS,
    SYMBOLS,
    Shape,
    Weights,
    default_shape,
    default_weights,
    impact_bound_in_citations,
    softmax,
)

__all__ = [
    "COMPONENTS",
    "ENOUGH_JUDGEMENTS",
    "SYMBOLS",
    "Estimate",
    "Fusion",
    "Shape",
    "Weights",
    "component_values",
    "default_shape",
    "default_weights",
    "fuse",
    "hyperscore",
    "impact_bound_in_citations",
    "softmax",
]
