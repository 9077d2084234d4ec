"""The global search finds defocus, astigmatism and phase shift of images coloured by the optics alone."""

import itertools

import pytest
import torch
from drawn_spectra import LENS, PIXEL, angle_between, blank, micrograph, white

from cryoprism.causes import measure_spectrum, search_defocus
from cryoprism.causes.search import modulation_damping, smooth_background


@pytest.mark.parametrize(
    ("defocus", "difference"), list(itertools.product((6000, 9000, 15000, 24000, 40000), (0, 800)))
)
def test_defocus_and_astigmatism_over_the_whole_range(defocus, difference):
    lens = (defocus + difference / 2, defocus - difference / 2, 37.0)
    best = search_defocus(measure_spectrum(micrograph(defocus, defocus=lens), PIXEL), LENS)[0]
    assert best.mean_defocus_in_angstroms == pytest.approx(defocus, abs=150)
    assert best.defocus_u_in_angstroms - best.defocus_v_in_angstroms == pytest.approx(difference, abs=250)
    if difference:
        assert angle_between(best.defocus_angle_in_degrees, 37.0) < 15


@pytest.mark.parametrize("phase_shift", [40.0, 90.0, 140.0])
def test_phase_plate(phase_shift):
    spectrum = measure_spectrum(micrograph(3, defocus=12000.0, phase_shift=phase_shift), PIXEL)
    shifts = tuple(float(value) for value in range(10, 180, 20))
    best = search_defocus(spectrum, LENS, phase_shifts_in_degrees=shifts)[0]
    assert best.phase_shift_in_degrees == pytest.approx(phase_shift, abs=20)
    assert best.mean_defocus_in_angstroms == pytest.approx(12000, abs=150)


def test_weaker_rings_score_less_and_noise_least():
    scores = [
        search_defocus(measure_spectrum(image, PIXEL), LENS)[0].score
        for image in (
            micrograph(1, signal=8.0),
            micrograph(1, signal=1.0),
            micrograph(1, signal=0.3),
            white((768, 768), 1),
        )
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 3 * scores[-1]


def test_candidates_are_ordered_distinct_and_inside_the_range():
    for image in (micrograph(2), white((512, 512), 2), white((256, 256), 4)):
        found = search_defocus(
            measure_spectrum(image, PIXEL), LENS, minimum_in_angstroms=8000.0, maximum_in_angstroms=20000.0, count=4
        )
        assert 1 <= len(found) <= 4
        assert all(8000 <= one.mean_defocus_in_angstroms <= 20000 for one in found)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one, other in itertools.combinations(found, 2):
            assert abs(one.mean_defocus_in_angstroms - other.mean_defocus_in_angstroms) >= 500


def test_grey_units_do_not_matter():
    image = micrograph(4, defocus=(17000.0, 16500.0, 80.0))
    small, large = (search_defocus(measure_spectrum(grey * image, PIXEL), LENS)[0] for grey in (0.01, 300.0))
    assert small.defocus_u_in_angstroms == large.defocus_u_in_angstroms
    assert small.defocus_angle_in_degrees == large.defocus_angle_in_degrees
    assert small.score == pytest.approx(large.score, rel=1e-3)


def test_the_background_keeps_constants_and_removes_ripples():
    width = torch.full((100,), 8.0)
    torch.testing.assert_close(smooth_background(torch.full((3, 100), 2.5), width), torch.full((3, 100), 2.5))
    ripple = torch.cos(torch.arange(100.0) * 2 * torch.pi / 8)
    # A Gaussian of 8 shells leaves exp(-2π²) of a ripple of period 8, away from the ends.
    assert smooth_background(ripple, width)[30:70].abs().max() < 1e-3


def test_modulation_fades_with_defocus_and_is_whole_where_the_phase_stands_still():
    grid = blank().grid
    table = modulation_damping(grid, LENS, torch.tensor([0.0, 5000.0, 15000.0, 40000.0]))
    assert table.shape == (len(grid.k), 4)
    middle = len(grid.k) // 2
    assert table[middle, 1:].tolist() == sorted(table[middle, 1:].tolist(), reverse=True)
    assert float(table[0, 0]) == pytest.approx(1, abs=1e-3)
    assert table.max() <= 1 + 1e-6
    one = modulation_damping(grid, LENS, 15000.0)
    torch.testing.assert_close(one, table[:, 2])
    # The phase 2πλΔf k²·½·2 stands still where λΔf k = Cs λ³ k³: at 15 000 Å and 300 kV beyond Nyquist, at 1 000 Å not.
    k = (1000.0 / (2.7e7 * LENS.wavelength_in_angstroms**2)) ** 0.5
    shell = int((grid.k - k).abs().argmin())
    assert float(modulation_damping(grid, LENS, 1000.0)[shell]) == pytest.approx(1, abs=1e-3)
