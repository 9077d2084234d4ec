"""Models and maps: Q-scores of closed form, fits that find a hidden pose, FSC with the right model and a wrong one."""

import math
from dataclasses import replace

import pytest
import torch

from cryoprism.core import InputError, generator_for, random_rotations
from cryoprism.formats import Atoms, Volume, read_map, read_structure
from cryoprism.structure import (
    even_rotations,
    fit_model_rigidly,
    map_to_model_fsc,
    mask_from_map,
    model_map,
    q_scores,
)

ORIGIN = (3.0, -7.0, 11.0)


def atoms_at(positions: torch.Tensor) -> Atoms:
    count = positions.shape[0]
    return Atoms(
        positions.float(),
        torch.full((count,), 6),
        torch.full((count,), 20.0),
        torch.ones(count),
        torch.zeros(count, dtype=torch.int64),
        ("C",) * count,
        ("ALA",) * count,
        tuple(range(count)),
        ("A",) * count,
    )


def gaussians(positions: torch.Tensor, box: int, voxel: float, sigma: float = 0.6) -> Volume:
    """Map that is a Gaussian at every atom."""
    x, y, z = (torch.arange(box) * voxel + start for start in ORIGIN)
    data = torch.zeros(box, box, box)
    for px, py, pz in positions.tolist():
        parts = (torch.exp(-((axis - p) ** 2) / (2 * sigma**2)) for axis, p in ((z, pz), (y, py), (x, px)))
        dz, dy, dx = parts
        data += dz[:, None, None] * dy[:, None] * dx
    return Volume(data, voxel, ORIGIN)


@pytest.fixture(scope="module")
def chain() -> Atoms:
    """Compact, irregular cloud of atoms about 1.5 Å apart."""
    generator = generator_for(0, "chain")
    steps = torch.randn(600, 3, generator=generator)
    walk = [torch.zeros(3)]
    for step in steps:
        walk.append(0.99 * walk[-1] + 1.5 * step / step.norm())
    return atoms_at(torch.stack(walk) * torch.tensor([1.6, 1.0, 0.7]))


def far_apart(count: int = 20) -> torch.Tensor:
    places = torch.tensor([[i, j, k] for i in range(3) for j in range(3) for k in range(3)])[:count]
    return places * 5.0 + torch.tensor(ORIGIN) + 4.3 + 0.37 * torch.rand(count, 3, generator=generator_for(1, "far"))


def test_gaussians_of_the_reference_width_score_one():
    positions = far_apart()
    scores = q_scores(gaussians(positions, 48, 0.4), atoms_at(positions))
    assert float(scores.min()) > 0.99
    shifted = q_scores(gaussians(positions, 48, 0.4), atoms_at(positions + torch.tensor([1.5, 0, 0])))
    assert float(shifted.max()) < 0.3


def test_scale_and_offset_do_not_change_the_score():
    positions = far_apart(6)
    volume = gaussians(positions, 48, 0.4)
    plain = q_scores(volume, atoms_at(positions))
    other = q_scores(replace(volume, data=7 * volume.data - 3), atoms_at(positions))
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-4)


def test_wider_blobs_score_as_the_correlation_of_two_gaussians():
    """An isolated atom of width s: Q is the correlation of exp(-r²/2s²) and exp(-r²/2·0.36) over r = 0, 0.1 … 2."""
    positions = far_apart(1)
    radius = torch.arange(21).double() / 10
    for sigma in (0.4, 0.9, 1.5):
        one, other = (torch.exp(-(radius**2) / (2 * s**2)) for s in (sigma, 0.6))
        expected = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        score = q_scores(gaussians(positions, 90, 0.2, sigma), atoms_at(positions))
        assert float(score) == pytest.approx(expected, abs=0.01)


def test_noise_and_nothing_score_zero():
    positions = far_apart()
    noise = torch.randn(96, 96, 96, generator=generator_for(2, "noise"))
    scores = q_scores(Volume(noise, 0.4, ORIGIN), atoms_at(positions))
    assert abs(float(scores.mean())) < 4 * float(scores.std()) / math.sqrt(scores.numel()) + 0.05
    assert bool((q_scores(Volume(torch.zeros(48, 48, 48), 0.4, ORIGIN), atoms_at(positions)) == 0).all())


def test_points_nearer_to_another_atom_do_not_count():
    """Two atoms 1.4 Å apart: without the rule each would see the other's peak on its flank."""
    pair = torch.tensor([[10.0, 2.0, 20.0], [11.4, 2.0, 20.0]])
    scores = q_scores(gaussians(pair, 48, 0.4), atoms_at(pair))
    assert float(scores.min()) > 0.93


def test_atoms_outside_and_hydrogens_have_no_score():
    positions = far_apart(3)
    positions[1] += 1000
    atoms = atoms_at(positions)
    atoms = replace(atoms, atomic_numbers=torch.tensor([6, 6, 1]))
    scores = q_scores(gaussians(positions[:1], 48, 0.4), atoms)
    assert torch.isfinite(scores).tolist() == [True, False, False]


def test_the_models_map_stands_where_its_atoms_are():
    place = torch.tensor([[3.0 + 20.0, -7.0 + 32.0, 11.0 + 26.0]])
    for box in (32, 33):
        volume = model_map(atoms_at(place), Volume(torch.zeros(box, box, box), 2.0, ORIGIN))
        top = int(volume.data.argmax())
        assert [top % box, top // box % box, top // box**2] == [10, 16, 13]
        assert volume.origin_in_angstroms == ORIGIN
    with pytest.raises(InputError, match="--model"):
        model_map(atoms_at(place + 500), Volume(torch.zeros(32, 32, 32), 2.0, ORIGIN))


def test_rotations_are_even():
    rotations = even_rotations(2000)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), torch.eye(3).double().expand(2000, 3, 3))
    assert bool((torch.linalg.det(rotations) > 0.999).all())
    assert float(rotations.mean(0).abs().max()) < 0.01
    wanted = random_rotations(50, generator_for(0, "targets")).double()
    cosine = (torch.einsum("nij,mij->nm", wanted, rotations).max(1).values - 1) / 2
    assert float(torch.rad2deg(cosine.clamp(-1, 1).acos()).max()) < 22


@pytest.mark.parametrize(("box", "seed"), [(64, 0), (63, 1)])
def test_a_hidden_pose_is_found(chain, box, seed):
    generator = generator_for(seed, "pose")
    turn = random_rotations(1, generator)[0]
    centre = torch.tensor(ORIGIN) + 2.0 * (box // 2) + torch.tensor([5.0, -4.0, 6.0])
    centred = chain.positions_in_angstroms - chain.positions_in_angstroms.mean(0)
    truth = replace(chain, positions_in_angstroms=centred @ turn.T + centre)
    grid = Volume(torch.zeros(box, box, box), 2.0, ORIGIN)
    clean = model_map(truth, grid, resolution_in_angstroms=6.0).data
    noisy = Volume(clean + 0.5 * clean.std() * torch.randn(clean.shape, generator=generator), 2.0, ORIGIN)
    fit = fit_model_rigidly(noisy, chain, resolution_in_angstroms=12.0)
    error = (fit.apply(chain).positions_in_angstroms - truth.positions_in_angstroms).norm(dim=-1)
    assert float(error.mean()) < 0.6
    agreed = map_to_model_fsc(noisy, fit.apply(chain)).crossing(0.5).resolution_in_angstroms
    assert agreed < 7.0
    moved = replace(truth, positions_in_angstroms=truth.positions_in_angstroms + 6.0)
    assert map_to_model_fsc(noisy, moved).crossing(0.5).resolution_in_angstroms > 2 * agreed


def test_a_model_larger_than_the_box_is_refused(chain):
    with pytest.raises(InputError, match="--model"):
        fit_model_rigidly(Volume(torch.rand(16, 16, 16), 0.5), chain)


@pytest.mark.real
def test_groel_fits_its_map_in_one_hand_only(real_data):
    """EMD-1997 and the heptameric ring of 1OEL (a crystal structure): 8 Å, and half the score in the other hand."""
    volume = read_map(real_data / "maps" / "emd_1997_groel.mrc")
    ring = read_structure(real_data / "structures" / "1oel.pdb.gz", include_waters=False)
    fit = fit_model_rigidly(volume, ring, resolution_in_angstroms=20.0, rotations=600, refine=3)
    mirrored = replace(volume, data=volume.data.flip(-1).roll(1, -1))
    other = fit_model_rigidly(mirrored, ring, resolution_in_angstroms=20.0, rotations=600, refine=3)
    assert fit.score > 1.5 * other.score
    fitted = fit.apply(ring)
    mask = mask_from_map(model_map(fitted, volume).data, volume.voxel_size_in_angstroms).data
    assert map_to_model_fsc(volume, fitted, mask=mask).crossing(0.5).resolution_in_angstroms < 9.0
