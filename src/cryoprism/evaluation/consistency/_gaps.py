"""Gaps of chains: what is not there, how far apart its ends are, and what could span that."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ._belonging import Add
from ._model import Model
from ._rules import CALPHA, PHOSPHORUS
from ._topology import atoms_named, polymers, step, touching
from ._words import residue_words

__all__ = ["Gap", "gap_words", "gaps_of", "splices", "stretched"]

#: Strands have 3.2 to 3.4 Å from one Cα to the next; two steps have at most 7.3 Å, stretched chains 3.6 Å a step and
#: more. From P to P 7 Å. More than so many steps, and this much for all of them, no loop has [Å].
_STRAIGHT = {"CA": 3.4, "P": 7.0}
_SLACK = 0.6
#: C and N, or O3' and P, nearer than this are bonded [Å].
_JOINED = 1.9
_LISTED = 12


@dataclass(frozen=True)
class Gap:
    """Where residues are not there.

    Attributes
    ----------
    before, after
        The residues on both sides.
    missing
        How many places are between them, by the declared sequence or by the numbers.
    apart, most
        Distance of their Cα or P, and what a chain of that length can span at most [Å].
    atom
        CA or P.
    """

    before: int
    after: int
    missing: int
    apart: float
    most: float
    atom: str


def gaps_of(model: Model) -> list[Gap]:
    """Return the gaps of all chains, those first that come nearest to what can be spanned."""
    found = []
    for chain in polymers(model):
        for before, after in itertools.pairwise(chain):
            places = step(model, before, after)
            if places < 2 or touching(model, before, after):
                continue
            for atom, limits in (("CA", CALPHA), ("P", PHOSPHORUS)):
                apart = _apart(model, before, after, atom, atom)
                if apart is not None:
                    found.append(Gap(before, after, places - 1, apart, limits[2] * min(places, 500), atom))
                    break
    return sorted(found, key=lambda gap: -gap.apart / gap.most)


def gap_words(model: Model, gaps: list[Gap]) -> str:
    """Return the gaps in words, for the note of the rule about chains."""
    if not gaps:
        return ""
    listed = "; ".join(
        f"{residue_words(model.residues[gap.before], chain=False)} to {residue_words(model.residues[gap.after])}: "
        f"{gap.missing} not there, {gap.apart:.1f} Å, at most {gap.most:.1f}"
        for gap in gaps[:_LISTED]
    )
    more = f"; and {len(gaps) - _LISTED} more" if len(gaps) > _LISTED else ""
    many = "1 gap" if len(gaps) == 1 else f"{len(gaps)} gaps"
    return f"{many}, by residues that are not there, distance, and what these can span: {listed}{more}"


def stretched(model: Model, gaps: list[Gap], add: Add) -> None:
    """Add each gap: unknown where its residues could span it only if they were stretched as no loop is."""
    for gap in gaps:
        straight = _STRAIGHT[gap.atom] * (gap.missing + 1) + _SLACK
        words = (
            f"it is {gap.apart:.1f} Å from {residue_words(model.residues[gap.before])}, and the {gap.missing} residues "
            f"between them, which are not there, could span that only if they were stretched to their whole length"
        )
        # What no chain can span is refuted by the rule about chains.
        add(int(straight < gap.apart <= gap.most), 0, gap.after, words, unsure=True)


def splices(model: Model, add: Add) -> None:
    """Add residues that are joined and numbered in a row, where the declared sequence has more between them: unknown.

    Either the sequence, or the numbers, or the model is wrong, and the file does not tell which.
    """
    for chain in polymers(model):
        for before, after in itertools.pairwise(chain):
            one, other = model.residues[before], model.residues[after]
            if one.position is None or other.position is None or other.position - one.position < 2:
                continue
            if other.number - one.number > 1:  # both skip: what is as near as a bond is a clash
                continue
            ends = [_apart(model, before, after, *names) for names in (("C", "N"), ("O3'", "P"))]
            joined = any(apart is not None and apart < _JOINED for apart in ends)
            words = (
                f"it is joined to {residue_words(one)}, but the declared sequence has "
                f"{other.position - one.position - 1} residues between them: the sequence, the numbers or the model is "
                "wrong"
            )
            add(int(joined), 0, after, words, unsure=True)


def _apart(model: Model, before: int, after: int, tail: str, head: str) -> float | None:
    """Least distance of two atoms of two residues, by their names [Å]; None where one is not there."""
    ends = [atoms_named(model, model.residues[k], name) for k, name in ((before, tail), (after, head))]
    pairs = itertools.product(*ends)
    return min((math.dist(model.points[i].tolist(), model.points[j].tolist()) / 1000 for i, j in pairs), default=None)
