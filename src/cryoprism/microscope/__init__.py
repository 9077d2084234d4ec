"""The microscope: every physical mechanism from the specimen's potential to the recorded counts."""

from ._registry import InputKind, Mechanism, Parameters, all_mechanisms, mechanism_named

__all__ = ["InputKind", "Mechanism", "Parameters", "all_mechanisms", "mechanism_named"]
