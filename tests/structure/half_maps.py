"""A molecule without symmetry and two noisy half maps of it."""

import torch

from cryoprism.structure import radial_filter, shell_frequencies, soft_sphere

VOXEL = 2.0


def molecule(box: int = 64, radius: float = 34.0, b_factor: float = 150.0, seed: int = 0) -> torch.Tensor:
    """Texture with a falling spectrum inside a soft sphere, heavier on one side."""
    generator = torch.Generator().manual_seed(seed)
    shape = (box, box, box)
    frequency = shell_frequencies(shape, VOXEL)
    texture = radial_filter(torch.randn(shape, generator=generator), torch.exp(-b_factor * frequency**2 / 4))
    ramp = torch.linspace(0.5, 1.5, box)
    return (1.0 + 1.5 * texture / texture.std() * ramp) * soft_sphere(shape, VOXEL, radius, soft_edge_in_angstroms=6)


def halves(truth: torch.Tensor, noise: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth plus independent white noise of a standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    one, two = (truth + noise * torch.randn(truth.shape, generator=generator) for _ in range(2))
    return one, two
