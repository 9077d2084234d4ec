"""The potential against closed forms, direct structure-factor sums, gemmi, and the composition of protein."""

import math
import os
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryoprism.core import InputError, generator_for, random_rotations
from cryoprism.microscope.potential import (
    POTENTIAL_PER_SCATTERING_FACTOR,
    PROTEIN_POTENTIAL_IN_VOLTS,
    VITREOUS_ICE_POTENTIAL_IN_VOLTS,
    AtomicModel,
    Solvent,
    average_hydrogens,
    form_factors,
    potential_from_atoms,
    potential_from_map,
    project_atoms,
    scattering_factor,
    slices_from_atoms,
    solvent_mask,
)

DATA = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def some_model(count: int = 60, spread: float = 12.0, seed: int = 1) -> AtomicModel:
    g = generator_for(seed, "model")
    numbers = torch.tensor([6, 7, 8, 16])[torch.randint(0, 4, (count,), generator=g)]
    return AtomicModel(
        (torch.rand(count, 3, generator=g) * 2 - 1) * spread,
        numbers,
        b_factors_in_square_angstroms=40 + 60 * torch.rand(count, generator=g),
        occupancies=0.5 + 0.5 * torch.rand(count, generator=g),
    )


def gaussian_projection(radius: torch.Tensor, number: int, b_factor: float) -> torch.Tensor:
    """Closed form [V Å] of one atom: Σ C a 4π / (b + B) exp(-4π² r² / (b + B))."""
    c = gemmi.Element(number).c4322
    total = torch.zeros_like(radius)
    for a, b in zip(c.a, c.b, strict=True):
        width = b + b_factor
        total += (
            POTENTIAL_PER_SCATTERING_FACTOR * a * 4 * math.pi / width * torch.exp(-4 * math.pi**2 * radius**2 / width)
        )
    return total


@pytest.mark.parametrize("shape", [(48, 48), (47, 51)])
def test_one_atom_projects_to_its_gaussians(shape: tuple[int, int]) -> None:
    """x runs along columns, y along rows, and pixel n // 2 is the origin."""
    position = torch.tensor([[3.3, -5.6, 7.0]])
    image = project_atoms(AtomicModel(position, torch.tensor([6]), 60.0), torch.eye(3), 0.5, shape=shape, center=False)
    y = (torch.arange(shape[0]) - shape[0] // 2)[:, None] * 0.5 - position[0, 1]
    x = (torch.arange(shape[1]) - shape[1] // 2)[None, :] * 0.5 - position[0, 0]
    truth = gaussian_projection(torch.sqrt(x * x + y * y), 6, 60.0)
    assert (image - truth).abs().max() < 2e-3 * truth.max()


def test_transform_equals_the_structure_factor_sum() -> None:
    """F(k) = C Σ f(k) exp(-2πi k·r) for mixed elements, B-factors and solvent, at frequencies up to 0.8 Nyquist."""
    model, solvent = some_model(), Solvent()
    size = (40, 45, 48)
    volume = potential_from_atoms(model, 1.0, shape=size, center=False, solvent=solvent, oversampling=1.5)
    spectrum = torch.fft.fftn(torch.fft.ifftshift(volume))
    g = generator_for(2)
    found, truth = [], []
    for _ in range(40):
        index = [int(torch.randint(-int(0.4 * n), int(0.4 * n) + 1, (1,), generator=g)) for n in size]
        k = torch.tensor([i / n for i, n in zip(index, size, strict=True)])
        f = form_factors(model, k.norm()[None], solvent)[:, 0]
        phase = 2 * math.pi * (model.positions_in_angstroms @ k.flip(0))
        truth.append(POTENTIAL_PER_SCATTERING_FACTOR * (f * torch.exp(-1j * phase)).sum())
        found.append(spectrum[tuple(index)])
    a, b = torch.stack(found), torch.stack(truth)
    assert (a - b).norm() < 3e-3 * b.norm()


def test_agrees_with_gemmi() -> None:
    """An independent program: gemmi's own density of electron scattering factors on a periodic cell."""
    model = some_model(20, 6.0)
    side, voxel = 48, 0.5
    structure = gemmi.Model(1)
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "ALA", gemmi.SeqId("1")
    for p, z, b, o in zip(
        model.positions_in_angstroms.tolist(),
        model.atomic_numbers.tolist(),
        model.b_factors_in_square_angstroms.tolist(),
        model.occupancies.tolist(),
        strict=True,
    ):
        atom = gemmi.Atom()
        atom.element, atom.b_iso, atom.occ = gemmi.Element(z), b, o
        atom.pos = gemmi.Position(*(c + side * voxel / 2 for c in p))
        residue.add_atom(atom)
    chain.add_residue(residue)
    structure.add_chain(chain)
    calculator = gemmi.DensityCalculatorE()
    calculator.cutoff = 1e-7
    calculator.grid.set_unit_cell(gemmi.UnitCell(*(3 * [side * voxel]), 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(side, side, side)
    calculator.add_model_density_to_grid(structure)
    theirs = torch.from_numpy(np.array(calculator.grid, copy=True)).permute(2, 1, 0) * POTENTIAL_PER_SCATTERING_FACTOR
    ours = potential_from_atoms(model, voxel, shape=(side,) * 3, center=False)
    # gemmi builds E densities through Mott-Bethe or directly; both must give the same map of c4322 coefficients.
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_projection_of_volume_slices_and_atoms_agree() -> None:
    """The sum of a volume, the sum of slices, and the direct projection are one quantity."""
    model = some_model()
    volume = potential_from_atoms(model, 1.0, shape=(40, 40, 40), center=False)
    direct = project_atoms(model, torch.eye(3), 1.0, shape=(40, 40), center=False)
    assert (volume.sum(0) - direct).norm() < 2e-3 * direct.norm()
    slices = list(
        slices_from_atoms(
            model, 1.0, shape=(40, 40), slice_thickness_in_angstroms=5.0, slab_thickness_in_angstroms=30.0
        )
    )
    assert len(slices) == 6
    assert (sum(slices) - direct).norm() < 2e-3 * direct.norm()
    highest = int(model.positions_in_angstroms[:, 2].argmax())
    z = float(model.positions_in_angstroms[highest, 2])
    alone = AtomicModel(model.positions_in_angstroms[[highest]], model.atomic_numbers[[highest]])
    kept = slices_from_atoms(
        alone, 1.0, shape=(40, 40), slice_thickness_in_angstroms=5.0, slab_thickness_in_angstroms=30.0
    )
    assert [bool(s.abs().max() > 0) for s in kept].index(True) == int((z + 15) // 5)


def test_rotations_batch_and_shifts() -> None:
    """A view of rotated atoms equals the projection of atoms rotated by hand; a shift by a pixel rolls the image."""
    model = some_model()
    turns = random_rotations(2, generator_for(3)).float()
    views = project_atoms(model, turns, 1.0, shape=(48, 48), center=False)
    moved = AtomicModel(
        model.positions_in_angstroms @ turns[1].T,
        model.atomic_numbers,
        model.b_factors_in_square_angstroms,
        model.occupancies,
    )
    alone = project_atoms(moved, torch.eye(3), 1.0, shape=(48, 48), center=False)
    torch.testing.assert_close(views[1], alone, atol=1e-3 * float(alone.max()), rtol=0)
    shifted = project_atoms(
        model, turns, 1.0, shape=(48, 48), center=False, shifts_in_angstroms=torch.tensor([1.0, -2.0])
    )
    torch.testing.assert_close(shifted, views.roll((-2, 1), (-2, -1)), atol=5e-3 * float(alone.max()), rtol=0)


def test_gradients_reach_positions_and_b_factors() -> None:
    """Autograd against central differences."""
    model = some_model(8, 4.0)
    weights = torch.randn(24, 24, generator=generator_for(4)).double()

    def loss(positions: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        m = AtomicModel(positions, model.atomic_numbers, b)
        return (project_atoms(m, torch.eye(3).double(), 1.0, shape=(24, 24), center=False) * weights).sum()

    p = model.positions_in_angstroms.double().requires_grad_()
    b = torch.as_tensor(model.b_factors_in_square_angstroms).double().requires_grad_()
    dp, db = torch.autograd.grad(loss(p, b), (p, b))
    step = 1e-4
    for point, gradient, other in ((p, dp, b), (b, db, p)):
        delta = torch.zeros_like(point)
        delta.view(-1)[3] = step
        pair = [(point.detach() + s * delta) for s in (1, -1)]
        up, down = (loss(v, other) if point is p else loss(other, v) for v in pair)
        assert float(gradient.view(-1)[3]) == pytest.approx(float((up - down).detach()) / (2 * step), rel=5e-3)


def test_protein_minus_ice() -> None:
    """The mean inner potential of average protein from isolated atoms, and the volume that it displaces."""
    atoms, density = {6: 4.94, 7: 1.36, 8: 1.48, 16: 0.04, 1: 7.77}, 1 / 1.21  # per residue; Da/Å³
    mass = sum(n * gemmi.Element(z).weight for z, n in atoms.items())
    factor = sum(n * float(scattering_factor(torch.zeros(()), z)) for z, n in atoms.items())
    volts = POTENTIAL_PER_SCATTERING_FACTOR * factor * density / mass
    assert volts == pytest.approx(PROTEIN_POTENTIAL_IN_VOLTS, rel=0.02)
    heavy = torch.tensor([6] * 494 + [7] * 136 + [8] * 148 + [16] * 4)
    model = AtomicModel(torch.zeros(len(heavy), 3), heavy, hydrogens=average_hydrogens(heavy))
    zero = torch.zeros(1)
    displaced = (form_factors(model, zero) - form_factors(model, zero, Solvent())).sum()
    volume = float(displaced) * POTENTIAL_PER_SCATTERING_FACTOR / VITREOUS_ICE_POTENTIAL_IN_VOLTS
    assert volume == pytest.approx(100 * mass / density, rel=0.06)
    assert float(model.hydrogens.sum()) == pytest.approx(777, rel=0.03)


def test_solvent_mask_of_one_atom_is_a_soft_ball() -> None:
    """Volume 4/3 π (R³ + 3 R s²) of a ball with an error-function edge."""
    mask = solvent_mask(AtomicModel(torch.tensor([[0.2, -0.1, 0.3]]), torch.tensor([6])), 0.5, shape=(30, 30, 30))
    radius = float(gemmi.Element("C").vdw_r)
    assert float(mask.sum()) / 8 == pytest.approx(4 / 3 * math.pi * (radius**3 + 3 * radius), rel=0.02)
    assert 0 <= mask.min() <= mask.max() <= 1


def test_map_gets_the_contrast_asked_for() -> None:
    """Scale and offset of the map do not matter; the inside mean is the contrast, the solvent is zero."""
    y = torch.linspace(-1, 1, 32)
    ball = ((y[:, None, None] ** 2 + y[:, None] ** 2 + y**2) < 0.4).float()
    ball = ball + 0.01 * torch.randn(32, 32, 32, generator=generator_for(5))
    a = potential_from_map(ball, 2.0, threshold=0.5)
    b = potential_from_map(17 * ball - 3, 2.0, molecular_mass_in_daltons=float((ball > 0.5).sum()) * 8 / 1.21)
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    assert float(a[ball > 0.5].mean()) == pytest.approx(PROTEIN_POTENTIAL_IN_VOLTS - VITREOUS_ICE_POTENTIAL_IN_VOLTS)
    assert abs(float(a[ball < 0.5].mean())) < 0.01


def test_wrong_input_is_named() -> None:
    """Each error says what to change."""
    model = some_model()
    with pytest.raises(InputError, match="Enlarge the box"):
        potential_from_atoms(model, 1.0, shape=(16, 16, 16))
    with pytest.raises(InputError, match="Thicken the slab"):
        list(
            slices_from_atoms(
                model, 1.0, shape=(40, 40), slice_thickness_in_angstroms=2.0, slab_thickness_in_angstroms=4.0
            )
        )
    with pytest.raises(InputError, match="exactly one"):
        potential_from_map(torch.zeros(4, 4, 4), 1.0)
    with pytest.raises(InputError, match="coordinates"):
        AtomicModel(torch.zeros(3, 2), torch.tensor([6, 6, 6]))
    with pytest.raises(InputError, match="no electron scattering factor"):
        project_atoms(AtomicModel(torch.zeros(1, 3), torch.tensor([0])), torch.eye(3), 1.0, shape=(8, 8))


@pytest.mark.real
def test_crambin_displaces_its_partial_specific_volume() -> None:
    """Both solvent models give about 1.21 Å³ per Da for a real protein and the ice's level inside."""
    path = DATA / "structures" / "1crn.cif.gz"
    if not path.is_file():
        pytest.skip(f"{path} is absent (set CRYOPRISM_DATA)")
    structure = gemmi.read_structure(str(path))
    structure.remove_hydrogens()
    atoms = [atom for chain in structure[0] for residue in chain for atom in residue]
    numbers = torch.tensor([atom.element.atomic_number for atom in atoms])
    positions = torch.tensor([atom.pos.tolist() for atom in atoms], dtype=torch.float32)
    model = AtomicModel(positions, numbers, 30.0, hydrogens=average_hydrogens(numbers))
    mass = sum(gemmi.Element(int(z)).weight for z in numbers) + float(average_hydrogens(numbers).sum())
    shape = (64, 64, 64)
    mask = solvent_mask(model, 1.0, shape=shape)
    assert float(mask.sum()) == pytest.approx(1.21 * mass, rel=0.1)
    vacuum = potential_from_atoms(model, 1.0, shape=shape)
    ice = vacuum - potential_from_atoms(model, 1.0, shape=shape, solvent=Solvent())
    assert float(ice.sum()) / VITREOUS_ICE_POTENTIAL_IN_VOLTS == pytest.approx(1.21 * mass, rel=0.05)
    assert float(ice[mask > 0.5].mean()) == pytest.approx(VITREOUS_ICE_POTENTIAL_IN_VOLTS, rel=0.15)
    assert float(vacuum[mask > 0.5].mean()) == pytest.approx(PROTEIN_POTENTIAL_IN_VOLTS, rel=0.15)
