"""Euler angles, uniform rotations, and point groups; RELION's own programs as witnesses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryoprism.core import (
    euler_to_matrix,
    generator_for,
    matrix_to_euler,
    point_group_matrices,
    random_rotations,
)

ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60}
EYE = torch.eye(3, dtype=torch.float64)
needs_relion = pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not on the PATH")


def angles(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(v, dtype=torch.float64) for v in values)


def set_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance from a matrix of one set to the nearest one of the other."""
    distance = torch.cdist(a.reshape(len(a), 9).double(), b.reshape(len(b), 9).double())
    return float(torch.maximum(distance.amin(0).max(), distance.amin(1).max()))


def test_matrices_are_rotations_and_angles_come_back():
    generator = generator_for(1)
    rot, tilt, psi = (torch.rand(200, generator=generator, dtype=torch.float64) * span for span in (360, 180, 360))
    rot, psi = rot - 180, psi - 180
    matrices = euler_to_matrix(rot, tilt, psi)
    torch.testing.assert_close(matrices @ matrices.mT, EYE.expand(200, 3, 3))
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(200, dtype=torch.float64))
    for got, want in zip(matrix_to_euler(matrices), (rot, tilt, psi), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gimbal_lock_keeps_the_matrix_and_sets_rot_to_zero(tilt: float, dtype: torch.dtype):
    rot, psi = torch.tensor([20.0, -130.0, 170.0], dtype=dtype), torch.tensor([33.0, 170.0, -95.0], dtype=dtype)
    matrices = euler_to_matrix(rot, torch.full_like(rot, tilt), psi)
    back = matrix_to_euler(matrices)
    assert back[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(euler_to_matrix(*back), matrices, atol=1e-6, rtol=0)


def test_zyz_order():
    """A = Rz(psi) Ry(tilt) Rz(rot), each passive: a frame turned counter-clockwise."""
    rz = euler_to_matrix(*angles(30.0, 0.0, 0.0))
    assert rz[0, 1] == pytest.approx(0.5)  # the view's x axis lies between the map's x and y
    ry = euler_to_matrix(*angles(0.0, 30.0, 0.0))
    assert ry[2, 0] == pytest.approx(0.5)  # the beam leans towards the map's x
    product = euler_to_matrix(*angles(0.0, 0.0, 50.0)) @ ry @ rz
    torch.testing.assert_close(euler_to_matrix(*angles(30.0, 30.0, 50.0)), product)


@pytest.mark.relion
@needs_relion
@pytest.mark.parametrize("euler", [(40.0, 0.0, 0.0), (0.0, 90.0, 0.0), (35.0, 60.0, -20.0), (-110.0, 130.0, 75.0)])
def test_a_point_projects_where_relion_projects_it(tmp_path: Path, euler: tuple[float, float, float]):
    n, point = 48, np.array([9.0, -5.0, 4.0])  # x, y, z from the centre
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")
    blob = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2) / (2 * 2.0**2))
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(blob.astype(np.float32))
        file.voxel_size = 1.0
    flags = [
        text for name, value in zip(("rot", "tilt", "psi"), euler, strict=True) for text in (f"--{name}", str(value))
    ]
    command = ["relion_project", "--i", "map.mrc", "--o", "out.mrc", "--angpix", "1", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    image = np.squeeze(mrcfile.read(tmp_path / "out.mrc")).astype(float)
    image = np.where(image > 0.2 * image.max(), image, 0)
    centre = [float((image.sum(axis) * (np.arange(n) - n // 2)).sum() / image.sum()) for axis in (0, 1)]  # x, y
    want = euler_to_matrix(*angles(*euler)).numpy() @ point
    assert centre == pytest.approx(want[:2].tolist(), abs=0.2)  # its linear interpolation


@pytest.mark.parametrize(("symbol", "order"), ORDERS.items())
def test_point_groups_have_their_order_and_are_closed(symbol: str, order: int):
    group = point_group_matrices(symbol)
    assert group.shape == (order, 3, 3)
    assert group.dtype == torch.float32
    products = torch.einsum("aij,bjk->abik", group, group).reshape(-1, 3, 3)
    assert set_distance(products, group) < 1e-5
    distances = torch.cdist(group.reshape(order, 9), group.reshape(order, 9)) + 9 * torch.eye(order)
    assert float(distances.min()) > 0.1 or order == 1
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order))


@pytest.mark.relion
@needs_relion
@pytest.mark.parametrize("symbol", ["C2", "C5", "D2", "D3", "D7", "T", "O", "I", "I1", "I2"])
def test_point_groups_stand_as_in_relion(tmp_path: Path, symbol: str):
    optics = {
        "rlnOpticsGroup": 1,
        "rlnOpticsGroupName": "a",
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.1,
        "rlnImagePixelSize": 1.0,
        "rlnImageSize": 32,
        "rlnImageDimensionality": 2,
    }
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    row = {"rlnImageName": "1@x.mrcs", "rlnOpticsGroup": 1, **dict.fromkeys(names, 0.0)}
    starfile.write({"optics": pd.DataFrame([optics]), "particles": pd.DataFrame([row])}, tmp_path / "in.star")
    command = ["relion_particle_symmetry_expand", "--i", "in.star", "--o", "out.star", "--sym", symbol]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    table = starfile.read(tmp_path / "out.star")["particles"]
    theirs = euler_to_matrix(*(torch.tensor(table[name].tolist(), dtype=torch.float64) for name in names[:3]))
    assert set_distance(theirs, point_group_matrices(symbol)) < 1e-5


@pytest.mark.parametrize("symbol", ["", "X", "C0", "D", "I5", "C-1"])
def test_unknown_groups_are_refused_by_name(symbol: str):
    with pytest.raises(ValueError, match="point group"):
        point_group_matrices(symbol)


def test_random_rotations_are_uniform_and_repeat():
    rotations = random_rotations(20000, generator_for(2))
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(20000, 3, 3), atol=1e-5, rtol=0)
    assert float(rotations.mean(0).abs().max()) < 0.02
    # Directions are uniform on the sphere: cos tilt is uniform, rot and psi too; the angle has density (1 - cos)/π.
    rot, tilt, psi = matrix_to_euler(rotations.double())
    for values in ((torch.cos(torch.deg2rad(tilt)) + 1) / 2, (rot + 180) / 360, (psi + 180) / 360):
        ordered = values.sort().values
        gap = (ordered - (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000).abs().max()
        assert float(gap) < 1.95 / 20000**0.5  # Kolmogorov-Smirnov at the 0.1 % level
    angle = torch.arccos(((rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)).double()
    uniform = ((angle - angle.sin()) / torch.pi).sort().values
    assert float((uniform - (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000).abs().max()) < 1.95 / 20000**0.5
    assert torch.equal(rotations[:5], random_rotations(20000, generator_for(2))[:5])
