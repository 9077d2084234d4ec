"""Training of the pose network: on projections of a map that are made on the way, or on images with known poses.

Both are one loop; they differ in where a step's images come from. A set of images is finite, so each is shown moved by
a little, and half of the time turned over: the view from behind is the mirror image, as long as a particle is thin
against its depth of focus. Turns in the plane need not be shown (:mod:`.pose_network`), nor symmetric copies.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from cryoprism.core import InputError, generator_for, random_rotations, resolve_device
from cryoprism.formats import read_checkpoint, write_checkpoint

from ._packing import packed_frequencies
from .maximisation import noise_from_power
from .orientations import angular_distance
from .pose_network import PoseNetwork, PoseNetworkConfig, per_coefficient, per_shell
from .slices import FourierVolume

__all__ = ["PoseAccuracy", "PosedImages", "pose_accuracy", "train_on_posed_images", "train_pose_network"]

_EVERY = 50  # steps between two lines of progress, and between two checkpoints

Drawn = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Particle images whose poses are known.

    Attributes
    ----------
    images
        (n, N) packed transforms, protein bright, the scale of no account.
    transfer
        (n, N) contrast transfer.
    rotations
        (n, 3, 3)
    shifts
        (n, 2) x, y that bring each particle to the centre [pixels].
    box
        Side of the images [pixels].
    """

    images: Tensor
    transfer: Tensor
    rotations: Tensor
    shifts: Tensor
    box: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def moved(self, chosen: Tensor, radius: int, shifts: Tensor) -> Tensor:
        """Packed transforms (m, N') of chosen images, their particles ``shifts`` (m, 2) [pixels] off the centre."""
        k = packed_frequencies(radius).float() / self.box
        turns = -2 * math.pi * (self.shifts[chosen].float() + shifts) @ k.T
        return self.images[chosen, : len(k)] * torch.polar(torch.ones_like(turns), turns)

    def digest(self) -> str:
        """Name of what the set holds."""
        found = hashlib.blake2b(str(self.box).encode(), digest_size=16)
        for values in (torch.view_as_real(self.images), self.transfer, self.rotations, self.shifts):
            found.update(values.contiguous().numpy().tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class PoseAccuracy:
    """How near the candidates of a network are to known poses, symmetric copies counting as one.

    Attributes
    ----------
    median_in_degrees, nearest_in_degrees
        Median angle of the best candidate, and of the nearest.
    chance_in_degrees
        Median angle of random orientations.
    share_within_15_degrees
        Share of best candidates.
    particles
        How many there were.
    """

    median_in_degrees: float
    nearest_in_degrees: float
    chance_in_degrees: float
    share_within_15_degrees: float
    particles: int


def pose_accuracy(candidates: Tensor, rotations: Tensor, symmetry: str = "C1") -> PoseAccuracy:
    """Compare candidates (n, k, 3, 3), best first, with true rotations (n, 3, 3) under a point group."""
    errors = torch.stack([angular_distance(found, rotations, symmetry) for found in candidates.unbind(1)])
    one, two = random_rotations(4000, generator_for(0, "pose-chance")).view(2, 2000, 3, 3)
    chance = angular_distance(one, two, symmetry)
    return PoseAccuracy(
        median_in_degrees=float(errors[0].median()),
        nearest_in_degrees=float(errors.amin(0).median()),
        chance_in_degrees=float(chance.median()),
        share_within_15_degrees=float((errors[0] < 15).float().mean()),
        particles=len(rotations),
    )


def train_pose_network(
    volume: FourierVolume,
    transfers: Tensor,
    noise_variance: Tensor,
    config: PoseNetworkConfig,
    *,
    amplitude: float = 1.0,
) -> PoseNetwork:
    """Train a network on synthetic projections of a map, on the map's device.

    Every image is new: a random view, a contrast transfer of the session, a shift, a scale within about 15 %, noise.

    Parameters
    ----------
    volume
        The map; slices in its units.
    transfers
        (m, N) packed contrast transfers of particles of the session, at a radius not below the network's.
    noise_variance
        (shells,) variance of a coefficient of the unnormalised transform, per shell from 0.
    config
        What decides the result.
    amplitude
        Images over map.

    Raises
    ------
    InputError
        Too few shells of noise, or transfers of a smaller radius.
    """
    box, device = volume.grid.box, volume.table.device
    k = packed_frequencies(config.radius).float() / box
    if transfers.shape[-1] < len(k):
        raise InputError("transfers", f"{transfers.shape[-1]} coefficients", f"Pack them at radius {config.radius}.")
    network = _fresh(config, box, noise_variance.cpu()).to(device)
    deviation = (0.5 * per_coefficient(noise_variance.cpu(), config.radius)).sqrt()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rotations = random_rotations(config.batch, generator)
        drawn = torch.randint(len(transfers), (config.batch,), generator=generator)
        transfer = transfers[drawn.to(transfers.device), : len(k)].to(device)
        shift = config.shift_in_pixels * torch.randn(config.batch, 2, generator=generator)
        turns = (-2 * math.pi * shift @ k.T).to(device)
        scale = amplitude * torch.exp(0.15 * torch.randn(config.batch, 1, generator=generator)).to(device)
        views = volume.slices(rotations, config.radius) * torch.polar(torch.ones_like(turns), turns)
        noise = torch.randn(config.batch, len(k), 2, generator=generator) * deviation[:, None]
        observed = scale * transfer * views + torch.view_as_complex(noise).to(device)
        return network.filtered(observed, transfer), rotations.to(device)

    _fit(network, draw, generator_for(config.seed, "pose-network"))
    return network


def train_on_posed_images(
    known: PosedImages,
    config: PoseNetworkConfig,
    progress: Callable[[str], None] = lambda text: None,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> tuple[PoseNetwork, tuple[float, ...]]:
    """Train a network on images with known poses; their power, shell by shell, stands for the noise.

    Parameters
    ----------
    known
        The images.
    config
        What decides the result; ``shift_in_pixels`` is how far particles are moved off their centres.
    progress
        Called with a line of text now and then.
    checkpoint
        File that keeps the state every 50 steps; a later call with the same images and configuration goes on from there
        and comes to the same weights.
    device
        Where the network is trained; the images stay where they are.

    Returns
    -------
    PoseNetwork and tuple of float
        Ready for use on the CPU, and the loss of each step.

    Raises
    ------
    InputError
        Fewer than two images, or transforms of a smaller radius.
    """
    if len(known) < 2:
        raise InputError("images", f"there are {len(known)}", "Give particles to learn from.")
    order, conjugate = _behind(config.radius)
    if known.images.shape[1] < len(order) or known.transfer.shape[1] < len(order):
        raise InputError("images", f"{known.images.shape[1]} coefficients", f"Pack them at radius {config.radius}.")
    group = torch.zeros(len(known), dtype=torch.long)
    power = noise_from_power(known.images[:, : len(order)], group, config.radius)[0]
    there = resolve_device(device)
    network = _fresh(config, known.box, per_shell(power, config.radius)).to(there)
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(known), (config.batch,), generator=generator)
        shift = config.shift_in_pixels * torch.randn(config.batch, 2, generator=generator)
        over = torch.rand(config.batch, generator=generator) < 0.5
        images, transfer = known.moved(chosen, config.radius, shift), known.transfer[chosen, : len(order)]
        rotations = known.rotations[chosen].float()
        other = torch.where(conjugate, images[:, order].conj(), images[:, order])
        images = torch.where(over[:, None], other, images)
        transfer = torch.where(over[:, None], transfer[:, order], transfer)
        rotations = torch.where(over[:, None, None], turn @ rotations, rotations)
        return network.filtered(images.to(there), transfer.to(there)), rotations.to(there)

    identity = f"{config} {known.digest()}"
    generator = generator_for(config.seed, "pose-images")
    losses = _fit(network, draw, generator, identity, progress, checkpoint)
    return network.cpu(), losses


def _fresh(config: PoseNetworkConfig, box: int, noise_variance: Tensor) -> PoseNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PoseNetwork(config, box, noise_variance)


@lru_cache(maxsize=8)
def _behind(radius: int) -> tuple[Tensor, Tensor]:
    """Turn packed coefficients into those of the view from behind, where y is -y: order (N,), which to conjugate."""
    k = packed_frequencies(radius).tolist()
    place = {(x, y): i for i, (x, y) in enumerate(k)}
    order = [place[(x, -y)] if x else i for i, (x, y) in enumerate(k)]
    return torch.tensor(order), torch.tensor([x == 0 for x, _ in k])


def _fit(
    network: PoseNetwork,
    draw: Drawn,
    generator: torch.Generator,
    identity: str = "",
    progress: Callable[[str], None] = lambda text: None,
    checkpoint: Path | None = None,
) -> tuple[float, ...]:
    """Train on what ``draw`` gives, (filtered, rotations) on the network's device; the loss of each step."""
    config = network.config
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.rate, total_steps=config.steps, pct_start=0.1
    )
    losses: list[float] = []
    kept = None if checkpoint is None else read_checkpoint(checkpoint, identity, network.precision.device)
    if kept is not None:
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        generator.set_state(kept["generator"].cpu())
        losses = list(kept["losses"])
    started = time.perf_counter()
    network.train()
    for step in range(len(losses) + 1, config.steps + 1):
        seen, rotations = draw(generator)
        loss = -(network.targets(rotations) * torch.log_softmax(network(seen), -1)).sum(-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % _EVERY == 0:
            last = losses[-_EVERY:]
            seconds = time.perf_counter() - started
            progress(f"step {step} of {config.steps}: loss {sum(last) / len(last):.4f}, {seconds:.0f} s")
            if checkpoint is not None:
                state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses}
                state |= {"schedule": schedule.state_dict(), "generator": generator.get_state()}
                write_checkpoint(checkpoint, identity, state)
    network.eval()
    return tuple(losses)
