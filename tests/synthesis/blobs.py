"""Specimens of random atoms in simple shapes: quick to make, easy to judge."""

import numpy as np
import torch

from cryoprism.microscope.potential import AtomicModel
from cryoprism.synthesis import Species, Specimen


def ellipsoid(a, b, c, atoms=1500, name="ellipsoid", **more):
    """Carbon atoms evenly in an ellipsoid of half axes a, b, c [Å]."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(atoms, 3))
    points *= rng.random((atoms, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    model = AtomicModel(torch.from_numpy(points * [a, b, c]).float(), torch.full((atoms,), 6))
    return Specimen(name=name, radius_in_angstroms=max(a, b, c) + 1.5, model=model, **more)


def species(*conformations, **more):
    return Species(name="blob", conformations=conformations, **more)
