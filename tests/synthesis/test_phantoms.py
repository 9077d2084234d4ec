import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from cryoprism.core import InputError, point_group_matrices
from cryoprism.synthesis import phantom
from cryoprism.synthesis._helices import HelixAxis, ideal_backbone, side_chain

AXIS = HelixAxis(centre_in_angstroms=(1.0, -2.0, 3.0), direction=(1.0, 2.0, -0.5), phase_in_degrees=40.0, residues=20)


def angle_at(a, b, c):
    u, v = a - b, c - b
    cosine = (u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)
    return np.degrees(np.arccos(cosine))


def dihedral(a, b, c, d):
    axis = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    v = (a - b) - ((a - b) * axis).sum(-1, keepdims=True) * axis
    w = (d - c) - ((d - c) * axis).sum(-1, keepdims=True) * axis
    return np.degrees(np.arctan2((np.cross(axis, v) * w).sum(-1), (v * w).sum(-1)))


def test_helix_rises_and_turns_by_the_book():
    atoms = ideal_backbone(AXIS)
    direction = np.array(AXIS.direction) / np.linalg.norm(AXIS.direction)
    relative = atoms - np.array(AXIS.centre_in_angstroms)
    height = relative @ direction
    np.testing.assert_allclose(np.diff(height, axis=0), 1.5, atol=1e-9)
    radial = relative - height[..., None] * direction
    np.testing.assert_allclose(np.linalg.norm(radial[:, 1], axis=-1), 2.28, atol=0.01)  # Cα of the α-helix
    turn = np.arctan2((np.cross(radial[:-1, 1], radial[1:, 1]) @ direction), (radial[:-1, 1] * radial[1:, 1]).sum(-1))
    np.testing.assert_allclose(np.degrees(turn), 100.0, atol=1e-6)  # positive: right-handed


def test_peptides_have_the_geometry_of_proteins():
    n, ca, c, o, cb = (ideal_backbone(AXIS)[:, i] for i in range(5))
    length = np.linalg.norm
    for a, b, want in ((n, ca, 1.458), (ca, c, 1.525), (c[:-1], n[1:], 1.329), (c, o, 1.231), (ca, cb, 1.530)):
        np.testing.assert_allclose(length(a - b, axis=-1), want, atol=0.02)
    np.testing.assert_allclose(angle_at(n, ca, c), 111.0, atol=1.0)
    np.testing.assert_allclose(angle_at(ca[:-1], c[:-1], n[1:]), 117.2, atol=1.0)
    np.testing.assert_allclose(np.abs(dihedral(ca[:-1], c[:-1], n[1:], ca[1:])), 180.0, atol=2.0)
    np.testing.assert_allclose(dihedral(c[:-1], n[1:], ca[1:], c[1:]), -61.7, atol=1.0)
    np.testing.assert_allclose(length(o[:-4] - n[4:], axis=-1), 2.93, atol=0.02)  # hydrogen bond i to i + 4
    chirality = (np.cross(n - ca, c - ca) * (cb - ca)).sum(-1)
    assert (chirality > 2).all()  # L-residues


def test_side_chains_keep_bonds_and_torsions():
    backbone = ideal_backbone(AXIS)
    chain = side_chain(backbone, (-65.0, 180.0, 62.0))
    atoms = np.concatenate([backbone[:, [0, 1, 4]], chain], 1)
    np.testing.assert_allclose(np.linalg.norm(np.diff(atoms[:, 2:], axis=1), axis=-1), 1.52, atol=1e-6)
    for i, want in enumerate((-65.0, 180.0, 62.0)):
        found = dihedral(*(atoms[:, i + j] for j in range(4)))
        assert np.allclose(np.cos(np.radians(found - want)), 1.0)


@pytest.mark.parametrize(
    ("kind", "mass", "radius"),
    [("shell", (390, 480), (58, 65)), ("barrel", (200, 300), (58, 72)), ("globule", (45, 75), (33, 45))],
)
def test_phantoms_have_their_size_and_nothing_clashes(kind, mass, radius):
    made = phantom(kind)
    assert mass[0] < made.mass_in_kilodaltons < mass[1]
    assert radius[0] < made.radius_in_angstroms < radius[1]
    pairs = cKDTree(made.positions_in_angstroms).query_pairs(3.2 - 1e-6, output_type="ndarray")
    assert (made.helix_of_atom[pairs[:, 0]] == made.helix_of_atom[pairs[:, 1]]).all()
    assert set(np.unique(made.atomic_numbers)) == {6, 7, 8}


def test_shell_is_hollow_like_ferritin():
    made = phantom("shell")
    distance = np.linalg.norm(made.positions_in_angstroms, axis=1)
    assert np.quantile(distance, [0.01, 0.99]) == pytest.approx([40, 60], abs=3)
    assert len(made.axes) * 24 == made.helix_of_atom.max() + 1


@pytest.mark.parametrize(("kind", "order"), [("shell", 24), ("barrel", 14)])
def test_symmetry_maps_every_atom_onto_one_of_its_element(kind, order):
    made = phantom(kind)
    tree = cKDTree(made.positions_in_angstroms)
    group = point_group_matrices(made.symmetry).double().numpy()
    assert len(group) == order
    for matrix in group:
        distance, partner = tree.query(made.positions_in_angstroms @ matrix.T)
        assert distance.max() < 1e-3
        assert (made.atomic_numbers[partner] == made.atomic_numbers).all()
    turned = (
        made.positions_in_angstroms @ np.array([[c := math.cos(0.4), -(s := math.sin(0.4)), 0], [s, c, 0], [0, 0, 1]]).T
    )
    assert tree.query(turned)[0].max() > 0.5  # and no other rotation does


def test_phantoms_depend_on_their_seed_only():
    first = phantom.__wrapped__("barrel", 0).positions_in_angstroms
    np.testing.assert_array_equal(first, phantom("barrel", 0).positions_in_angstroms)
    assert phantom("barrel", 1).positions_in_angstroms.shape != first.shape or not np.allclose(
        first, phantom("barrel", 1).positions_in_angstroms
    )
    with pytest.raises(InputError, match="shell"):
        phantom("ribosome")
    assert torch.equal(point_group_matrices("O")[0], torch.eye(3))  # the first copy is the unit itself
