"""The pose network as the start of a refinement: a few candidates per particle instead of all orientations.

The network is trained on projections of the starting map, low-passed as the first pass sees it, and knows nothing of
the images; or it was trained before, on images with known poses. Near its candidates the first pass searches locally,
over all shifts; later passes search everywhere, so that a candidate that was wrong does not stay wrong. On a sample of
the particles the search over all orientations is run too: what the network saved or cost, in seconds and in log
evidence, is measured and not assumed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for

from ._packing import packed_frequencies
from .candidates import near_candidates
from .likelihood import AlignmentData, Posterior
from .orientations import angular_distance
from .pose_network import PoseNetworkConfig, per_shell
from .pose_search import search
from .pose_training import train_pose_network
from .refinement_state import RefinementState
from .schedule import RefinementSettings, next_settings, plan_for
from .slices import FourierVolume

__all__ = ["PoseStart", "pose_network_start"]

_CANDIDATES = 4
_SAMPLE = 128
_LEAST_RADIUS = 4
_LARGEST_RADIUS = 24


@dataclass(frozen=True)
class PoseStart:
    """What the network proposes, and what that is worth.

    Attributes
    ----------
    candidates
        (n, k, 3, 3) likely orientations of every particle, best first.
    training_seconds, looking_seconds
        CPU time of the training (0 where it was trained before), and of the network's look at all particles.
    near_seconds, search_seconds
        CPU time per particle of the local search about the candidates and of the search over all orientations.
    evidence_lost
        Mean log evidence per particle that the local search falls short of the other, on the sample.
    agreement
        Share of the sample whose best orientations by the two lie within 15°.
    """

    candidates: Tensor
    training_seconds: float
    looking_seconds: float
    near_seconds: float
    search_seconds: float
    evidence_lost: float
    agreement: float

    @property
    def saved_seconds(self) -> float:
        """CPU time that the first pass is shorter by, training counted; negative where the network costs more."""
        count = len(self.candidates)
        return count * (self.search_seconds - self.near_seconds) - self.training_seconds - self.looking_seconds

    def sentence(self) -> str:
        """One line for the log."""
        count = len(self.candidates)
        gain = self.search_seconds - self.near_seconds - self.looking_seconds / max(count, 1)
        pays = f"pays from {math.ceil(self.training_seconds / gain - 1e-6)} particles on" if gain > 0 else "never pays"
        made = f"{self.training_seconds:.0f} CPU s of training" if self.training_seconds else "trained before"
        saved = self.saved_seconds
        verdict = f"{'saves' if saved > 0 else 'costs'} {abs(saved):.0f} s for {count} particles and {pays}"
        near, search = 1000 * self.near_seconds, 1000 * self.search_seconds
        return (
            f"Pose network: {made}; {near:.1f} ms a particle about its "
            f"candidates, {search:.1f} ms by the search over all orientations: it {verdict}. Within 15° of that "
            f"search: {self.agreement:.0%}; log evidence lost: {self.evidence_lost:.2f} a particle"
        )


def pose_network_start(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    state: RefinementState,
    settings: RefinementSettings,
    *,
    steps: int = 1500,
    on_trained: Callable[[float], None] = lambda seconds: None,
    propose: Callable[[int], Tensor] | None = None,
) -> PoseStart:
    """Ask a network about every particle; train it on the starting map first, unless there is one.

    Parameters
    ----------
    images, transfer, group
        As :func:`cryoprism.structure.refine`.
    state, settings
        Before the first pass.
    steps
        Of the training.
    on_trained
        Called with the CPU seconds of the training.
    propose
        Names that many orientations (n, k, 3, 3) of every particle, best first, in place of a network trained here.

    Raises
    ------
    InputError
        A pass was done already, or filaments are refined.
    """
    if state.iteration:
        raise InputError("pose network", f"{state.iteration} passes were done before", "It is for the first pass.")
    if settings.filament is not None:
        raise InputError("pose network", "it knows nothing of filaments", "Refine filaments without it.")
    box, pixel = int(state.references[0].shape[-1]), settings.pixel_size_in_angstroms
    radius = max(_LEAST_RADIUS, min(state.radius, _LARGEST_RADIUS))
    volume = FourierVolume.from_map(state.references[0], max_radius=max(radius, state.radius))
    training = 0.0
    if propose is None:
        count = len(packed_frequencies(radius))
        config = PoseNetworkConfig(
            radius=radius,
            diameter_in_pixels=settings.diameter_in_angstroms / pixel,
            symmetry=settings.symmetry,
            steps=steps,
            shift_in_pixels=0.5 * settings.shift_range_in_angstroms / pixel,
            seed=settings.seed,
        )
        noise = per_shell(state.noise_variance.mean(0)[:count], radius)
        started = time.process_time()
        network = train_pose_network(volume, transfer[:, :count], noise, config)
        training = time.process_time() - started
        on_trained(training)
        propose = lambda many: network.candidates(images, transfer, many).rotations  # noqa: E731
    started = time.process_time()
    candidates = propose(_CANDIDATES).to(images.device)
    looking = time.process_time() - started
    drawn = torch.randperm(len(images), generator=generator_for(settings.seed, "pose-start"))[:_SAMPLE]
    few = drawn[: max(1, len(drawn) // 4)]

    def part(chosen: Tensor) -> AlignmentData:
        return AlignmentData(images[chosen], transfer[chosen], state.noise_variance, group[chosen], box)

    def near(chosen: Tensor) -> Posterior:
        return near_candidates(part(chosen), volume, candidates[chosen], state.radius, settings)

    def everywhere(chosen: Tensor) -> Posterior:
        plan = plan_for(state.radius, next_settings((), settings), box)
        return search(part(chosen), volume, plan, symmetry=settings.symmetry)

    (one, near_seconds), (two, search_seconds) = (_per_particle(work, few, drawn) for work in (near, everywhere))
    apart = angular_distance(one.best()[0], two.best()[0], settings.symmetry)
    return PoseStart(
        candidates=candidates,
        training_seconds=training,
        looking_seconds=looking,
        near_seconds=near_seconds,
        search_seconds=search_seconds,
        evidence_lost=float((two.log_evidence - one.log_evidence).mean()),
        agreement=float((apart < 15.0).float().mean()),
    )


def _per_particle(work: Callable[[Tensor], Posterior], few: Tensor, many: Tensor) -> tuple[Posterior, float]:
    """Posterior of ``many`` particles, and the CPU seconds that each further one takes.

    The views that all particles share cost the same for few and for many.
    """
    work(few[:2])  # fills caches
    started = time.process_time()
    work(few)
    between = time.process_time()
    found = work(many)
    seconds = (time.process_time() - between) - (between - started)
    return found, max(seconds, 0.0) / max(len(many) - len(few), 1)
