"""Films and thick objects in made images: steps, wedges, blobs, and rendered scenes whose masks are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoprism.restoration import LABELS, artefact_mask
from cryoprism.restoration._film import edge_contrast, film_arc, find_dark_areas
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import Specimen, specimen_from_phantom

PIXEL = 6.0
SIZE = 320
Y, X = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
STEP = 8.0
SPREAD = 3.0  # of the noise of one pixel; thickness is told from means over many


def beside(x: float) -> Tensor:
    """Right of a hole of 6000 Å radius whose edge is at x [pixels] in the middle row."""
    radius = 6000.0 / PIXEL
    return (Y - SIZE / 2) ** 2 + (X - (x - radius)) ** 2 > radius**2


def disc(y: float, x: float, radius: float) -> Tensor:
    return (Y - y) ** 2 + (X - x) ** 2 < radius**2


CHAIN = disc(20, 200, 32) | disc(60, 215, 28) | disc(100, 190, 30) | disc(140, 210, 26)


def micrograph(generator: torch.Generator, dark: Tensor, gradient: float = 0.0) -> Tensor:
    """Noise about 100 with small dark particles, a wedge that loses ``gradient`` over the field, and a dark step."""
    image = 100.0 - gradient * (0.8 * X + 0.6 * Y) / SIZE - STEP * dark
    for cell in torch.randperm(64, generator=generator)[:40].tolist():
        y, x = (40.0 * (torch.tensor(divmod(cell, 8)) + 0.3 + 0.4 * torch.rand(2, generator=generator))).tolist()
        image = image - 3.0 * torch.exp(-((Y - y) ** 2 + (X - x) ** 2) / (2 * 7.0**2))
    return image + SPREAD * torch.randn(SIZE, SIZE, generator=generator)


def areas(image: Tensor) -> dict[str, float]:
    return artefact_mask(image, PIXEL).area_fractions


@pytest.mark.parametrize("gradient", [0.0, 15.0])
@pytest.mark.parametrize("edge", [60.0, 160.0, 260.0])
@pytest.mark.parametrize("turned", [False, True])
def test_film_is_found_at_its_place(edge: float, turned: bool, gradient: float, generator: torch.Generator) -> None:
    film = beside(edge).T if turned else beside(edge)
    found = artefact_mask(micrograph(generator, film, gradient), PIXEL)
    marked = found.full_labels() == LABELS["carbon"]
    assert float((marked & film).sum() / (marked | film).sum()) > 0.95
    assert found.area_fractions["contamination"] < 0.003


@pytest.mark.parametrize("gradient", [0.0, 10.0, 30.0])
def test_wedge_is_no_film(gradient: float, generator: torch.Generator) -> None:
    image = micrograph(generator, torch.zeros(SIZE, SIZE), gradient)
    assert areas(image)["good"] > 0.99


def test_slow_step_is_no_film(generator: torch.Generator) -> None:
    # The same two levels as a film's, joined over about 1000 Å.
    ramp = torch.sigmoid((X - 160.0) / (250.0 / PIXEL))
    assert areas(micrograph(generator, ramp))["carbon"] == 0.0


@pytest.mark.parametrize(
    "objects",
    [disc(150, 150, 40), disc(150, 310, 45), disc(0, 0, 60), CHAIN, disc(60, 60, 30) | disc(250, 300, 50)],
    ids=["inside", "border", "corner", "chain", "two"],
)
def test_compact_objects_are_contamination(objects: Tensor, generator: torch.Generator) -> None:
    found = artefact_mask(micrograph(generator, objects), PIXEL)
    marked = found.full_labels() == LABELS["contamination"]
    assert found.area_fractions["carbon"] == 0.0
    assert float((marked & objects).sum() / objects.sum()) > 0.9
    assert float(marked.sum() / objects.sum()) == pytest.approx(1.0, abs=0.25)


def test_object_on_the_edge_of_a_film_is_told_from_it(generator: torch.Generator) -> None:
    film, lump = beside(200.0), disc(120, 180, 35)
    labels = artefact_mask(micrograph(generator, film | lump), PIXEL).full_labels()
    outside = lump & ~film
    assert float((labels[outside] == LABELS["contamination"]).float().mean()) > 0.75
    assert float((labels[film] == LABELS["carbon"]).float().mean()) > 0.95


def test_labels_do_not_depend_on_grey_units(generator: torch.Generator) -> None:
    image = micrograph(generator, beside(200.0) | disc(100, 60, 30))
    labels = artefact_mask(image, PIXEL).labels
    other = artefact_mask(0.05 * (image - 100.0), PIXEL).labels
    assert set(labels.unique().tolist()) == {0, LABELS["contamination"], LABELS["carbon"]}
    assert float((labels != other).float().mean()) < 0.002


def test_dark_areas_give_their_step(generator: torch.Generator) -> None:
    # At the binned scale, as the mask uses it; the background is a plane there.
    image = micrograph(generator, beside(200.0), 10.0)
    binned = torch.nn.functional.avg_pool2d(image[None, None], 2)[0, 0].numpy()
    assert find_dark_areas(binned, 2 * PIXEL).step == pytest.approx(STEP, rel=0.1)


def test_edge_contrast_is_one_for_a_step_and_small_for_a_slope() -> None:
    region = (X > 160).numpy()
    assert edge_contrast(region, (-X).gt(-160).float().numpy(), PIXEL) == pytest.approx(1.0, abs=0.01)
    # On a slope the strips' means are about 130 Å apart, the region's median and its surroundings' about 640 Å.
    assert edge_contrast(region, -X.numpy(), PIXEL) == pytest.approx(130.0 / 640.0, rel=0.1)


def test_arc_measures_distance_and_turning() -> None:
    arc = film_arc(beside(200.0).numpy(), PIXEL)
    assert arc is not None
    distance = torch.sqrt((Y - SIZE / 2) ** 2 + (X + 800.0) ** 2) - 1000.0
    torch.testing.assert_close(torch.from_numpy(arc.depth((SIZE, SIZE))).float(), distance, atol=1.0, rtol=0.0)
    chord = 2 * math.asin(0.5 * SIZE / 1000.0)
    assert arc.turning == pytest.approx(-chord, rel=0.1)  # concave
    assert arc.length_in_pixels == pytest.approx(1000.0 * chord, rel=0.05)
    assert arc.share > 0.99
    straight = film_arc((X + 0.5 * Y > 250).numpy(), PIXEL)
    assert straight is not None
    assert straight.turning == pytest.approx(0.0, abs=0.05)
    # What bulges outwards, does not reach the border, or is too small across is not a film.
    for region in (disc(160, 320, 140), disc(160, 160, 100), X + Y < 60, CHAIN):
        assert film_arc(region.numpy(), PIXEL) is None
    # A round hole wholly in view: the film surrounds it.
    assert film_arc((~disc(160, 160, 120)).numpy(), PIXEL) is not None


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return specimen_from_phantom(phantom("shell"))


@pytest.mark.parametrize(
    ("label", "changes"), [("carbon", {"carbon_fraction": 0.3}), ("contamination", {"contamination_count": 5})]
)
def test_rendered_scene(label: str, changes: dict[str, float], specimen: Specimen) -> None:
    pixel = 4.0
    scene = Scene(
        seed=3,
        height_in_pixels=384,
        width_in_pixels=384,
        pixel_size_in_angstroms=pixel,
        particle_count=50,
        ice_gradient_in_angstroms_per_micrometer=1000.0,
        **changes,  # type: ignore[arg-type]
    )
    rendered = render_micrograph(scene, specimen, "projection")
    found = artefact_mask(rendered.counts.float(), pixel)
    truth = rendered.masks[label] > 0.5
    marked = found.full_labels() == LABELS[label]
    assert float((marked & truth).sum() / (marked | truth).sum()) > 0.8
    assert found.area_fractions["good"] == pytest.approx(1.0 - float(truth.float().mean()), abs=0.03)


@pytest.mark.parametrize("shape", [(96, 96), (300, 40), (256, 200)])
def test_flat_and_two_level_images_without_noise(shape: tuple[int, int]) -> None:
    image = torch.full(shape, 50.0)
    assert areas(image)["good"] == 1.0
    image[shape[0] // 2 :] = 40.0
    assert areas(image)["contamination"] == 0.0
    image[1::2] += 20.0  # a comb, darker in one half
    assert all(math.isfinite(value) for value in areas(image).values())
