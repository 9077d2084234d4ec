import math

import pytest
import torch

from cryoprism.core import frequency_grid, interaction_constant, irfft2, rfft2
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.synthesis import (
    Placement,
    RadialCorrection,
    Scene,
    particle_contrast,
    particle_envelope,
)
from cryoprism.synthesis._slab import noise_free_image


def _scene(**changes):
    values = {
        "height_in_pixels": 320,
        "width_in_pixels": 352,
        "pixel_size_in_angstroms": 2.0,
        "particle_count": 8,
        "ice_thickness_in_angstroms": 140.0,
        "defocus_in_angstroms": 12000.0,
        "envelope_b_factor_in_square_angstroms": 40.0,
        "drift_x_in_angstroms": 4.0,
    }
    return Scene(**(values | changes))


def test_boxes_add_up_to_the_image_of_the_whole_layer(shell):
    scene = _scene()
    static = noise_free_image(scene, shell, "projection", fading_end=40.0, ice_exposure=40.0)
    flat = torch.tensor([1.0, 1.0, 0.0]) * static.placement.centres_in_angstroms
    ours = particle_contrast(scene, shell, Placement(centres_in_angstroms=flat, rotations=static.placement.rotations))
    ky, kx = frequency_grid(static.canvas.shape, 2.0)
    transfer = contrast_transfer(ky, kx, scene.lens, **scene.aberrations()) * particle_envelope(scene, ky, kx)
    factor = -2 * interaction_constant(300.0)
    whole = static.canvas.crop(irfft2(rfft2(static.potential) * transfer * factor, static.canvas.shape), scene.shape)
    assert float((ours - whole).std()) < 0.02 * float(whole.std())


def test_every_particle_has_the_defocus_of_its_height(shell):
    scene = _scene(envelope_b_factor_in_square_angstroms=0.0, drift_x_in_angstroms=0.0)
    turn = torch.eye(3)[None]

    def at(height, defocus):
        placement = Placement(centres_in_angstroms=torch.tensor([[0.0, 0.0, height]]), rotations=turn)
        return particle_contrast(
            _scene(envelope_b_factor_in_square_angstroms=0.0, drift_x_in_angstroms=0.0, defocus_in_angstroms=defocus),
            shell,
            placement,
        )

    high, same, low = at(1500.0, 12000.0), at(0.0, 13500.0), at(0.0, 12000.0)
    assert scene.defocus_in_angstroms == 12000.0
    assert float((high - same).std()) < 1e-3 * float(same.std())
    assert float((high - low).std()) > 0.2 * float(same.std())


def test_correction_multiplies_the_amplitudes_of_a_ring(shell):
    scene = _scene()
    placement = Placement(centres_in_angstroms=torch.zeros(1, 3), rotations=torch.eye(3)[None])
    correction = RadialCorrection(torch.tensor([0.0, 0.02, 0.021, 1.0]), torch.tensor([2.0, 2.0, 0.5, 0.5]))
    plain = rfft2(particle_contrast(scene, shell, placement))
    changed = rfft2(particle_contrast(scene, shell, placement, correction=correction))
    ky, kx = frequency_grid(scene.shape, 2.0)
    k = torch.sqrt(ky * ky + kx * kx)
    for band, factor in (((k > 0.008) & (k < 0.018), 2.0), ((k > 0.025) & (k < 0.1), 0.5)):
        ratio = float(changed[band].abs().square().sum() / plain[band].abs().square().sum())
        assert math.sqrt(ratio) == pytest.approx(factor, rel=0.06)
