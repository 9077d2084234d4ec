"""A pose network for one specimen, trained on its synthetic micrographs alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cryoprism import __version__
from cryoprism.core import InputError, euler_to_matrix, frequency_grid, rfft2
from cryoprism.formats import read_image
from cryoprism.microscope import contrast_transfer
from cryoprism.particles import extract_particles
from cryoprism.structure import (
    PosedImages,
    PoseNetworkConfig,
    StoredPoseNetwork,
    pack,
    pack_real,
    pose_accuracy,
    save_pose_network,
    train_on_posed_images,
)
from cryoprism.synthesis import Scene, scene_from_dict
from cryoprism.workflow.jobs.files import weights_card, write_text
from cryoprism.workflow.maps.boxes import box_for

from .making import read_truth
from .picker import held_out

__all__ = ["joined", "pose_network_settings", "posed_particles_of", "train_poses_on"]

log = logging.getLogger("cryoprism")

_SIDE = 64  # pixels of a box: enough for the finest shell
_FINEST_SHELL = 24
_SHIFT_IN_ANGSTROMS = 4.0  # picks are off by about as much
_CANDIDATES = 4  # that a refinement asks for
_MOST = 40_000  # particles: 0.45 GB of coefficients, twice while they are joined


def train_poses_on(
    folder: Path,
    names: Sequence[str],
    diameter_in_angstroms: float,
    symmetry: str,
    steps: int,
    seed: int,
    device: str = "cpu",
) -> tuple[Path, str]:
    """Train on the particles of a synthetic set, cut out at their labels; a seventh of the micrographs validates.

    Writes ``poses.safetensors`` and ``poses.md`` into the folder; ``cryoprism refine --pose-network-file`` takes the
    former. Interrupted training goes on from ``.poses.pt``.

    Returns
    -------
    tuple of Path and str
        The weights, and how they do in validation, in words.

    Raises
    ------
    InputError
        No particle lies far enough from the edges.
    """
    training, validation = held_out(names)
    (known, pixel), (unseen, _) = (_cut(folder, some, diameter_in_angstroms) for some in (training, validation))
    config = pose_network_settings(known.box, pixel, diameter_in_angstroms, symmetry, steps, seed)
    checkpoint = folder / ".poses.pt"
    network, losses = train_on_posed_images(known, config, log.info, checkpoint, device)
    found = pose_accuracy(
        network.candidates(unseen.images, unseen.transfer, _CANDIDATES).rotations, unseen.rotations, symmetry
    )
    words = (
        f"median error {found.median_in_degrees:.1f}° on {found.particles} particles of synthetic micrographs it has "
        f"not seen, {found.chance_in_degrees:.0f}° by chance"
    )
    tail = losses[-100:]
    facts = {
        "task": "name likely orientations of a particle",
        "data": f"{len(known)} particles of {len(training)} synthetic micrographs (micrographs.star beside this file)",
        "trained on": "the specimen of these micrographs, no other",
        "validated on": f"{found.particles} particles of {len(validation)} other synthetic micrographs of it",
        "symmetry": symmetry,
        "images": f"{known.box} pixels of {pixel:.4g} Å; seen to {known.box * pixel / config.radius:.3g} Å",
        "seed": str(seed),
        "steps": f"{len(losses)} of {config.batch} particles each",
        "loss": f"{sum(tail) / len(tail):.4f} over the last {len(tail)} steps",
        "median error in validation": f"{found.median_in_degrees:.1f}°; by chance {found.chance_in_degrees:.1f}°",
        "nearest of four candidates": f"{found.nearest_in_degrees:.1f}° in the median",
        "best candidate within 15°": f"{found.share_within_15_degrees:.0%}",
    }
    notes = {
        "trained_on": "synthetic micrographs of one specimen",
        "steps": str(len(losses)),
        "seed": str(seed),
        "median_error_in_degrees": f"{found.median_in_degrees:.2f}",
        "chance_in_degrees": f"{found.chance_in_degrees:.2f}",
    }
    weights = folder / "poses.safetensors"
    digest = save_pose_network(weights, StoredPoseNetwork(network, pixel, MappingProxyType(notes)))
    facts |= {"SHA-256 of the weights": digest, "CryoPrism": __version__}
    write_text(folder / "poses.md", weights_card("Weights of the pose network", facts))
    checkpoint.unlink(missing_ok=True)
    return weights, words


def pose_network_settings(
    box: int, pixel_size_in_angstroms: float, diameter_in_angstroms: float, symmetry: str, steps: int, seed: int
) -> PoseNetworkConfig:
    """Return what decides a network that is trained on a synthetic set."""
    return PoseNetworkConfig(
        radius=min(_FINEST_SHELL, (box - 1) // 2),
        diameter_in_pixels=diameter_in_angstroms / pixel_size_in_angstroms,
        symmetry=symmetry,
        steps=steps,
        shift_in_pixels=_SHIFT_IN_ANGSTROMS / pixel_size_in_angstroms,
        seed=seed,
    )


def posed_particles_of(
    image: Tensor, scene: Scene, particles: Sequence[Mapping[str, Any]], diameter_in_angstroms: float
) -> tuple[PosedImages, float]:
    """Cut the particles of a synthetic micrograph as ``extract`` does: normalised, protein bright, scaled down.

    Parameters
    ----------
    image
        (y, x) grey values or counts.
    scene
        Its optics and defocus.
    particles
        Labels as ``synthesis.particle_record`` gives them.
    diameter_in_angstroms
        Of the particle.

    Returns
    -------
    PosedImages and float
        Those whose box lies inside, and their pixel size [Å].
    """
    pixel = scene.pixel_size_in_angstroms
    box = min(box_for(diameter_in_angstroms, pixel), *image.shape)
    side = min(box, _SIDE)
    xy = torch.tensor([[p["x_in_pixels"], p["y_in_pixels"]] for p in particles]).reshape(-1, 2)
    cut = extract_particles(
        image,
        xy,
        box_in_pixels=box,
        pixel_size_in_angstroms=pixel,
        output_box=side,
        background_diameter_in_angstroms=diameter_in_angstroms,
    )
    kept = [p for p, inside in zip(particles, cut.kept.tolist(), strict=True) if inside]

    def column(name: str) -> Tensor:
        return torch.tensor([float(p[name]) for p in kept], dtype=torch.float64)

    radius = min(_FINEST_SHELL, (side - 1) // 2)
    ky, kx = frequency_grid((side, side), cut.pixel_size_in_angstroms)
    transfer = contrast_transfer(
        ky,
        kx,
        scene.lens,
        defocus_u_in_angstroms=column("defocus_u_in_angstroms"),
        defocus_v_in_angstroms=column("defocus_v_in_angstroms"),
        defocus_angle_in_degrees=scene.astigmatism_angle_in_degrees,
        phase_shift_in_degrees=scene.phase_shift_in_degrees,
    )
    found = PosedImages(
        images=pack(rfft2(cut.images), radius),
        transfer=pack_real(transfer.float(), radius),
        rotations=euler_to_matrix(*(column(f"{a}_in_degrees") for a in ("rot", "tilt", "psi"))).float(),
        shifts=(cut.origins_in_angstroms / cut.pixel_size_in_angstroms).float(),
        box=side,
    )
    return found, cut.pixel_size_in_angstroms


def joined(parts: Sequence[PosedImages]) -> PosedImages:
    """All particles of several micrographs of one box."""
    return PosedImages(
        images=torch.cat([part.images for part in parts]),
        transfer=torch.cat([part.transfer for part in parts]),
        rotations=torch.cat([part.rotations for part in parts]),
        shifts=torch.cat([part.shifts for part in parts]),
        box=parts[0].box,
    )


def _cut(folder: Path, names: Sequence[str], diameter: float) -> tuple[PosedImages, float]:
    """Particles of micrographs of a set, micrograph by micrograph until memory has its share, and their pixel size."""
    parts, pixel, count = [], 0.0, 0
    for number, name in enumerate(names):
        truth = read_truth(folder, name)
        image = read_image(folder / "micrographs" / f"{name}.mrc").data
        part, pixel = posed_particles_of(image, scene_from_dict(truth["scene"]), truth["particles"], diameter)
        parts.append(part)
        count += len(part)
        if count >= _MOST and number + 1 < len(names):
            log.info("%d particles are enough: %d of %d micrographs are used", count, number + 1, len(names))
            break
    if count < 2:
        raise InputError(
            "--train-poses",
            f"{count} particles lie half a box or more from the edges of {len(names)} micrographs",
            "Make larger micrographs, or more of them (--count).",
        )
    return joined(parts), pixel
