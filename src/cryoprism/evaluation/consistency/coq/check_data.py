"""Compare the machine integers of Data.v with atoms.csv and, with gemmi, with a model file.

python3 -I check_data.py [MODEL]
"""

import os
import sys

here = os.path.dirname(os.path.realpath(__file__))
# Modules are Python's own: a file of that name in this folder is none of them.
sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != here]

import csv  # noqa: E402
import gzip  # noqa: E402
import hashlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402

METALS, ACCEPTORS = "@METALS@", "@ACCEPTORS@"
# Names of force fields: waters, their sites that are no atoms, ions with their elements.
WATERS, VIRTUAL, IONS = "@WATERS@", "@VIRTUAL@", "@IONS@"


def opened(*names: str) -> str:
    """Return the text of a file of this folder."""
    with open(os.path.join(here, *names), encoding="utf-8", newline="") as file:
        return file.read()


text = opened("model", "Data.v")
corner = [int(n) for n in re.findall(r"from \(([^)]*)\)", text)[0].split(",")]
parts = re.findall(r"(?:block|list int) := (\(.*)%uint63", text)
words = [int(n) for part in parts for n in re.findall(r"\d+", part)]
rows = list(csv.DictReader(io.StringIO(opened("atoms.csv"), newline="")))
if len(words) != 2 * len(rows):
    sys.exit(f"Data.v holds {len(words) // 2} atoms, atoms.csv {len(rows)}")
for number, row in enumerate(rows):
    word, more = words[2 * number], words[2 * number + 1]
    place = [(word >> 42) + corner[0], (word >> 21) % 2**21 + corner[1], word % 2**21 + corner[2]]
    held = [more >> 32, (more >> 24) & 255, (more >> 16) & 255, more & 65535]
    wanted = [int(row[name]) for name in ("x", "y", "z")]
    known = [int(row[name]) for name in ("residue_index", "kind", "alternative", "occupancy")]
    if place != wanted or held != known or int(row["number"]) != number:
        sys.exit(f"atom {number}: Data.v has {place} {held}, atoms.csv {wanted} {known}")
print(f"Data.v and atoms.csv agree on {len(rows)} atoms.")


def repeats_apart(lines: list[str]) -> list[str]:
    """Return a PDB file whose residues that come again in a chain have segments of their own; nothing where none do."""
    runs: list[tuple[tuple[str, ...], list[int]]] = []  # rows of one residue that follow one another
    chain, block = "", 0
    for place, line in enumerate(lines):
        record = line[:6].rstrip().upper()
        if record in ("ENDMDL", "END"):
            break
        if record == "TER":
            runs.append(((), []))
        elif record in ("ATOM", "HETATM"):
            if line[20:22] != chain:
                chain, block = line[20:22], block + 1
            key: tuple[str, ...] = (chain, str(block), line[22:27], line[17:20], line[72:76].strip())
            if not runs or runs[-1][0] != key:
                runs.append((key, []))
            runs[-1][1].append(place)
    count: dict[tuple[str, ...], int] = {}
    held: dict[tuple[str, ...], set[str]] = {}
    found = list(lines)
    for key, places in runs:
        names = {lines[place][12:17] for place in places}
        if names & held.get(key, set()):
            count[key] = count.get(key, 0) + 1
            held[key] = set()
        held.setdefault(key, set()).update(names)
        for place in places if key in count else []:
            tag = f"{min(count[key], 65535):04X}"
            found[place] = f"{lines[place][:72]:<72s}{tag}{lines[place][76:]}"
    return found if count else []


if len(sys.argv) > 1:
    import gemmi

    model = sys.argv[1]
    with open(model, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != json.loads(opened("consistency.json"))["model_sha256"]:
        sys.exit(f"{model} is not the file of this certificate: its SHA-256 is {found}")
    structure = gemmi.read_structure(model, merge_chain_parts=True, format=gemmi.CoorFormat.Detect)
    if structure.input_format == gemmi.CoorFormat.Pdb:
        with open(model, "rb") as file:
            raw = file.read()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")
        apart = repeats_apart(text.splitlines())
        if apart:
            structure = gemmi.read_pdb_string("\n".join([*apart, ""]))
            structure.merge_chain_parts()
    elements = dict(pair.split("=") for pair in IONS.split())

    def is_water(residue: gemmi.Residue) -> bool:
        """Whether a residue is water, by gemmi or by a force field's name."""
        if residue.entity_type == gemmi.EntityType.Water or residue.is_water():
            return True
        return residue.name.upper() in WATERS.split() and {atom.element.name for atom in residue} <= set("OHDX")

    for residue in (residue for chain in structure[0] for residue in chain):
        if len(residue) == 1 and residue.name.upper() == residue[0].name.upper() in elements:
            residue[0].element = gemmi.Element(elements[residue.name.upper()])
        elif len(residue) > 1 and is_water(residue):
            # Sites that are no atoms are left out, where they lie within 1 Å of an O.
            sites = [atom.name.upper() in VIRTUAL.split() or atom.element.name == "X" for atom in residue]
            real = [atom.pos for atom, site in zip(residue, sites) if not site and atom.element.name == "O"]  # noqa: B905
            for k in range(len(residue) - 1, -1, -1):
                if sites[k] and any(residue[k].pos.dist(place) <= 1.0 for place in real):
                    del residue[k]
    structure.setup_entities()
    atoms = [
        (number, chain, residue, atom)
        for number, (chain, residue) in enumerate((chain, residue) for chain in structure[0] for residue in chain)
        for atom in residue
    ]
    if len(atoms) != len(rows):
        sys.exit(f"{model} has {len(atoms)} atoms, atoms.csv {len(rows)}")
    for number, row in enumerate(rows):
        index, chain, residue, atom = atoms[number]
        element = atom.element.name.upper()
        water = is_water(residue)
        kind = 1 if element in ACCEPTORS.split() else 0
        if element in ("H", "D"):
            kind = 3
        elif element in METALS.split():
            kind = 2
        elif water:
            kind = 4
        named = {
            "chain": chain.name,
            "residue": residue.name,
            "residue_number": f"{residue.seqid.num or 0}{residue.seqid.icode.strip()}",
            "atom": atom.name,
            "element": element,
            "residue_index": str(index),
            "kind": str(kind),
            "alternative": str(0 if atom.altloc == "\0" else ord(atom.altloc) & 255),
            "occupancy": str(min(max(round(1000 * atom.occ), 0), 1000)),
        }
        for name in "xyz":
            value = round(1000 * getattr(atom.pos, name))
            if abs(int(row[name]) - value) > 1:
                sys.exit(f"atom {number} ({atom.name}): {model} has {name} {value}, atoms.csv {row[name]}")
        for name, text in named.items():
            # Occupancies in thousandths may be rounded either way.
            if row[name] != text and not (name == "occupancy" and abs(int(row[name]) - int(text)) <= 1):
                sys.exit(f"atom {number} ({atom.name}): {model} has {name} {text}, atoms.csv {row[name]}")
    print(f"atoms.csv and {model} agree.")
