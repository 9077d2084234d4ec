"""Rows of PDB files with what faults are planted in, and what is found of them."""

import numpy as np


def rule_of(result, name):
    return next(rule for rule in result.rules if rule.name == name)


def words_of(result, name):
    return [one.words for one in rule_of(result, name).offenders]


def labelled(text, chain, letter, occupancy):
    """Give all atoms of a chain a letter and an occupancy."""
    return "\n".join(
        f"{line[:16]}{letter}{line[17:54]}{occupancy:6.2f}{line[60:]}"
        if line.startswith("ATOM") and line[21] == chain
        else line
        for line in text.splitlines()
    )


def shifted(rows, *shift):
    return [(k, n, p + np.array(shift, dtype=float)) for k, n, p in rows]


def hetero(rows, name="LIG", chain="L"):
    """HETATM rows of one residue: (atom name, element, position, occupancy)."""
    return "\n".join(
        f"HETATM{k:5d} {atom:<4s} {name:>3s} {chain} 900    {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f} 20.00"
        f"          {element:>2s}"
        for k, (atom, element, (x, y, z), occupancy) in enumerate(rows, 900)
    )


CRYSTAL = "CRYST1{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f} {:<11s}{:4d}"


def crystal(a, b, c, group="P 1"):
    return CRYSTAL.format(a, b, c, 90, 90, 90, group, 1)


def link(one, other, codes=("1555", "1555"), length=1.5):
    """LINK of (atom, residue name, chain, number)."""
    ends = [f"{atom:>4s} {name:>3s} {chain}{number:4d} " for atom, name, chain, number in (one, other)]
    return f"LINK        {ends[0]}{'':15s}{ends[1]}  {codes[0]:>6s} {codes[1]:>6s}{length:6.2f}"


def biomt(*generators):
    """REMARK 350 of generators (chains, translations along x)."""
    lines, number = ["REMARK 350 BIOMOLECULE: 1"], 0
    for chains, shifts in generators:
        lines.append(f"REMARK 350 APPLY THE FOLLOWING TO CHAINS: {chains}")
        for shift in shifts:
            number += 1
            for row in range(3):
                cells = "".join(f"{float(row == k):10.6f}" for k in range(3))
                lines.append(f"REMARK 350   BIOMT{row + 1} {number:3d}{cells}{shift if row == 0 else 0.0:15.5f}")
    return "\n".join(lines)
