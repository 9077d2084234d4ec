"""What ranks first: copies, twins of a chain in its crystal, other crystals, a map; and a search over rotations."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoprism.core import InputError, generator_for, random_rotations
from cryoprism.evaluation.novelty import (
    CopyRecipe,
    Crowd,
    copy_of,
    known_probability,
    shape_of_atoms,
    shape_of_map,
    shape_vector,
    shipped_calibration,
    state_histogram,
    state_sequences,
    state_similarity,
    states_available,
)
from cryoprism.formats import Atoms, Volume, read_map
from cryoprism.structure import fit_model_rigidly, map_to_model_fsc, model_map

from .chains import Chain, chain_list, same_sequence
from .panel import Panel, looked_for, looks_of, panel_names, read_atoms, structures_folder

Array = NDArray[np.float64]
#: How a query is shown: filtered to 10 Å, with noise of half the molecule's mean density in voxels of 2 Å.
QUERY = CopyRecipe(voxel_size_in_angstroms=2.0, resolution_in_angstroms=10.0, noise=0.5)


def measure_real(panel: Panel, seed: int, maps: Sequence[Path]) -> None:
    """Print every table about real structures."""
    torch.set_num_threads(1)
    _copies(panel, seed)
    _pairs(panel, seed, maps)
    _chains(seed)
    _search(seed)


def _rank_rate(distances: Array, truth: NDArray[np.int64], group: NDArray[np.int64], seed: int) -> str:
    """Share of queries whose own entry is the nearest, with its interval over proteins."""
    first = (distances.argmin(1) == truth).astype(float)
    rng = np.random.default_rng(seed)
    proteins = np.unique(group)
    means = np.array([first[group == protein].mean() for protein in proteins])
    low, high = np.quantile(rng.choice(means, (2000, means.size)).mean(1), [0.025, 0.975])
    return f"{first.mean():.3f} ({low:.3f} to {high:.3f})"


def _copies(panel: Panel, seed: int) -> None:
    # Other entries of the same molecule are no wrong answers.
    relatives = panel.related()[panel.owner]
    relatives[np.arange(len(panel.owner)), panel.owner] = False
    measures = {
        "shape descriptor": panel.distances(),
        "shape descriptor, low frequencies as they are": looked_for(panel.copies[:, :1], panel.models),
        "radius of gyration alone": np.abs(np.log(panel.copy_radius)[:, None] - np.log(panel.radius)[None]),
        "volume alone": np.abs(np.log(panel.copy_volume)[:, None] - np.log(panel.volume)[None]),
    }
    print(
        f"\nSIMULATED copies of {len(panel.names)} REAL structures: the structure itself ranks first, other "
        f"entries of the same molecule left out, seed {seed}.\n"
    )
    print("| what is compared | all copies | without noise | with noise | as deposited |")
    print("|---|---|---|---|---|")
    for label, measure in measures.items():
        distances = np.where(relatives, np.inf, measure)
        cells = []
        for part in (panel.noise >= 0, panel.noise == 0, panel.noise > 0, panel.deposited):
            cells.append(_rank_rate(distances[part], panel.owner[part], panel.owner[part], seed))
        print(f"| {label} | {' | '.join(cells)} |")
    print(
        f"\n{len(panel.copies)} copies, {int((panel.noise > 0).sum())} with noise, "
        f"{int(panel.deposited.sum())} as deposited."
    )


def _as_map(atoms: Atoms, seed: int, name: str) -> NDArray[np.float32]:
    return looks_of(copy_of(atoms, QUERY, generator_for(seed, "novelty-query", name)))[1]


def _chains(seed: int) -> None:
    known: list[tuple[Chain, NDArray[np.float32]]] = []
    asked: list[tuple[Chain, int]] = []
    for name in panel_names():
        if "assembly" in name:
            continue
        chains = chain_list(name)
        if not chains:
            continue
        known.append((chains[0], shape_vector(shape_of_atoms(chains[0].atoms))))
        twin = next((one for one in chains[1:] if same_sequence(chains[0], one)), None)
        if twin is not None:
            asked.append((twin, len(known) - 1))
    index = np.stack([vector for _, vector in known])
    queries = np.stack([_as_map(chain.atoms, seed, chain.name) for chain, _ in asked])
    truth = np.array([place for _, place in asked])
    distances = looked_for(queries, index)
    print(
        f"\nAnother copy of the chain in the same crystal, REAL coordinates, turned, at 10 Å with noise (SIMULATED "
        f"map): {len(asked)} chains asked of the first chains of {len(known)} structures.\n"
    )
    print("| what is compared | its twin ranks first |")
    print("|---|---|")
    print(f"| shape descriptor | {_rank_rate(distances, truth, truth, seed)} |")
    size = np.abs(queries[:, 0, 121, None].astype(float) - index[None, :, 121])
    print(f"| radius of gyration alone | {_rank_rate(size, truth, truth, seed)} |")
    if states_available():
        histograms = [state_histogram(state_sequences(chain.atoms)) for chain, _ in known]
        rows = []
        for chain, _ in asked:
            mine = state_histogram(state_sequences(chain.atoms))
            rows.append([-1.0 if h is None or mine is None else state_similarity(mine, h) for h in histograms])
        print(f"| 3Di states (of the model itself) | {_rank_rate(-np.array(rows), truth, truth, seed)} |")
    wrong = [
        f"{chain.name} ({known[int(row.argmin())][0].name} at {row.min():.3f}, its twin at {row[place]:.3f})"
        for (chain, place), row in zip(asked, distances, strict=True)
        if int(row.argmin()) != place
    ]
    print(f"\nShape, not first: {'; '.join(wrong) or 'none'}.")


def _pairs(panel: Panel, seed: int, maps: Sequence[Path]) -> None:
    """Molecules that the panel holds twice, from different experiments."""
    law = shipped_calibration()
    rhodopsin = chain_list("1u19")[0]
    names = [*panel.names, rhodopsin.name]
    index = np.concatenate([panel.models, shape_vector(shape_of_atoms(rhodopsin.atoms))[None]])
    folder = structures_folder().parent / "maps"
    ferritin = {"4oyn assembly 1", "6z6u"}
    queries: list[tuple[str, str, NDArray[np.float32], set[str]]] = [
        ("EMD-1997, GroEL map", "", looks_of(read_map(folder / "emd_1997_groel.mrc"))[1], {"1oel assembly 1"}),
        ("β-galactosidase map", "", looks_of(read_map(folder / "beta_galactosidase.mrc"))[1], set()),
        *((f"{file.parent.name}/{file.name}", "", looks_of(read_map(file))[1], ferritin) for file in maps),
        *(
            (f"{name}, as a map", name, _as_map(atoms, seed, name), mates)
            for name, atoms, mates in (
                ("3dqb", read_atoms("3dqb"), {"3pqr", rhodopsin.name}),
                ("3pqr", read_atoms("3pqr"), {"3dqb", rhodopsin.name}),
                (rhodopsin.name, rhodopsin.atoms, {"3dqb", "3pqr"}),
                ("4oyn assembly 1", read_atoms("4oyn assembly 1"), {"6z6u"}),
                ("6z6u", read_atoms("6z6u"), {"4oyn assembly 1"}),
                ("5o3l", read_atoms("5o3l"), {"5o3t"}),
                ("5o3t", read_atoms("5o3t"), {"5o3l"}),
            )
        ),
    ]
    print(
        f"\nThe same or nearly the same molecule from another experiment, asked of {len(names)} entries less the query "
        "itself (as maps: turned, at 10 Å, with noise; REAL map for EMD-1997).\n"
    )
    print("| query | first | second | its mate: rank, distance | novelty | of shapes without its mates | crowding |")
    print("|---|---|---|---|---|---|---|")
    for label, own, looks, mates in queries:
        kept = [i for i, name in enumerate(names) if name != own]
        distances = looked_for(looks[None], index[kept])[0]
        order = distances.argsort()
        listed = [names[kept[i]] for i in order]
        ranks = [(rank + 1, name, distances[i]) for rank, (i, name) in enumerate(zip(order, listed, strict=True))]
        mate = next((one for one in ranks if one[1] in mates), None)
        crowd = Crowd.of(distances)
        novelty = 1 - known_probability(law.log_ratio(distances, None, crowd), len(kept), 0.5)
        strange = distances[[names[i] not in mates for i in kept]]
        without = 1 - known_probability(law.log_ratio(strange, None, Crowd.of(strange)), len(strange), 0.5)
        first, second = (f"{name} {distance:.3f}" for _, name, distance in ranks[:2])
        shown = "none" if mate is None else f"{mate[1]}: {mate[0]}, {mate[2]:.3f}"
        print(f"| {label} | {first} | {second} | {shown} | {novelty:.3f} | {without:.3f} | {law.crowding(crowd):.2f} |")


def _search(seed: int) -> None:
    """Print what a fit over all rotations says of a few pairs, the slow standard."""
    chains = {chain.name: chain for name in ("1u19", "4oyn", "2buk", "8pge") for chain in chain_list(name)[:1]}
    whole = {name: read_atoms(name) for name in ("3dqb", "3pqr")}
    atoms = {**{name: chain.atoms for name, chain in chains.items()}, **whole}
    rhodopsin, ferritin, virus, lactamase = chains
    pairs = (
        ("3dqb", "3pqr", "same"),
        (rhodopsin, "3pqr", "same, other state"),
        (ferritin, virus, "different"),
        (lactamase, ferritin, "different"),
    )
    print("\nA search over rotations and shifts (rigid fit at 15 Å), the slow standard, on a few pairs:\n")
    print("| map of (10 Å) | fitted | truth | fitted correlation | FSC 0.5 at [Å] | CPU [s] | distance | CPU [s] |")
    print("|---|---|---|---|---|---|---|---|")
    for target, moved, truth in pairs:
        clean = _in_a_cube(atoms[target], generator_for(seed, "novelty-search", target, moved))
        started = time.process_time()
        try:
            fit = fit_model_rigidly(clean, atoms[moved], resolution_in_angstroms=15.0, finest_in_angstroms=10.0)
            placed = fit.apply(atoms[moved])
            made = model_map(placed, clean, b_factor_in_square_angstroms=0.0, resolution_in_angstroms=10.0).data
        except InputError as error:
            print(f"| {target} | {moved} | {truth} | {error.found} | | | | |")
            continue
        spent = time.process_time() - started
        one, other = clean.data - clean.data.mean(), made - made.mean()
        correlation = float((one * other).sum() / (one.norm() * other.norm()))
        limit = map_to_model_fsc(clean, placed).crossing(0.5).resolution_in_angstroms
        started = time.process_time()
        first, second = shape_vector(shape_of_map(clean)), shape_vector(shape_of_atoms(atoms[moved]))
        quick = time.process_time() - started
        distance = float(np.linalg.norm(first.astype(float) - second))
        shown = "none" if limit is None else f"{limit:.1f}"
        print(
            f"| {target} | {moved} | {truth} | {correlation:.3f} | {shown} | {spent:.1f} | {distance:.3f} | "
            f"{quick:.2f} |"
        )


def _in_a_cube(atoms: Atoms, generator: torch.Generator) -> Volume:
    """Map of a model turned at random, at 10 Å in voxels of 3 Å, with room for another of its size."""
    turn = random_rotations(1, generator)[0]
    turned = (atoms.positions_in_angstroms - atoms.positions_in_angstroms.mean(0)) @ turn.T
    side = 2 * math.ceil((float(turned.norm(dim=1).max()) + 30.0) / 3.0)
    corner = -(side // 2) * 3.0
    like = Volume(torch.zeros(side, side, side), 3.0, (corner, corner, corner))
    return model_map(
        replace(atoms, positions_in_angstroms=turned),
        like,
        b_factor_in_square_angstroms=0.0,
        resolution_in_angstroms=10.0,
    )
