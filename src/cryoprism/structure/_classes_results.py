"""What a classification hands on: from one iteration to the next, and to its caller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Classification", "ClassificationState", "select_classes"]


@dataclass(frozen=True)
class ClassificationState:
    """Everything an iteration hands to the next; tensors on the CPU.

    Attributes
    ----------
    iteration
        Finished iterations.
    radius
        Of the coefficients that the last one used [pixels].
    changed
        Share of particles that changed class in it; 1 where not all were looked at.
    converged
        Whether nothing more would change.
    tables
        (2, K, ky, kx, 3) sums of the halves.
    noise
        (groups, shells) variance per coefficient.
    fraction
        (K,) share of the particles.
    origins
        (n, 2) whole shifts [pixels] the images are read with.
    shift
        (n, 2) shift beyond ``origins`` of the likeliest pose [pixels].
    class_index, psi_in_degrees, probability, log_likelihood
        (n,) of the likeliest pose; class -1 for a particle not yet looked at.
    trace
        (iteration,) mean log-likelihood of a particle over that of noise alone, at each iteration's own resolution.
    """

    iteration: int
    radius: int
    changed: float
    converged: bool
    tables: Tensor
    noise: Tensor
    fraction: Tensor
    origins: Tensor
    shift: Tensor
    class_index: Tensor
    psi_in_degrees: Tensor
    probability: Tensor
    log_likelihood: Tensor
    trace: Tensor


@dataclass(frozen=True)
class Classification:
    """Classes, the largest first.

    Attributes
    ----------
    averages
        (K, box, box) float32, masked, protein bright, in the units of the images without their contrast transfer.
    class_index
        (n,) from 0.
    probability, log_likelihood
        (n,) share of the likeliest pose, and log-likelihood of the image.
    psi_in_degrees
        (n,) in-plane angle as rlnAnglePsi.
    origins_in_angstroms
        (n, 2) = x, y: the shift that brings the particle to the centre.
    fraction
        (K,) share of the particles.
    frc
        (K, shells) correlation of the averages of the two halves, shell 0 first.
    resolution_in_angstroms
        (K,) where ``frc``, averaged over neighbouring shells, falls below 0.143, or below two standard deviations of
        noise where that is more; infinite where that is not beyond ``joint_resolution_in_angstroms``, for classes of
        less than ten particles, and for all where ``proof`` is below 3.5: they may be noise that followed its
        references.
    joint_resolution_in_angstroms
        Up to here the halves shared their references.
    evidence
        (K,) by how many standard deviations of noise the halves agree beyond it.
    proof
        That of all classes together, in standard deviations.
    score
        (K,) mean ``frc`` from ``joint_resolution_in_angstroms`` to the resolution of the best class: 0 to 1.
    trace
        (iterations,) as in :class:`ClassificationState`.
    converged
        Whether it stopped because nothing changed, and not for the number of iterations.
    """

    averages: Tensor
    class_index: Tensor
    probability: Tensor
    log_likelihood: Tensor
    psi_in_degrees: Tensor
    origins_in_angstroms: Tensor
    fraction: Tensor
    frc: Tensor
    resolution_in_angstroms: Tensor
    joint_resolution_in_angstroms: float
    evidence: Tensor
    proof: float
    score: Tensor
    trace: Tensor
    converged: bool


def select_classes(result: Classification, *, least_score: float = 0.2, least_fraction: float = 0.0) -> Tensor:
    """Which classes (K,) to keep: those with a score and a share of at least the given ones, none if none is proven.

    Structure is proven where the halves, which share no reference beyond ``joint_resolution_in_angstroms``, agree
    beyond it by 3.5 standard deviations of noise or more in all classes together (``proof``). Then there are particles,
    and classes are kept for their score, which is 0 on average for noise.
    """
    proven = torch.isfinite(result.resolution_in_angstroms).any()
    return proven & (result.score >= least_score) & (result.fraction >= least_fraction)
