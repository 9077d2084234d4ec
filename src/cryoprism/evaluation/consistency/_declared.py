"""What a file declares about itself: what is modelled and what is missing, its chains, and where it ends."""

from __future__ import annotations

import gzip
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import gemmi

__all__ = ["Declared", "declared_in_mmcif", "declared_in_pdb", "text_of"]

#: A row of REMARK 465 (residues) or 470 (atoms): model, residue, chain, number, insertion code, names of atoms.
_MISSING = re.compile(r"^REMARK (465|470) +(?:\d+ +)?(\w{1,3}) (\S| ) *(-?\d+)([A-Z]?)(?: +(.*))?$")

_NUMBER = r"-?\d+\.\d+"
#: A row of the matrix that takes coordinates to the crystal's frame.
_FRAME = re.compile(rf"^REMARK 285 (X\d+) +[123] +({_NUMBER} +{_NUMBER} +{_NUMBER} +{_NUMBER})")


@dataclass(frozen=True)
class Declared:
    """What a file declares about itself.

    Attributes
    ----------
    modelled
        How many residues of each polymer the file says it models, by the chain's name (PDB) or the asym id (mmCIF);
        None where it does not say, as files of refinement programs do.
    length
        Residues of all declared sequences.
    asyms
        The asym ids that an mmCIF file lists.
    missing
        Atoms that are declared as missing: chain, number, insertion code, name.
    least_atoms, rows
        Atoms that MASTER counts (without alternatives and hydrogens), rows of coordinates in a PDB file; else 0.
    ended
        Whether the file ends as files of its kind do, so that its first model is whole: END, ENDMDL after MODEL, or
        Rosetta's table of energies; the # after the last table of an mmCIF file. Where that has no # between its
        tables either, it does where atoms are not its last table, or it lists its chains and sequences.
    frames
        Rows (3, 4) of the transforms to the crystal's frame [Å] where the coordinates are in another one (viruses:
        REMARK 285, the operator X0); one for each particle of the asymmetric unit.
    """

    modelled: dict[str, int] | None = None
    length: int = 0
    asyms: tuple[str, ...] = ()
    missing: frozenset[tuple[str, int, str, str]] = field(default_factory=frozenset)
    least_atoms: int = 0
    rows: int = 0
    ended: bool = True
    frames: tuple[tuple[tuple[float, ...], ...], ...] = ()


def text_of(path: Path) -> str:
    """Content of a file that may be packed with gzip."""
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")


#: What Rosetta writes behind the coordinates in place of END.
_ENERGIES = ("#BEGIN_POSE_ENERGIES_TABLE", "# All scores below are weighted scores")


def declared_in_pdb(text: str) -> Declared:
    """Read SEQRES, REMARK 465 and 470, MASTER and END.

    REMARK 465 lists the residues of SEQRES that are not modelled. A file without it models all of them where it comes
    from the archive (REMARK 4); of others nothing is known.
    """
    lengths: dict[str, int] = {}
    absent: dict[str, set[tuple[str, str]]] = defaultdict(set)
    missing = set()
    least, rows, ended, archived, opened = 0, 0, False, False, False
    frames: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for line in text.splitlines():
        record = line[:6]
        if record in ("ATOM  ", "HETATM"):
            rows += 1
        elif record == "MODEL ":
            opened = True
        elif record == "SEQRES" and line[13:17].strip().isdigit():
            lengths[line[11]] = int(line[13:17])
        elif record == "REMARK":
            archived = archived or (line[7:10] in ("  4", "465") and len(line.strip()) > 10)
            frame = _FRAME.match(line)
            if frame:
                frames[frame[1]].append(tuple(float(number) for number in frame[2].split()))
            row = _MISSING.match(line.rstrip())
            if row and row[1] == "465":
                absent[row[3]].add((row[4], row[5]))
            elif row:
                missing |= {(row[3], int(row[4]), row[5], name) for name in (row[6] or "").split()}
        elif record == "MASTER" and line[50:55].strip().isdigit():
            least = int(line[50:55])
        elif line.rstrip().upper() == "END" or (opened and record == "ENDMDL") or (rows and line.startswith(_ENERGIES)):
            # ENDMDL: GROMACS writes no END. A model that follows it is not checked.
            ended = True
    modelled = {chain: max(length - len(absent[chain]), 0) for chain, length in lengths.items()} if archived else None
    return Declared(
        modelled,
        sum(lengths.values()),
        (),
        frozenset(missing),
        least,
        rows,
        ended,
        tuple(tuple(frame) for frame in frames.values() if len(frame) == 3),
    )


def declared_in_mmcif(block: gemmi.cif.Block, text: str) -> Declared:
    """Read pdbx_poly_seq_scheme, entity_poly_seq, struct_asym, pdbx_unobs_or_zero_occ_atoms, and the end."""
    modelled: Counter[str] = Counter()
    places: dict[tuple[str, str], bool] = {}
    for asym, place, number in block.find("_pdbx_poly_seq_scheme.", ["asym_id", "seq_id", "auth_seq_num"]):
        seen = number not in ("?", ".")
        places[(asym, place)] = places.get((asym, place), False) or seen
    for (asym, _), seen in places.items():
        modelled[asym] += seen
    length = len(places) or len({(row[0], row[1]) for row in block.find("_entity_poly_seq.", ["entity_id", "num"])})
    columns = ["auth_asym_id", "auth_seq_id", "PDB_ins_code", "auth_atom_id", "occupancy_flag"]
    missing = set()
    for chain, number, code, name, flag in block.find("_pdbx_unobs_or_zero_occ_atoms.", columns):
        if flag == "1" and re.fullmatch(r"-?\d+", number):
            missing.add((chain, int(number), "" if code in "?." else code, gemmi.cif.as_string(name)))
    parts = [part for i in "123" for part in (*(f"matrix[{i}][{j}]" for j in "123"), f"vector[{i}]")]
    frames = [
        tuple(gemmi.cif.as_number(row[k], 0.0) for k in range(1, 13))
        for row in block.find("_pdbx_struct_oper_list.", ["type", *parts])
        if "crystal frame" in row[0]
    ]
    same = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    turned = any(abs(value - wanted) > 1e-3 for row in frames for value, wanted in zip(row, same, strict=True))
    marks = text.count("\n#")
    asyms = tuple(gemmi.cif.as_string(name) for name in block.find_values("_struct_asym.id"))
    # Without marks, what ends in a row of atoms may go on; chains and sequences that are listed tell whether it does.
    # Biopython's files have two marks: before their one table, and at the end.
    closed = text.rstrip().endswith("\n#") or (marks <= 2 and (not _ends_in_atoms(block) or bool(asyms and length)))
    return Declared(
        dict(modelled) if places else None,
        length,
        asyms,
        frozenset(missing),
        ended=closed,
        frames=tuple((row[:4], row[4:8], row[8:]) for row in frames) if turned else (),
    )


def _ends_in_atoms(block: gemmi.cif.Block) -> bool:
    items = list(block)
    loop = items[-1].loop if items else None
    return loop is not None and loop.tags[0].lower().startswith("_atom_site.")
