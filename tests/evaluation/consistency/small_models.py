"""Small models with known faults: an ideal helix of alanines, written as PDB text."""

import numpy as np


def _next(a, b, c, length, angle, dihedral):
    """Place an atom at a distance from c, an angle b-c-d and a dihedral a-b-c-d [degrees]."""
    angle, dihedral = np.radians(angle), np.radians(dihedral)
    axis = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, axis)
    normal /= np.linalg.norm(normal)
    local = length * np.array([-np.cos(angle), np.sin(angle) * np.cos(dihedral), np.sin(angle) * np.sin(dihedral)])
    return c + local @ np.array([axis, np.cross(normal, axis), normal])


def helix(count=8, cis_after=None):
    """Atoms of a right-handed α-helix: rows of (residue number, atom name, position)."""
    n, ca, c = np.array([0.0, 0, 0]), np.array([1.458, 0, 0]), np.array([2.009, 1.420, 0])
    chain = []
    for k in range(count):
        chain.append((n, ca, c))
        turn = 0.0 if cis_after == k + 1 else 180.0
        following = _next(n, ca, c, 1.329, 116.6, -47.0)
        next_ca = _next(ca, c, following, 1.458, 121.7, turn)
        n, ca, c = following, next_ca, _next(c, following, next_ca, 1.525, 111.0, -57.0)
    chain.append((n, ca, c))
    rows = []
    for k, (n, ca, c) in enumerate(chain[:-1]):
        following = chain[k + 1][0]
        bisector = np.cross(n - ca, c - ca)
        rows += [(k + 1, "N", n), (k + 1, "CA", ca), (k + 1, "C", c)]
        away = (c - ca) / np.linalg.norm(c - ca) + (c - following) / np.linalg.norm(c - following)
        rows.append((k + 1, "O", c + 1.231 * away / np.linalg.norm(away)))
        middle = -((n - ca) / np.linalg.norm(n - ca) + (c - ca) / np.linalg.norm(c - ca))
        outward = middle / np.linalg.norm(middle) * 0.6 + bisector / np.linalg.norm(bisector) * 0.8
        rows.append((k + 1, "CB", ca + 1.53 * outward / np.linalg.norm(outward)))
    return rows


def moved(rows, residue, name, place):
    """Put one atom elsewhere."""
    return [(k, n, np.asarray(place, float) if (k, n) == (residue, name) else p) for k, n, p in rows]


def pdb(chains, *, names=None, extra="", head=""):
    """PDB text of chains {name: rows}; ``names`` maps (chain, residue) to residue names other than ALA."""
    lines, serial = [head] if head else [], 0
    for chain, rows in chains.items():
        for residue, name, (x, y, z) in rows:
            serial += 1
            kind = (names or {}).get((chain, residue), "ALA")
            lines.append(
                f"ATOM  {serial:5d}  {name:<3s} {kind:>3s} {chain}{residue:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
                f"          {name[0]:>2s}"
            )
        lines.append("TER")
    return "\n".join([*lines, *([extra] if extra else []), "END", ""])
