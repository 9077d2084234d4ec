"""The causal graph of the microscope: what can go wrong, through which stage, what would tell, what to do.

Every cause is one node that owns its mechanism (names in the registry of ``cryoprism.microscope``), the parameter it
moves, physical
bounds, the ideal value at which it does no harm, and the evidence that identifies it. Edges lead from causes to the
stage of image
formation they act on, and from stage to stage: specimen → exit wave → image → recorded micrograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryoprism.core import InputError

from ._nodes import CAUSES, FAMILIES, STAGES, Cause

__all__ = ["CAUSES", "FAMILIES", "STAGES", "CausalGraph", "Cause", "default_graph"]


@dataclass(frozen=True)
class CausalGraph:
    """A directed acyclic graph over causes and stages.

    Attributes
    ----------
    causes
        The nodes that are switched on, by name.
    edges
        (from, to) pairs of node names, causes and stages together.
    """

    causes: Mapping[str, Cause]
    edges: tuple[tuple[str, str], ...]

    def parents(self, node: str) -> tuple[str, ...]:
        """Nodes with an edge into ``node``."""
        return tuple(start for start, end in self.edges if end == node)

    def order(self) -> tuple[str, ...]:
        """Nodes in topological order: the order of ancestral sampling.

        Raises
        ------
        ValueError
            The edges form a cycle.
        """
        nodes = list(dict.fromkeys([*self.causes, *STAGES]))
        waiting = {node: set(self.parents(node)) for node in nodes}
        order: list[str] = []
        while waiting:
            ready = [node for node in nodes if node in waiting and not waiting[node]]
            if not ready:
                raise ValueError(f"the causal graph has a cycle among {sorted(waiting)}")
            for node in ready:
                del waiting[node]
                order.append(node)
            for parents in waiting.values():
                parents.difference_update(ready)
        return tuple(order)

    def check(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return ``names`` if every one is a cause of this graph that can be set to its ideal.

        Raises
        ------
        InputError
            A name is unknown.
        """
        wanted = tuple(names)
        for name in wanted:
            if name not in self.causes:
                raise InputError(f"do({name})", "no such cause", "Use one of: " + ", ".join(self.causes) + ".")
        return wanted


def default_graph() -> CausalGraph:
    """Return the graph of single-particle cryo-EM with every cause switched on."""
    edges = [(cause.name, cause.stage) for cause in CAUSES.values()]
    edges += list(itertools.pairwise(STAGES))
    # Causes that act on causes: a thick or contaminated specimen moves and charges, exposure damages and moves.
    edges += [("exposure", "damage"), ("exposure", "motion"), ("tilt", "motion"), ("exposure", "coincidence")]
    edges += [("defocus", "coherence")]
    return CausalGraph(CAUSES, tuple(edges))
