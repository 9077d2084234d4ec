from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoprism.core import InputError, euler_to_matrix
from cryoprism.formats import (
    Coordinates,
    find_acquisition,
    pose_to_euler,
    read_catalogue,
    read_coordinates,
    read_cs,
    read_epu_xml,
    read_mdoc,
    read_particles,
    read_star,
    read_structure,
    write_coordinates,
    write_mrc,
)

MDOC = """PixelSpacing = 0.83
Voltage = 300
ImageFile = a.tif
[T = SerialEM: Titan]

[ZValue = 0]
TiltAngle = 0.01
TargetDefocus = -1.5
Magnification = 105000
ExposureDose = 48.2
NumSubFrames = 40
GainReference = CountRef.mrc
DateTime = 20-Nov-23  11:26:42
"""

EPU = """<?xml version="1.0"?>
<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects"
 xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
 <CustomData>
  <a:KeyValueOfstringanyType><a:Key>AppliedDefocus</a:Key><a:Value>-1.8E-06</a:Value></a:KeyValueOfstringanyType>
  <a:KeyValueOfstringanyType><a:Key>Dose</a:Key><a:Value>4.0E+21</a:Value></a:KeyValueOfstringanyType>
 </CustomData>
 <SpatialScale><pixelSize><x><numericValue>7.3E-11</numericValue></x></pixelSize></SpatialScale>
 <microscopeData>
  <acquisition><acquisitionDateTime>2023-11-20T11:26:42</acquisitionDateTime></acquisition>
  <gun><AccelerationVoltage>200000</AccelerationVoltage></gun>
  <optics><TemMagnification><NominalMagnification>150000</NominalMagnification></TemMagnification></optics>
  <stage><Position><A>0.5235987755982988</A></Position></stage>
 </microscopeData>
</MicroscopeImage>
"""


def test_mdoc_units_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc.mdoc"
    path.write_text(MDOC)
    (entry,) = read_mdoc(path)
    assert entry.target_defocus_in_angstroms == 15000  # SerialEM: negative is underfocus
    assert (entry.voltage_in_kilovolts, entry.pixel_size_in_angstroms) == (300, 0.83)
    assert (entry.exposure_in_electrons_per_square_angstrom, entry.frames) == (48.2, 40)
    path.write_text("nothing here")
    with pytest.raises(InputError, match="key = value"):
        read_mdoc(path)


def test_epu_units_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(EPU)
    entry = read_epu_xml(path)
    assert entry.target_defocus_in_angstroms == pytest.approx(18000)
    assert entry.voltage_in_kilovolts == pytest.approx(200)
    assert entry.pixel_size_in_angstroms == pytest.approx(0.73)
    assert entry.exposure_in_electrons_per_square_angstrom == pytest.approx(40)
    assert entry.tilt_in_degrees == pytest.approx(30)
    for bad, message in ((EPU[:200], "well-formed"), ("<a/>", "microscopeData"), ("<!DOCTYPE a><a/>", "document type")):
        path.write_text(bad)
        with pytest.raises(InputError, match=message):
            read_epu_xml(path)


def test_metadata_beside_images_reaches_the_catalogue(tmp_path: Path) -> None:
    for name in ("a.mrc", "FoilHole_1_Fractions.mrc"):
        write_mrc(tmp_path / name, np.ones((4, 5)), 1.0)
    (tmp_path / "a.mrc.mdoc").write_text(MDOC)
    (tmp_path / "FoilHole_1.xml").write_text(EPU)
    catalogue = read_catalogue(tmp_path, spherical_aberration_in_millimeters=2.7, amplitude_contrast=0.1)
    assert [catalogue.optics_of(r).pixel_size_in_angstroms for r in catalogue] == pytest.approx([0.73, 0.83])
    assert [catalogue.optics_of(r).voltage_in_kilovolts for r in catalogue] == pytest.approx([200, 300])
    assert [r.exposure_in_electrons_per_square_angstrom for r in catalogue] == pytest.approx([40, 48.2])
    assert find_acquisition(tmp_path / "none.mrc") is None


@pytest.mark.parametrize("shape", [(100, 120), (101, 121)])
@pytest.mark.parametrize("suffix", [".star", ".box", ".cs"])
@pytest.mark.parametrize("box", [20, 21])
def test_coordinates_round_trip(tmp_path: Path, suffix: str, shape: tuple[int, int], box: int) -> None:
    rng = np.random.default_rng(1)
    xy = torch.from_numpy(np.stack([rng.integers(0, shape[1], 30), rng.integers(0, shape[0], 30)], 1).astype(float))
    path = tmp_path / f"c{suffix}"
    write_coordinates(path, Coordinates(xy), box_in_pixels=box, micrograph="m.mrc", micrograph_shape=shape)
    torch.testing.assert_close(read_coordinates(path).xy_in_pixels, xy, atol=1e-4, rtol=0)
    flipped = read_coordinates(path, flip_y_height=shape[0]).xy_in_pixels
    torch.testing.assert_close(flipped[:, 1], shape[0] - 1 - xy[:, 1], atol=1e-4, rtol=0)


def test_a_box_holds_its_centre_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.box").write_text("10 20 4 4\n10\t20\t5\t5\n")
    got = read_coordinates(tmp_path / "a.box").xy_in_pixels.tolist()
    assert got == [[10 + 4 // 2, 20 + 4 // 2], [10 + 5 // 2, 20 + 5 // 2]]


def test_coordinate_errors(tmp_path: Path) -> None:
    (tmp_path / "a.box").write_text("1 2 three 4\n")
    (tmp_path / "a.txt").write_text("1 2\n")
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateX\n1\n")
    text = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n1 2 a.mrc\n3 4 b.mrc\n"
    (tmp_path / "two.star").write_text(text)
    for name in ("a.box", "a.txt", "a.star", "none.star", "two.star"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_coordinates(tmp_path / name)
    assert read_coordinates(tmp_path / "two.star", micrograph="x/b.mrc").xy_in_pixels.tolist() == [[3, 4]]
    with pytest.raises(InputError, match="box size"):
        write_coordinates(tmp_path / "b.box", Coordinates(torch.zeros(1, 2)))


@pytest.mark.real
def test_real_coordinates(data: Path) -> None:
    got = read_coordinates(data / "apoferritin/coordinates/May08_03.15.02.star")
    assert 100 < len(got) < 300
    assert got.xy_in_pixels[0].tolist() == [1132.5, 14.0]


# cryoSPARC ------------------------------------------------------------------------------------------------------------


def test_poses_are_transposed_rotation_vectors() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)))
    rot, tilt, psi = pose_to_euler(vectors).unbind(-1)
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(euler_to_matrix(rot, tilt, psi).numpy(), expected, atol=1e-6)


def micrograph_table(folder: Path) -> np.ndarray:
    fields = [
        ("uid", "<u8"),
        ("micrograph_blob/path", "S40"),
        ("micrograph_blob/shape", "<u4", (2,)),
        ("micrograph_blob/psize_A", "<f4"),
        ("mscope_params/accel_kv", "<f4"),
        ("mscope_params/cs_mm", "<f4"),
        ("mscope_params/total_dose_e_per_A2", "<f4"),
    ]
    table = np.zeros(2, dtype=fields)
    table["uid"] = (5, 3)
    table["micrograph_blob/path"] = (b">J2/a.mrc", b"J2/b.mrc")
    table["micrograph_blob/psize_A"] = 0.83
    table["mscope_params/accel_kv"] = 300
    table["mscope_params/cs_mm"] = 2.7
    table["mscope_params/total_dose_e_per_A2"] = 50
    for name in ("a", "b"):
        (folder / "J2").mkdir(exist_ok=True)
        write_mrc(folder / f"J2/{name}.mrc", np.ones((4, 5)), 0.83)
    return table


def test_cs_micrographs_with_passthrough(tmp_path: Path) -> None:
    table = micrograph_table(tmp_path)
    (tmp_path / "J3").mkdir()
    with (tmp_path / "J3/mics.cs").open("wb") as stream:
        np.save(stream, table)
    with pytest.raises(InputError, match="--amplitude-contrast"):
        read_catalogue(tmp_path / "J3/mics.cs")
    extra = np.zeros(2, dtype=[("uid", "<u8"), ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4")])
    extra["uid"], extra["ctf/amp_contrast"], extra["ctf/df1_A"], extra["ctf/df2_A"] = (3, 5), 0.1, (1000, 2000), 900
    with (tmp_path / "J3/more.cs").open("wb") as stream:
        np.save(stream, extra)
    joined = read_cs(tmp_path / "J3/mics.cs", [tmp_path / "J3/more.cs"])
    assert joined["ctf/df1_A"].tolist() == [2000, 1000]  # by uid, not by row
    with (tmp_path / "J3/all.cs").open("wb") as stream:
        np.save(stream, joined)
    catalogue = read_catalogue(tmp_path / "J3/all.cs")
    assert [r.name for r in catalogue] == ["a", "b"]
    ctf = catalogue.micrographs[0].ctf
    assert ctf is not None
    assert ctf.defocus_u_in_angstroms == 2000
    assert catalogue.micrographs[0].exposure_in_electrons_per_square_angstrom == 50


def test_cs_never_unpickles(tmp_path: Path) -> None:
    with (tmp_path / "x.cs").open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.cs"):
        read_cs(tmp_path / "x.cs")
    (tmp_path / "y.cs").write_text("not numpy")
    with pytest.raises(InputError, match=r"y\.cs"):
        read_catalogue(tmp_path / "y.cs")


@pytest.mark.real
def test_real_cs_particles(data: Path) -> None:
    path = data / "particles/cryosparc/particles.cs"
    particles = read_particles(path)
    raw = np.load(path)
    assert len(particles) == 2019
    assert particles.image_names[0].startswith("000001@J19/extract/")
    assert particles.defocus is not None
    assert particles.origins_in_angstroms is not None
    assert float(particles.defocus[0, 2]) == pytest.approx(np.rad2deg(raw["ctf/df_angle_rad"][0]))
    assert particles.origins_in_angstroms[0].tolist() == pytest.approx([11.334375 * 2.95, -1.828125 * 2.95], rel=1e-5)
    assert set(particles.half_set.tolist()) <= {1, 2} if particles.half_set is not None else False
    with pytest.raises(InputError, match="names no micrographs"):
        read_catalogue(path)


@pytest.mark.real
def test_real_relion_particles(data: Path) -> None:
    old = read_particles(data / "particles/empiar_10081/sample_particles_relion30.star")
    assert float(old.pixel_size_in_angstroms[0]) == pytest.approx(1e4 * 5 / 37369.207031)
    assert old.origins_in_angstroms is not None
    assert float(old.origins_in_angstroms[0, 0]) == pytest.approx(0.1996 * 1e4 * 5 / 37369.207031)
    new = read_particles(data / "particles/filament/relion31.star")
    assert (len(new), float(new.pixel_size_in_angstroms[0])) == (5, 2.806)


@pytest.mark.relion
@pytest.mark.real
def test_relion_and_we_see_the_same_particles(tmp_path: Path, relion: str, data: Path) -> None:
    source = data / "particles/empiar_10081/sample_particles_relion30.star"
    out = tmp_path / "converted.star"
    done = subprocess.run(
        ["relion_convert_star", "--i", str(source), "--o", str(out)], capture_output=True, text=True, cwd=source.parent
    )
    assert out.is_file(), done.stdout + done.stderr
    ours, theirs = read_particles(source), read_particles(out)
    assert theirs.origins_in_angstroms is not None
    assert ours.origins_in_angstroms is not None
    torch.testing.assert_close(ours.origins_in_angstroms, theirs.origins_in_angstroms, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pixel_size_in_angstroms, theirs.pixel_size_in_angstroms, atol=1e-5, rtol=0)
    assert "optics" in {block.name for block in read_star(out)}


# Structures -----------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_ferritin_assembly_is_an_octahedral_shell(data: Path) -> None:
    path = data / "structures/4oyn.pdb.gz"
    one = read_structure(path, include_waters=False, include_hydrogens=False)
    shell = read_structure(path, "1", include_waters=False, include_hydrogens=False)
    cell = read_structure(path, "cell", include_waters=False, include_hydrogens=False)
    assert len(shell) == 24 * len(one)
    assert len(cell) == 96 * len(one)
    assert len(set(shell.chains)) == 24 * len(set(one.chains))
    alpha = torch.tensor(
        [name == "CA" and residue != "CA" for name, residue in zip(shell.atom_names, shell.residue_names, strict=True)]
    )
    positions = shell.select(alpha).positions_in_angstroms
    radius = (positions - positions.mean(0)).norm(dim=1)
    assert 25 < float(radius.min()) < float(radius.max()) < 70
    # Octahedral symmetry: the second moments of the shell are equal along all axes and do not mix.
    centred = positions - positions.mean(0)
    moments = centred.T @ centred / len(centred)
    torch.testing.assert_close(moments, moments[0, 0] * torch.eye(3), atol=0.05, rtol=1e-3)
    with pytest.raises(InputError, match="it has: 1"):
        read_structure(path, "7")


@pytest.mark.real
def test_every_structure_reads_as_gemmi_counts_it(data: Path) -> None:
    files = sorted(data.glob("structures/*.gz"))
    for path in [*files[:3], data / "structures/1kqe.cif.gz", data / "structures/1crn.cif.gz"]:
        atoms = read_structure(path)
        structure = gemmi.read_structure(str(path))
        assert len(atoms) == sum(model.count_atom_sites() for model in structure)
        first = structure[0][0][0][0]
        assert atoms.positions_in_angstroms[0].tolist() == pytest.approx(first.pos.tolist(), abs=1e-3)
        assert atoms.atomic_numbers.min() > 0


def test_coordinates_that_are_no_numbers_are_not_taken_for_zero(tmp_path: Path) -> None:
    line = "ATOM      1  CA  GLY A   7      11.104  -6.134   3.000  0.50 20.00           C  \n"
    (tmp_path / "a.pdb").write_text(line + line.replace("  11.104", "********") + "END\n")
    with pytest.raises(InputError, match=r"a\.pdb: has '\*+ .*' in place of coordinates in line 2"):
        read_structure(tmp_path / "a.pdb")
    (tmp_path / "b.pdb").touch()
    with pytest.raises(InputError, match=r"b\.pdb: is empty"):
        read_structure(tmp_path / "b.pdb")


def test_pdb_text_gz_and_errors(tmp_path: Path) -> None:
    line = "ATOM      1  CA  GLY A   7      11.104  -6.134   3.000  0.50 20.00           C  \nEND\n"
    (tmp_path / "a.pdb").write_text(line)
    (tmp_path / "b.pdb.gz").write_bytes(gzip.compress(line.encode()))
    for name in ("a.pdb", "b.pdb.gz"):
        atoms = read_structure(tmp_path / name)
        torch.testing.assert_close(atoms.positions_in_angstroms, torch.tensor([[11.104, -6.134, 3.0]]))
        assert (atoms.atomic_numbers.tolist(), atoms.occupancies.tolist(), atoms.residue_numbers) == ([6], [0.5], (7,))
        assert atoms.b_factors_in_square_angstroms.tolist() == [20.0]
    with pytest.raises(InputError, match="no unit cell"):
        read_structure(tmp_path / "a.pdb", "cell")
    (tmp_path / "c.cif").write_text("data_x\nloop_\n_a.b\n")
    (tmp_path / "d.pdb").write_text("nothing\n")
    (tmp_path / "e.pdb.gz").write_bytes(gzip.compress(line.encode())[:-12])
    for name in ("c.cif", "d.pdb", "e.pdb.gz", "none.pdb"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_structure(tmp_path / name)
