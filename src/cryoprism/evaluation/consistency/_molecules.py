"""Where molecules of PDB files begin and end whose chains' letters do not tell: TER, segments, numbers, ends."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import gemmi

from ._names import standard_atoms, standard_name

__all__ = ["Standing", "molecules_of", "standing_in_pdb", "with_repeats_apart"]

#: Atoms that only the ends of chains have: of the last residue, of the first one.
_LAST = frozenset({"OXT", "HO3'", "H3T", "HO3T"})
_FIRST = ({"H1", "H2", "H3"}, {"HT1", "HT2", "HT3"}, {"1H", "2H", "3H"}, {"HO5'"}, {"H5T"}, {"HO5T"})
_CLOSING, _OPENING = frozenset({"NH2", "NME", "NMA", "NHE", "CT3"}), frozenset({"ACE", "FOR"})
#: C and N, O3' and P nearer than this are joined; a step from Cα to Cα, P to P that chains span [Å].
_JOINED = (("C", "N", 2.0), ("O3'", "P", 2.2))
_SPANNED = (("CA", 4.3, 4.0), ("P", 8.3, 8.0))


@dataclass(frozen=True)
class Standing:
    """How a residue stands in its chain of a PDB file: how many TER are before it there, its segment (segid)."""

    ter: int
    segment: str


def _rows(text: str) -> list[tuple[int, str]]:
    """Rows of atoms and TER of the first model, with their places among the lines."""
    found = []
    for place, line in enumerate(text.splitlines()):
        record = line[:6].rstrip().upper()
        if record in ("ATOM", "HETATM", "TER"):
            found.append((place, line))
        elif record == "ENDMDL" or record == "END":
            break
    return found


def _keys(rows: list[tuple[int, str]]) -> list[tuple[str, int, str, str, str] | None]:
    """Chain, part of the file, number, name and segment of each row's residue; None for TER."""
    keys: list[tuple[str, int, str, str, str] | None] = []
    chain, block = None, 0
    for _, line in rows:
        if line[:3].upper() == "TER":
            keys.append(None)
            continue
        if line[20:22] != chain:
            chain, block = line[20:22], block + 1
        keys.append((chain.strip(), block, line[22:27], line[17:20], line[72:76].strip()))
    return keys


def with_repeats_apart(text: str) -> str:
    """Return a PDB file in which residues that repeat others of their chain have segments of their own.

    Readers put atoms of one number, name and segment into one residue, so that two molecules without chains' letters,
    each numbered from 1, would be one. A residue is a new one where a name comes again in one alternative; the file is
    returned as it is where none does.
    """
    rows = _rows(text)
    count: dict[tuple[str, int, str, str, str], int] = defaultdict(int)
    atoms: dict[tuple[str, int, str, str, str], set[str]] = defaultdict(set)
    changed: dict[int, int] = {}
    position = 0
    for key, run in itertools.groupby(_keys(rows)):
        here = [rows[position + k] for k in range(len(list(run)))]
        position += len(here)
        if key is None:
            continue
        names = {line[12:17] for _, line in here}
        if names & atoms[key]:
            count[key] += 1
            atoms[key] = set()
        atoms[key] |= names
        changed |= {place: count[key] for place, _ in here if count[key]}
    if not changed:
        return text
    lines = text.splitlines()
    for place, number in changed.items():
        lines[place] = f"{lines[place][:72]:<72s}{min(number, 65_535):04X}{lines[place][76:]}"
    return "\n".join([*lines, ""])


def standing_in_pdb(text: str) -> dict[str, list[Standing]]:
    """How each residue of the first model stands in its chain, chain by chain in the order of the file."""
    found: dict[str, list[Standing]] = defaultdict(list)
    ters: dict[str, int] = defaultdict(int)
    seen = set()
    chain = ""
    for key in _keys(_rows(text)):
        if key is None:
            ters[chain] += 1
            continue
        chain = key[0]
        if key not in seen:
            seen.add(key)
            found[chain].append(Standing(ters[chain], key[4]))
    return dict(found)


def molecules_of(
    chain: gemmi.Chain, polymer: list[int], standing: list[Standing], *, repeats: bool
) -> tuple[dict[int, int], dict[int, str]]:
    """Return the molecule of each residue in ``polymer`` (places in the chain), and what is in doubt.

    TER, another segment and, without a letter, numbers that fall or an end may begin a molecule; they do not where the
    residues are joined. They do where an atom stands that only ends of chains have, or segments differ in a chain
    without a letter, or numbers begin again after TER. Without such a sign a step that a chain can span goes on, and
    one that it cannot is torn if the chain has a letter; in a chain without one nothing tells, and that is in doubt, as
    are numbers that come twice under one letter. ``repeats`` is whether the segments are those of
    :func:`with_repeats_apart`.
    """
    numbers, doubts = {polymer[0]: 0} if polymer else {}, {}
    named, part = bool(chain.name.strip()), 0
    for before, after in itertools.pairwise(polymer):
        one, other = chain[before], chain[after]
        ter = standing[before].ter != standing[after].ter
        segments = not repeats and standing[before].segment != standing[after].segment
        falls = _place(other) < _place(one) or (ter and _place(other) == _place(one))
        ended = (ter or segments or not named) and _ends(one, other)
        boundary = ter or segments or (not named and (falls or ended))
        if boundary and not _near(one, other, _JOINED):
            if ended or (falls and (ter or segments)) or (segments and not named):
                part += 1
                if falls and named:
                    doubts[after] = "numbers of its chain come again: whether that is another molecule is not told"
            elif (not named or segments) and (falls or not _spanned(one, other)):
                part += 1
                doubts[after] = (
                    f"its segment is another one than that of {one.name} {one.seqid}: whether the chain goes on is not "
                    "told"
                    if named
                    else f"nothing tells whether another molecule begins here or the chain is torn after {one.name} "
                    f"{one.seqid}: there is no chain's letter, and no atom of a chain's end"
                )
        numbers[after] = part
    return numbers, doubts


def _place(residue: gemmi.Residue) -> tuple[int, str]:
    return int(residue.seqid.num or 0), residue.seqid.icode.strip()


def _ends(one: gemmi.Residue, other: gemmi.Residue) -> bool:
    """Whether a chain ends with the first of two residues, or begins with the other, by the atoms that are there."""
    names = [[atom.name for atom in residue] for residue in (one, other)]
    last, first = (
        set(standard_atoms(standard_name(residue.name, each), each))
        for residue, each in zip((one, other), names, strict=True)
    )
    if last & _LAST or one.name in _CLOSING or other.name in _OPENING:
        return True
    protein = {"N", "CA"} <= first
    if any(marks <= first and (protein or len(marks) == 1) for marks in _FIRST):
        return True
    # A first nucleotide has no phosphate.
    return "O3'" in last and {"O5'", "C5'"} <= first and "P" not in first


def _near(one: gemmi.Residue, other: gemmi.Residue, pairs: tuple[tuple[str, str, float], ...]) -> bool:
    apart = [
        (a.pos.dist(b.pos), most)
        for tail, head, most in pairs
        for a in one
        for b in other
        if a.name == tail and b.name == head
    ]
    return any(distance < most for distance, most in apart)


def _spanned(one: gemmi.Residue, other: gemmi.Residue) -> bool:
    """Whether a chain could reach from one residue to the other by their numbers."""
    places = max(int(other.seqid.num or 0) - int(one.seqid.num or 0), 1)
    for name, single, more in _SPANNED:
        apart = [a.pos.dist(b.pos) for a in one for b in other if a.name == b.name == name]
        if apart:
            return min(apart) <= (single if places == 1 else more * places)
    return False
