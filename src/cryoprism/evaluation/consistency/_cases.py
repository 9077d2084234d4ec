"""Rule by rule: obligations, the ones that fail with the atoms in words, and the Coq source that confirms it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from . import _emit, _rules
from ._company import dissolved, lead_to_a_chain
from ._completeness import completeness
from ._crowding import taken_together
from ._envelope import Envelope, voxel_indices
from ._lean import lean_distances, lean_fours, lean_numbers
from ._lean_space import lean_clashes, lean_copies, lean_envelope, lean_ligands
from ._model import Model
from ._planes import peptide_planes, planar_centres
from ._symmetry import Copies, Scope, joined_copies, overlaps, place, within_scope
from ._topology import Topology
from ._words import atom_words, length_words, residue_words

__all__ = ["RULES", "WEIGHTS", "Case", "Offender", "cases_of"]

#: Name of a rule, what it says, what one obligation is.
RULES = {
    "clashes": ("Atoms keep apart", "residue"),
    "bonds": ("Bonds have possible lengths", "bond"),
    "chains": ("Chains are unbroken: consecutive Cα and P", "step of a chain"),
    "chirality": ("Residues have the right hand, planar groups are flat", "centre or peptide bond"),
    "cis_peptides": ("Peptide bonds are trans, but before proline", "peptide bond"),
    "copies": ("Symmetry copies do not overlap", "residue"),
    "envelope": ("The model lies within its map", "residue"),
    "numbering": ("Sequence and numbers agree", "comparison"),
    "completeness": ("Nothing is missing or doubled: backbones, atoms, what the file declares", "comparison"),
    "ligands": ("Ligands touch something", "ligand"),
}
#: Weight of one obligation in the score: a residue has about eight bonds, three comparisons, and three to five volumes.
WEIGHTS = {
    "clashes": 1.0,
    "bonds": 0.125,
    "chains": 1.0,
    "chirality": 1 / 3,
    "cis_peptides": 0.5,
    "copies": 1.0,
    "envelope": 1.0,
    "numbering": 1 / 3,
    "completeness": 1 / 3,
    "ligands": 1.0,
}


@dataclass(frozen=True)
class Offender:
    """Why an obligation fails: in words, its residues and atoms (numbers from 0), and what was measured."""

    words: str
    residues: tuple[int, ...]
    atoms: tuple[int, ...]
    value: float | None


@dataclass
class Case:
    """One rule of one model.

    Attributes
    ----------
    residues
        The residue that each obligation counts for.
    refuted, borderline
        Obligations that fail; and that cannot be told because of rounding.
    offenders
        What refutes them.
    source
        Coq source of the theorems.
    why
        Why the borderline ones cannot be told.
    """

    name: str
    residues: list[int]
    refuted: set[int]
    borderline: set[int]
    offenders: list[Offender]
    source: str
    note: str = ""
    lean: str = ""
    why: str = "distances that rounding to 0.001 Å leaves open."


def _spread(model: Model, i: int, j: int, moved: NDArray[np.int64] | None = None) -> float:
    start = model.points[i] if moved is None else moved
    return float(np.linalg.norm(start - model.points[j])) / 1000


def _clashes(model: Model, topology: Topology) -> Case:
    margins = (0,) if model.exact else (2, -2)
    bonds = topology.all_bonds()
    both = {margin: _rules.clashes(model, bonds, margin) for margin in margins}
    found = {margin: pairs for margin, (pairs, _) in both.items()}
    counted = list(range(len(model.residues)))
    sure, possible = found[margins[-1]], found[margins[0]]
    refuted = {int(model.residue_of[a]) for pair in sure for a in pair}
    borderline = {int(model.residue_of[a]) for pair in possible for a in pair} - refuted
    graph: dict[int, set[int]] = defaultdict(set)
    for a, b in bonds:
        graph[a].add(b)
        graph[b].add(a)
    offenders = []
    for i, j in sure:
        kinds = model.kinds[i : i + 1], model.kinds[j : j + 1]
        if j in graph[i]:
            limit, what = _rules.bonded_limits(*kinds), "atoms that share a bond"
        elif graph[i] & graph[j]:
            limit, what = _rules.angle_limits(*kinds), "atoms that are bonded to one atom"
        else:
            limit, what = _rules.limits(*kinds), "atoms that share no bond"
        missing = topology.skipped.get((i, j)) or topology.skipped.get((j, i))
        if missing:
            what = f"the declared sequence has {missing} residues between them that are not there, and such atoms"
        apart, least = _spread(model, i, j), int(limit[0]) / 1000
        words = (
            f"{atom_words(model, i)} is {length_words(apart, least)} Å from {atom_words(model, j)}; {what} keep "
            f"at least {least:.1f} Å"
        )
        offenders.append(Offender(words, (int(model.residue_of[i]), int(model.residue_of[j])), (i, j), apart))
    source = _emit.clash_source(bonds, found)
    note = _not_judged([(i, j) for i, j in both[margins[0]][1] if _differ(model, i, j)])
    lean = lean_clashes(model, bonds, found)
    return Case("clashes", counted, refuted, borderline, offenders, source, note, lean)


def _differ(model: Model, i: int, j: int) -> bool:
    """Whether two atoms are more than the alternatives of one atom."""
    return bool(model.names[i] != model.names[j] or model.residue_of[i] != model.residue_of[j])


def _not_judged(pairs: Sequence[tuple[int, int]]) -> str:
    if not pairs:
        return ""
    return f"{len(pairs)} pairs in different alternative locations are nearer than that and not judged"


def _ignored(topology: Topology) -> str:
    if not topology.ignored:
        return ""
    return f"{topology.ignored} recorded links are not as long as bonds of their elements and exempt no pair"


def _distances(model: Model, name: str, rule: _rules.Distances, note: str = "", pieces: int = 0) -> Case:
    """Obligations about distances; the last ``pieces`` of them are those within a residue that is torn."""
    slacks = (0,) if model.exact else (2, -2)
    found = {slack: rule.failing(model.points, slack) for slack in slacks}
    refuted = set(found[slacks[-1]])
    offenders = []
    for k in sorted(refuted):
        i, j = (int(a) for a in rule.pairs[k])
        apart = _spread(model, i, j)
        low, high = (float(edge) / 1000 for edge in rule.ranges[k])
        if k >= len(rule.pairs) - pieces:
            words = (
                f"{atom_words(model, j)} lies apart from its residue: the nearest atom that is bonded with the rest, "
                f"{atom_words(model, i)}, is {length_words(apart, high)} Å away; possible are {high:.2f} Å"
            )
        elif name == "bonds":
            words = (
                f"The bond from {atom_words(model, i)} to {atom_words(model, j)} is {length_words(apart, low, high)} Å "
                f"long; possible are {low:.2f} to {high:.2f} Å"
            )
        else:
            how = "breaks" if apart > high else "folds onto itself"
            words = (
                f"The chain {how} between {atom_words(model, i)} and {atom_words(model, j)}: they are "
                f"{length_words(apart, low, high)} Å apart; by their places in the sequence possible are "
                f"{low:.1f} to {high:.1f} Å"
            )
        residues = tuple(dict.fromkeys((int(model.residue_of[i]), int(model.residue_of[j]))))
        offenders.append(Offender(words, residues, (i, j), apart))
    units = [int(model.residue_of[int(i)]) for i, _ in rule.pairs]
    source = _emit.distances_source(rule, found)
    lean = lean_distances(name, rule, found)
    return Case(name, units, refuted, set(found[slacks[0]]) - refuted, offenders, source, note, lean)


def _chirality(model: Model) -> Case:
    parts = _rules.chirality(model), peptide_planes(model), planar_centres(model)
    first_plane, first_flat = len(parts[0].atoms), len(parts[0].atoms) + len(parts[1].atoms)
    rule = _rules.Fours(np.concatenate([part.atoms for part in parts]), [one for part in parts for one in part.ranges])
    values = _rules.volumes(model.points, rule)
    found = rule.failing(values)
    offenders = []
    for k in found:
        centre, volume = int(rule.atoms[k][0]), values[k] / 1e9
        residues = tuple(dict.fromkeys(int(model.residue_of[int(a)]) for a in (rule.atoms[k][0], rule.atoms[k][3])))
        low, high = (edge / 1e9 for edge in rule.ranges[k])
        if k >= first_flat:
            words = (
                f"{atom_words(model, centre)} and the three atoms that it is bonded to are not flat: they span "
                f"{volume:.2f} Å³, and planar groups at most {high:.1f} Å³"
            )
            offenders.append(Offender(words, residues[:1], (centre,), volume))
            continue
        if k >= first_plane:
            one, other = (residue_words(model.residues[int(model.residue_of[int(rule.atoms[k][n])])]) for n in (0, 3))
            words = (
                f"The peptide bond from {one} to {other} is twisted: its Cα, C, N and Cα span {volume:.2f} Å³, and "
                f"with more than {high:.1f} Å³ they lie more than 45° out of a plane"
            )
            offenders.append(Offender(words, residues, (centre,), volume))
            continue
        mirrored = volume * (low + high) < 0 and abs(volume) > min(abs(low), abs(high))
        what = "is the mirror image of what its name says" if mirrored else "is flattened or torn"
        words = (
            f"The centre {atom_words(model, centre)} {what}: its volume is {volume:.2f} Å³, not {low:.1f} to {high:.1f}"
        )
        offenders.append(Offender(words, (int(model.residue_of[centre]),), (centre,), volume))
    units = [int(model.residue_of[int(row[0])]) for row in rule.atoms]
    lean = lean_fours("chirality", "volume", rule, found)
    return Case("chirality", units, set(found), set(), offenders, _emit.fours_source(rule, "volume", found), lean=lean)


def _cis(model: Model) -> Case:
    rule = _rules.cis_peptides(model)
    found = rule.failing(_rules.sides(model.points, rule))
    offenders = []
    for k in found:
        first, last = int(rule.atoms[k][0]), int(rule.atoms[k][3])
        one, other = (int(model.residue_of[a]) for a in (first, last))
        words = (
            f"The peptide bond from {residue_words(model.residues[one])} to {residue_words(model.residues[other])} is "
            "cis; before anything but proline that is rare (3 in 10,000) and needs clear density"
        )
        offenders.append(Offender(words, (one, other), (first, last), None))
    units = [int(model.residue_of[int(row[3])]) for row in rule.atoms]
    lean = lean_fours("cisPeptides", "side", rule, found)
    return Case("cis_peptides", units, set(found), set(), offenders, _emit.fours_source(rule, "side", found), lean=lean)


def _copies(model: Model, topology: Topology, copies: Copies) -> Case:
    margins = (2, -2) if model.exact else (5, -5)
    joined = joined_copies(model, copies, topology.across)
    held = {margin: overlaps(model, copies, joined, margin, sure=margin < 0) for margin in margins}
    found = {margin: one.found for margin, one in held.items()}
    on_itself = held[margins[0]].on_itself
    if on_itself:  # special positions are for single atoms and ligands
        copies = replace(copies, left_out=f"{copies.left_out} {on_itself}".strip())
    counted = list(range(len(model.residues)))
    sure, possible = found[margins[-1]], found[margins[0]]
    refuted = {int(model.residue_of[a]) for _, i, j in sure for a in (i, j)}
    borderline = {int(model.residue_of[a]) for _, i, j in possible for a in (i, j)} - refuted
    partly = sum(bool((model.occupancies[[i, j]] < 1000).any()) for _, i, j in set(possible) - set(sure))
    offenders = []
    for n, i, j in sure:
        moved = place(model, copies.operations[n - 1], [i])[0]
        apart = _spread(model, i, j, moved)
        limit = int(_rules.limits(model.kinds[i : i + 1], model.kinds[j : j + 1])[0]) / 1000
        words = (
            f"{atom_words(model, i)} of symmetry copy {n} is {length_words(apart, limit)} Å from "
            f"{atom_words(model, j)}; copies keep at least {limit:.1f} Å"
        )
        offenders.append(Offender(words, (int(model.residue_of[i]), int(model.residue_of[j])), (i, j), apart))
    notes = [f"{copies.kind}; {len(copies.operations)} copies near"]
    if held[margins[0]].alternatives:
        notes.append(
            f"{held[margins[0]].alternatives} pairs in different alternative locations are too near and not judged"
        )
    if held[margins[0]].on_elements:
        notes.append(f"{held[margins[0]].on_elements} times an atom lies on a symmetry element")
    source = _emit.copies_source(model, copies, joined, found)
    case = Case("copies", counted, refuted, borderline, offenders, source, "; ".join(notes))
    case.lean = lean_copies(model, copies, joined, found)
    if partly:
        case.why = (
            f"{partly} pairs with copies are too near, but occupied in part: they may take turns, as in disorder about "
            "a symmetry axis."
        )
    if copies.left_out:
        case.borderline = set(counted) - refuted
        case.why = copies.left_out
    return case


def _envelope(model: Model, envelope: Envelope) -> Case:
    index, inside = voxel_indices(model, envelope)
    judged = (model.kinds != 3) & (model.kinds != 4)
    units = sorted({int(k) for k in model.residue_of[judged]})
    number = {residue: k for k, residue in enumerate(units)}
    outside: dict[int, list[int]] = defaultdict(list)
    for atom in np.flatnonzero(judged & ~inside):
        outside[int(model.residue_of[atom])].append(int(atom))
    offenders = []
    for residue, atoms in outside.items():
        more = f" and {len(atoms) - 1} more of its atoms" if len(atoms) > 1 else ""
        verb = "lie" if len(atoms) > 1 else "lies"
        words = (
            f"{atom_words(model, atoms[0])}{more} {verb} further than {envelope.margin_in_angstroms:g} Å outside the "
            f"map's contour {envelope.contour:.4g}"
        )
        offenders.append(Offender(words, (residue,), tuple(atoms), None))
    how = "of the map smoothed with a Gaussian of 2 Å, found as the level between molecule and solvent"
    level = f"contour {envelope.contour:.4g}{' ' + how if envelope.smoothed else ', as given'}"
    note = f"{level}; {envelope.margin_in_angstroms:g} Å beyond it allowed"
    source = _emit.envelope_source(envelope, index, inside)
    return Case(
        "envelope",
        units,
        {number[k] for k in outside},
        set(),
        offenders,
        source,
        note,
        lean_envelope(envelope, index, inside),
    )


def _numbering(model: Model) -> Case:
    rule = _rules.numbering(model)
    found = rule.failing()
    offenders = [
        Offender(f"{residue_words(model.residues[rule.residues[k]])}: {rule.words[k]}", (rule.residues[k],), (), None)
        for k in found
    ]
    note = "" if model.sequences else "the file declares no sequence: only the numbers are compared"
    source, lean = _emit.numbers_source(rule), lean_numbers("numbering", rule, found)
    return Case("numbering", list(rule.residues), set(found), set(), offenders, source, note, lean)


def _completeness(model: Model, topology: Topology, copies: Copies) -> Case:
    held = completeness(model)
    lead_to_a_chain(model, copies, held.add)
    taken_together(model, _rules.clashes(model, topology.all_bonds(), 0 if model.exact else -2)[1], held.add)
    rule = held.rule
    found = rule.failing()
    offenders = [
        Offender(f"{residue_words(model.residues[rule.residues[k]])}: {rule.words[k]}", (rule.residues[k],), (), None)
        for k in found
        if k not in held.open
    ]
    why = "; ".join(
        f"{residue_words(model.residues[rule.residues[k]])}: {rule.words[k]}" for k in sorted(held.open)[:3]
    )
    more = f"; {len(held.open) - 3} more" if len(held.open) > 3 else ""
    return Case(
        "completeness",
        list(rule.residues),
        set(found) - held.open,
        held.open,
        offenders,
        _emit.numbers_source(rule, [k for k in found if k not in held.open]),
        held.note,
        lean_numbers("completeness", rule, found),
        f"{why}{more}.",
    )


def _ligands(model: Model, copies: Copies) -> Case | None:
    ligands = [k for k, residue in enumerate(model.residues) if residue.role == "ligand"]
    if not ligands:
        return None
    around = copies.both_ways()
    slack = 0 if model.exact and not around.operations else 5
    partners = np.flatnonzero(model.kinds != 4)
    tree = cKDTree(model.points[partners] / 1000)
    touches, alone, borderline, offenders, ions = [], [], set(), [], []
    for k, residue in enumerate(ligands):
        atoms = range(model.residues[residue].start, model.residues[residue].stop)
        best = _contact(model, partners, tree, residue, atoms, None)
        if best is None or best[0] > 4500 - slack:
            for n, (operation, scope) in enumerate(zip(around.operations, around.scopes, strict=True), 1):
                if not within_scope(scope[0], residue):
                    continue
                places = place(model, operation, atoms)
                other = _contact(model, partners, tree, residue, atoms, places, scope[1])
                if other is not None and (best is None or other[0] < best[0]):
                    best = (other[0], n, other[2], other[3])
        if best is not None and best[0] <= 4500 - slack - 1e-6:
            touches.append((residue, best[1], best[2], best[3]))
        elif (best is not None and best[0] <= 4500 + slack + 1e-6) or copies.left_out:
            borderline.add(k)
        elif dissolved(model, residue):
            borderline.add(k)
            ions.append(residue_words(model.residues[residue]))
        else:
            alone.append(residue)
            words = f"{residue_words(model.residues[residue])} touches nothing: no atom but water within 4.5 Å"
            offenders.append(Offender(words, (residue,), tuple(atoms), None))
    lonely = set(alone)
    refuted = {k for k, residue in enumerate(ligands) if residue in lonely}
    case = Case("ligands", ligands, refuted, borderline, offenders, _emit.ligands_source(around, touches, alone, slack))
    case.lean = lean_ligands(around, touches, alone, slack)
    if copies.left_out:
        case.why = copies.left_out
    elif ions:
        more = f" and {len(ions) - 3} more" if len(ions) > 3 else ""
        case.why = f"{', '.join(ions[:3])}{more}: ions among waters, which touch nothing else."
    return case


def _contact(
    model: Model,
    partners: NDArray[np.int64],
    tree: cKDTree,
    residue: int,
    atoms: Sequence[int],
    moved: NDArray[np.int64] | None,
    scope: Scope = (),
) -> tuple[float, int, int, int] | None:
    """Nearest partner of a ligand's atoms, as they are or ``moved``: distance [0.001 Å], 0, its atom, the other."""
    best: tuple[float, int, int, int] | None = None
    for n, atom in enumerate(atoms):
        place_of = model.points[atom] if moved is None else moved[n]
        for near in tree.query_ball_point(place_of / 1000, 4.51):
            other = int(partners[near])
            of = int(model.residue_of[other])
            if (moved is None and of == residue) or not within_scope(scope, of):
                continue
            apart = float(np.sqrt(((place_of - model.points[other]) ** 2).sum()))
            if best is None or apart < best[0]:
                best = (apart, 0, atom, other)
    return best


def cases_of(model: Model, topology: Topology, copies: Copies, envelope: Envelope | None) -> list[Case]:
    """Return every rule that the model has obligations of."""
    cases = [
        _clashes(model, topology),
        _distances(model, "bonds", _rules.bond_lengths(topology), _ignored(topology), len(topology.held)),
        _distances(model, "chains", _rules.chains(model)),
        _chirality(model),
        _cis(model),
        _numbering(model),
        _completeness(model, topology, copies),
    ]
    if copies.operations or copies.left_out:
        cases.append(_copies(model, topology, copies))
    if envelope is not None:
        cases.append(_envelope(model, envelope))
    ligands = _ligands(model, copies)
    if ligands is not None:
        cases.append(ligands)
    order = list(RULES)
    return sorted((case for case in cases if case.residues), key=lambda case: order.index(case.name))
