from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import ellipsoid, species
from scipy import stats

from cryoprism.core import CryoPrismWarning, InputError, generator_for, matrix_to_euler, point_group_matrices
from cryoprism.formats import Volume, write_map
from cryoprism.synthesis import (
    Population,
    PreferredViews,
    Species,
    conformations_from_files,
    enclosed_mass_in_kilodaltons,
    morph,
    project_specimen,
    repeat_unit,
    specimen_from_file,
)
from cryoprism.synthesis.arrangement import draw_rotations

PDB = """MODEL        {n}
ATOM      1  N   ALA A   1    {0:8.3f}{1:8.3f}   0.000  1.00 20.00           N
ATOM      2  CA  ALA A   1    {2:8.3f}   0.000   0.000  1.00 20.00           C
ATOM      3  C   ALA A   1       0.000   5.000   0.000  1.00 20.00           C
ATOM      4  O   ALA A   1       0.000   0.000   7.000  1.00 20.00           O
ENDMDL
"""


def ball_map(path, voxel, radius=20.0, side=24, at=0.0):
    axis = (torch.arange(side) - side // 2).float() * (voxel or 4.0)
    inside = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - at) ** 2).sqrt() < radius
    write_map(path, Volume(inside.float(), voxel or 4.0))
    if not voxel:  # a header without cell
        raw = bytearray(path.read_bytes())
        raw[40:52] = bytes(12)
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "O", "I"])
def test_views_are_uniform_over_all_rotations_for_every_point_group(symmetry):
    # Folded into one asymmetric unit or turned by any element, a uniform law stays uniform.
    rotations = draw_rotations(None, 3000, generator_for(1, symmetry)).double()
    turned = rotations @ point_group_matrices(symmetry)[-1].double()
    for sample in (rotations, turned):
        rot, tilt, psi = matrix_to_euler(sample)
        for value, low, width in (
            (torch.cos(torch.deg2rad(tilt)), -1, 2),
            (torch.remainder(rot, 360), 0, 360),
            (torch.remainder(psi, 360), 0, 360),
        ):
            assert stats.kstest(value.numpy(), stats.uniform(low, width).cdf).pvalue > 1e-3
        cosine = 0.5 * (torch.diagonal(sample, dim1=1, dim2=2).sum(1) - 1)
        angle = torch.arccos(cosine.clamp(-1, 1)).numpy()
        assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3


def test_preferred_views_follow_fishers_law_and_leave_the_rest_uniform():
    views = PreferredViews(
        directions_in_degrees=((40.0, 70.0), (0.0, 180.0)), shares=(0.5, 0.3), concentrations=(50.0, 8.0)
    )
    rotations = draw_rotations(views, 8000, generator_for(2, "views")).double()
    directions = rotations[:, 2]
    rot, tilt = np.radians(40.0), np.radians(70.0)
    want = torch.tensor([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)])
    cosine = directions @ want
    near = cosine > 0.85
    # All of the first cloud but exp(-7.5), a little of the uniform rest, nothing of the other cloud.
    assert float(near.double().mean()) == pytest.approx(0.5 + 0.2 * 0.075, abs=0.02)
    assert float(1 - cosine[near].mean()) == pytest.approx(1 / 50.0, rel=0.15)
    assert float((directions[:, 2] < -0.5).double().mean()) == pytest.approx(
        0.3 * (1 - np.exp(-4)) + 0.2 * 0.25, abs=0.02
    )
    psi = matrix_to_euler(rotations[near])[2]
    assert stats.kstest(torch.remainder(psi, 360).numpy(), stats.uniform(0, 360).cdf).pvalue > 1e-3
    with pytest.raises(InputError, match="shares"):
        PreferredViews(directions_in_degrees=((0, 0),), shares=(1.2,), concentrations=(1.0,))


def test_morph_of_atoms_is_straight_between_superposed_states():
    first = ellipsoid(30, 20, 10, atoms=200)
    opened = first.model.positions_in_angstroms * torch.tensor([1.2, 1.0, 1.0])
    turn = draw_rotations(None, 1, generator_for(3))[0]
    last = replace(first, model=replace(first.model, positions_in_angstroms=opened @ turn.T + 5.0))
    steps = morph(first, last, 3)
    assert len(steps) == 3
    torch.testing.assert_close(steps[0].model.positions_in_angstroms, first.model.positions_in_angstroms)
    middle = first.model.positions_in_angstroms * torch.tensor([1.1, 1.0, 1.0])
    assert (steps[1].model.positions_in_angstroms - middle).norm(dim=1).max() < 0.3
    assert steps[2].radius_in_angstroms > steps[0].radius_in_angstroms
    with pytest.raises(InputError, match="200 atoms against 199"):
        morph(first, ellipsoid(30, 20, 10, atoms=199), 3)


def test_morph_of_maps_fades(tmp_path):
    a, b = (
        specimen_from_file(ball_map(tmp_path / f"{at}.mrc", 4.0, at=at), molecular_mass_in_kilodaltons=25.0)
        for at in (0.0, 12.0)
    )
    steps = morph(a, b, 5)
    torch.testing.assert_close(steps[2].density, 0.5 * (a.density + b.density))
    with pytest.raises(InputError, match="atoms and the other a map"):
        morph(a, ellipsoid(10, 10, 10), 3)
    other = replace(b, voxel_size_in_angstroms=3.0)
    with pytest.raises(InputError, match="grids"):
        morph(a, other, 3)


def test_models_of_a_file_are_conformations_in_one_frame(tmp_path):
    path = tmp_path / "two.pdb"
    path.write_text(PDB.format(-3.0, 1.0, 9.0, n=1) + PDB.format(-3.0, 1.0, 13.0, n=2) + "END\n")
    found = conformations_from_files([path])
    assert [one.name for one in found] == ["two-1", "two-2"]
    moved = found[1].model.positions_in_angstroms - found[0].model.positions_in_angstroms
    torch.testing.assert_close(moved, torch.tensor([[0.0] * 3, [4.0, 0, 0], [0.0] * 3, [0.0] * 3]))
    assert len(conformations_from_files([path, path])) == 4
    assert specimen_from_file(path).name == "two"


def test_a_map_needs_a_voxel_size_that_its_mass_allows(tmp_path):
    with pytest.raises(InputError, match="voxel size"):
        specimen_from_file(ball_map(tmp_path / "none.mrc", 0.0), molecular_mass_in_kilodaltons=25.0)
    one = ball_map(tmp_path / "one.mrc", 1.0, radius=5.0)
    with pytest.warns(CryoPrismWarning, match="exactly 1"), pytest.raises(InputError, match="% of the box"):
        specimen_from_file(one, molecular_mass_in_kilodaltons=25.0)
    good = specimen_from_file(one, molecular_mass_in_kilodaltons=25.0, voxel_size_in_angstroms=4.0)
    assert good.voxel_size_in_angstroms == 4.0
    with pytest.raises(InputError, match="scale"):
        specimen_from_file(one)


def test_a_contour_stands_in_for_the_mass(tmp_path):
    path = ball_map(tmp_path / "ball.mrc", 4.0)
    by_contour = specimen_from_file(path, contour=0.5)
    mass = enclosed_mass_in_kilodaltons((by_contour.density > 2.0).float(), 4.0, 0.5)
    assert mass == pytest.approx(4 / 3 * np.pi * 20.0**3 / 1210.0, rel=0.1)
    by_mass = specimen_from_file(path, molecular_mass_in_kilodaltons=mass)
    torch.testing.assert_close(by_contour.density, by_mass.density)
    with pytest.raises(InputError, match="both"):
        specimen_from_file(path, contour=0.5, molecular_mass_in_kilodaltons=mass)


def test_a_coarse_specimen_keeps_its_mean_and_loses_detail():
    fine = ellipsoid(20, 15, 10, atoms=300)
    coarse = replace(fine, resolution_in_angstroms=15.0)
    a, b = (project_specimen(s, torch.eye(3)[None], 2.0, 0.0)[0] for s in (fine, coarse))
    assert float(b.sum()) == pytest.approx(float(a.sum()), rel=0.02)
    fa, fb = (torch.fft.rfft(image.sum(0)).abs() for image in (a, b))
    k = torch.fft.rfftfreq(a.shape[1], 2.0)[3]
    k_coarse = torch.fft.rfftfreq(b.shape[1], 2.0)
    value = np.interp(float(k), k_coarse.numpy(), fb.numpy())
    assert value / float(fa[3]) == pytest.approx(np.exp(-((float(k) * 15.0) ** 2)), rel=0.05)


def test_repeats_add_up_to_the_filament(tmp_path):
    side, voxel = 40, 3.0
    axis = (torch.arange(side) - side // 2).float() * voxel
    rod = ((axis[:, None] ** 2 + axis**2) < 15.0**2).float()[None].expand(side, side, side)
    write_map(tmp_path / "rod.mrc", Volume(rod.contiguous(), voxel))
    unit = repeat_unit(specimen_from_file(tmp_path / "rod.mrc", contour=0.5), 24.0)
    total = sum(unit.density.roll(8 * i, 0) for i in range(-2, 3))
    torch.testing.assert_close(total[10:31], rod[10:31] * unit.density.max(), atol=1e-4, rtol=0)
    assert unit.radius_in_angstroms < 30.0
    with pytest.raises(InputError, match="repeat"):
        repeat_unit(unit, 500.0)


def test_species_and_populations_say_what_is_wrong():
    ball = ellipsoid(10, 10, 10, atoms=50)
    with pytest.raises(InputError, match="no conformations"):
        Species(name="none", conformations=())
    with pytest.raises(InputError, match="Q7"):
        species(replace(ball, symmetry="Q7"))
    with pytest.raises(InputError, match="2 shares for 1"):
        species(ball, shares=(1.0, 2.0))
    with pytest.raises(InputError, match="no species"):
        Population(species=())
    assert species(ball, ball, shares=(3, 1)).shares == (0.75, 0.25)
