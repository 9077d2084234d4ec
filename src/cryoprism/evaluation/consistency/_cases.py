"""Rule by rule: obligations, the ones that fail with the atoms in words, and the Coq source that confirms it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cryoprism.formats import Volume

from . import _emit, _rules
from ._angles import backbone_angles
from ._case import RULES, WEIGHTS, Case, Offender, spread
from ._company import lead_to_a_chain
from ._completeness import completeness
from ._crowding import foreign_chains, may_take_turns, taken_together
from ._envelope import Envelope, voxel_indices
from ._gaps import gap_words, gaps_of, splices, stretched
from ._helices import helix_hands
from ._identity import identities
from ._lean import lean_distances, lean_fours, lean_numbers
from ._lean_space import lean_clashes, lean_copies, lean_envelope
from ._ligands import ligands_case
from ._model import Model
from ._placement import placement_case
from ._planes import peptide_planes, planar_centres, rings
from ._scale import scale_case
from ._sugars import sugar_hands
from ._symmetry import Copies, joined_copies, overlaps, place
from ._topology import Topology
from ._valence import hydrogens, valences
from ._words import atom_words, length_words, residue_words

__all__ = ["RULES", "WEIGHTS", "Case", "Offender", "cases_of"]

#: Pairs that are too near, and of these the ones in different alternatives, for each margin: the surest last.
Near = dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]]


def _clashes(model: Model, topology: Topology, bonds: list[tuple[int, int]], both: Near) -> Case:
    near = {margin: pairs for margin, (pairs, _) in both.items()}
    margins = list(near)
    turns = {pair: why for pair in near[margins[0]] if (why := may_take_turns(model, *pair))}
    if turns and len(margins) == 1:  # what is too near, and what of that is surely wrong, are two lists
        near = {margin: _rules.clashes(model, bonds, margin)[0] for margin in (2, -2)}
        margins = list(near)
        turns = {pair: why for pair in near[margins[0]] if (why := may_take_turns(model, *pair))}
    # The second theorem says of its pairs that they clash, not that all of them are listed.
    found = {margin: [pair for pair in pairs if margin > 0 or pair not in turns] for margin, pairs in near.items()}
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
            many = "1 residue between them that is" if missing == 1 else f"{missing} residues between them that are"
            what = f"the declared sequence has {many} not there, and such atoms"
        apart, least = spread(model, i, j), int(limit[0]) / 1000
        words = (
            f"{atom_words(model, i)} is {length_words(apart, least)} Å from {atom_words(model, j)}; {what} keep "
            f"at least {least:.1f} Å"
        )
        offenders.append(Offender(words, (int(model.residue_of[i]), int(model.residue_of[j])), (i, j), apart))
    source = _emit.clash_source(bonds, found)
    note = _not_judged([(i, j) for i, j in next(iter(both.values()))[1] if _differ(model, i, j)])
    lean = lean_clashes(model, bonds, near)
    case = Case("clashes", counted, refuted, borderline, offenders, source, note, lean)
    if turns:
        case.why = " ".join(
            f"Too near are {_many(sum(why == one for one in turns.values()))} {why}; "
            f"the first {atom_words(model, pair[0])} and "
            f"{atom_words(model, pair[1])}, {spread(model, *pair):.2f} Å apart."
            for why, pair in {why: pair for pair, why in reversed(turns.items())}.items()
        )
    return case


def _many(pairs: int) -> str:
    return "1 pair of atoms" if pairs == 1 else f"{pairs} pairs of atoms"


def _differ(model: Model, i: int, j: int) -> bool:
    """Whether two atoms are more than the alternatives of one atom."""
    return bool(model.names[i] != model.names[j] or model.residue_of[i] != model.residue_of[j])


def _not_judged(pairs: Sequence[tuple[int, int]]) -> str:
    if not pairs:
        return ""
    return f"{len(pairs)} pairs in different alternative locations are nearer than that and not judged"


def _records(model: Model, topology: Topology) -> str:
    """Return what to note of recorded bonds, and of those that no LINK or struct_conn has."""
    notes = []
    if topology.ignored:
        notes.append(f"{topology.ignored} recorded links are not as long as bonds of their elements and exempt no pair")
    alone = [(link.first, link.second) for link in model.links if link.conect and link.covalent]
    for pairs, what in ((alone, "stand in CONECT alone"), (topology.closed, "close a chain and stand in no record")):
        if pairs:
            listed = "; ".join(f"{atom_words(model, i)} to {atom_words(model, j)}" for i, j in pairs[:6])
            more = f"; and {len(pairs) - 6} more" if len(pairs) > 6 else ""
            notes.append(f"bonds that {what}, {len(pairs)}: {listed}{more}")
    return "; ".join(notes)


def _skips(model: Model, i: int, j: int) -> str:
    """Words for two atoms of residues whose numbers skip where the declared sequence does not."""
    one, other = sorted((model.residues[int(model.residue_of[k])] for k in (i, j)), key=lambda each: each.number)
    between = other.number - one.number - 1
    if one.position is None or other.position is None or between < 1 or one.chain != other.chain:
        return ""
    if other.position - one.position != 1:
        return ""
    return f"; their numbers skip {between}, but the declared sequence has nothing between them"


def _distances(
    model: Model, name: str, rule: _rules.Distances, note: str = "", pieces: int = 0, angles: int = 0
) -> Case:
    """Obligations about distances; the last are ``angles``, then ``pieces`` of residues that are torn."""
    slacks = (0,) if model.exact else (2, -2)
    found = {slack: rule.failing(model.points, slack) for slack in slacks}
    refuted = set(found[slacks[-1]])
    offenders = []
    for k in sorted(refuted):
        i, j = (int(a) for a in rule.pairs[k])
        apart = spread(model, i, j)
        low, high = (float(edge) / 1000 for edge in rule.ranges[k])
        if k >= len(rule.pairs) - pieces:
            words = (
                f"{atom_words(model, j)} lies apart from its residue: the nearest atom that is bonded with the rest, "
                f"{atom_words(model, i)}, is {length_words(apart, high)} Å away; possible are {high:.2f} Å"
            )
        elif k >= len(rule.pairs) - pieces - angles:
            words = (
                f"The angle between {atom_words(model, i)} and {atom_words(model, j)}, bonded to one atom, is "
                f"impossible: they are {length_words(apart, low, high)} Å apart; possible are {low:.2f} to {high:.2f} Å"
            )
        elif name == "bonds":
            words = (
                f"The bond from {atom_words(model, i)} to {atom_words(model, j)} is {length_words(apart, low, high)} Å "
                f"long; possible are {low:.2f} to {high:.2f} Å{_skips(model, i, j)}"
            )
        else:
            how = "breaks" if apart > high else "folds onto itself"
            words = (
                f"The chain {how} between {atom_words(model, i)} and {atom_words(model, j)}: they are "
                f"{length_words(apart, low, high)} Å apart; by their places in the sequence possible are "
                f"{low:.1f} to {high:.1f} Å{_skips(model, i, j)}"
            )
        residues = tuple(dict.fromkeys((int(model.residue_of[i]), int(model.residue_of[j]))))
        offenders.append(Offender(words, residues, (i, j), apart))
    units = [int(model.residue_of[int(i)]) for i, _ in rule.pairs]
    source = _emit.distances_source(rule, found)
    lean = lean_distances(name, rule, found)
    return Case(name, units, refuted, set(found[slacks[0]]) - refuted, offenders, source, note, lean)


def _chirality(model: Model) -> Case:
    hands = _joined(_rules.chirality(model), sugar_hands(model))
    parts = hands, peptide_planes(model), planar_centres(model), rings(model), helix_hands(model)
    first_plane, first_flat, first_ring, first_helix = (int(n) for n in np.cumsum([len(p.atoms) for p in parts[:4]]))
    rule = _joined(*parts)
    values = _rules.volumes(model.points, rule)
    found = rule.failing(values)
    offenders = []
    for k in [k for k in found if k < first_helix]:
        centre, volume = int(rule.atoms[k][0]), values[k] / 1e9
        residues = tuple(dict.fromkeys(int(model.residue_of[int(a)]) for a in (rule.atoms[k][0], rule.atoms[k][3])))
        low, high = (edge / 1e9 for edge in rule.ranges[k])
        if k >= first_ring:
            row = ", ".join(model.names[int(a)] for a in rule.atoms[k])
            words = (
                f"A ring of {residue_words(model.residues[residues[0]])} is folded: {row} span {volume:.2f} Å³, and "
                f"four atoms in a row along a flat ring at most {high:.1f} Å³"
            )
            offenders.append(Offender(words, residues[:1], (centre,), volume))
            continue
        if k >= first_flat:
            words = (
                f"{atom_words(model, centre)} and the three atoms that it is bonded to are not flat: they span "
                f"{volume:.2f} Å³, and planar groups at most {high:.3g} Å³"
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
    offenders += _left_handed(model, rule, values, [k for k in found if k >= first_helix])
    units = [int(model.residue_of[int(row[0])]) for row in rule.atoms]
    lean = lean_fours("chirality", "volume", rule, found)
    return Case("chirality", units, set(found), set(), offenders, _emit.fours_source(rule, "volume", found), lean=lean)


def _joined(*parts: _rules.Fours) -> _rules.Fours:
    return _rules.Fours(np.concatenate([part.atoms for part in parts]), [one for part in parts for one in part.ranges])


def _left_handed(model: Model, rule: _rules.Fours, values: list[int], found: list[int]) -> list[Offender]:
    """Put into words which helices turn to the left: windows that follow one another are one helix."""
    runs: list[list[int]] = []
    for k in found:
        if runs and k == runs[-1][-1] + 1 and rule.atoms[k][0] == rule.atoms[k - 1][1]:
            runs[-1].append(k)
        else:
            runs.append([k])
    offenders = []
    for run in runs:
        atoms = [int(rule.atoms[k][0]) for k in run] + [int(a) for a in rule.atoms[run[-1]][1:]]
        residues = [int(model.residue_of[a]) for a in atoms]
        first, last = (residue_words(model.residues[k], chain=k == residues[-1]) for k in (residues[0], residues[-1]))
        words = (
            f"{first} to {last} form an α-helix that turns to the left, which L amino acids do not: the model may be "
            "the mirror image of the molecule, built into a map of the wrong hand"
        )
        offenders.append(Offender(words, tuple(residues), tuple(atoms[: len(run)]), values[run[0]] / 1e9))
    return offenders


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
        apart = spread(model, i, j, moved)
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
    smooth = " smoothed with a Gaussian of 2 Å" if envelope.smoothed else ""
    for residue, atoms in outside.items():
        more = f" and {len(atoms) - 1} more of its atoms" if len(atoms) > 1 else ""
        verb = "lie" if len(atoms) > 1 else "lies"
        words = (
            f"{atom_words(model, atoms[0])}{more} {verb} further than {envelope.margin_in_angstroms:g} Å outside the "
            f"contour {envelope.contour:.4g} of the map{smooth}"
        )
        offenders.append(Offender(words, (residue,), tuple(atoms), None))
    how = f"of the map{smooth}, found as the level between molecule and solvent"
    level = f"contour {envelope.contour:.4g}{' ' + how if envelope.smoothed else ', as given'}"
    note = f"{level}; {envelope.margin_in_angstroms:g} Å beyond it allowed"
    source, lean = _emit.envelope_source(envelope, index, inside), lean_envelope(envelope, index, inside)
    if envelope.doubt:  # neither inside nor outside of noise says anything
        why = f"the map looks like noise ({envelope.doubt}): it says nothing about where the model lies."
        return Case("envelope", units, set(), set(range(len(units))), [], source, note, lean, why)
    return Case("envelope", units, {number[k] for k in outside}, set(), offenders, source, note, lean)


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


def _completeness(
    model: Model, topology: Topology, copies: Copies, bonds: list[tuple[int, int]], exempt: list[tuple[int, int]]
) -> Case:
    held = completeness(model)
    lead_to_a_chain(model, copies, held.add)
    taken_together(model, exempt, held.add)
    foreign_chains(model, exempt, held.add)
    valences(model, topology, bonds, held.add)
    hydrogens(model, bonds, held.add)
    identities(model, held.add)
    splices(model, held.add)
    stretched(model, gaps_of(model), held.add)
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


def cases_of(
    model: Model, topology: Topology, copies: Copies, envelope: Envelope | None, volume: Volume | None = None
) -> list[Case]:
    """Return every rule that the model has obligations of; ``volume`` is the map of the envelope."""
    angles = backbone_angles(model)
    lengths = _rules.bond_lengths(topology, angles)
    bonds = topology.all_bonds()
    both = {margin: _rules.clashes(model, bonds, margin) for margin in ((0,) if model.exact else (2, -2))}
    exempt = list(both.values())[-1][1]
    cases = [
        _clashes(model, topology, bonds, both),
        _distances(model, "bonds", lengths, _records(model, topology), len(topology.held), len(angles)),
        _distances(model, "chains", _rules.chains(model), gap_words(model, gaps_of(model))),
        scale_case(model),
        _chirality(model),
        _cis(model),
        _numbering(model),
        _completeness(model, topology, copies, bonds, exempt),
    ]
    if copies.operations or copies.left_out:
        cases.append(_copies(model, topology, copies))
    if envelope is not None:
        cases.append(_envelope(model, envelope))
    noisy = envelope is not None and bool(envelope.doubt)  # where nothing stands out, no place is denser than another
    placement = None if volume is None or noisy else placement_case(model, volume)
    if placement is not None:
        cases.append(placement)
    ligands = ligands_case(model, copies)
    if ligands is not None:
        cases.append(ligands)
    order = list(RULES)
    return sorted((case for case in cases if case.residues), key=lambda case: order.index(case.name))
