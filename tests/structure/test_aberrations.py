"""Planted beam tilt, defocus errors and drift come back with honest error bars; without them nothing is found."""

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from posed_particles import BOX, PIXEL, density, matched, noisy_halves, simulate

from cryoprism.core import InputError, frequency_grid
from cryoprism.formats import Particles, Volume, read_particles, write_map
from cryoprism.structure import (
    MapReference,
    Match,
    beam_tilt_causes,
    defocus_likelihood,
    estimate_beam_tilt,
    fit_odd_aberrations,
    fourier_shell_correlation,
    low_pass,
    match_particles,
    matched_batches,
    micrograph_signal,
    odd_phase_sums,
    packed_frequencies,
    particle_batches,
    reconstruct,
    refine_defocus,
    refine_micrograph_defocus,
    soft_sphere,
    weights_for_particles,
    with_beam_tilt,
    with_defocus,
)

COUNT, MICROGRAPHS = 320, 8
NUMBER = torch.arange(COUNT) * MICROGRAPHS // COUNT
TILT = (0.7, -0.4)


def errors(per_particle: float, per_micrograph: tuple[float, float, float], seed: int = 3) -> torch.Tensor:
    """Mean defocus and two components of astigmatism [Å] by which a table is off."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(MICROGRAPHS, 3, generator=generator, dtype=torch.float64) * torch.tensor(per_micrograph)
    out = out[NUMBER]
    out[:, 0] += per_particle * torch.randn(COUNT, generator=generator, dtype=torch.float64)
    return out


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> Match:
    """Beam tilt, trefoil and wrong defocus."""
    folder = tmp_path_factory.mktemp("tilted")
    return matched(simulate(folder, COUNT, noise=2.0, beam_tilt=TILT, trefoil=(20.0, 10.0)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Match:
    return matched(simulate(tmp_path_factory.mktemp("clean"), COUNT, noise=2.0, seed=1))


def test_the_noise_and_the_scale_are_measured(clean: Match) -> None:
    # The images' standard deviation is √5 of the signal's, the noise is white: every shell has the same variance.
    assert clean.noise.scale == pytest.approx(1.0, abs=0.1)
    variance = clean.noise.variance[:, 3:]
    assert float(variance.std() / variance.mean()) < 0.12
    batch = next(matched_batches(clean))
    residual = (batch.observed - batch.transfer * batch.predicted).abs().square() * batch.weight
    assert float(residual.mean()) == pytest.approx(1.0, abs=0.05)


def test_planted_beam_tilt_and_trefoil_come_back(tilted: Match) -> None:
    (found,) = estimate_beam_tilt(tilted, trefoil=True)
    deviation = found.covariance.diagonal().sqrt()
    values = torch.tensor([*found.beam_tilt_in_milliradians, *found.trefoil], dtype=torch.float64)
    away = (values - torch.tensor([*TILT, 20.0, 10.0])) / deviation
    assert float(away.abs().max()) < 3.5
    assert float(deviation[:2].max()) < 0.05
    assert found.determined
    assert found.significance > 10
    assert found.scatter == pytest.approx(1.0, abs=0.2)
    causes = {p.name: p for p in beam_tilt_causes(found)}
    assert causes["beam_tilt_x"].value == found.beam_tilt_in_milliradians[0]
    assert all(p.cause == "beam_tilt" and p.identifiable and not p.reason for p in causes.values())


def test_beam_tilt_that_the_table_knows_is_not_found_again(tilted: Match) -> None:
    applied = tilted.with_particles(with_beam_tilt(tilted.particles, estimate_beam_tilt(tilted, trefoil=True)))
    assert applied.particles.beam_tilt_in_milliradians is not None
    (again,) = estimate_beam_tilt(applied, trefoil=True)
    assert again.beam_tilt_in_milliradians == pytest.approx(
        tuple(applied.particles.beam_tilt_in_milliradians[0].tolist()), abs=1e-6
    )
    (left,) = odd_phase_sums(applied, remove_known=True)
    rest = fit_odd_aberrations(left, trefoil=True)
    assert max(abs(v) for v in rest.beam_tilt_in_milliradians) < 1e-3


def test_without_tilt_it_abstains_and_the_table_stays(clean: Match) -> None:
    (found,) = estimate_beam_tilt(clean)
    assert not found.determined
    assert found.significance < 3
    assert with_beam_tilt(clean.particles, [found]) is clean.particles
    told = replace(clean.particles, beam_tilt_in_milliradians=torch.full((COUNT, 2), 0.1, dtype=torch.float64))
    assert torch.equal(with_beam_tilt(told, [found]).beam_tilt_in_milliradians, told.beam_tilt_in_milliradians)
    parameters = beam_tilt_causes(found)
    assert not any(p.identifiable for p in parameters)
    assert "less than 3" in parameters[0].reason


def test_a_tilt_that_no_microscope_has_is_not_believed(tilted: Match, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if 0.1 mrad were beyond belief: the fit is the same, and the table keeps what it had.
    monkeypatch.setattr("cryoprism.structure.aberrations.LARGEST_TILT_IN_MILLIRADIANS", 0.1)
    (found,) = estimate_beam_tilt(tilted)
    assert found.significance > 3
    assert not found.determined
    parameter = beam_tilt_causes(found)[0]
    assert not parameter.identifiable
    assert "no microscope is tilted by more than 0.1 mrad" in parameter.reason
    assert with_beam_tilt(tilted.particles, (found,)).beam_tilt_in_milliradians is None


def test_large_tilt_whose_phases_wrap_is_unwrapped(tmp_path: Path) -> None:
    # 2.4 rad per mrad at 3 Å: 4 mrad wrap more than once.
    (found,) = estimate_beam_tilt(matched(simulate(tmp_path, 200, noise=0.5, beam_tilt=(3.2, 2.4))))
    assert found.beam_tilt_in_milliradians == pytest.approx((3.2, 2.4), abs=0.06)


def test_the_likelihood_of_defocus_is_what_a_changed_table_gives(clean: Match) -> None:
    """The sum over rings against the plain residual, for a change of the table itself."""
    offsets = torch.tensor([-400.0, 0.0, 250.0])
    found = defocus_likelihood(clean, offsets)
    plain = torch.empty(COUNT, 3, dtype=torch.float64)
    for i, offset in enumerate(offsets.tolist()):
        assert clean.particles.defocus is not None
        defocus = clean.particles.defocus + torch.tensor([offset, offset, 0.0])
        for batch in matched_batches(clean.with_particles(replace(clean.particles, defocus=defocus))):
            residual = (batch.observed - batch.transfer * batch.predicted).abs() ** 2
            # What the particle's own noise in the half map adds is taken away.
            fit = residual + 2 * batch.transfer * batch.own
            plain[batch.indices, i] = -(batch.weight * fit).double().sum(1)
    torch.testing.assert_close(found - found[:, 1:2], plain - plain[:, 1:2], rtol=2e-3, atol=0.05)


def test_defocus_of_particles_comes_back_with_its_error_bar(tmp_path: Path) -> None:
    error = errors(250.0, (400.0, 0.0, 0.0))
    match = matched(simulate(tmp_path, COUNT, noise=2.5, defocus_error=error))
    found = refine_defocus(match)
    away = found.offset_in_angstroms - error[:, 0]
    assert float(away.square().mean().sqrt()) < 0.3 * float(error[:, 0].square().mean().sqrt())
    assert float((away / found.standard_deviation_in_angstroms)[found.determined].std()) == pytest.approx(1.0, abs=0.25)
    assert float(found.determined.double().mean()) > 0.9
    assert found.spread_in_angstroms == pytest.approx(250.0, rel=0.25)
    per_micrograph = torch.zeros(8, dtype=torch.float64).index_add_(0, NUMBER, error[:, 0]) / 40
    assert bool(found.micrograph_determined.all())
    assert float((found.micrograph_offset_in_angstroms - per_micrograph).abs().max()) < 60
    moved = with_defocus(match.particles, found, match)
    assert moved.defocus is not None
    assert match.particles.defocus is not None
    change = moved.defocus - match.particles.defocus
    torch.testing.assert_close(change[:, 0], found.offset_in_angstroms)
    torch.testing.assert_close(change[:, :2].diff().abs().max(), torch.zeros((), dtype=torch.float64))
    assert torch.equal(moved.defocus[:, 2], match.particles.defocus[:, 2])


def test_a_particles_own_noise_in_the_map_does_not_hold_it_back(tmp_path: Path) -> None:
    """Half maps made of these very particles, few and with the wrong table: the usual case in earnest."""
    error = errors(250.0, (0.0, 0.0, 0.0))
    particles = simulate(tmp_path, COUNT, noise=2.5, beam_tilt=TILT, defocus_error=error)
    made = reconstruct(particle_batches(particles, (BOX - 1) // 2), BOX, wiener=False)
    reference = MapReference.from_half_maps(made.half1, made.half2, PIXEL)
    assert particles.half_set is not None
    match = match_particles(particles, reference, particles.half_set)
    swapped = MapReference.from_half_maps(made.half2, made.half1, PIXEL)
    with pytest.raises(InputError, match="half maps are swapped"):
        match_particles(particles, swapped, particles.half_set)
    share = match.noise.own_share[reference.radius // 2 :]
    assert bool((share > 0).all())
    (tilt,) = estimate_beam_tilt(match)
    away = [
        (found - truth) / deviation
        for found, truth, deviation in zip(
            tilt.beam_tilt_in_milliradians, TILT, tilt.standard_deviation_in_milliradians, strict=True
        )
    ]
    assert max(map(abs, away)) < 3.5
    assert tilt.determined
    match = match.with_particles(with_beam_tilt(particles, [tilt]))
    found = refine_defocus(match)
    slope = float((found.offset_in_angstroms * error[:, 0]).sum() / error[:, 0].square().sum())
    left = found.offset_in_angstroms - error[:, 0]
    # Shrinking towards the prior takes a share σ² / τ² from the slope, no more.
    deviation = found.standard_deviation_in_angstroms
    assert slope > 0.93 - float(deviation.square().mean()) / 250.0**2
    assert float((left / deviation).std()) == pytest.approx(1.0, abs=0.3)
    # Without the correction both are held back.
    untreated = replace(match, noise=replace(match.noise, own_share=torch.zeros_like(match.noise.own_share)))
    held = refine_defocus(untreated).offset_in_angstroms
    assert float((held * error[:, 0]).sum() / error[:, 0].square().sum()) < slope - 0.1


def test_right_defocus_is_left_alone(clean: Match) -> None:
    found = refine_defocus(clean)
    assert found.spread_in_angstroms == 0
    assert not bool(found.determined.any())
    assert float(found.offset_in_angstroms.abs().max()) == 0


@pytest.mark.parametrize("spread", [(25.0, 25.0), (150.0, 150.0)])
def test_coarse_maps_move_no_defocus_away(tmp_path: Path, spread: tuple[float, float]) -> None:
    """A filter that is taken for weak signal asks for a larger |C|, and defoci move by 100 Å and more."""
    error = errors(spread[0], (spread[1], 0.0, 0.0))
    particles = simulate(tmp_path, COUNT, noise=2.0, defocus_error=error)
    assert particles.half_set is not None
    before = float(error[:, 0].square().mean().sqrt())
    whole = noisy_halves()
    match = match_particles(particles, MapReference.from_half_maps(*whole, PIXEL), particles.half_set)
    assert bool((match.noise.map_gain == 1).all())
    assert match.finest_in_angstroms == pytest.approx(BOX * PIXEL / match.reference.radius)
    for limit in (12.0, 20.0):
        coarse = MapReference.from_half_maps(*(low_pass(half, PIXEL, limit) for half in whole), PIXEL)
        match = match_particles(particles, coarse, particles.half_set)
        assert 0.8 * limit < match.finest_in_angstroms < 1.6 * limit
        found = refine_defocus(match)
        assert float((found.offset_in_angstroms - error[:, 0]).square().mean().sqrt()) <= 1.02 * before
        assert float(found.offset_in_angstroms.square().mean().sqrt()) <= before


def test_particles_without_signal_keep_their_defocus(clean: Match) -> None:
    """A wrong table whose images say next to nothing: nothing is invented."""
    error = errors(200.0, (0.0, 0.0, 0.0))
    assert clean.particles.defocus is not None
    wrong = clean.particles.defocus.clone()
    wrong[:, :2] -= error[:, :1]
    match = clean.with_particles(replace(clean.particles, defocus=wrong))
    noise = match.noise.variance.clone()
    # The same images weighted as if their noise were a thousand times as strong say nothing.
    silent = replace(match.noise, variance=1e3 * noise, own_share=torch.zeros_like(match.noise.own_share))
    deaf = replace(match, noise=silent)
    found = refine_defocus(deaf)
    assert not bool(found.determined.any())
    assert float(found.offset_in_angstroms.abs().max()) == 0


def test_astigmatism_of_micrographs_comes_back(tmp_path: Path) -> None:
    error = errors(0.0, (80.0, 90.0, 90.0))
    match = matched(simulate(tmp_path, COUNT, noise=2.5, defocus_error=error))
    found = refine_micrograph_defocus(match)
    truth = error[:: COUNT // MICROGRAPHS]
    away = found.change_in_angstroms - truth
    assert bool(found.determined.all())
    assert float(away.abs().max()) < 40
    assert float((away / found.standard_deviation_in_angstroms).square().mean()) < 2.5
    moved = with_defocus(match.particles, found, match)
    again = refine_micrograph_defocus(match.with_particles(moved), iterations=1)
    assert float(again.change_in_angstroms.abs().max()) < 10


def drifted(folder: Path, lengths: torch.Tensor, degrees: torch.Tensor, scale: torch.Tensor) -> Match:
    ky, kx = frequency_grid((BOX, BOX), PIXEL)
    radians = torch.deg2rad(degrees)[:, None, None]
    turns = lengths[:, None, None] * (kx * radians.cos() + ky * radians.sin())
    envelope = scale[:, None, None] * torch.exp(-(math.pi**2) / 6 * turns**2)
    return matched(simulate(folder, COUNT, noise=2.0, envelope=envelope, seed=2))


def test_drift_is_found_with_axis_and_length(tmp_path: Path) -> None:
    lengths = torch.tensor([4.0, 0, 3.5, 0, 3.0, 0, 3.5, 0])
    degrees = torch.arange(8) * 22.5
    scale = torch.linspace(0.7, 1.3, 8)
    match = drifted(tmp_path, lengths, degrees, scale)
    found = micrograph_signal(match)
    blurred = lengths > 0
    assert torch.equal(found.drift_determined, blurred)
    away = (found.axis_in_degrees - degrees + 90) % 180 - 90
    assert float(away[blurred].abs().max()) < 6
    length = found.drift_in_angstroms.norm(dim=-1)
    torch.testing.assert_close(length[blurred].float(), lengths[blurred], atol=0.4, rtol=0)
    ratio = found.scale / scale
    assert float(ratio.std() / ratio.mean()) < 0.04
    assert float(found.b_factor_in_square_angstroms.abs().max()) < 25
    # In the engine: as packed arrays, and as the files of weights.
    packed = found.packed()
    k = packed_frequencies(match.reference.radius)
    along = ((k[:, 0] > 15) & (k[:, 1].abs() < 4)).nonzero()[:, 0]
    across = ((k[:, 1] > 15) & (k[:, 0].abs() < 4)).nonzero()[:, 0]
    assert float(packed.envelope[0, along].mean()) < 0.6 * float(packed.envelope[0, across].mean())
    tables = {f"m{i:02d}": found.table(i) for i in range(8)}
    from_files = weights_for_particles(tables, match.particles, BOX, match.reference.radius)
    proportion = from_files.envelope[from_files.micrograph[::40]] / packed.envelope
    assert float(proportion.std() / proportion.mean()) < 0.02
    batches = particle_batches(match.particles, match.reference.radius, weights=packed)
    result = reconstruct(batches, BOX, max_radius=match.reference.radius, wiener=False, iterations=0)
    assert bool(result.map.isfinite().all())


def test_the_measured_envelope_makes_a_better_map(tmp_path: Path) -> None:
    """Half maps of the drifted particles themselves; weights from them against none, in the map's truth."""
    lengths = torch.tensor([5.0, 5.0, 6.0, 6.0, 5.5, 5.5, 0.0, 0.0])
    match = drifted(tmp_path, lengths, torch.tensor([0.0, 90, 45, 135, 20, 110, 0, 0]), torch.ones(8))
    particles, radius = match.particles, (BOX - 1) // 2
    plain = reconstruct(particle_batches(particles, radius), BOX, wiener=False)
    reference = MapReference.from_half_maps(plain.half1, plain.half2, PIXEL)
    assert particles.half_set is not None
    found = micrograph_signal(match_particles(particles, reference, particles.half_set))
    assert torch.equal(found.drift_determined, lengths > 0)
    batches = particle_batches(particles, radius, weights=found.packed(radius))
    weighted = reconstruct(batches, BOX, wiener=False)
    before, after = (fourier_shell_correlation(r.map, density(), PIXEL).fsc for r in (plain, weighted))
    fine = slice(radius // 2, radius)
    assert float((after - before)[fine].mean()) > 0.015
    assert float((after - before)[1:radius].min()) > -0.005


def test_sharp_micrographs_show_no_drift(clean: Match) -> None:
    found = micrograph_signal(clean, shape="sinc")
    assert not bool(found.drift_determined.any())
    assert float(found.drift_in_angstroms.abs().max()) == 0


def test_images_that_do_not_resemble_the_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not resemble"):
        matched(simulate(tmp_path, 100, signal=0.0))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: replace(p, angles_in_degrees=None), "no angles"),
        (lambda p: replace(p, defocus=None), "no defocus"),
        (lambda p: replace(p, pixel_size_in_angstroms=2 * p.pixel_size_in_angstroms), "Å per pixel"),
    ],
)
def test_bad_tables_are_named(clean: Match, change: object, word: str) -> None:
    assert callable(change)
    broken: Particles = change(clean.particles)
    with pytest.raises(InputError, match=word):
        match_particles(broken, clean.reference, clean.half_set)


def test_half_maps_that_do_not_agree_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(BOX, BOX, BOX, generator=generator) for _ in range(2))
    with pytest.raises(InputError, match="agree"):
        MapReference.from_half_maps(one, two, PIXEL)
    reference = MapReference.from_half_maps(density(), density(), PIXEL, maximum_resolution_in_angstroms=6.0)
    assert reference.radius == int(BOX * PIXEL / 6.0)


@pytest.mark.relion
def test_relion_finds_the_same_beam_tilt(tmp_path: Path) -> None:
    """Same files, RELION's own fit: the same signs and, within the error bars, the same size."""
    particles = simulate(tmp_path, COUNT, noise=1.0, beam_tilt=TILT)
    for number, half in enumerate(noisy_halves(0.02), 1):
        write_map(tmp_path / f"half{number}.mrc", Volume(half, PIXEL))
    write_map(tmp_path / "mask.mrc", Volume(soft_sphere((BOX,) * 3, PIXEL, 28.0, soft_edge_in_angstroms=6.0), PIXEL))
    (tmp_path / "post").mkdir()
    for command in (
        "relion_postprocess --i half1.mrc --i2 half2.mrc --o post/p --angpix 1.5 --mask mask.mrc",
        "relion_ctf_refine --i particles.star --f post/p.star --m1 half1.mrc --m2 half2.mrc --angpix_ref 1.5 "
        "--fit_beamtilt --kmin_tilt 20 --o refined/",
    ):
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    theirs = read_particles(tmp_path / "refined/particles_ctf_refine.star").beam_tilt_in_milliradians
    assert theirs is not None
    (ours,) = estimate_beam_tilt(matched(particles))
    for mine, peer, truth in zip(ours.beam_tilt_in_milliradians, theirs[0].tolist(), TILT, strict=True):
        assert mine == pytest.approx(peer, abs=0.06)
        assert mine == pytest.approx(truth, abs=0.05)
