"""``resolution`` from files to files: the output contract, resume, bad input, honest words."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import imagecodecs
import jsonschema
import numpy as np
import pytest
import torch

from cryoprism.cli import main
from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Volume, read_map, write_map
from cryoprism.structure import radial_filter, shell_frequencies, soft_sphere, viewing_directions
from cryoprism.workflow import ResolutionConfig, measure_resolution, summarise_resolution
from cryoprism.workflow.maps.resolution import ResolutionSummary
from cryoprism.workflow.maps.resolution_words import few_particles
from cryoprism.workflow.report._map_pictures import central_slices, render_surface, surface_level

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/resolution.schema.json").read_text()
)
BOX, VOXEL, ORIGIN = 48, 2.5, (-60.0, 10.0, 3.0)
SHAPE = (BOX, BOX, BOX)


def make_halves(noise: float = 0.8, signal: float = 1.0, common: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    falling = torch.exp(-600 * shell_frequencies(SHAPE, VOXEL) ** 2 / 4)
    texture = radial_filter(torch.randn(SHAPE, generator=generator), falling)
    ball = soft_sphere(SHAPE, VOXEL, 30.0, soft_edge_in_angstroms=8.0)
    truth = signal * (1 + 1.5 * texture / texture.std()) * ball + common * torch.randn(SHAPE, generator=generator)
    one, two = (truth + noise * torch.randn(SHAPE, generator=generator) for _ in range(2))
    return one, two


def volumes(**options: float) -> tuple[Volume, Volume]:
    one, two = make_halves(**options)
    return Volume(one, VOXEL, ORIGIN), Volume(two, VOXEL, ORIGIN)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    for name, volume in zip(("half1", "half2"), volumes(), strict=True):
        write_map(folder / f"{name}.mrc", volume)
    rows = "".join(f"{i + 1:06d}@x.mrcs {7 * i % 360 - 180} {5 * i % 181} 0 1\n" for i in range(300))
    (folder / "particles.star").write_text(
        "\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n"
        "_rlnAmplitudeContrast #4\n_rlnImagePixelSize #5\n_rlnImageSize #6\n1 300 2.7 0.1 2.5 48\n\n"
        "\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnAngleRot #2\n_rlnAngleTilt #3\n_rlnAnglePsi #4\n"
        f"_rlnOpticsGroup #5\n{rows}\n"
    )
    line = "ATOM  {:5d}  C   ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00           C\n"
    middle = [start + VOXEL * (BOX // 2) for start in ORIGIN]
    generator = torch.Generator().manual_seed(1)
    places = (10 * torch.randn(60, 3, generator=generator) + torch.tensor(middle)).tolist()
    (folder / "model.pdb").write_text(
        "".join(line.format(i + 1, i + 1, *xyz) for i, xyz in enumerate(places)) + "END\n"
    )
    return folder


@pytest.fixture(scope="module")
def job(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with every option's output."""
    out = tmp_path_factory.mktemp("job") / "run"
    measure_resolution(
        ResolutionConfig(
            half1=inputs / "half1.mrc",
            half2=inputs / "half2.mrc",
            particles_file=inputs / "particles.star",
            model_file=inputs / "model.pdb",
            output=out,
        )
    )
    return out


def test_everything_is_written_and_fits_its_schema(job):
    names = {path.name for path in job.iterdir()}
    assert {"map.mrc", "map_sharpened.mrc", "mask.mrc", "local_resolution.mrc", "resolution.json"} <= names
    assert {"report.html", "job.json", "run.log", "RELION_JOB_EXIT_SUCCESS"} <= names
    document = json.loads((job / "resolution.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["particles"] == 300
    assert document["viewing"] is not None
    assert document["model"]["atoms"] == 60
    assert document["seconds"] > 0
    found = document["resolution_in_angstroms"]
    assert 5.0 <= found["corrected"] <= found["unmasked"]
    assert f"{found['corrected']:.2f} Å" in document["verdict"][0]
    curves = document["curves"]
    assert {len(curve) for curve in curves.values()} == {BOX // 2 + 1}


def test_maps_keep_voxel_size_and_origin_and_the_mean_is_the_mean(job, inputs):
    for name in ("map", "map_sharpened", "mask", "local_resolution"):
        volume = read_map(job / f"{name}.mrc")
        assert volume.voxel_size_in_angstroms == pytest.approx(VOXEL, rel=1e-5)
        assert volume.origin_in_angstroms == pytest.approx(ORIGIN)
        assert tuple(volume.data.shape) == SHAPE
    mean = sum(read_map(inputs / f"half{i}.mrc").data for i in (1, 2)) / 2
    torch.testing.assert_close(read_map(job / "map.mrc").data, mean, rtol=1e-5, atol=1e-5)


@pytest.mark.relion
def test_relion_reads_the_maps(job):
    for name in ("map", "mask"):
        told = subprocess.run(
            ["relion_image_handler", "--i", str(job / f"{name}.mrc"), "--stats"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"(x,y,z)={BOX}x{BOX}x{BOX}" in told.replace(" ", "") or f"{BOX} x {BOX} x {BOX}" in told, told
        assert "2.5" in told


def test_the_report_says_the_verdict_first_and_stands_alone(job):
    page = (job / "report.html").read_text(encoding="utf-8")
    verdict = json.loads((job / "resolution.json").read_text())["verdict"][0]
    assert verdict in page
    assert page.index(verdict) < page.index("<svg")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for part in ("surface", "fsc", "slices", "local", "directions", "guinier", "open"):
        assert f'id="{part}"' in page
    assert page.count("<img ") == 12
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_a_second_run_is_skipped_and_changed_input_is_not(job, inputs, tmp_path):
    config = ResolutionConfig(
        half1=inputs / "half1.mrc", half2=inputs / "half2.mrc", output=tmp_path / "run", local=False
    )
    first = measure_resolution(config)
    stamp = (tmp_path / "run/resolution.json").stat().st_mtime_ns
    again = measure_resolution(config.model_copy(update={"only_do_unfinished": True}))
    assert not first.skipped
    assert again.skipped
    assert again.sentences == first.sentences
    assert (tmp_path / "run/resolution.json").stat().st_mtime_ns == stamp
    (tmp_path / "run/mask.mrc").unlink()
    assert not measure_resolution(config.model_copy(update={"only_do_unfinished": True})).skipped
    assert (tmp_path / "run/mask.mrc").exists()


def test_the_same_seed_gives_the_same_numbers(inputs, tmp_path):
    texts = []
    for name in ("one", "two"):
        config = ResolutionConfig(
            half1=inputs / "half1.mrc", half2=inputs / "half2.mrc", output=tmp_path / name, local=False, seed=3
        )
        measure_resolution(config)
        texts.append(re.sub(r'"seconds": .*', "", (tmp_path / name / "resolution.json").read_text()))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda one, two: (one, one), "same map"),
        (lambda one, two: (one, 2 * one), "same map"),
        (lambda one, two: (one, 0 * two), "every voxel is 0"),
        (lambda one, two: (one, two[:40, :40, :40].contiguous()), "40 × 40 × 40"),
        (lambda one, two: (one, torch.where(two == two.max(), math.nan, two)), "NaN or infinite"),
    ],
)
def test_bad_halves_are_named_with_a_remedy(change, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, data in zip(("a.mrc", "b.mrc"), change(*make_halves()), strict=True):
        write_map(name, Volume(data, VOXEL))
    with pytest.raises(SystemExit) as caught:
        main(["resolution", "a.mrc", "b.mrc", "--out", "run"])
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert word in errors[0]
    assert not Path("run/RELION_JOB_EXIT_SUCCESS").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("half1.mrc",), "HALF2"),
        (("half1.mrc", "half1.mrc"), "first half map again"),
        (("half1.mrc", "none.mrc"), "does not exist"),
        (("half1.mrc", "half2.mrc", "--mask", "half1.mrc"), "values from"),
        (("half1.mrc", "half2.mrc", "--symmetry", "Q"), "no point group"),
        (("half1.mrc", "half2.mrc", "--b-factor", "100"), "--b-factor"),
        (("half1.mrc", "half2.mrc", "--threshold", "1e9"), "--threshold"),
        (("half1.mrc", "half2.mrc", "--model", "particles.star"), "particles.star"),
        (("half1.mrc", "half2.mrc", "--max-memory", "0.01"), "GB"),
        (("half1.mrc", "half2.mrc", "--model", "none.pdb"), "does not exist"),
    ],
)
def test_bad_options_are_named_with_a_remedy(arguments, word, inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(inputs)
    with pytest.raises(SystemExit) as caught:
        main(["resolution", *arguments, "--no-local", "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert word in capsys.readouterr().err


def test_voxel_sizes_must_agree(inputs):
    one, two = volumes()
    with pytest.raises(InputError, match="voxel size"):
        summarise_resolution(one, Volume(two.data, 2 * VOXEL))


def test_pure_noise_gets_no_resolution_worth_the_name():
    """Halves without anything in common: no curve may promise structure."""
    one, two = volumes(signal=0.0)
    mask = soft_sphere(SHAPE, VOXEL, 35.0)
    summary = summarise_resolution(one, two, mask, local=False)
    limit = summary.resolution_in_angstroms
    assert limit is None or limit > 20 * VOXEL
    jsonschema.validate(summary.document(), SCHEMA)


def test_noise_that_both_halves_share_is_told():
    """A tenth of the noise power in common, as duplicates across the halves leave it."""
    mask = soft_sphere(SHAPE, VOXEL, 35.0)
    clean = summarise_resolution(*volumes(noise=1.0), mask, local=False, directions=False)
    leaked = summarise_resolution(*volumes(noise=1.0, common=0.33), mask, local=False, directions=False)
    assert not any("share" in text for text in clean.warnings)
    assert any("share" in text for text in leaked.warnings)


def test_a_map_better_than_its_voxels_says_so():
    summary = summarise_resolution(*volumes(noise=0.003), local=False, directions=False)
    assert summary.fsc.crossing().at_nyquist
    assert "at least 5.00 Å" in summary.sentences()[0]
    assert any("Nyquist" in text for text in summary.warnings)
    assert summary.document()["reaches_nyquist"] is True


def test_missing_views_are_told():
    rot = torch.linspace(-180, 180, 200)
    top = viewing_directions(rot, torch.zeros(200))
    summary = summarise_resolution(*volumes(), viewing=top, particles_count=200, local=False)
    assert any("Views are missing" in text for text in summary.warnings)


def test_warnings_reach_the_caller(tmp_path):
    for name, volume in zip(("a", "b"), volumes(noise=0.003), strict=True):
        write_map(tmp_path / f"{name}.mrc", volume)
    config = ResolutionConfig(half1=tmp_path / "a.mrc", half2=tmp_path / "b.mrc", output=tmp_path / "run", local=False)
    with pytest.warns(CryoPrismWarning, match="Nyquist"):
        measure_resolution(config)


def test_halves_that_go_no_further_than_their_start_are_told():
    """Noise refined from a common map agrees a little beyond it; so agreement there proves nothing."""
    one, two = volumes(noise=1.0)
    mask = soft_sphere(SHAPE, VOXEL, 35.0)
    limit = summarise_resolution(one, two, mask, local=False, directions=False).resolution_in_angstroms
    assert limit is not None

    def told(start):
        summary = summarise_resolution(one, two, mask, start_in_angstroms=start, local=False, directions=False)
        return summary.few is not None and "started" in summary.sentences()[0]

    assert told(1.2 * limit)
    assert not told(3 * limit)


def test_halves_that_agree_on_a_shell_only_are_told():
    """A shell without any orientation correlates far down; lumps on it that both halves share are structure."""
    generator = torch.Generator().manual_seed(3)
    axis = (torch.arange(SHAPE[0]) - SHAPE[0] // 2).float()
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    shell = torch.exp(-0.5 * ((distance - 0.25 * SHAPE[0]) / 1.2) ** 2)
    lumps = shell * torch.randn(SHAPE, generator=generator)
    mask = soft_sphere(SHAPE, VOXEL, 0.42 * SHAPE[0] * VOXEL)

    def summary(amount: float, symmetry: str) -> ResolutionSummary:
        halves = [
            Volume(shell + amount * lumps + 0.02 * torch.randn(SHAPE, generator=generator), VOXEL) for _ in range(2)
        ]
        return summarise_resolution(*halves, mask, symmetry=symmetry, particles_count=5000, local=False)

    empty = summary(0.0, "O")
    assert empty.resolution_in_angstroms is not None
    assert "what is round only" in empty.sentences()[0]
    assert "what is round only" in empty.warnings[0]
    assert summary(0.5, "O").few is None
    assert summary(0.0, "C1").few is None  # a bag of lipids may be round


def test_too_few_particles_are_told_in_words_and_warnings():
    """A hundred views fill the shells of this ball at its resolution, a dozen do not; symmetry makes more of them."""
    many = summarise_resolution(*volumes(), particles_count=300, local=False, directions=False)
    assert many.few is None
    assert "should" in many.sentences()[0]
    few = summarise_resolution(*volumes(), particles_count=300, smaller_half=8, local=False, directions=False)
    assert few.few is not None
    assert "only 8 particles: too few" in few.few
    assert few.sentences()[0] == few.warnings[0] == few.few
    assert "should" not in few.sentences()[1]
    assert few.few in few.document()["verdict"]
    jsonschema.validate(few.document(), SCHEMA)
    assert summarise_resolution(*volumes(), local=False, directions=False).few is None  # nobody knows
    # N d / (2 D) measurements: 60 views of 100 Å at 6 Å are 1.8, of which an octahedron makes 43.
    assert few_particles(60, 1, 6.0, 100.0) is not None
    assert few_particles(60, 1, 20.0, 100.0) is None
    assert few_particles(60, 24, 6.0, 100.0) is None
    assert few_particles(20, 24, 6.0, 100.0) is not None


def test_pictures_show_the_right_side_and_hand():
    """Three bars from the middle: along +x, +y and +z, the last the longest; each view shows what its caption says."""
    volume = torch.zeros(40, 40, 40)
    volume[20, 20, 20:30] = 1  # x
    volume[20, 20:34, 20] = 1  # y
    volume[20:38, 20, 20] = 1  # z
    expected = ((10, 14), (10, 18), (14, 18))  # to the right and up
    for picture, (right, up) in zip(central_slices(volume), expected, strict=True):
        rows, columns = np.nonzero(picture > 0.5)
        assert columns.max() - columns.min() + 1 == right
        assert rows.max() - rows.min() + 1 == up
        assert columns.min() == 20
        assert rows.max() == 19  # the second axis upwards
    thick = torch.nn.functional.avg_pool3d(volume[None, None], 3, 1, 1)[0, 0]
    for view, (right, up) in enumerate(expected):
        picture = render_surface(thick, 0.1, view, size=80).picture
        rows, columns = np.nonzero(picture[..., 3] > 128)
        middle = 40
        assert (columns.max() - middle) / 2 == pytest.approx(right, abs=2.5)
        assert (middle - rows.min()) / 2 == pytest.approx(up, abs=2.5)


@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_eye_stands_on_the_side_that_keeps_the_hand(view):
    """x right and y up puts +z before the eye, x right and z up puts -y, y right and z up puts +x: right-handed."""
    near = [(30, 20, 20), (20, 10, 20), (20, 20, 30)][view]
    far = [(10, 20, 20), (20, 30, 20), (20, 20, 10)][view]
    colour = torch.zeros(41, 41, 41)
    volume = torch.zeros(41, 41, 41)
    for place, value in ((near, 1.0), (far, 0.0)):
        spot = tuple(slice(p - 3, p + 4) for p in place)
        volume[spot] = 1.0
        colour[spot] = value
    picture = render_surface(volume, 0.5, view, colour_by=colour, colour_range=(0.0, 1.0), size=80).picture
    red, _, blue, alpha = (int(c) for c in picture[40, 40])
    assert alpha == 255
    assert red > blue


def test_a_ball_is_lit_from_above_left_and_its_level_lies_between():
    ball = soft_sphere((48, 48, 48), 1.0, 14.0, soft_edge_in_angstroms=4.0)
    level = surface_level(ball, torch.ones_like(ball))
    assert 0.2 < level < 0.8
    seen = render_surface(ball, 0.5, 0, size=96)
    assert seen.covered == pytest.approx(math.pi * 16**2 / 48**2, rel=0.05)
    grey = seen.picture[..., :3].astype(float).mean(-1)
    assert grey[34:42, 34:42].mean() > grey[56:64, 56:64].mean() + 10
    assert imagecodecs.png_encode(seen.picture)


@pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")
def test_pure_noise_gets_a_report_that_says_so(tmp_path):
    for name, volume in zip(("a", "b"), volumes(signal=0.0), strict=True):
        write_map(tmp_path / f"{name}.mrc", volume)
    config = ResolutionConfig(half1=tmp_path / "a.mrc", half2=tmp_path / "b.mrc", output=tmp_path / "run")
    result = measure_resolution(config)
    found = json.loads((tmp_path / "run/resolution.json").read_text())["resolution_in_angstroms"]["corrected"]
    assert found is None or found > 20
    assert result.sentences[0] in result.report.read_text(encoding="utf-8")
