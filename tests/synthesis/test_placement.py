import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import ellipsoid, species
from scipy.spatial import cKDTree

from cryoprism.core import InputError
from cryoprism.synthesis import (
    Arrangement,
    Clusters,
    Filaments,
    Helix,
    Population,
    PreferredViews,
    Scene,
    least_height_in_angstroms,
    place_population,
    render_micrograph,
)

BALL = ellipsoid(40, 40, 40, name="ball")
ROD = ellipsoid(90, 16, 16, name="rod")
FIELD = Scene(height_in_pixels=600, width_in_pixels=640, pixel_size_in_angstroms=2.0)


def place(scene, *members, margin=60.0, support=None, shares=(), **arrangement):
    population = Population(species=members, shares=shares, arrangement=Arrangement(**arrangement))
    return place_population(scene, population, margin, support)


def in_field(scene, placement):
    half = 0.5 * scene.pixel_size_in_angstroms * torch.tensor([scene.width_in_pixels, scene.height_in_pixels])
    return (placement.centres_in_angstroms[:, :2].abs() <= half).all(1)


def atoms_of(placement, specimens):
    """Atoms of every particle as they lie in the ice."""
    return [
        (specimens[int(k)].model.positions_in_angstroms @ r.T + c).numpy()
        for c, r, k in zip(placement.centres_in_angstroms, placement.rotations, placement.conformations, strict=True)
    ]


def closest_approach(clouds):
    """Least distance between atoms of different particles [Å]."""
    owner = np.repeat(np.arange(len(clouds)), [len(c) for c in clouds])
    points = np.concatenate(clouds)
    distance, neighbour = cKDTree(points).query(points, k=12)
    foreign = owner[neighbour] != owner[:, None]
    return distance[foreign].min() if foreign.any() else math.inf


def test_the_flattest_view_of_a_rod_is_across_it():
    assert least_height_in_angstroms(ROD) == pytest.approx(32.0, abs=12.0)
    assert least_height_in_angstroms(BALL) == pytest.approx(80.0, abs=12.0)


def test_rods_share_no_place_and_pack_closer_than_their_spheres():
    scene = replace(FIELD, height_in_pixels=400, width_in_pixels=400)
    placement = place(scene, species(ROD), count=110)
    # Overlapping clouds of this density would come within 1 Å; cells of 4 Å take some of the 6 Å of water.
    assert closest_approach(atoms_of(placement, [ROD])) > 2.0
    centres = placement.centres_in_angstroms
    distance = torch.cdist(centres, centres) + 1e9 * torch.eye(len(centres))
    assert distance.min() < 0.5 * 2 * ROD.radius_in_angstroms
    spheres = 4 / 3 * math.pi * ROD.radius_in_angstroms**3 * int(in_field(scene, placement).sum())
    assert spheres > 800.0 * 800.0 * 300.0  # more than the whole ice


def test_all_atoms_lie_in_the_wedge():
    scene = replace(FIELD, ice_thickness_in_angstroms=250.0, ice_gradient_in_angstroms_per_micrometer=2000.0)
    placement = place(scene, species(BALL), count=60)
    assert len(placement) > 60
    for cloud in atoms_of(placement, [BALL]):
        assert (np.abs(cloud[:, 2]) <= 0.5 * (250.0 + 0.2 * cloud[:, 0]) + 4.0).all()
    thin = placement.centres_in_angstroms[:, 0] < -850.0  # less than 80 Å of ice
    assert not thin.any()


@pytest.mark.parametrize(("thickness", "coverage"), [(100.0, 0.65), (200.0, 0.7)])
def test_a_full_film_is_reached(thickness, coverage):
    scene = replace(FIELD, ice_thickness_in_angstroms=thickness)
    ball = ellipsoid(40, 40, 40, atoms=8000)
    placement = place(scene, species(ball), coverage=coverage)
    # The projected area of the ball with the water around its outermost atoms.
    found = int(in_field(scene, placement).sum()) * math.pi * 43.0**2 / (1200.0 * 1280.0)
    assert found == pytest.approx(coverage, rel=0.07)
    centres = placement.centres_in_angstroms
    assert (torch.cdist(centres, centres) + 1e9 * torch.eye(len(centres))).min() > 76.0
    x = centres[in_field(scene, placement)][:, 0]
    assert int((x.abs() < 320.0).sum()) / len(x) == pytest.approx(0.5, abs=0.12)  # no gathering at the borders


def test_density_count_and_the_scenes_own_count_agree():
    per_square_micrometer = place(FIELD, species(BALL), density_per_square_micrometer=50 / 0.01536)
    assert int(in_field(FIELD, per_square_micrometer).sum()) == pytest.approx(50, abs=9)
    assert len(place(FIELD, species(BALL), count=60)) == len(place(FIELD, species(BALL)))
    assert len(place(FIELD, species(BALL), count=0)) == 0


def test_the_same_scene_gives_the_same_places_and_another_seed_others():
    first, again, other = (place(replace(FIELD, seed=s), species(BALL, ROD), count=40) for s in (5, 5, 6))
    assert torch.equal(first.centres_in_angstroms, again.centres_in_angstroms)
    assert torch.equal(first.rotations, again.rotations)
    assert torch.equal(first.conformations, again.conformations)
    assert not torch.equal(first.centres_in_angstroms, other.centres_in_angstroms)


def test_a_tilted_film_keeps_its_particles_apart_and_inside():
    scene = replace(FIELD, tilt_in_degrees=40.0, tilt_axis_in_degrees=25.0, ice_thickness_in_angstroms=260.0)
    placement = place(scene, species(ROD), count=120)
    clouds = atoms_of(placement, [ROD])
    assert closest_approach(clouds) > 2.0
    points = np.concatenate(clouds)
    axis = math.radians(25.0)
    middle = math.tan(math.radians(40.0)) * (math.cos(axis) * points[:, 1] - math.sin(axis) * points[:, 0])
    assert (np.abs(points[:, 2] - middle) <= 130.0 + 7.0).all()


def test_adsorbed_particles_touch_the_surfaces_with_the_same_face():
    views = PreferredViews(directions_in_degrees=((0.0, 0.0),), shares=(1.0,), concentrations=(1e5,))
    placement = place(FIELD, species(BALL), count=80, interface_share=0.7, views=views)
    z = placement.centres_in_angstroms[:, 2]
    touches = (z.abs() - (150.0 - 43.0)).abs() < 4.5
    assert touches.float().mean() == pytest.approx(0.7, abs=0.15)
    up, down = touches & (z > 0), touches & (z < 0)
    assert min(int(up.sum()), int(down.sum())) > 15
    faces = placement.rotations[:, 2, 2]
    assert (faces[up] > 0.95).float().mean() > 0.9
    assert (faces[down] < -0.95).float().mean() > 0.8


def test_clusters_and_clumps_bring_particles_together():
    def nearest(placement):
        xy = placement.centres_in_angstroms[:, :2].numpy()
        return np.median(cKDTree(xy).query(xy, k=4)[0][:, 3])

    alone = place(FIELD, species(BALL), count=40)
    clustered = place(FIELD, species(BALL), count=40, clusters=Clusters(members=8, spread_in_angstroms=80.0))
    assert nearest(clustered) < 0.75 * nearest(alone)
    clumped = place(FIELD, species(BALL), count=40, aggregate_share=0.5, aggregate_size=5)
    member = clumped.aggregates > 0
    assert member.float().mean() == pytest.approx(0.5, abs=0.2)
    for number in clumped.aggregates[member].unique()[:-1]:
        points = clumped.centres_in_angstroms[clumped.aggregates == number].numpy()
        assert len(points) == 5
        assert (cKDTree(points).query(points, k=2)[0][:, 1] < 110.0).all()
    assert closest_approach(atoms_of(clumped, [BALL])) > 2.0


def test_mixtures_have_their_shares():
    small = ellipsoid(20, 20, 20, atoms=400)
    placement = place(
        replace(FIELD, height_in_pixels=1200, width_in_pixels=1200),
        species(small, small, shares=(3.0, 1.0)),
        species(ROD),
        count=400,
        shares=(0.75, 0.25),
    )
    first = placement.species == 0
    assert first.float().mean() == pytest.approx(0.75, abs=0.07)
    assert (placement.conformations[first] == 1).float().mean() == pytest.approx(0.25, abs=0.08)
    assert (placement.conformations[~first] == 0).all()


def test_particles_keep_off_the_support_film():
    support = torch.zeros(FIELD.shape)
    support[:, 320:] = 1.0
    thinned = {
        kept: place(FIELD, species(BALL), count=60, support=support, carbon_occupancy=kept).centres_in_angstroms
        for kept in (0.0, 0.3)
    }
    assert (thinned[0.0][:, 0] < -30.0).all()
    share = float((thinned[0.3][:, 0] > 0).float().mean())
    assert share == pytest.approx(0.3 / 1.3, abs=0.1)


def test_filaments_bend_as_their_persistence_length_says():
    segment = ellipsoid(22, 22, 10, atoms=300)
    scene = replace(FIELD, height_in_pixels=2000, width_in_pixels=2000)
    helix = Helix(rise_in_angstroms=20.0, twist_in_degrees=30.0)
    wishes = Filaments(count=12, length_in_angstroms=1500.0, persistence_length_in_angstroms=2000.0)
    placement = place(scene, species(segment, helix=helix), filaments=wishes)
    bends, count = [], 0
    for number in placement.filaments.unique():
        own = placement.filaments == number
        arc = placement.arc_positions_in_angstroms[own]
        whole = torch.allclose(arc.diff(), torch.tensor(20.0), atol=1e-3)
        if not whole or len(arc) < 10:
            continue
        count += 1
        points, axes = placement.centres_in_angstroms[own], placement.rotations[own][:, :, 2]
        steps = points.diff(dim=0)
        torch.testing.assert_close(steps.norm(dim=1), torch.full((len(steps),), 20.0), atol=0.1, rtol=0)
        along = (steps / 20.0 * axes[:-1]).sum(1)
        assert along.min() > 0.9
        assert axes[:, 2].abs().max() < 1e-5
        # Turned back into the frame of the axis, each repeat is turned by the twist against the last.
        side = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(axes), axes)
        x = placement.rotations[own][:, :, 0]
        phase = torch.atan2(x[:, 2], (x * side).sum(1))
        turn = torch.remainder(torch.rad2deg(phase.diff()) + 180.0, 360.0) - 180.0
        torch.testing.assert_close(turn, torch.full_like(turn, 30.0), atol=0.1, rtol=0)
        heading = torch.atan2(axes[:, 1], axes[:, 0])
        bends.append(torch.remainder(heading.diff() + math.pi, 2 * math.pi) - math.pi)
    assert count >= 6
    assert float(torch.cat(bends).square().mean()) == pytest.approx(20.0 / 2000.0, rel=0.3)


def test_subunits_wind_around_the_axis_of_their_filament():
    subunit = ellipsoid(12, 12, 10, atoms=200)
    helix = Helix(rise_in_angstroms=15.0, twist_in_degrees=90.0, axis_offset_in_angstroms=(30.0, 0.0))
    wishes = Filaments(count=2, length_in_angstroms=600.0, persistence_length_in_angstroms=1e9)
    placement = place(FIELD, species(subunit, helix=helix), species(BALL), count=20, filaments=wishes)
    own = placement.filaments == placement.filaments.max()
    points, axis = placement.centres_in_angstroms[own], placement.rotations[own][0, :, 2]
    assert len(points) > 12
    from_axis = points - placement.rotations[own] @ torch.tensor([30.0, 0.0, 0.0])
    off = from_axis - from_axis[0]
    assert (off - (off @ axis)[:, None] * axis).norm(dim=1).max() < 0.1
    assert placement.filaments[placement.species == 1].max() == 0
    balls = placement.centres_in_angstroms[placement.species == 1]
    assert torch.cdist(balls, points).min() > 40.0


def test_what_does_not_fit_is_refused_with_a_way_out():
    with pytest.raises(InputError, match="do not fit") as caught:
        place(replace(FIELD, height_in_pixels=200, width_in_pixels=200), species(BALL), count=200)
    assert "Ask for about" in caught.value.remedy
    thin = replace(FIELD, ice_thickness_in_angstroms=60.0)
    with pytest.raises(InputError, match=r"ball' is about \d+ Å high") as caught:
        place(thin, species(BALL), count=3)
    assert "may_protrude" in caught.value.remedy
    out = place(thin, species(BALL), count=3, may_protrude=True)
    assert out.centres_in_angstroms[:, 2].abs().max() < 7.0
    with pytest.raises(InputError, match="overfocus"):
        place(replace(FIELD, defocus_in_angstroms=-15000.0), species(BALL), count=3)
    segment = species(BALL, helix=Helix(rise_in_angstroms=30.0))
    with pytest.raises(InputError, match="filaments"):
        Population(species=(segment,))
    with pytest.raises(InputError, match="blob"):
        place(thin, segment, filaments=Filaments(count=1, length_in_angstroms=500.0))
    many = Filaments(count=30, length_in_angstroms=5000.0)
    with pytest.raises(InputError, match="without crossing"):
        place(replace(FIELD, ice_thickness_in_angstroms=100.0), segment, filaments=many)
    for wrong in ({"count": 1, "coverage": 0.2}, {"interface_share": 2.0}, {"collisions": "boxes"}):
        with pytest.raises(InputError, match="arrangement"):
            Arrangement(**wrong)


def test_a_rendered_population_knows_who_is_where():
    big, small = ellipsoid(35, 35, 35, atoms=4000), ellipsoid(15, 15, 15, atoms=300)
    scene = Scene(height_in_pixels=200, width_in_pixels=220, pixel_size_in_angstroms=3.0, particle_count=20)
    population = Population(species=(species(big, small), species(small)), shares=(0.6, 0.4))
    rendered = render_micrograph(scene, population)
    assert {(p.species, p.conformation) for p in rendered.particles} == {(0, 0), (0, 1), (1, 0)}
    assert population.class_number(1, 0) == 3
    for p in rendered.particles:
        row, column = round(p.y_in_pixels), round(p.x_in_pixels)
        if not (10 < row < 190 and 10 < column < 210):
            continue
        near = rendered.potential[row - 3 : row + 4, column - 3 : column + 4].mean()
        if (p.species, p.conformation) == (0, 0):
            assert near > 3 * rendered.potential.abs().mean()
        assert p.defocus_u_in_angstroms == pytest.approx(scene.defocus_u_in_angstroms + p.height_in_angstroms)
    assert torch.equal(rendered.counts, render_micrograph(scene, population).counts)
