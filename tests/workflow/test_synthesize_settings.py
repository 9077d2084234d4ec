"""What the settings of ``synthesize`` come to, without a session."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.formats import Volume, write_map
from cryoprism.microscope.potential import AtomicModel
from cryoprism.synthesis import Clusters, NoRoom, Population, Scene, Species, Specimen, place_population
from cryoprism.synthesis.placement import tilt_height
from cryoprism.workflow import SynthesizeConfig
from cryoprism.workflow.synthesis.making import SynthesisTask, clean_image, scene_of_task
from cryoprism.workflow.synthesis.population import population_of, require_tilt

# By its name the package has the function.
MODULE = sys.modules["cryoprism.workflow.synthesis.making"]


@pytest.fixture(scope="module")
def balls():
    return Population(species=(Species(name="ball", conformations=(_ball(),)),))


@pytest.mark.parametrize(("error", "tries"), [(NoRoom, 5), (InputError, 1)])
def test_only_what_does_not_fit_is_tried_in_thicker_ice(balls, monkeypatch, error, tries):
    thicknesses = []

    def refuse(scene, *_):
        thicknesses.append(scene.ice_thickness_in_angstroms)
        raise error("scene", "is wrong", "Change it.")

    monkeypatch.setattr(MODULE, "place_population", refuse)
    with pytest.raises(error):
        clean_image(Scene(), 0, SimpleNamespace(ice_thickness_in_angstroms=None), balls, None)
    assert len(thicknesses) == tries


def test_what_has_fewer_electrons_than_none_is_refused(balls, monkeypatch):
    monkeypatch.setattr(MODULE, "place_population", lambda *_: object())
    monkeypatch.setattr(MODULE, "particle_contrast", lambda *_, **__: torch.tensor([[0.1, -1.7]]))
    settings = SimpleNamespace(ice_thickness_in_angstroms=200.0)
    with pytest.raises(InputError, match=r"a contrast of -1\.7"):
        clean_image(Scene(), 0, settings, balls, SimpleNamespace(correction=None))


PDB = "ATOM  {n:5d}  CA  ALA A{n:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"


def _structure(path, count=60, stretch=1.0):
    points = torch.rand(count, 3, generator=generator_for(0, "structure")) * torch.tensor([60.0 * stretch, 40.0, 30.0])
    lines = [PDB.format(n=i + 1, x=x, y=y, z=z) for i, (x, y, z) in enumerate(points.tolist())]
    path.write_text("".join(lines) + "END\n")
    return str(path)


def _map(path, radius):
    axis = (torch.arange(32) - 16).float() * 3.0
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() < radius
    write_map(path, Volume(ball.float(), 3.0))
    return str(path)


def _settings(**changes):
    return SynthesizeConfig(**({"match": ("real.star",), "output": Path("out")} | changes))


def test_each_map_has_its_own_mass_assembly_and_point_group(tmp_path):
    maps = (_map(tmp_path / "small.mrc", 15.0), _map(tmp_path / "large.mrc", 30.0), _structure(tmp_path / "x.pdb"))
    changes = {"mass_in_kilodaltons": (12.0, 90.0, 1.0), "symmetry": ("C1", "O", "D2"), "assembly": ("1", "1", "none")}
    found = population_of(_settings(maps=maps, **changes))
    small, large, structure = (one.conformations[0] for one in found.species)
    assert [c.symmetry for c in (small, large, structure)] == ["C1", "O", "D2"]
    # Both balls are protein all through: with one mass for the two, one of them would have eight times the other's.
    assert float(small.density.max()) == pytest.approx(float(large.density.max()), rel=0.15)
    assert [one.name for one in found.species] == ["small", "large", "x"]
    alone = population_of(_settings(maps=maps[:1], mass_in_kilodaltons=12.0, symmetry="C2"))
    assert alone.species[0].conformations[0].symmetry == "C2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mass_in_kilodaltons": (1.0, 2.0, 3.0)}, "--mass: 3 for 2 species"),
        ({"symmetry": ("C1", "C2", "C3")}, "--symmetry: 3 for 2 species"),
        ({"mass_in_kilodaltons": (1.0, -2.0)}, "--mass: -2.0 cannot be used"),
        ({"conformation_shares": ((0.0, 0.0),)}, "--conformation-share: are 0, 0"),
    ],
)
def test_values_that_fit_no_species_are_named(changes, words):
    with pytest.raises(InputError) as error:
        _settings(maps=("a.mrc", "b.mrc"), **changes)
    assert words in str(error.value)


def test_conformations_clusters_and_filaments_are_as_asked_for(tmp_path):
    states = ",".join(_structure(tmp_path / f"{i}.pdb", stretch=1.0 + 0.1 * i) for i in range(2))
    found = population_of(
        _settings(
            maps=(states,),
            morph=1,
            conformation_shares=((1.0, 2.0, 1.0),),
            cluster_share=0.5,
            cluster_size=20.0,
            cluster_spread_in_angstroms=300.0,
            aggregate_size=4,
        )
    )
    assert found.species[0].shares == (0.25, 0.5, 0.25)
    assert found.arrangement.clusters == Clusters(share=0.5, members=20.0, spread_in_angstroms=300.0)
    assert found.arrangement.aggregate_size == 4
    with pytest.raises(InputError, match="2 shares for the 3 conformations"):
        population_of(_settings(maps=(states,), morph=1, conformation_shares=((1.0, 2.0),)))
    helical = {"filaments": 2, "helical_rise": 35.0, "axis_offset_in_angstroms": (50.0, 10.0)}
    rods = population_of(_settings(maps=(states,), persistence_length_in_angstroms=4000.0, **helical))
    assert rods.arrangement.filaments.persistence_length_in_angstroms == 4000.0
    assert rods.species[0].helix.axis_offset_in_angstroms == (50.0, 10.0)


def test_wedge_and_tilt_reach_the_scene(balls, monkeypatch):
    population = SimpleNamespace(radius_in_angstroms=60.0)
    match = SimpleNamespace(micrographs=[object()])
    monkeypatch.setattr(MODULE, "draw_exposure", lambda *_: (Scene(particle_count=5), match.micrographs[0]))
    plain = scene_of_task(SynthesisTask(0, "a", _settings(maps=("a.mrc",)), Path(), Path()), match, population)[0]
    assert plain.tilt_in_degrees == plain.ice_gradient_in_angstroms_per_micrometer == 0
    changes = {"ice_gradient": 300.0, "tilt_in_degrees": 40.0, "tilt_axis_in_degrees": 85.0}
    task = SynthesisTask(0, "a", _settings(maps=("a.mrc",), **changes), Path(), Path())
    scene = scene_of_task(task, match, population)[0]
    assert (scene.tilt_in_degrees, scene.tilt_axis_in_degrees) == (40.0, 85.0)
    assert scene.ice_gradient_in_angstroms_per_micrometer == 300.0
    assert scene.ice_gradient_direction_in_degrees != 0
    placement = place_population(
        replace(scene, width_in_pixels=512, height_in_pixels=512, particle_count=30),
        balls,
    )
    heights, expected = (
        placement.centres_in_angstroms[:, 2],
        tilt_height(scene, *placement.centres_in_angstroms.T[[1, 0]]),
    )
    assert float((heights - expected).abs().max()) < 0.6 * scene.ice_thickness_in_angstroms
    assert float(heights.std()) > 50


def _ball():
    points = torch.randn(300, 3, generator=generator_for(0, "ball"))
    points = 25.0 * points / points.norm(dim=1, keepdim=True)
    model = AtomicModel(positions_in_angstroms=points, atomic_numbers=torch.full((300,), 6))
    return Specimen(name="ball", radius_in_angstroms=26.5, model=model)


def test_a_tilt_through_the_focus_is_refused_before_anything_is_made():
    one = SimpleNamespace(scene=Scene(height_in_pixels=4096, width_in_pixels=4096, pixel_size_in_angstroms=1.0))
    match = SimpleNamespace(micrographs=[one], defocus_range_in_angstroms=(1000.0, 8000.0))
    require_tilt(_settings(maps=("a.mrc",)), match)
    require_tilt(_settings(maps=("a.mrc",), tilt_in_degrees=20.0), match)
    with pytest.raises(InputError, match="--tilt") as error:
        require_tilt(_settings(maps=("a.mrc",), tilt_in_degrees=40.0), match)
    assert "1718 Å above" in str(error.value)
    require_tilt(_settings(maps=("a.mrc",), tilt_in_degrees=40.0, width_in_pixels=1024, height_in_pixels=1024), match)
