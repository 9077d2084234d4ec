"""A model that is one unit of a symmetric particle is looked up as the whole particle."""

import numpy as np
import pytest

from cryoprism.core import point_group_matrices
from cryoprism.evaluation.novelty import describe_file

CENTRE = (30.0, -20.0, 45.0)


def write(path, places):
    """A trace of alpha carbons."""
    rows = [
        f"ATOM  {i + 1:5d}  CA  ALA {'ABCD'[i // 60]}{i % 60 + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00{'C':>12s}"
        for i, (x, y, z) in enumerate(places)
    ]
    path.write_text("\n".join([*rows, "END", ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Files of a lopsided unit off the axes, and of all its copies by D2 about a centre."""
    folder = tmp_path_factory.mktemp("particle")
    generator = np.random.default_rng(7)
    unit = generator.normal(size=(60, 3)) * (9.0, 4.0, 6.0) + (22.0, 12.0, 15.0)
    turns = point_group_matrices("D2").double().numpy()
    whole = np.concatenate([unit @ turn.T for turn in turns])
    return write(folder / "unit.pdb", unit + CENTRE), write(folder / "whole.pdb", whole + CENTRE)


def distance(one, other):
    return float(np.linalg.norm(one.vector - other.vector))


def test_a_unit_with_its_symmetry_has_the_shape_of_the_particle(shapes):
    unit, whole = shapes
    particle = describe_file(whole)
    found = describe_file(unit, symmetry="D2", centre_in_angstroms=CENTRE)
    assert distance(found, particle) < 0.01
    assert found.entry.radius_of_gyration_in_angstroms == pytest.approx(
        particle.entry.radius_of_gyration_in_angstroms, rel=0.01
    )
    assert any("whole particle" in note for note in found.notes)


def test_alone_or_about_another_centre_or_in_another_group_it_has_not(shapes):
    unit, whole = shapes
    particle = describe_file(whole)
    for wrong in ({}, {"symmetry": "D2"}, {"symmetry": "C2", "centre_in_angstroms": CENTRE}):
        assert distance(describe_file(unit, **wrong), particle) > 0.1
    assert distance(describe_file(unit, symmetry="C1"), describe_file(unit)) == 0.0
