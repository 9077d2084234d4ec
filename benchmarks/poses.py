"""Orientations by the pose network, by an exhaustive search and by both: angular error and CPU seconds.

SIMULATED particles: atoms projected in the plane (no volume and no Fourier slices), contrast transfer, shifts, white
noise. The network and the searches see a map of the same atoms that was low-passed; the network is trained on slices of
that map. One thread.

- network: best of its candidates, which include no shift.
- exhaustive 7.5°: all orientations of HEALPix order 3 times all shifts, as matrix products.
- network + local: a local search about each candidate, the best kept (log evidence).
- exhaustive + local: the same local search about the exhaustive result.
- branch and bound: the search of ``cryoprism refine`` over all orientations.
- chance: random orientations.

With --refine: refinement from the map low-passed to 20 Å whose first pass looks near the network's candidates
(`cryoprism refine --pose-network`) beside the same refinement whose first pass looks everywhere.

python benchmarks/poses.py [--particles 300] [--specimens globule shell] [--ratios 0.1 0.05] [--refine]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, orientation_grid, random_rotations, rfft2
from cryoprism.microscope import AtomicModel, Lens, contrast_transfer, potential_from_atoms, project_atoms
from cryoprism.structure import (
    FourierVolume,
    RefinementSettings,
    fourier_shell_correlation,
    low_pass,
    pack,
    pack_real,
    packed_frequencies,
    pose_network_start,
    refine,
    soft_sphere,
    start_state,
    train_pose_network,
)
from cryoprism.structure.likelihood import AlignmentData
from cryoprism.structure.orientations import angular_distance, shift_disc
from cryoprism.structure.pose_network import PoseNetworkConfig
from cryoprism.structure.pose_search import SearchPlan, search, search_around
from cryoprism.synthesis.phantom import phantom

T = TypeVar("T")
SPECIMENS = {"globule": ("C1", 130.0, 80.0), "shell": ("O", 190.0, 128.0)}
SHIFT_IN_PIXELS = 1.0


@dataclass(frozen=True)
class Made:
    """Simulated images (n, box, box), their truth, the map that is known of them and the one that is not."""

    images: Tensor
    rotations: Tensor
    transfer: Tensor
    map: Tensor
    fine: Tensor
    variance: float
    pixel: float
    symmetry: str
    diameter: float


def simulate(kind: str, box: int, count: int, ratio: float, seed: int) -> Made:
    """Images (n, box, box) with their truth, and the map that is known of them."""
    symmetry, extent, diameter = SPECIMENS[kind]
    built = phantom(kind)
    pixel = extent / box
    model = AtomicModel(
        torch.from_numpy(built.positions_in_angstroms).float(), torch.from_numpy(built.atomic_numbers), 40.0
    )
    generator = generator_for(seed, "poses", kind)
    rotations = random_rotations(count, generator)
    shifts = SHIFT_IN_PIXELS * torch.randn(count, 2, generator=generator)
    u = 8000 + 14000 * torch.rand(count, generator=generator)
    ky, kx = frequency_grid((box, box), pixel)
    transfer = contrast_transfer(ky, kx, Lens(), defocus_u_in_angstroms=u, defocus_v_in_angstroms=u - 300)
    images = torch.cat(
        [
            project_atoms(
                model,
                rotations[i : i + 20],
                pixel,
                shape=(box, box),
                shifts_in_angstroms=-pixel * shifts[i : i + 20],
                center=False,
            )
            for i in range(0, count, 20)
        ]
    )
    images = irfft2(rfft2(images) * transfer, (box, box))
    level = float(images.std())
    images = images / level
    noise = 1.0 / math.sqrt(ratio)
    images = images + noise * torch.randn(images.shape, generator=generator)
    # Projections are in V Å, the map in V: slices sum over voxels.
    fine = potential_from_atoms(model, pixel, shape=(box, box, box), center=False)
    known = low_pass(fine, pixel, 8.0)
    return Made(
        images=images,
        rotations=rotations,
        transfer=transfer,
        map=known * (pixel / level),
        fine=fine,
        variance=noise**2 * box * box,
        pixel=pixel,
        symmetry=symmetry,
        diameter=diameter,
    )


def exhaustive(data: AlignmentData, volume: FourierVolume, symmetry: str, radius: int) -> tuple[Tensor, Tensor]:
    """Best orientation and shift of every particle over all of order 3 times a disc of shifts: matrix products."""
    k = packed_frequencies(radius).float() / data.box
    cells = orientation_grid(3, symmetry)
    shifts = shift_disc(3.0, 1.0)
    turns = -2 * math.pi * shifts @ k.T
    ramps = torch.polar(torch.ones_like(turns), turns)
    images, transfer = data.images[:, : len(k)], data.transfer[:, : len(k)]
    weight = transfer / data.noise_variance[data.group][:, : len(k)]
    best = torch.full((len(images),), -torch.inf)
    where = torch.zeros(len(images), 2, dtype=torch.long)
    moved = (images * weight)[:, None] * ramps
    left = 2 * torch.view_as_real(moved.reshape(-1, len(k))).flatten(1)
    for start in range(0, len(cells), 2048):
        views = volume.slices(cells[start : start + 2048], radius)
        score = (left @ torch.view_as_real(views).flatten(1).T).view(len(images), len(shifts), -1)
        score -= ((weight * transfer) @ (views.abs() ** 2).T)[:, None]
        value, place = score.flatten(1).max(1)
        better = value > best
        best = torch.where(better, value, best)
        found = torch.stack([start + place % views.shape[0], place // views.shape[0]], -1)
        where = torch.where(better[:, None], found, where)
    return cells[where[:, 0]], shifts[where[:, 1]]


def local(
    data: AlignmentData, volume: FourierVolume, rotations: Tensor, shifts: Tensor, radius: int, start: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Best pose and its log evidence near given poses, in three rounds of halved steps."""
    evidence = torch.zeros(len(data))
    for step, shift_step in ((start / 2, 1.0), (start / 4, 0.5), (start / 8, 0.25)):
        posterior = search_around(
            data,
            volume,
            rotations,
            shifts,
            step_in_degrees=step,
            reach=2,
            shift_step=shift_step,
            shift_reach=2,
            radius=radius,
        )
        rotations, shifts = posterior.best()
        evidence = posterior.log_evidence
    return rotations, shifts, evidence


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Run it; what it returns, and its CPU seconds."""
    before = time.process_time()
    result = work()
    return result, time.process_time() - before


def rows(kind: str, box: int, count: int, ratio: float, candidates: int, steps: int, seed: int) -> list[list[str]]:
    """Lines of the table for one specimen and one signal-to-noise ratio."""
    made = simulate(kind, box, count, ratio, seed)
    symmetry, pixel = made.symmetry, made.pixel
    radius, fine = min(16, box // 2 - 1), min(24, (box - 1) // 2)
    volume = FourierVolume.from_map(made.map)
    observed = pack(rfft2(made.images), fine)
    transfer = pack_real(made.transfer, fine)
    variance = made.variance
    data = AlignmentData(
        observed, transfer, torch.full((1, observed.shape[1]), variance), torch.zeros(count, dtype=torch.long), box
    )
    truth = made.rotations
    config = PoseNetworkConfig(
        radius=radius,
        diameter_in_pixels=made.diameter / pixel,
        symmetry=symmetry,
        shift_in_pixels=SHIFT_IN_PIXELS,
        steps=steps,
        seed=seed,
    )
    network, training = timed(lambda: train_pose_network(volume, transfer, torch.full((radius + 1,), variance), config))
    found, looking = timed(lambda: network.candidates(observed, transfer, candidates))
    zero = torch.zeros(count, 2)

    def after_network() -> Tensor:
        tried = [local(data, volume, found.rotations[:, i], zero, fine, 15.0) for i in range(candidates)]
        best = torch.stack([t[2] for t in tried]).argmax(0)
        return torch.stack([t[0] for t in tried])[best, torch.arange(count)]

    start, searching = timed(lambda: exhaustive(data, volume, symmetry, radius))
    both, refining = timed(after_network)
    fully, finishing = timed(lambda: local(data, volume, *start, fine, 7.5)[0])
    plan = SearchPlan(orders=(1, 2, 3, 4), radii=(6, 10, radius, fine), shift_range=4.0, shift_step=2.0)
    bounded, bounding = timed(lambda: search(data, volume, plan, symmetry=symmetry).best()[0])
    closest = torch.stack([angular_distance(found.rotations[:, i], truth, symmetry) for i in range(candidates)]).amin(0)
    results = [
        ("chance", random_rotations(count, generator_for(seed, "chance")), 0.0),
        ("network", found.rotations[:, 0], looking),
        ("exhaustive 7.5°", start[0], searching),
        ("network + local", both, looking + refining),
        ("exhaustive + local", fully, searching + finishing),
        ("branch and bound", bounded, bounding),
    ]
    lines = []
    for name, rotations, seconds in results:
        error = angular_distance(rotations, truth, symmetry)
        lines.append(
            [
                f"{kind} ({symmetry})",
                f"{ratio:g}",
                name,
                f"{float(error.median()):.1f}",
                f"{float((error < 10).float().mean()):.0%}",
                f"{seconds:.1f}",
                f"{1000 * seconds / count:.1f}",
            ]
        )
    print(
        f"<!-- {kind}, {ratio:g}: training {training:.0f} CPU s; nearest of {candidates} candidates: median "
        f"{float(closest.median()):.1f}°, {float((closest < 15).float().mean()):.0%} within 15° -->",
        flush=True,
    )
    return lines


def refinements(kind: str, box: int, count: int, ratio: float, steps: int, passes: int, seed: int) -> list[list[str]]:
    """Lines of the second table: the same refinement with and without the network."""
    made = simulate(kind, box, count, ratio, seed)
    radius = (box - 1) // 2
    images, transfer = pack(rfft2(made.images), radius), pack_real(made.transfer, radius)
    group = torch.arange(count) % 20
    settings = RefinementSettings(
        symmetry=made.symmetry,
        diameter_in_angstroms=made.diameter,
        pixel_size_in_angstroms=made.pixel,
        initial_resolution_in_angstroms=20.0,
        shift_range_in_angstroms=4 * SHIFT_IN_PIXELS * made.pixel,
        iterations=passes,
        seed=seed,
    )
    state = start_state(images, transfer, group, low_pass(made.map, made.pixel, 20.0), settings, radius)
    mask = soft_sphere((box,) * 3, made.pixel, 0.5 * made.diameter)
    start, preparing = timed(lambda: pose_network_start(images, transfer, group, state, settings, steps=steps))
    print(f"<!-- {kind}, {ratio:g}: {start.sentence()} -->", flush=True)
    lines = []
    for name, candidates in (("search", None), ("network, then search", start.candidates)):
        end, seconds = timed(
            lambda candidates=candidates: refine(  # type: ignore[misc]
                images, transfer, group, 1 + group % 2, state, settings, candidates=candidates
            )
        )
        curve = fourier_shell_correlation(end.maps[0] + end.maps[1], made.fine, made.pixel, mask=mask)
        first = end.history[0]
        error = angular_distance(end.rotations, made.rotations, made.symmetry)
        lines.append(
            [
                f"{kind} ({made.symmetry})",
                f"{ratio:g}",
                name,
                f"{first['log_evidence']:.2f}",
                f"{first['resolution_in_angstroms']:.2f}",
                f"{end.history[-1]['log_evidence']:.2f}",
                f"{end.history[-1]['resolution_in_angstroms']:.2f}",
                f"{curve.crossing(0.5).resolution_in_angstroms or math.nan:.2f}",
                f"{float(error.median()):.1f}",
                f"{first['cpu_seconds']:.0f}",
                f"{seconds:.0f}" if candidates is None else f"{preparing:.0f} + {seconds:.0f}",
            ]
        )
        print(f"<!-- {' | '.join(lines[-1])} -->", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--specimens", nargs="+", default=list(SPECIMENS), choices=sorted(SPECIMENS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--refine", action="store_true", help="Compare whole refinements instead.")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"SIMULATED: {args.particles} particles of {args.box}² pixels, one thread.\n")
    if args.refine:
        columns: tuple[str, ...] = (
            "specimen", "SNR", "first pass", "log evidence after it", "half maps after it [Å]", "log evidence, end",
            "half maps, end [Å]", "to the truth 0.5 [Å]",
            "median error [°]", "CPU of the first pass [s]", "CPU in all [s]",
        )  # fmt: skip
    else:
        columns = ("specimen", "SNR", "method", "median error [°]", "within 10°", "CPU [s]", "per particle [ms]")
    header = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
    table = []
    for kind in args.specimens:
        for ratio in args.ratios:
            if args.refine:
                table += refinements(kind, args.box, args.particles, ratio, args.steps, args.passes, args.seed)
                continue
            table += rows(kind, args.box, args.particles, ratio, args.candidates, args.steps, args.seed)
    print("\n" + header)
    for line in table:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
