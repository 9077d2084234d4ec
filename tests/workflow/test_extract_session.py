"""``cryoprism extract``: from simulated and real micrographs to a table that RELION takes, resume, and bad input."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoprism.cli import extract, main
from cryoprism.core import CryoPrismWarning, InputError, OutputError
from cryoprism.formats import (
    Coordinates,
    read_catalogue,
    read_mrc_header,
    read_particle_images,
    read_particles,
    read_star,
    write_coordinates,
    write_mrc,
)
from cryoprism.formats.star import find_block
from cryoprism.restoration import LABELS
from cryoprism.workflow import ExtractConfig, extract_session
from cryoprism.workflow.particles.coordinates import session_coordinates

module = importlib.import_module("cryoprism.workflow.particles.extract_session")
STEMS = ("one", "two", "three")
XY = torch.tensor([[60.0, 70.0], [120.25, 55.0], [61.0, 71.0], [150.0, 140.0], [5.0, 100.0]], dtype=torch.float64)
SCORES = torch.tensor([0.4, 0.9, 0.7, 0.5, 0.8])


def micrograph(seed: int) -> Tensor:
    field = 100 + 5 * torch.randn(200, 220, generator=torch.Generator().manual_seed(seed))
    y, x = torch.arange(200)[:, None], torch.arange(220)[None, :]
    for px, py in XY.tolist():
        field = field - 12 * torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 50)
    return field


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three micrographs with CTF as after a restoration, the second tilted; coordinates in pick/coordinates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "restored/masks").mkdir(parents=True)
    (tmp_path / "pick/coordinates").mkdir(parents=True)
    rows = ""
    for number, stem in enumerate(STEMS):
        write_mrc(tmp_path / f"restored/{stem}.mrc", micrograph(number), 2.0)
        mask = torch.zeros(200, 220)
        mask[:, 90:] = LABELS["carbon"]
        write_mrc(tmp_path / f"restored/masks/{stem}.mrc", mask, 2.0, mode=0)
        write_coordinates(tmp_path / f"pick/coordinates/{stem}.star", Coordinates(XY, SCORES), micrograph=f"{stem}.mrc")
        rows += (
            f"{stem}.mrc 1 {20000 + 100 * number} 19000 35 15 4.5 0.9 {10 * number} 0.1 {0.02 * (number == 1)} 0 None\n"
        )
    rln = ("MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfMaxResolution")
    labels = [f"rln{name}" for name in (*rln, "CtfScalefactor", "CtfBfactor", "CtfFigureOfMerit")]
    labels += [f"cryoprism{name}" for name in ("DefocusGradientX", "DefocusGradientY", "Flags")]
    (tmp_path / "restored/micrographs.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnMicrographPixelSize\n_rlnMtfFileName\n1 mine 300 2.7 0.1 2.0 mtf.star\n\n"
        "data_micrographs\n\nloop_\n" + "".join(f"_{label}\n" for label in labels) + rows + "\n"
    )
    return tmp_path


def config(**changed: object) -> ExtractConfig:
    given = {
        "inputs": "restored/micrographs.star", "coordinates": "pick", "box_in_pixels": 40, "output": "out",
        "diameter_in_angstroms": 60.0,
    } | changed  # fmt: skip
    return ExtractConfig(**given)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["extract", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_whole_way(session: Path) -> None:
    summary = extract_session(config())
    # One of five is at the edge, and the first is a duplicate of the third, which scores higher.
    assert (summary.particles, summary.at_edge, summary.duplicates, summary.failed) == (9, 3, 3, ())
    particles = read_particles("out/particles.star")
    images = read_particle_images(particles)
    assert tuple(images.shape) == (9, 40, 40)
    assert read_mrc_header("out/particles/two.mrcs").shape == (3, 40, 40)
    assert particles.micrograph_names is not None
    assert list(particles.micrograph_names[::3]) == [f"restored/{stem}.mrc" for stem in STEMS]
    assert particles.coordinates_in_pixels is not None
    assert particles.origins_in_angstroms is not None
    torch.testing.assert_close(
        particles.coordinates_in_pixels - particles.origins_in_angstroms / 2.0,
        XY[[1, 2, 3]].repeat(3, 1),
    )
    assert float(images[:, 20, 20].min()) > 1  # bright
    assert particles.table is not None
    masked = particles.table.numbers("cryoprismMaskedFraction")
    np.testing.assert_allclose(masked[:3], [1, 0, 1])
    np.testing.assert_allclose(particles.table.numbers("rlnAutopickFigureOfMerit")[:3], [0.9, 0.7, 0.5], atol=1e-6)
    assert (session / "out/RELION_JOB_EXIT_SUCCESS").exists()


def test_optics_and_ctf_go_into_the_particles(session: Path) -> None:
    Path("restored/mtf.star").touch()  # stands beside the micrographs' table, not beside that of the particles
    extract_session(config(scaled_box_in_pixels=20))
    particles = read_particles("out/particles.star")
    assert particles.defocus is not None
    assert particles.phase_shift_in_degrees is not None
    assert particles.ctf_b_factor_in_square_angstroms is not None
    assert particles.ctf_scale is not None
    assert particles.image_size is not None
    assert particles.micrograph_pixel_size_in_angstroms is not None
    assert particles.pixel_size_in_angstroms.tolist() == [4.0] * 9
    assert particles.micrograph_pixel_size_in_angstroms.tolist() == [2.0] * 9
    assert particles.image_size.tolist() == [20] * 9
    assert particles.phase_shift_in_degrees.tolist() == [15.0] * 9
    assert particles.ctf_b_factor_in_square_angstroms[::3].tolist() == [0.0, 10.0, 20.0]
    assert particles.ctf_scale.tolist() == [0.9] * 9
    # The second micrograph is tilted: 0.02 Å of defocus for each Å along x.
    x = XY[[1, 2, 3], 0]
    expected = 20100 + 0.02 * 2.0 * (x - 109.5)
    torch.testing.assert_close(particles.defocus[3:6, 0], expected, atol=1e-4, rtol=0)
    assert particles.defocus[:3, 0].tolist() == [20000.0] * 3
    optics = read_star("out/particles.star")[0].records()
    assert optics[0]["rlnOpticsGroupName"] == "mine"
    assert optics[0]["rlnMtfFileName"] == "restored/mtf.star"
    assert "rlnMicrographPixelSize" not in optics[0]


def test_several_workers_change_nothing_and_a_second_run_does_nothing(session: Path) -> None:
    extract_session(config(output="a"))
    extract_session(config(output="b", workers=2))
    for stem in STEMS:
        assert (session / f"a/particles/{stem}.mrcs").read_bytes() == (
            session / f"b/particles/{stem}.mrcs"
        ).read_bytes()
    before = {p: p.stat().st_mtime_ns for p in session.glob("a/particles/*")}
    table = (session / "a/particles.star").read_text()
    again = extract_session(config(output="a", only_do_unfinished=True))
    assert (again.skipped, again.particles) == (3, 9)
    assert (session / "a/particles.star").read_text() == table
    assert {p: p.stat().st_mtime_ns for p in session.glob("a/particles/*")} == before
    # A pick that was added, and a stack that went missing, are redone; the third is not.
    write_coordinates("pick/coordinates/one.star", Coordinates(torch.cat([XY, torch.tensor([[100.0, 120.0]])])))
    (session / "a/particles/two.mrcs").unlink()
    third = extract_session(config(output="a", only_do_unfinished=True))
    assert (third.skipped, third.particles) == (1, 10)


@pytest.mark.parametrize("kind", ["folder", "endings", "box", "one star", "one cs", "relion"])
def test_coordinates_come_in_many_ways(session: Path, kind: str) -> None:
    source = session / "given"
    source.mkdir()
    sub = source / "Movies"
    sub.mkdir()
    for stem in STEMS:
        coordinates = Coordinates(XY.round())
        if kind == "folder":
            write_coordinates(source / f"{stem}.star", coordinates)
        elif kind == "endings":
            write_coordinates(source / f"{stem}_manualpick.star", coordinates)
        elif kind == "relion":
            write_coordinates(sub / f"{stem}_autopick.star", coordinates)
        elif kind == "box":
            write_coordinates(source / f"{stem}.box", coordinates, box_in_pixels=41)
    path = source
    if kind == "one star":
        path = source / "all.star"
        rows = "".join(f"{x} {y} Movies/{stem}.mrc\n" for stem in STEMS for x, y in XY.tolist())
        path.write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n{rows}\n")
    elif kind == "one cs":
        path = source / "all.cs"
        table = np.zeros(
            15,
            dtype=[
                ("location/micrograph_path", "S20"),
                ("location/micrograph_shape", "<u4", (2,)),
                ("location/center_x_frac", "<f8"),
                ("location/center_y_frac", "<f8"),
            ],
        )
        table["location/micrograph_path"] = [f"J1/{stem}.mrc".encode() for stem in STEMS for _ in XY]
        table["location/micrograph_shape"] = (200, 220)
        table["location/center_x_frac"] = XY[:, 0].repeat(3) / 220
        table["location/center_y_frac"] = XY[:, 1].repeat(3) / 200
        with path.open("wb") as stream:
            np.save(stream, table)
    summary = extract_session(config(coordinates=path))
    assert (summary.micrographs, summary.particles) == (3, 9)


def test_unreadable_micrographs_are_named_and_the_others_go_on(
    session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = session / "restored/two.mrc"
    path.write_bytes(path.read_bytes()[:5000])
    assert run("restored/micrographs.star", "--coordinates", "pick", "--box", "40", "--out", "out") == 1
    captured = capsys.readouterr()
    assert "Not extracted: two: restored/two.mrc" in captured.err
    assert "6 particles from 3 micrographs" in captured.out
    assert len(read_particles("out/particles.star")) == 6


def test_bad_input_is_one_line_and_exit_code_2(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (session / "empty").mkdir()
    (session / "wrong").mkdir()
    write_coordinates("wrong/nobody.star", Coordinates(XY))
    (session / "nan").mkdir()
    for stem in STEMS:
        text = (session / f"pick/coordinates/{stem}.star").read_text()
        (session / f"nan/{stem}.star").write_text(text.replace("120.250000", "nan"))
    (session / "none.star").write_text("")
    (session / "lost.star").write_text(
        (session / "restored/micrographs.star").read_text().replace("\n1 mine", "\n2 mine")
    )
    good = ["restored/micrographs.star", "--coordinates", "pick", "--box", "40"]
    for arguments, words in (
        (["restored/micrographs.star", "--box", "40"], "--coordinates: nothing was given"),
        ([*good[:3], "--box", "9999999"], "--box"),
        ([*good, "--scale", "80"], "--scale: 80 pixels are more than the box of 40"),
        ([*good[:3], "--box", "300"], "300 pixels, but the micrographs have 220 x 200"),
        ([*good, "--diameter", "900"], "does not fit into the box of 40 pixels (80 Å)"),
        ([good[0], "--coordinates", "gone", "--box", "40"], "gone: does not exist"),
        ([good[0], "--coordinates", "empty", "--box", "40"], "holds no coordinate files"),
        ([good[0], "--coordinates", "wrong", "--box", "40"], "no coordinates of any of 3 micrographs"),
        ([good[0], "--coordinates", "nan", "--box", "40"], "not finite"),
        (["none.star", *good[1:]], "empty or not a STAR file"),
        (["lost.star", *good[1:]], "optics group 1"),
        (["gone.star", *good[1:]], "does not exist"),
        ([*good, "--edge", "198"], "no particle is left (12 at edges"),
    ):
        assert run(*arguments, "--out", "bad", "--overwrite") == 2, words
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
        assert len(lines) == 1
        assert words in lines[0]
        assert not (session / "bad/particles.star").exists()
        assert not (session / "bad/RELION_JOB_EXIT_SUCCESS").exists()


def test_micrographs_without_ctf_give_a_warning(session: Path) -> None:
    with pytest.warns(CryoPrismWarning, match="cryoprism restore"):
        extract_session(
            config(
                inputs=["restored/one.mrc"], voltage_in_kilovolts=300.0, spherical_aberration_in_millimeters=2.7,
                amplitude_contrast=0.1, coordinates="pick/coordinates/one.star",
            )
        )  # fmt: skip
    assert read_particles("out/particles.star").defocus is None


def test_bad_pixels_are_mended_unless_a_restoration_did(session: Path) -> None:
    field = micrograph(0)
    field[66, 66] = 5000.0
    write_mrc("restored/one.mrc", field, 2.0)
    extract_session(config(output="as restored"))
    text = Path("restored/micrographs.star").read_text().replace("cryoprismFlags", "someOther")
    Path("restored/raw.star").write_text(text)
    extract_session(config(inputs="restored/raw.star", output="mended"))
    kept, mended = (
        read_particle_images(read_particles(f"{name}/particles.star"), [1]) for name in ("as restored", "mended")
    )
    assert float(kept.abs().max()) > 50
    assert float(mended.abs().max()) < 10


def test_a_configuration_says_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="--box"):
        config(box_in_pixels=2)
    assert set(extract.FIELDS.values()) >= set(ExtractConfig.model_fields) - {"device"}


@pytest.mark.relion
def test_relion_takes_the_table(session: Path) -> None:
    extract_session(config(scaled_box_in_pixels=20))
    star = Path("out/particles.star")
    text = star.read_text()
    stats = subprocess.run(
        ["relion_image_handler", "--i", "out/particles.star", "--stats"], capture_output=True, text=True, check=False
    )
    assert stats.returncode == 0, stats.stderr
    assert stats.stdout.count("(x,y,z,n)= 20 x 20 x 1 x 1") == 9
    made = subprocess.run(
        ["relion_stack_create", "--i", "out/particles.star", "--o", "again"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    theirs, ours = read_particles("again.star"), read_particles("out/particles.star")
    torch.testing.assert_close(read_particle_images(theirs), read_particle_images(ours), atol=1e-5, rtol=0)
    assert theirs.defocus is not None
    assert ours.defocus is not None
    torch.testing.assert_close(theirs.defocus, ours.defocus, atol=1e-3, rtol=0)
    assert star.read_text() == text


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")  # no CTF in that table
def test_real_apoferritin_is_a_bright_shell(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = real_data / "apoferritin"
    arguments = [str(folder / "micrographs.star"), "--coordinates", str(folder / "coordinates"), "--box", "120"]
    assert run(*arguments, "--edge", "82.5", "--diameter", "150", "--min-distance", "0", "--out", "out") == 0
    particles = read_particles("out/particles.star")
    assert len(particles) == pytest.approx(1224, abs=2)
    images = read_particle_images(particles)
    assert torch.isfinite(images).all()
    mean = images.mean(0)
    axis = torch.arange(120) - 60
    radius = 1.5 * torch.sqrt((axis[:, None] ** 2 + axis[None, :] ** 2).double())
    shell = [float(mean[(radius >= low) & (radius < low + 6)].mean()) for low in range(0, 84, 6)]
    # The shell of ferritin is 60 Å in radius, its wall at about 50 Å looks brightest, its hollow in the middle darker.
    brightest = 6 * max(range(len(shell)), key=shell.__getitem__)
    assert 24 <= brightest <= 54
    assert max(shell) > shell[0] + 0.05
    assert max(shell) > shell[-1] + 0.2


def test_coordinates_of_other_micrographs_are_named(session: Path) -> None:
    for stem in ("four", "five"):
        write_coordinates(Path(f"pick/coordinates/{stem}.star"), Coordinates(XY, SCORES), micrograph=f"{stem}.mrc")
    with pytest.warns(CryoPrismWarning, match="pick: has coordinates of 2 micrographs that are not .* such as 'five'"):
        summary = extract_session(config())
    assert summary.particles == 9
    rows = "".join(f"{stem}.mrc 60 70\n" for stem in (*STEMS, "six"))
    Path("all.star").write_text(f"data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}")
    with pytest.warns(CryoPrismWarning, match="all.star: has coordinates of 1 .* 'six'"):
        assert extract_session(config(coordinates="all.star", output="b")).particles == 3


def test_a_file_whose_rows_name_another_micrograph_is_refused(session: Path) -> None:
    Path("pick/coordinates/two.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nother.mrc 60 70\n"
    )
    with pytest.raises(InputError, match=r"two\.star: is named after 'two' but its rows name 'other'"):
        extract_session(config())


def test_coordinates_outside_are_said_and_most_outside_are_refused(session: Path) -> None:
    far = torch.cat([XY, torch.tensor([[900.0, 800.0], [219.4, 100.0], [-0.4, 100.0]], dtype=torch.float64)])
    write_coordinates(Path("pick/coordinates/one.star"), Coordinates(far), micrograph="one.mrc")
    with pytest.warns(CryoPrismWarning, match=r"1 of 18 coordinates lie outside .*one\.mrc"):
        assert extract_session(config()).particles == 9
    write_coordinates(Path("pick/coordinates/one.star"), Coordinates(20 * XY), micrograph="one.mrc")
    summary = extract_session(config(output="b"))
    assert [name for name, _ in summary.failed] == ["one"]
    assert "5 of 5 coordinates lie outside its 220 x 200 pixels" in summary.failed[0][1]


def test_sizes_are_judged_before_the_folder_is_made(session: Path) -> None:
    with pytest.raises(InputError, match=r"--diameter: 90 Å does not fit into the box of 40 pixels \(80 Å\)"):
        extract_session(config(diameter_in_angstroms=90.0))
    with pytest.raises(InputError, match="--box: 230 pixels, but the micrographs have 220 x 200"):
        extract_session(config(box_in_pixels=230))
    assert not Path("out").exists()


def test_a_folder_that_may_not_be_read_is_said(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(InputError, match=r"pick: cannot be read \(Permission denied\).*permissions"):
        session_coordinates(Path("pick"), read_catalogue("restored/micrographs.star").micrographs)


def test_a_full_disk_stops_the_job(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.write_stack

    def full(path: Path, *rest: object) -> None:
        if path.stem == "two":
            raise OutputError(path, "cannot be written (No space left on device)", "Free some.")
        write(path, *rest)

    monkeypatch.setattr(module, "write_stack", full)
    with pytest.raises(OutputError, match=r"two\.mrcs"):
        extract_session(config())
    assert Path("out/RELION_JOB_EXIT_FAILURE").exists()
    assert Path("out/particles/one.mrcs").exists()
    monkeypatch.undo()
    monkeypatch.chdir(session)
    assert extract_session(config(only_do_unfinished=True)).skipped == 1


def causes_of(session: Path) -> None:
    """What a restoration would say of the three micrographs: the bits and the fit of each."""
    entries = [
        {
            "name": stem,
            "information_in_bits": {"mean": bits},
            "fit_limit_in_angstroms": fit,
            "causes": {"crystalline_ice": {"parameters": {"significance": {"mean": ice, "identifiable": True}}}},
        }
        for stem, bits, fit, ice in zip(STEMS, (900.0, 1000.0, 300.0), (4.0, 9.0, 5.0), (1.0, 2.0, 30.0), strict=True)
    ]
    (session / "restored/causes.json").write_text(json.dumps({"micrographs": entries}))


def test_micrographs_are_left_out_by_their_causes(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    causes_of(session)
    arguments = ["restored/micrographs.star", "--coordinates", "pick", "--box", "40", "--diameter", "60"]
    limits = ["--max-ctf-resolution", "8", "--max-ice", "20", "--min-information", "0.5"]
    assert run(*arguments, *limits, "--out", "out") == 0
    said = capsys.readouterr().out
    assert "3 particles from 1 micrographs" in said
    assert "Left out: two: Thon rings end at 9.0 Å, 8 Å are asked for." in said
    assert "Left out: three: 33% of the session's median information are left, less than 50%; crystalline ice" in said
    assert set(json.loads(Path("out/job.json").read_text())["notes"]["micrographs_left_out"]) == {"two", "three"}
    assert "two is left out: Thon rings end" in Path("out/run.log").read_text()
    # Other limits need no new images of the micrographs that stay.
    again = extract_session(config(max_ice_significance=20.0, only_do_unfinished=True))
    assert (again.micrographs, again.skipped, set(again.left_out)) == (2, 1, {"three"})
    with pytest.raises(InputError, match=r"no micrograph keeps the limits; one: Thon rings end at 4.0 Å"):
        extract_session(config(max_ctf_resolution_in_angstroms=3.0, output="b"))


def test_limits_need_a_restoration(session: Path) -> None:
    with pytest.raises(InputError, match=r"--max-ice: there is no causes\.json beside restored/micrographs\.star"):
        extract_session(config(max_ice_significance=5.0))
    assert extract_session(config()).left_out == {}


def test_the_edge_is_in_angstroms(session: Path) -> None:
    # The particle at (120, 55) pixels of 2 Å is 110 Å from the first row.
    assert extract_session(config(edge_in_angstroms=105.0)).particles == 9
    assert extract_session(config(edge_in_angstroms=115.0, output="b")).particles == 6


def test_masks_may_lie_elsewhere(session: Path) -> None:
    Path("restored/masks").rename("elsewhere")
    label = "cryoprismMaskedFraction"
    table = find_block(read_star(extract_session(config()).star), "particles")
    assert table is not None
    assert label not in table
    table = find_block(read_star(extract_session(config(masks_folder="elsewhere", output="b")).star), "particles")
    assert table is not None
    assert max(table.numbers(label)) == 1.0
