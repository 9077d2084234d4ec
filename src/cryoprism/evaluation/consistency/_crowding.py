"""Alternatives at one place: all that keep each other out have to share one occupancy of 1."""

from __future__ import annotations

from collections import Counter, defaultdict

from ._belonging import Add
from ._chemistry import BACKBONE_ATOMS
from ._model import Model
from ._words import atom_words, residue_words

__all__ = ["foreign_chains", "may_take_turns", "taken_together"]

#: Occupancy that two decimals may hide in each atom, in thousandths; two atoms may have 1.01, as in Copies.v.
_HIDDEN = 5
_TURNS = 1010
_UNKNOWN = frozenset({"UNL", "UNX"})
_BACKBONE = frozenset(BACKBONE_ATOMS["protein"] + BACKBONE_ATOMS["nucleic"])


def may_take_turns(model: Model, i: int, j: int) -> str:
    """Why two atoms that are too near are not surely wrong; empty where they are.

    Without letters, occupancies that add to at most 1 (1.01: rounding) leave room for turns, as halves of two waters
    have, but nothing says that they take them; backbones of chains are not given that. Atoms of one placeholder (UNL,
    UNX) mark density, and what they are is not known.
    """
    one, other = (model.residues[int(model.residue_of[k])] for k in (i, j))
    if one is other and one.name in _UNKNOWN:
        return "within placeholders (UNL, UNX), whose atoms nobody knows"
    # Whole chains on each other are two models, whatever they share.
    chains = one.role == other.role == "polymer" and {model.names[i], model.names[j]} <= _BACKBONE
    unlettered = model.alternatives[i] == model.alternatives[j] == 0
    if one is not other and unlettered and not chains and model.occupancies[i] + model.occupancies[j] <= _TURNS:
        return "whose occupancies add to at most 1: whether they take turns no letters say"
    return ""


def taken_together(model: Model, pairs: list[tuple[int, int]], add: Add) -> None:
    """Compare the occupancies of three and more atoms, each too near to every other, with what fits at one place.

    ``pairs`` are those that different letters exempt from the clash rule: two of them may be there in turns. Of more
    atoms at most one is there at any time, so that their occupancies add to 1 at most (and 0.005 each, for rounding).
    Groups are made one atom after the other, the fullest first; none is asked where three do not meet.
    """
    graph: dict[int, set[int]] = defaultdict(set)
    for i, j in pairs:
        graph[i].add(j)
        graph[j].add(i)
    occupied = model.occupancies
    seen: set[tuple[int, ...]] = set()
    for i, j in pairs:
        group, common = [i, j], graph[i] & graph[j]
        while common:
            most = max(common, key=lambda k: (int(occupied[k]), -k))
            group.append(most)
            common = common & graph[most]
        key = tuple(sorted(group))
        if len(key) < 3 or key in seen:
            continue
        seen.add(key)
        total, room = int(occupied[list(key)].sum()), 1000 + _HIDDEN * len(key)
        words = (
            f"{len(key)} atoms keep one another out, but their occupancies add to {total / 1000:.2f}: "
            f"{', '.join(atom_words(model, k) for k in key[:4])}"
        )
        add(max(total, room), room, int(model.residue_of[key[0]]), words)


def foreign_chains(model: Model, pairs: list[tuple[int, int]], add: Add) -> None:
    """Add, as unknown, backbones of different chains (or places of one) that lie on each other as alternatives.

    Side chains of neighbours take turns in good models. Whole chains do so where two molecules share a place, or where
    letters hide that they overlap, and the file does not tell which. ``pairs`` as in :func:`taken_together`.
    """
    found: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for i, j in pairs:
        one, other = (model.residues[int(model.residue_of[k])] for k in (i, j))
        if one.role != "polymer" or other.role != "polymer" or not {model.names[i], model.names[j]} <= _BACKBONE:
            continue
        # Alternatives of one residue, and of neighbours whose backbones move together.
        if one.chain == other.chain and abs(one.number - other.number) < 2:
            continue
        key = (one.chain, other.chain)
        found[key] += 1
        first.setdefault(key, (i, j))
    for key, count in found.items():
        i, j = first[key]
        other = model.residues[int(model.residue_of[j])]
        words = (
            f"{count} pairs of atoms of its chain's backbone and of that of chain {key[1]} lie on each other as "
            f"alternatives, the first with {residue_words(other)}: whether both are there cannot be told"
        )
        add(1, 0, int(model.residue_of[i]), words, unsure=True)
