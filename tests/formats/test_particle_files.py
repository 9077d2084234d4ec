"""Particle tables and stacks: round trips, RELION as the judge, and damaged input."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import (
    Particles,
    read_mrc_header,
    read_particle_images,
    read_particles,
    read_star,
    write_mrc,
    write_particles,
    write_stack,
)


def images_of(count: int, box: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, box, box, generator=torch.Generator().manual_seed(seed))


def table_of(names: list[str], **changed: object) -> Particles:
    n = len(names)
    ones = torch.ones(n, dtype=torch.float64)
    particles = Particles(tuple(names), tuple(["m.mrc"] * n), 1.5 * ones, 300 * ones, 2.7 * ones, 0.1 * ones)
    return replace(particles, **changed)  # type: ignore[arg-type]


def full_table(folder: Path, n: int = 7, box: int = 12) -> Particles:
    write_stack(folder / "s.mrcs", images_of(n, box), 1.5)
    draw = torch.Generator().manual_seed(3)

    def numbers(*shape: int) -> Tensor:
        return 100 * torch.rand(*shape, generator=draw, dtype=torch.float64)

    return table_of(
        [f"{i + 1:06d}@{folder / 's.mrcs'}" for i in range(n)],
        angles_in_degrees=numbers(n, 3),
        origins_in_angstroms=numbers(n, 2) - 50,
        coordinates_in_pixels=numbers(n, 2),
        defocus=200 * numbers(n, 3),
        phase_shift_in_degrees=numbers(n),
        half_set=torch.arange(n) % 2 + 1,
        optics_group=torch.arange(n) % 2 + 1,
        beam_tilt_in_milliradians=(torch.arange(n) % 2).double()[:, None] * torch.tensor([0.3, -0.2]).double(),
        image_size=torch.full((n,), box),
        micrograph_pixel_size_in_angstroms=torch.full((n,), 0.75, dtype=torch.float64),
        ctf_b_factor_in_square_angstroms=numbers(n),
        ctf_scale=numbers(n),
        class_number=torch.arange(n) + 1,
    )


def assert_same(ours: Particles, theirs: Particles) -> None:
    for field in fields(Particles):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-6, msg=field.name)
        elif field.name not in ("source", "table", "optics_table"):
            assert one == other, field.name


def test_every_field_survives_a_round_trip(tmp_path: Path) -> None:
    particles = full_table(tmp_path)
    assert all(
        getattr(particles, f.name) is not None for f in fields(particles) if f.name not in ("table", "optics_table")
    )
    write_particles(tmp_path / "p.star", particles)
    again = read_particles(tmp_path / "p.star")
    assert_same(particles, again)
    write_particles(tmp_path / "q.star", again)
    assert_same(particles, read_particles(tmp_path / "q.star"))


def test_unknown_columns_stay_and_what_is_none_now_goes(tmp_path: Path) -> None:
    write_particles(tmp_path / "p.star", full_table(tmp_path), extra_columns={"abcUnknown": list("tuvwxyz")})
    text = (tmp_path / "p.star").read_text().replace("_rlnImageDimensionality", "_abcOptics")
    (tmp_path / "p.star").write_text(text)
    read = read_particles(tmp_path / "p.star")
    chosen = replace(read.subset([4, 0]), angles_in_degrees=None, beam_tilt_in_milliradians=None)
    write_particles(tmp_path / "q.star", chosen)
    optics, table = read_star(tmp_path / "q.star")
    assert table.column("abcUnknown") == ("x", "t")
    assert optics.column("abcOptics") == ("2",)
    assert "rlnAngleRot" not in table
    assert "rlnBeamTiltX" not in optics
    assert read_particles(tmp_path / "q.star").image_names == (read.image_names[4], read.image_names[0])


def test_a_group_is_split_where_its_optics_differ(tmp_path: Path) -> None:
    particles = table_of(["1@a.mrcs", "2@a.mrcs", "3@a.mrcs"], optics_group=torch.tensor([1, 1, 2]))
    pixel = torch.tensor([1.5, 2.0, 1.5], dtype=torch.float64)
    write_particles(tmp_path / "p.star", replace(particles, pixel_size_in_angstroms=pixel))
    again = read_particles(tmp_path / "p.star")
    assert again.pixel_size_in_angstroms.tolist() == [1.5, 2.0, 1.5]
    assert again.optics_group is not None
    assert again.optics_group.tolist() == [1, 2, 3]
    assert again.optics_table is not None
    assert len(set(again.optics_table.column("rlnOpticsGroupName"))) == 3


def test_subset_takes_masks_and_positions_from_every_column(tmp_path: Path) -> None:
    particles = full_table(tmp_path)
    mask = torch.tensor([True, False, False, True, False, False, True])
    for choice in (mask, [0, 3, 6], torch.tensor([0, 3, 6])):
        chosen = particles.subset(choice)
        assert len(chosen) == 3
        assert_same(chosen, particles.subset([0, 3, 6]))
    assert particles.subset([6, 0]).class_number.tolist() == [7, 1]  # type: ignore[union-attr]


def test_images_come_in_the_order_asked_for_from_several_stacks(tmp_path: Path) -> None:
    one, two = images_of(5, seed=1), images_of(4, seed=2)
    assert write_stack(tmp_path / "one.mrcs", one, 1.5) == 5
    write_mrc(tmp_path / "two.mrcs", two, 1.5, mode=12)
    names = ["2@two.mrcs", "000005@one.mrcs", "1@one.mrcs", "4@two.mrcs"]
    particles = table_of(names, source=str(tmp_path / "p.star"))
    expected = torch.stack([two[1].half().float(), one[4], one[0], two[3].half().float()])
    torch.testing.assert_close(read_particle_images(particles), expected, rtol=0, atol=0)
    torch.testing.assert_close(read_particle_images(particles, [3, 1]), expected[[3, 1]], rtol=0, atol=0)
    mask = torch.tensor([False, True, True, False])
    torch.testing.assert_close(read_particle_images(particles, mask), expected[1:3], rtol=0, atol=0)


def test_a_stack_is_streamed_and_its_header_holds(tmp_path: Path) -> None:
    whole = images_of(150, 9)
    alive = 0

    def parts() -> Iterator[Tensor]:
        nonlocal alive
        for image in whole[:100]:
            alive += 1
            yield image
        yield whole[100:]

    assert write_stack(tmp_path / "s.mrcs", parts(), 2.25) == 150
    assert alive == 100
    assert mrcfile.validate(tmp_path / "s.mrcs")
    with mrcfile.open(tmp_path / "s.mrcs") as mrc:
        assert mrc.is_image_stack()
        assert float(mrc.voxel_size.x) == pytest.approx(2.25)
        np.testing.assert_array_equal(mrc.data, whole.numpy())
        assert float(mrc.header.dmean) == pytest.approx(float(whole.mean()), abs=1e-6)
        assert float(mrc.header.rms) == pytest.approx(float(whole.std(correction=0)), rel=1e-5)
    assert read_mrc_header(tmp_path / "s.mrcs").space_group == 0


def test_a_stack_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", images_of(2), 1.0)
    before = (tmp_path / "s.mrcs").read_bytes()
    bad = images_of(3)
    bad[2, 1, 1] = float("nan")
    for images, match in (
        (bad, "not finite"),
        ([torch.zeros(8, 8), torch.zeros(9, 9)], r"\(9, 9\)"),
        ([], "no images"),
        (torch.zeros(0, 4, 4), "no images"),
    ):
        with pytest.raises(InputError, match=match):
            write_stack(tmp_path / "s.mrcs", images, 1.0)
        assert (tmp_path / "s.mrcs").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.mrcs"]


def test_bad_images_name_the_row(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrcs", images_of(3), 1.0)
    write_stack(tmp_path / "b.mrcs", images_of(3, 16), 1.0)
    write_mrc(tmp_path / "c.mrcs", torch.zeros(2, 8, 12), 1.0)
    nan = images_of(3)
    nan[1, 0, 0] = float("nan")
    write_mrc(tmp_path / "n.mrcs", nan, 1.0)
    (tmp_path / "t.mrcs").write_bytes((tmp_path / "a.mrcs").read_bytes()[:-100])
    for names, match in (
        (["1@a.mrcs", "4@a.mrcs"], r"row 2: asks for image 4 of .*a\.mrcs, which holds 3"),
        (["1@a.mrcs", "1@gone.mrcs"], r"row 2: names images in .*gone\.mrcs, which does not exist"),
        (["1@a.mrcs", "1@b.mrcs"], r"row 2: its images in .*b\.mrcs are 16 pixels wide"),
        (["1@c.mrcs"], "12 x 8"),
        (["1@n.mrcs", "2@n.mrcs"], "row 2: image 2@n.mrcs holds pixels that are NaN"),
        (["1@t.mrcs"], "cut short"),
        (["a.mrcs"], "without a number"),
    ):
        with pytest.raises(InputError, match=match):
            read_particle_images(table_of(names, source=str(tmp_path / "p.star")))


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    write_particles(tmp_path / "good.star", full_table(tmp_path))
    good = (tmp_path / "good.star").read_text()
    optics, table = good.split("data_particles")
    lines = optics.splitlines()
    cases = {
        "no optics block": ("data_particles" + table, "no data_optics"),
        "one group gone": (
            "\n".join(line for line in lines if "opticsGroup2" not in line) + "\ndata_particles" + table,
            "group 2",
        ),
        "NaN": (
            good.replace(f"{read_particles(tmp_path / 'good.star').defocus[2, 0]:.6f}", "nan"),
            "rlnDefocusU is nan in row 3",
        ),  # type: ignore[index]
        "text": (
            optics.replace("300.000000", "strong") + "data_particles" + table,
            "rlnVoltage is missing or no number",
        ),
        "empty": ("", "empty or not a STAR"),
        "no rows": (good[: good.rindex("rlnRandomSubset")] + "rlnRandomSubset #20\n", "no rows"),
        "row cut short": (good.rstrip()[:-30], "values for the"),
    }
    for text, match in cases.values():
        (tmp_path / "bad.star").write_text(text)
        with pytest.raises(InputError, match=match):
            read_particles(tmp_path / "bad.star")
    with pytest.raises(InputError, match="no particles"):
        write_particles(tmp_path / "none.star", table_of([]))
    with pytest.raises(InputError, match="2 values for 1 rows"):
        write_particles(tmp_path / "none.star", table_of(["1@a.mrcs"]), extra_columns={"a": [1, 2]})
    assert not (tmp_path / "none.star").exists()


def test_names_resolve_wherever_the_new_table_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project/Extract").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    write_stack(tmp_path / "project/Extract/a.mrcs", images_of(2), 1.0)
    beside = table_of(["2@a.mrcs"], source=str(tmp_path / "project/Extract/p.star"))
    monkeypatch.chdir(tmp_path / "project")
    write_particles(tmp_path / "elsewhere/p.star", beside)
    again = read_particles(tmp_path / "elsewhere/p.star")
    assert again.image_names == ("2@Extract/a.mrcs",)
    assert again.micrograph_names == ("m.mrc",)
    torch.testing.assert_close(read_particle_images(again), images_of(2)[1:], rtol=0, atol=0)


@pytest.mark.real
def test_real_tables_survive(tmp_path: Path, data: Path) -> None:
    for name in (
        "empiar_10081/sample_particles_relion30.star",
        "filament/relion31.star",
        "cryosparc/particles.cs",
        "empiar_10017/particles.star",
    ):
        ours = read_particles(data / "particles" / name).subset(range(5))
        write_particles(tmp_path / "p.star", ours)
        again = read_particles(tmp_path / "p.star")
        for field in ("angles_in_degrees", "origins_in_angstroms", "defocus", "pixel_size_in_angstroms", "half_set"):
            one, other = getattr(ours, field), getattr(again, field)
            assert (one is None) == (other is None), (name, field)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        if ours.table is not None:
            assert again.table is not None
            for label in set(ours.table.labels) & {
                "rlnMaxValueProbDistribution",
                "rlnGroupNumber",
                "rlnNormCorrection",
            }:
                assert again.table.column(label) == ours.table.column(label)


@pytest.mark.real
def test_real_images(data: Path) -> None:
    for name, count, box in (
        ("empiar_10081/sample_particles_relion30.star", 17, 200),
        ("filament/relion31.star", 5, 256),
    ):
        images = read_particle_images(read_particles(data / "particles" / name))
        assert tuple(images.shape) == (count, box, box)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.relion
@pytest.mark.parametrize("box", [24, 25])
def test_relion_reads_our_table_and_stack(tmp_path: Path, relion: str, box: int) -> None:
    particles = full_table(tmp_path, n=6, box=box)
    still = {"angles_in_degrees": torch.zeros(6, 3), "origins_in_angstroms": torch.zeros(6, 2)}
    write_particles(tmp_path / "p.star", replace(particles, **still))
    stats = run("relion_image_handler", "--i", "s.mrcs", "--stats", cwd=tmp_path)
    assert stats.count(f"(x,y,z,n)= {box} x {box} x 1 x 1") == 6
    assert stats.count("angpix = 1.5") == 6
    run("relion_stack_create", "--i", "p.star", "--o", "out", cwd=tmp_path)
    with mrcfile.open(tmp_path / "out.mrcs", permissive=True) as mrc:
        np.testing.assert_allclose(mrc.data, images_of(6, box).numpy(), atol=1e-5)
    theirs = read_particles(tmp_path / "out.star")
    assert theirs.defocus is not None
    assert particles.defocus is not None
    torch.testing.assert_close(theirs.defocus, particles.defocus, atol=1e-3, rtol=0)
    run("relion_reconstruct", "--i", "p.star", "--o", "map.mrc", "--ctf", cwd=tmp_path)
    assert read_mrc_header(tmp_path / "map.mrc").shape == (box,) * 3
