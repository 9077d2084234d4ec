"""The spectral model against autograd, the optics, and the mean periodogram of coloured images."""

import math

import pytest
import torch
from drawn_spectra import LENS, PIXEL, blank, coloured, model_of, parameters, white

from cryoprism.causes import measure_spectrum
from cryoprism.causes.model import (
    LAYOUT,
    SpectralModel,
    generic_log_structure_factor,
    ice_log_shape,
    spline_basis,
)
from cryoprism.microscope.motion import drift_envelope
from cryoprism.microscope.optics import contrast_transfer


def _random_parameters(seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    theta = parameters(drift_y=2.0, drift_x=-1.0, astigmatism_c=2.0, astigmatism_s=-3.0, ice_level=-0.5)
    theta = theta + 0.5 * torch.randn(LAYOUT.size, generator=draw)
    theta[0] = 80 + 200 * torch.rand((), generator=draw)
    return theta


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on first use of torch.func
@pytest.mark.parametrize("seed", range(4))
def test_closed_form_jacobian_is_that_of_autograd(seed):
    model = model_of(blank(256))
    theta = _random_parameters(seed)
    if seed == 3:
        theta[LAYOUT.index("drift_y")] = theta[LAYOUT.index("drift_x")] = 0.0
    damping = model.damping(theta)
    logp, closed = model.jacobian(theta, damping)
    automatic = torch.func.jacfwd(lambda t: model.log_power(t, damping).flatten())(theta)
    torch.testing.assert_close(logp, model.log_power(theta, damping).flatten(), rtol=1e-5, atol=1e-5)
    for index, name in enumerate(LAYOUT.names):
        size = automatic[:, index].abs().max().clamp_min(1e-6)
        assert (closed[:, index] - automatic[:, index]).abs().max() < 2e-3 * size + 1e-6, name


@pytest.mark.parametrize(
    ("u", "v", "angle", "shift"),
    [
        (12000.0, 12000.0, 0.0, 0.0),
        (21000.0, 18000.0, 25.0, 0.0),
        (9000.0, 8600.0, 130.0, 70.0),
        (30000.0, 31500.0, 88.0, 20.0),
    ],
)
def test_the_phase_is_that_of_the_contrast_transfer(u, v, angle, shift):
    spectrum = blank()
    grid, model = spectrum.grid, model_of(spectrum)
    half, axis = (u - v) / 200, math.radians(2 * angle)
    theta = parameters(
        defocus=(u + v) / 200,
        astigmatism_c=half * math.cos(axis),
        astigmatism_s=half * math.sin(axis),
        phase_shift=math.radians(shift),
    )
    ctf = contrast_transfer(
        grid.ky.double(),
        grid.kx.double(),
        LENS,
        defocus_u_in_angstroms=u,
        defocus_v_in_angstroms=v,
        defocus_angle_in_degrees=angle,
        phase_shift_in_degrees=shift,
    )
    torch.testing.assert_close(0.5 * (1 - torch.cos(model.phase(theta))), ctf.square().float(), atol=2e-4, rtol=0)


def test_damping_by_depth_has_its_node_at_one_over_lambda_k_squared():
    grid = blank().grid
    thickness = 1 / (LENS.wavelength_in_angstroms * 0.25**2)
    thin, thick = (SpectralModel(grid, LENS, {}, 40.0, depth) for depth in (0.0, thickness))
    theta = parameters()
    ratio = (thick.damping(theta) / thin.damping(theta))[:, 0]
    node = int((grid.k - 0.25).abs().argmin())
    assert abs(float(ratio[node])) < 0.02
    assert float(ratio[0]) > 0.98
    assert (ratio[1 : node + 1] <= ratio[:node]).all()


def test_without_damping_there_are_no_rings_and_without_signal_only_noise():
    model = model_of(blank())
    theta = parameters()
    flat = model.log_power(theta, torch.zeros(len(model.grid.k), 1))
    expected = torch.log(0.5 * model.log_coherent(theta).exp() + model.log_noise(theta).exp())
    torch.testing.assert_close(flat, expected.expand_as(flat))
    theta = parameters(signal=-60.0, ice_level=-60.0)
    torch.testing.assert_close(
        model.log_power(theta, model.damping(theta)), model.log_noise(theta).expand_as(flat), atol=1e-6, rtol=0
    )


def test_damage_blurs_particles_but_not_flowing_water():
    base = blank()
    loss = -3 * base.grid.k.square() * 30
    plain, damaged, blurred = model_of(base), model_of(base, damage=loss), model_of(base, detector=loss)
    theta = parameters()
    torch.testing.assert_close(
        damaged.log_particles(theta) - plain.log_particles(theta), loss[:, None], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(damaged.log_ice(theta), plain.log_ice(theta))
    torch.testing.assert_close(blurred.log_ice(theta) - plain.log_ice(theta), loss[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(blurred.log_noise(theta), plain.log_noise(theta))
    torch.testing.assert_close(damaged.fixed_log_transfer, loss)


def test_the_ice_stands_at_its_level_at_ten_angstroms():
    model = model_of(blank())
    theta = parameters(ice_level=1.7, ice_blur=0.0)
    shell = int((model.grid.k - 0.1).abs().argmin())
    assert float(model.log_ice(theta)[shell]) == pytest.approx(1.7, abs=0.05)
    both = model.log_particles(theta).exp() + model.log_ice(theta).exp()
    torch.testing.assert_close(model.log_coherent(theta).exp(), both)
    assert float(ice_log_shape(torch.tensor([0.1]), 40.0)) == pytest.approx(0, abs=1e-6)
    # Water that flows longer keeps less of its ring at 3.7 Å.
    assert float(ice_log_shape(torch.tensor([0.27]), 60.0)) < float(ice_log_shape(torch.tensor([0.27]), 10.0))


def test_b_factor_and_drift_act_as_their_envelopes():
    model = model_of(blank())
    grid = model.grid
    change = model.log_particles(parameters(b_factor=10.0)) - model.log_particles(parameters(b_factor=0.0))
    torch.testing.assert_close(change[:, 0], -100 * grid.k.square() / 2, rtol=1e-4, atol=1e-5)
    drift = model.directional(parameters(drift_y=3.0, drift_x=-4.0))
    torch.testing.assert_close(drift, drift_envelope(grid.ky, grid.kx, 3.0, -4.0).square())
    assert torch.equal(drift, model.directional(parameters(drift_y=-3.0, drift_x=4.0)))


def test_splines_are_a_partition_of_unity_constant_beyond_the_knots():
    knots = (0.0, 0.1, 0.25, 0.4)
    basis = spline_basis(torch.linspace(0, 0.6, 200), knots)
    assert basis.shape == (200, 6)
    torch.testing.assert_close(basis.sum(1), torch.ones(200))
    assert basis.min() >= 0
    outside = spline_basis(torch.tensor([0.4, 0.5, 0.9]), knots)
    torch.testing.assert_close(outside, outside[:1].expand_as(outside))
    # A cubic spline follows any cubic polynomial.
    k = torch.linspace(0, 0.399, 80).double()
    design, target = spline_basis(k, knots).double(), 3 * k**3 - k**2 + 0.2 * k
    fitted = design @ torch.linalg.lstsq(design, target).solution
    torch.testing.assert_close(fitted, target, atol=1e-5, rtol=0)


def test_smooth_envelopes_are_projected_onto_the_splines():
    model = model_of(blank())
    k = model.grid.k
    wanted = -1.0 + torch.cos(8 * k)
    free = torch.zeros(LAYOUT.noise.stop - LAYOUT.noise.start, LAYOUT.noise.stop - LAYOUT.noise.start)
    theta = parameters(b_factor=0.0)
    theta[LAYOUT.noise] = model.project_noise(wanted, free + 1e-4 * torch.eye(len(free)))
    torch.testing.assert_close(model.log_noise(theta)[:, 0], wanted, atol=0.02, rtol=0)
    size = LAYOUT.signal.stop - LAYOUT.signal.start
    theta[LAYOUT.signal] = model.project_signal(wanted, 1e-4 * torch.eye(size))
    torch.testing.assert_close(model.log_particles(theta)[:, 0], wanted, atol=0.05, rtol=0)


def test_the_generic_protein_is_one_at_ten_angstroms_and_falls():
    k = torch.linspace(0.02, 0.45, 60)
    value = generic_log_structure_factor(k)
    assert float(generic_log_structure_factor(torch.tensor([0.1, 0.2]))[0]) == pytest.approx(0, abs=1e-6)
    assert (value.diff() < 0).all()


def test_layout_names_every_entry_once():
    assert len(set(LAYOUT.names)) == LAYOUT.size == LAYOUT.noise.stop
    assert LAYOUT.names[LAYOUT.signal.start] == "signal_0"
    assert LAYOUT.names[LAYOUT.noise.start] == "noise_0"


@pytest.mark.parametrize("defocus", [12000.0, 30000.0])
def test_the_mean_periodogram_of_coloured_images_is_the_model(defocus):
    model = model_of(blank())
    theta = parameters(defocus=defocus / 100, astigmatism_c=3.0, drift_y=3.0, b_factor=6.0)
    lens = {"defocus_u_in_angstroms": defocus + 300, "defocus_v_in_angstroms": defocus - 300}

    def power(ky: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
        k = torch.sqrt(ky**2 + kx**2).clamp_min(0.004)
        signal = torch.exp(1 + generic_log_structure_factor(k.flatten()).view(k.shape) - 30 * k**2)
        return signal * drift_envelope(ky, kx, 3.0, 0.0) ** 2 * contrast_transfer(ky, kx, LENS, **lens) ** 2 + 1

    spectra = [measure_spectrum(coloured(white((1024, 1024), seed), power), PIXEL) for seed in range(8)]
    seen = torch.stack([spectrum.power for spectrum in spectra]).mean(0)
    weight = spectra[0].freedom * 8
    expected = model.log_power(theta, model.damping(theta)).exp()
    # Shell averages, where rings that the window smears too little or too much would stand out.
    ratio = (seen / expected * weight).sum(1) / weight.sum(1) - 1
    z = ratio * weight.sum(1).sqrt()
    assert z.square().mean() < 2.0
    assert ratio[5:].abs().max() < 0.06
    # By direction: the ellipse and the drift lie where the image has them.
    sectors = (seen / expected * weight).sum(0) / weight.sum(0) - 1
    assert sectors.abs().max() < 0.03


@pytest.mark.parametrize("defocus", [15000.0, 30000.0])
def test_window_and_binning_leave_as_much_of_the_rings_as_stated(defocus):
    # A flat signal, four times the noise: the oscillation seen, in units of the undamped one, against the damping.
    lens = {"defocus_u_in_angstroms": defocus, "defocus_v_in_angstroms": defocus}
    seen = torch.stack(
        [
            measure_spectrum(
                coloured(
                    white((1024, 1024), seed), lambda ky, kx: 4 * contrast_transfer(ky, kx, LENS, **lens) ** 2 + 1
                ),
                PIXEL,
            ).power
            for seed in range(6)
        ]
    ).mean(0)
    model = model_of(blank())
    theta = parameters(defocus=defocus / 100)
    cosine, damping = torch.cos(model.phase(theta)), model.damping(theta)
    weight = blank().freedom
    # Blocks of 25 shells: regression of power on 1 - a cos.
    for start in range(25, 175, 25):
        part = slice(start, start + 25)
        wave, n = -2 * cosine[part], weight[part]
        found = float((n * wave * (seen[part] - 3)).sum() / (n * wave.square()).sum())
        stated = float((n * wave.square() * damping[part]).sum() / (n * wave.square()).sum())
        assert found == pytest.approx(stated, abs=0.04), start
