"""``resolution`` of halves that never fall apart: voxels that are too large, or noise that both share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cryoprism.cli import main
from cryoprism.formats import Volume, read_map, write_map, write_stack
from cryoprism.structure import radial_filter, shell_frequencies, soft_sphere
from cryoprism.workflow import summarise_resolution
from cryoprism.workflow.maps.resolution import ResolutionSummary

BOX, VOXEL = 48, 2.5
SHAPE = (BOX, BOX, BOX)


def halves(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy copies of a textured ball."""
    generator = torch.Generator().manual_seed(0)
    falling = torch.exp(-600 * shell_frequencies(SHAPE, VOXEL) ** 2 / 4)
    texture = radial_filter(torch.randn(SHAPE, generator=generator), falling)
    ball = soft_sphere(SHAPE, VOXEL, 30.0, soft_edge_in_angstroms=8.0)
    truth = (1 + 1.5 * texture / texture.std()) * ball
    one, two = (truth + noise * torch.randn(SHAPE, generator=generator) for _ in range(2))
    return one, two


def summary(one: torch.Tensor, two: torch.Tensor, mask: torch.Tensor | None = None) -> ResolutionSummary:
    found = summarise_resolution(Volume(one, VOXEL), Volume(two, VOXEL), mask, local=False)
    assert found.fsc.crossing().at_nyquist
    return found


def test_a_half_against_the_map_of_both_promises_nothing() -> None:
    one, two = halves(0.8)
    found = summary(one, (one + two) / 2)
    sentences = found.sentences()
    assert sentences[0].startswith("The halves share noise: they agree (0.7")
    assert not any("resolved to" in sentence or "without any mask" in sentence.lower() for sentence in sentences)
    assert found.warnings[0] == sentences[0]


def test_the_command_refuses_halves_that_share_noise(tmp_path, monkeypatch, capsys) -> None:
    one, two = halves(0.8)
    monkeypatch.chdir(tmp_path)
    write_map("half1.mrc", Volume(one, VOXEL))
    write_map("map.mrc", Volume((one + two) / 2, VOXEL))
    with pytest.raises(SystemExit) as end:
        main(["resolution", "half1.mrc", "map.mrc", "--no-local", "--out", "out"])
    assert end.value.code == 2
    assert "map.mrc: shares noise with half1.mrc" in capsys.readouterr().err
    assert not (tmp_path / "out" / "resolution.json").exists()


def test_voxels_that_are_too_large_are_told_apart() -> None:
    found = summary(*halves(0.003))
    assert found.few is None
    assert "resolved to at least 5.00 Å" in found.sentences()[0]


def test_a_mask_that_leaves_signal_outside_is_no_shared_noise() -> None:
    found = summary(*halves(0.003), soft_sphere(SHAPE, VOXEL, 20.0, soft_edge_in_angstroms=8.0))
    assert found.few is None


def test_masked_halves_cannot_be_told_apart() -> None:
    ball = soft_sphere(SHAPE, VOXEL, 30.0, soft_edge_in_angstroms=4.0)
    one, two = halves(0.003)
    found = summary(one * ball, two * ball)
    assert "no solvent" in found.sentences()[0]
    assert "resolved to" not in " ".join(found.sentences())


@pytest.mark.parametrize("name", ["one.mrcs", "one.mrc"])
@pytest.mark.parametrize("count", [20, 32])
def test_stacks_of_images_are_no_half_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, count: int
) -> None:
    """By their names, or by the header: as many images as rows make no map of them."""
    for number, stack in enumerate((name, f"other-{name}")):
        images = torch.randn(count, 32, 32, generator=torch.Generator().manual_seed(number))
        write_stack(tmp_path / stack, images, VOXEL)
    with pytest.raises(SystemExit) as caught:
        main(["resolution", str(tmp_path / name), str(tmp_path / f"other-{name}"), "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"{name}: is a stack of {count} images of 32 x 32 pixels" in error
    assert "space group (ISPG) 1" in error
    assert not (tmp_path / "run").exists()


def test_a_cubic_map_of_space_group_0_is_read(tmp_path: Path) -> None:
    """As some programs write it: sections of z, but no space group."""
    path = tmp_path / "half1.mrc"
    write_map(path, Volume(halves(0.8)[0], VOXEL))
    with path.open("r+b") as stream:
        stream.seek(88)
        stream.write(bytes(4))
    assert read_map(path).data.shape == SHAPE
