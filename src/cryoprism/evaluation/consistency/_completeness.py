"""Is anything missing or doubled: backbones, names of atoms, and what the file says that it holds."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ._belonging import atoms_of_residues
from ._chemistry import backbone_atoms
from ._model import Model
from ._pieces import piled_waters
from ._rules import Numbers
from ._topology import polymers, step, touching

__all__ = ["Completeness", "completeness"]


@dataclass
class Completeness:
    """Comparisons of what is there with what has to be.

    Attributes
    ----------
    open
        Comparisons that fail, but of which the file does not tell whether it was cut or ends so: unknown.
    note
        Residues that are modelled, chains that are traces, atoms that are declared as missing.
    """

    rule: Numbers = field(default_factory=Numbers)
    open: set[int] = field(default_factory=set)
    note: str = ""

    def add(self, found: int, wanted: int, residue: int, words: str, *, unsure: bool = False) -> None:
        """Add a comparison; ``unsure`` makes it unknown where it fails."""
        if unsure and found != wanted:
            self.open.add(len(self.rule.comparisons))
        self.rule.comparisons.append((True, found, wanted))
        self.rule.residues.append(residue)
        self.rule.words.append(words)


def completeness(model: Model) -> Completeness:
    """Compare backbones, names of atoms and the file's own counts with the model.

    A residue that lacks atoms of its backbone is refuted inside a stretch of chain. At the end of a stretch, where
    density fades, it is unknown: it may have been built so, or the file may have been cut there. Atoms that the file
    declares as missing are not asked for, and neither are chains that are traces (of Cα or P alone).
    """
    found = Completeness()
    notes = _declared(model, found)
    excused, traces = 0, []
    for chain in polymers(model):
        wanted = [backbone_atoms(model.residues[k].standard) for k in chain]
        present = [_names(model, k) for k in chain]
        if not any(len(there & set(names)) > 1 for there, names in zip(present, wanted, strict=True) if names):
            if any(wanted):
                traces.append(model.residues[chain[0]].chain)
            continue
        for n, index in enumerate(chain):
            if not wanted[n]:
                continue
            starts = n == 0 or step(model, chain[n - 1], index) != 1
            ends = n == len(chain) - 1 or step(model, index, chain[n + 1]) != 1
            excused += _backbone(model, found, index, wanted[n], present[n], (starts, ends))
    _limits(model, found)
    for index, residue in enumerate(model.residues):
        places = range(residue.start, residue.stop)
        different = {(model.names[k], int(model.alternatives[k])) for k in places}
        twice = sorted(name for name, count in Counter(model.names[k] for k in places).items() if count > 1)
        words = f"two of its atoms bear one name in one alternative ({', '.join(twice[:3])})" if twice else "names"
        waters = piled_waters(model, residue)
        if waters:
            words = (
                f"{len(waters)} waters bear this one number, or a number that cannot be read (****): give each its own"
            )
        found.add(len(different), len(places), index, words)
    notes += atoms_of_residues(model, found.add)
    if excused:
        notes.append(f"{excused} backbone atoms are declared as missing")
    if traces:
        notes.append(
            f"chain{'s' if len(traces) > 1 else ''} {', '.join(sorted(traces))}: a trace of one atom a residue, which "
            "bonds, hands and peptides cannot be asked of"
        )
    found.note = "; ".join(notes)
    return found


def _limits(model: Model, found: Completeness) -> None:
    """Add what the other rules cannot ask, as unknown: other models, no polymer, chains torn by their numbers."""
    last = len(model.residues) - 1
    if model.models_in_file > 1:
        words = f"the file holds {model.models_in_file} models, and the first alone was checked"
        found.add(1, model.models_in_file, last, words, unsure=True)
    for index, words in model.doubts:
        found.add(0, 1, index, words, unsure=True)
    chains = polymers(model)
    if not chains:
        found.add(0, 1, last, "the file holds no polymer, so that hardly anything can be asked", unsure=True)
    for chain in chains:
        steps = [(step(model, before, after), before, after) for before, after in itertools.pairwise(chain)]
        apart = [(gap, after) for gap, before, after in steps if gap != 1 and not touching(model, before, after)]
        back = [after for gap, after in apart if gap < 1]
        if 2 * len(apart) > len(steps):
            words = f"{len(apart)} of the {len(steps)} steps of its chain go over gaps in the numbers"
            found.add(0, 1, apart[0][1], f"{words}: whether the chain is whole cannot be asked", unsure=True)
        elif back:
            words = "the numbers of its chain fall here, so that no distance to the residue before can be asked"
            found.add(0, 1, back[0], words, unsure=True)


def _names(model: Model, index: int) -> set[str]:
    residue = model.residues[index]
    names = {name.replace("*", "'") for name in model.names[residue.start : residue.stop]}
    return names | {"O"} if names & {"OXT", "OT1", "O1"} else names


def _backbone(
    model: Model,
    found: Completeness,
    index: int,
    wanted: tuple[str, ...],
    there: set[str],
    outer: tuple[bool, bool],
) -> int:
    """Add one residue; return how many atoms are declared as missing."""
    residue = model.residues[index]
    starts, ends = outer
    lost = [name for name in wanted if name not in there]
    if starts and lost == ["P"]:  # a 5' end without phosphate is whole
        lost = []
    declared = [
        name for name in lost if (residue.chain, residue.number, residue.insertion, name) in model.declared.missing
    ]
    lost = [name for name in lost if name not in declared]
    at_end = ends and lost == list(wanted[len(wanted) - len(lost) :])
    at_start = starts and lost == list(wanted[: len(lost)])
    words = f"its backbone lacks {', '.join(lost)}, which the file does not declare"
    found.add(len(wanted) - len(lost), len(wanted), index, words, unsure=at_end or at_start)
    return len(declared)


def _declared(model: Model, found: Completeness) -> list[str]:
    """Compare the file's own counts with the model; return what to note."""
    declared, last = model.declared, len(model.residues) - 1
    places: dict[str, set[tuple[int, str]]] = defaultdict(set)
    first: dict[str, int] = {}
    for index, residue in enumerate(model.residues):
        key = residue.subchain if declared.asyms else residue.chain
        first.setdefault(key, index)
        if residue.role == "polymer":
            places[key].add((residue.number, residue.insertion))
    notes = []
    # An mmCIF file states a sequence once for all of its chains.
    stated = sum(len(sequence) for sequence in model.sequences.values()) if declared.modelled is None else 0
    length = max(declared.length, stated)
    if length:
        known = sum(len(there) for there in places.values())
        notes.append(f"{known} of {length} residues of the declared sequences are modelled")
        if declared.modelled is None:
            notes[0] += "; the file does not say which"
            more = _beyond(model, declared.length)
            residues = "1 residue" if more == 1 else f"{more} residues"
            words = f"the declared sequences have {residues} more than the model, which the file does not declare"
            if more:
                found.add(length - more, length, last, words, unsure=True)
    for key, count in sorted((declared.modelled or {}).items()):
        words = f"chain {key} has {len(places[key])} residues of its sequence; the file says that {count} are modelled"
        found.add(len(places[key]), count, first.get(key, last), words)
    for asym in declared.asyms:
        found.add(int(asym in first), 1, first.get(asym, last), f"the file lists chain {asym} but holds no atom of it")
    if declared.rows:
        read = sum(each.count_atom_sites() for each in model.structure) + model.virtual_sites
        short = max(declared.least_atoms - declared.rows, 0)
        words = f"MASTER counts {declared.least_atoms} atoms, the file holds {declared.rows}"
        found.add(short, 0, last, words)
        words = f"of {declared.rows} rows of atoms {read} were read: what stands after END is no part of the model"
        found.add(max(declared.rows - read, 0), 0, last, words, unsure=True)
    words = "the file does not end as files of its kind do (END, or # after the last table): it may have been cut"
    found.add(int(declared.ended), 1, last, words, unsure=True)
    return notes


def _beyond(model: Model, length: int) -> int:
    """How many residues of the declared sequences (``length`` in all) are not in the model, chain by chain."""
    there: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for residue in model.residues:
        if residue.role == "polymer":
            there[residue.chain].add((residue.number, residue.insertion))
    lengths = {chain: len(sequence) for chain, sequence in model.sequences.items()}
    short = sum(max(count - len(there[chain]), 0) for chain, count in lengths.items())
    return short + max(length - sum(lengths.values()), 0)
