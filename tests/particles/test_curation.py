"""Curation: duplicates, leaked half sets, planted junk, choice of micrographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import Particles, write_stack
from cryoprism.particles import (
    find_duplicate_particles,
    find_duplicates,
    junk_score,
    leaked_halves,
    same_images,
    select_micrographs,
)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_positions(n: int, seed: int = 0) -> Tensor:
    return 1000 * torch.rand(n, 2, generator=draw(seed), dtype=torch.float64)


def table(folder: Path, n: int = 40, seed: int = 0) -> Particles:
    """Particles on two micrographs (the first and second half of the rows), none near another, halves by micrograph."""
    write_stack(folder / "a.mrcs", torch.randn(n, 8, 8, generator=draw(seed)), 1.0)
    grid = torch.arange(n, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.float64)
    return Particles(
        tuple(f"{i + 1:06d}@a.mrcs" for i in range(n)),
        tuple(f"m{2 * i // n}.mrc" for i in range(n)),
        2 * ones, 300 * ones, 2.7 * ones, 0.1 * ones,
        coordinates_in_pixels=torch.stack([100 * (grid % 5), 100 * (grid // 5)], dim=1),
        half_set=1 + 2 * torch.arange(n) // n,
        micrograph_pixel_size_in_angstroms=ones,
        source=str(folder / "p.star"),
    )  # fmt: skip


# Duplicates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_are_those_of_the_plain_rule(seed: int) -> None:
    xy, score = random_positions(300, seed), torch.rand(300, generator=draw(seed + 9))
    names = [f"m{i % 3}" for i in range(300)]
    kept: list[int] = []
    for i in score.argsort(descending=True).tolist():
        if all(names[i] != names[j] or float((xy[i] - xy[j]).norm()) >= 60 for j in kept):
            kept.append(i)
    drop = find_duplicates(xy, 60.0, micrographs=names, figure_of_merit=score)
    assert sorted(kept) == (~drop).nonzero()[:, 0].tolist()
    assert 20 < int(drop.sum()) < 280


def test_nothing_is_a_duplicate_at_no_distance_or_on_another_micrograph() -> None:
    xy = torch.zeros(3, 2)
    assert not find_duplicates(xy, 0.0).any()
    assert not find_duplicates(xy, 5.0, micrographs=["a", "b", "c"]).any()
    assert find_duplicates(xy, 5.0).tolist() == [False, True, True]
    assert find_duplicates(xy, 5.0, figure_of_merit=torch.tensor([1.0, 3.0, 2.0])).tolist() == [True, False, True]
    assert find_duplicates(torch.empty(0, 2), 5.0).numel() == 0


def test_alignment_brings_duplicates_together(tmp_path: Path) -> None:
    particles = table(tmp_path)
    assert not find_duplicate_particles(particles, 90.0).any()
    origins = torch.zeros(40, 2, dtype=torch.float64)
    origins[1, 0] = 90.0  # rows 0 and 1 stand 100 Å apart: 1 lies 10 Å from 0 after all
    moved = replace(particles, origins_in_angstroms=origins)
    assert find_duplicate_particles(moved, 15.0).nonzero()[:, 0].tolist() == [1]
    assert not find_duplicate_particles(moved, 9.0).any()
    with pytest.raises(InputError, match="no coordinates"):
        find_duplicate_particles(replace(particles, coordinates_in_pixels=None), 9.0)


# Leaked half sets -----------------------------------------------------------------------------------------------------


def test_clean_halves_pass(tmp_path: Path) -> None:
    particles = table(tmp_path)
    leaked_halves(particles)
    leaked_halves(replace(particles, half_set=None))
    # Twins inside one half are duplicates, not a leak.
    names = (particles.image_names[1], *particles.image_names[1:])
    leaked_halves(replace(particles, image_names=names))


def test_the_same_image_in_both_halves_is_refused(tmp_path: Path) -> None:
    particles = table(tmp_path)
    names = list(particles.image_names)
    names[30] = f"3@{tmp_path}/../{tmp_path.name}/a.mrcs"
    with pytest.raises(InputError, match=r"names the same image \(rows 3 and 31\)"):
        leaked_halves(replace(particles, image_names=tuple(names)), contents=False)


def test_a_copy_of_the_pixels_is_refused(tmp_path: Path) -> None:
    particles = table(tmp_path)
    images = torch.randn(40, 8, 8, generator=draw(0))
    images[25] = images[7]
    write_stack(tmp_path / "a.mrcs", images, 1.0)
    leaked_halves(particles, contents=False)
    with pytest.raises(InputError, match=r"has the same pixels \(rows 8 and 26\)"):
        leaked_halves(particles)


def test_images_are_the_same_by_all_of_their_pixels(tmp_path: Path) -> None:
    particles = table(tmp_path)
    images = torch.randn(40, 8, 8, generator=draw(0))
    images[25], images[30] = images[7], images[7]
    images[12, 4] = images[3, 4]  # one row in common
    images[[15, 16]] = 0.0  # nothing in them
    write_stack(tmp_path / "a.mrcs", images, 1.0)
    wanted = torch.arange(40)
    wanted[[25, 30]] = 7
    assert torch.equal(same_images(particles), wanted)


def test_one_place_in_both_halves_is_refused(tmp_path: Path) -> None:
    particles = table(tmp_path)
    half = particles.half_set
    assert half is not None
    assert particles.coordinates_in_pixels is not None
    xy = particles.coordinates_in_pixels.clone()
    xy[5] = xy[4] + 3
    half = half.clone()
    half[5] = 2
    with pytest.raises(InputError, match=r"within 20 Å on the same micrograph \(rows 5 and 6\).*rlnRandomSubset"):
        leaked_halves(replace(particles, coordinates_in_pixels=xy, half_set=half))
    leaked_halves(replace(particles, coordinates_in_pixels=xy, half_set=half), min_distance_in_angstroms=4.0)
    leaked_halves(replace(particles, coordinates_in_pixels=xy, half_set=half), min_distance_in_angstroms=0.0)


# Junk -----------------------------------------------------------------------------------------------------------------


def particles_with_junk(n: int = 200, box: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Discs in noise; every twentieth is a bright aggregate, an edge of carbon, a spike of ice or twice as noisy."""
    axis = torch.arange(box) - box // 2
    radius = torch.sqrt((axis[:, None] ** 2 + axis[None, :] ** 2).float())
    images = torch.randn(n, box, box, generator=draw(seed)) + 0.5 * (radius < 12)
    images *= 1 + 0.03 * torch.randn(n, 1, 1, generator=draw(seed + 1))
    junk = torch.arange(n) % 20 == 7
    kinds = [
        4.0 * (radius < 17),
        3.0 * (axis[None, :] > 5).expand(box, box).float(),
        60.0 * (radius < 1),
        2.0 * torch.randn(box, box, generator=draw(seed + 2)),
    ]
    for number, row in enumerate(junk.nonzero()[:, 0].tolist()):
        images[row] += kinds[number % 4]
    return images, junk


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_junk_scores_high_and_particles_low(seed: int) -> None:
    images, junk = particles_with_junk(seed=seed)
    score = junk_score(images)
    assert float(score[junk].min()) > 0.9
    assert float((score[~junk] > 0.5).double().mean()) < 0.02
    assert float(score[~junk].mean()) < 0.02


def test_without_junk_nothing_is_thrown_away() -> None:
    images, junk = particles_with_junk(400, seed=11)
    clean = images[~junk]
    assert int((junk_score(clean) > 0.5).sum()) <= 2
    assert junk_score(clean[:10]).tolist() == [0.0] * 10
    assert junk_score(clean[:0]).numel() == 0


# Micrographs ----------------------------------------------------------------------------------------------------------


def entry(name: str, bits: float, limit: float | None = 4.0, **causes: dict[str, float]) -> dict[str, object]:
    return {
        "name": name,
        "information_in_bits": {"mean": bits, "standard_deviation": 1.0},
        "fit_limit_in_angstroms": limit,
        "causes": {
            cause: {"parameters": {key: {"mean": value, "identifiable": True} for key, value in parameters.items()}}
            for cause, parameters in causes.items()
        },
    }


DOCUMENT = {
    "micrographs": [
        entry("good", 1000.0),
        entry("poor", 200.0),
        entry("blank", 900.0, limit=None),
        entry("icy", 1100.0, crystalline_ice={"significance": 12.0}),
        entry("crooked", 1000.0, astigmatism={"astigmatism": 1500.0}),
        entry("dirty", 1000.0, contamination={"area_fraction": 0.3}, carbon={"area_fraction": 0.2}),
    ]
}


def test_each_limit_rejects_its_micrograph_with_a_sentence() -> None:
    for limit, name, words in (
        ({"min_information_share": 0.5}, "poor", "20% of the session's median information"),
        ({"min_information_in_bits": 500.0}, "poor", "200 bits are left, less than 500"),
        ({"max_resolution_in_angstroms": 5.0}, "blank", "No Thon rings rise above the noise"),
        ({"max_ice_significance": 6.0}, "icy", "12 deviations"),
        ({"max_astigmatism_in_angstroms": 1000.0}, "crooked", "1500 Å"),
        ({"max_contamination": 0.4}, "dirty", "50%"),
    ):
        chosen = select_micrographs(DOCUMENT, **limit)  # type: ignore[arg-type]
        assert list(chosen.rejected) == [name]
        assert words in chosen.rejected[name]
        assert chosen.rejected[name].endswith(".")
        assert len(chosen.kept) == 5
    assert len(select_micrographs(DOCUMENT).kept) == 6
    many = select_micrographs(DOCUMENT, max_resolution_in_angstroms=3.0, min_information_in_bits=500)
    assert many.kept == ()
    assert ";" in many.rejected["poor"]
    with pytest.raises(InputError, match="no micrographs"):
        select_micrographs({"micrographs": []})
