"""Contamination and carbon: what they do to the beam, where, and that the seed decides."""

import math

import pytest
import torch

from cryoprism.core import InputError, frequency_magnitude, generator_for, half_plane_weights
from cryoprism.microscope.contamination import (
    CARBON_POTENTIAL_IN_VOLTS,
    carbon_film,
    carbon_structure_power,
    contamination,
)
from cryoprism.microscope.ice import inelastic_mean_free_path_in_angstroms
from cryoprism.microscope.potential import (
    POTENTIAL_PER_SCATTERING_FACTOR,
    VITREOUS_ICE_POTENTIAL_IN_VOLTS,
    scattering_factor,
)

SHAPE, PIXEL = (120, 130), 10.0


@pytest.mark.parametrize("kind", ["ice", "ethane"])
def test_contamination_is_dark_where_the_mask_says(kind: str) -> None:
    """Potential and loss follow one thickness; outside the mask the beam is untouched; same seed, same field."""

    def make(seed: int, **more: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return contamination(
            SHAPE,
            PIXEL,
            generator=generator_for(seed),
            kind=kind,
            radius_in_angstroms=150.0,
            **more,  # type: ignore[arg-type]
        )

    potential, transmission, mask = make(1)
    assert 0.005 < float(mask.mean()) < 0.7
    assert float(transmission[mask > 0.99].max()) < 0.97
    assert float((1 - transmission[mask < 1e-4]).abs().max()) < 1e-4
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1
    thickness = -inelastic_mean_free_path_in_angstroms(300.0) * transmission.log()
    volts = potential[mask > 0.5] / thickness[mask > 0.5]
    assert float(volts.std() / volts.mean()) < 1e-3
    if kind == "ice":
        assert float(volts.mean()) == pytest.approx(VITREOUS_ICE_POTENTIAL_IN_VOLTS, rel=1e-3)
    assert torch.equal(make(1)[0], potential)
    assert not torch.equal(make(2)[0], potential)
    for nothing in (make(1, thickness_in_angstroms=0.0), make(1, count=0)):
        assert float(nothing[0].abs().max()) == 0
        assert torch.equal(nothing[1], torch.ones(SHAPE))


def test_carbon_edge_is_the_arc_of_the_hole() -> None:
    """Half coverage at the hole's radius; mean potential, loss and noise stand outside it only."""
    radius, center = 3000.0, (-2900.0, 0.0)  # the edge crosses the field at x = +100 Å
    film = carbon_film(
        SHAPE,
        PIXEL,
        generator=generator_for(1),
        hole_radius_in_angstroms=radius,
        hole_center_in_angstroms=center,
        edge_roughness_in_angstroms=0.0,
        include_mean=False,
    )
    y = (torch.arange(120.0)[:, None] - 60) * PIXEL
    x = (torch.arange(130.0)[None] - 65) * PIXEL
    r = torch.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2)
    assert ((film.mask > 0.5) == (r > radius)).all()
    outside, inside = r > radius + 60, r < radius - 60
    path = inelastic_mean_free_path_in_angstroms(300.0) * 0.94 / 1.75
    assert float(film.transmission[outside].mean()) == pytest.approx(math.exp(-150 / path), rel=1e-3)
    assert float(film.transmission[inside].mean()) == pytest.approx(1.0, abs=1e-3)
    k = frequency_magnitude(SHAPE, PIXEL)
    variance = float((carbon_structure_power(k, 150.0) * half_plane_weights(130)).sum()) / (120 * 130 * PIXEL**2)
    assert float(film.projected_potential[outside].var()) == pytest.approx(variance, rel=0.1)
    assert float(film.projected_potential[inside].abs().max()) < 0.2 * math.sqrt(variance)
    mean = carbon_film(SHAPE, PIXEL, generator=generator_for(1), hole_radius_in_angstroms=1.0)
    assert float(mean.projected_potential.mean()) == pytest.approx(150 * CARBON_POTENTIAL_IN_VOLTS, rel=0.02)


def test_carbon_noise_power_and_ideal() -> None:
    """High frequencies: independent atoms, C² n t f²; proportional to thickness; thickness 0 does nothing."""
    k = torch.tensor([2.0])
    density = 1.75 / 12.011 * 0.602214
    lone = POTENTIAL_PER_SCATTERING_FACTOR**2 * density * 150 * float(scattering_factor(k, 6)) ** 2
    assert float(carbon_structure_power(k, 150.0)) == pytest.approx(lone, rel=1e-3)
    both = carbon_structure_power(k, torch.tensor([10.0, 20.0]))
    assert float(both.flatten()[1] / both.flatten()[0]) == pytest.approx(2.0)
    film = carbon_film(SHAPE, PIXEL, generator=generator_for(1), thickness_in_angstroms=0.0)
    assert float(film.projected_potential.abs().max()) == 0
    assert torch.equal(film.transmission, torch.ones(SHAPE))


def test_wrong_input_is_named() -> None:
    """Each error says what to change."""
    g = generator_for(1)
    with pytest.raises(InputError, match="radius > 0"):
        contamination(SHAPE, PIXEL, generator=g, radius_in_angstroms=0.0)
    with pytest.raises(InputError, match="ethane"):
        contamination(SHAPE, PIXEL, generator=g, kind="dust")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="thickness"):
        carbon_film(SHAPE, PIXEL, generator=g, thickness_in_angstroms=-1.0)
