"""Does a model stand where its map says: the backbone's density here, moved, and at other scales.

An envelope is blind to small shifts: a model moved by 5 Å still lies within 3 Å of most contours. The density at the
backbone is not. So that the inside of a large complex is no better than its rim, and resolution matters little, the map
counts as its difference from itself smoothed with 5 Å.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from cryoprism.formats import Volume

from . import _emit
from ._case import Case, Offender
from ._chemistry import BACKBONE_ATOMS
from ._lean import lean_numbers
from ._model import Model
from ._rules import Numbers
from ._words import residue_words

__all__ = ["placement_case"]

#: Of the Gaussians whose difference is taken [Å].
_FINE, _WIDE = 1.0, 5.0
#: Shifts [Å] in 26 directions, and scales about the model's middle.
SHIFTS: Final = (3.0, 5.0, 8.0)
SCALES: Final = (0.9, 0.92, 0.95, 0.97, 1.03, 1.05, 1.08, 1.1)
#: How many hundredths of the density here the density elsewhere may have: beyond the first it is open, beyond the
#: second refuted. Of right models in simulated maps (3 to 15 Å, one residue in five weak, noise) shifted ones have at
#: most 97, scaled ones 111; single layers of a fibril, beside which others lie, and less than 50 residues up to 156.
SHIFTED: Final = (115, 140)
SCALED: Final = (115, 125)
#: What differs less from its surroundings, in deviations of the map around the model, tells nothing (masks, noise).
_FLAT = 0.2
#: Fewer atoms of the backbone are never refuted (50 residues), more are thinned out.
_LEAST, _MOST = 200, 8_000


def placement_case(model: Model, volume: Volume) -> Case | None:
    """Return the rule; None where the model has no polymer."""
    names = set(BACKBONE_ATOMS["protein"]) | set(BACKBONE_ATOMS["nucleic"])
    atoms = [
        k
        for residue in model.residues
        if residue.role == "polymer"
        for k in range(residue.start, residue.stop)
        if model.names[k] in names
    ]
    if not atoms:
        return None
    few = len(atoms) < _LEAST
    chosen = atoms[:: -(-len(atoms) // _MOST)]
    places = (model.points[chosen] + model.corner) / 1000
    density, spread = _contrast(volume, places)
    here = density(places)
    middle = places.mean(axis=0)
    moves = {
        (length, way): density(places + length * _unit(way))
        for length in SHIFTS
        for way in itertools.product((-1, 0, 1), repeat=3)
        if any(way)
    }
    scaled = {scale: density(middle + (places - middle) * scale) for scale in SCALES}
    (length, way), moved = max(moves.items(), key=lambda one: one[1])
    scale, grown = max(scaled.items(), key=lambda one: one[1])
    flat = max(abs(here), moved, grown) <= _FLAT * spread
    # In ten-thousandths of the largest of them, so that whole numbers hold them.
    unit = max(abs(here), abs(moved), abs(grown)) / 10_000 or 1.0
    step = length * _unit(way)
    told = {
        "moved by (" + ", ".join(f"{value:.1f}" for value in step) + ") Å": (moved, SHIFTED),
        f"at {scale:g} times its size": (grown, SCALED),
    }
    rule, unsure = Numbers(), set()
    first = int(model.residue_of[atoms[0]])
    for how, (other, levels) in told.items():
        share = f"has {other / abs(here):.2f} times the density that it has here" if here > 0 else "has more density"
        for level in levels:
            holds = 100 * round(other / unit) < level * round(here / unit)
            if not holds and (level == levels[0] or few or flat):
                unsure.add(len(rule.comparisons))
            rule.comparisons.append((False, 100 * round(other / unit), level * round(here / unit)))
            rule.residues.append(first)
            rule.words.append(f"the backbone {how} {share} (above its surroundings)")
    found = rule.failing()
    refuted = [k for k in found if k not in unsure]
    offenders = [
        Offender(
            f"{rule.words[k][0].upper()}{rule.words[k][1:]}: the model is not fitted, or the map's origin or voxel "
            "size is wrong",
            (first,),
            (),
            None,
        )
        for k in refuted
    ]
    shares = [f"{other / abs(here):.2f}" for other in (moved, grown)] if here else ["more than 1", "more than 1"]
    note = (
        f"the backbone was moved by {', '.join(f'{one:g}' for one in SHIFTS)} Å in 26 directions and scaled by "
        f"{min(SCALES):g} to {max(SCALES):g}: its density above the surroundings is at most {shares[0]} and "
        f"{shares[1]} times that here. Shifts of less than 2 Å (at 10 Å resolution 3 Å) and voxel sizes wrong by less "
        "than 5 % (at 10 Å 10 %) are not seen"
    )
    why = "; ".join(dict.fromkeys(f"{residue_words(model.residues[first])}: {rule.words[k]}" for k in sorted(unsure)))
    source = _emit.numbers_source(rule, refuted)
    lean = lean_numbers("placement", rule, found)
    return Case("placement", rule.residues, set(refuted), unsure, offenders, source, note, lean, f"{why}.")


def _unit(way: tuple[int, ...]) -> NDArray[np.float64]:
    return np.asarray(np.array(way) / np.linalg.norm(way), dtype=np.float64)


def _contrast(volume: Volume, places: NDArray[np.float64]) -> tuple[Callable[[NDArray[np.float64]], float], float]:
    """Return the mean of the map above its surroundings at places (n, 3) [Å], and its deviation; 0 outside of the map.

    Only the map around ``places`` is filtered, and surroundings are reckoned on blocks of voxels.
    """
    size = volume.voxel_size_in_angstroms
    origin = np.array(volume.origin_in_angstroms)
    shape = np.array(volume.data.shape[::-1])
    reach = 0.1 * float(np.ptp(places, axis=0).max()) + max(SHIFTS) + 3 * _WIDE
    low = np.clip(np.floor((places.min(axis=0) - reach - origin) / size).astype(int), 0, shape - 1)
    high = np.clip(np.ceil((places.max(axis=0) + reach - origin) / size).astype(int) + 1, low + 1, shape)
    data = volume.data[low[2] : high[2], low[1] : high[1], low[0] : high[0]].float().numpy()
    origin = origin + low * size
    block = max(1, int(2.0 / size))
    pads = [(0, -n % block) for n in data.shape]
    blocks = np.pad(data, pads, mode="edge")
    nz, ny, nx = (n // block for n in blocks.shape)
    blocks = blocks.reshape(nz, block, ny, block, nx, block).mean(axis=(1, 3, 5))
    wide = gaussian_filter(blocks, _WIDE / (size * block), truncate=3.0)
    fine = gaussian_filter(data, _FINE / size, truncate=3.0)
    last = np.array(data.shape[::-1]) - 1

    def density(at: NDArray[np.float64]) -> float:
        index = (at - origin) / size
        index = index[((index >= 0) & (index <= last)).all(axis=1)]
        coarse = (index - (block - 1) / 2) / block
        one, other = (
            map_coordinates(table, where[:, ::-1].T, order=1, mode="nearest")
            for table, where in ((fine, index), (wide, coarse))
        )
        return float((one - other).sum()) / len(at)

    return density, float(fine.std())
