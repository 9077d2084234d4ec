"""The same code on another device: nothing is made on the wrong one, and the numbers are those of the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from posed_particles import density, noisy_halves, simulate
from pretended_device import WrongDeviceError, pretended_device

from cryoprism.core import generator_for, random_rotations, rfft2
from cryoprism.formats import Particles, read_particle_images
from cryoprism.particles import particle_transfer
from cryoprism.structure import (
    AlignmentData,
    Filament,
    FirstMapSettings,
    FourierVolume,
    HelicalCopies,
    HelicalSymmetry,
    MapReference,
    RefinementSettings,
    SearchPlan,
    SliceAccumulator,
    ab_initio,
    classify,
    estimate_beam_tilt,
    half_map_fsc,
    helical_agreement,
    impose_helical_symmetry,
    improve_about_sphere,
    insert_posterior,
    local_resolution,
    low_pass,
    mask_from_map,
    match_particles,
    micrograph_scales,
    noise_from_residuals,
    pack,
    packed_frequencies,
    particle_batches,
    pose_network_start,
    reconstruct,
    refine,
    refine_defocus,
    refine_micrograph_defocus,
    search,
    search_around,
    soft_sphere,
    start_state,
)
from cryoprism.structure.likelihood import batch_size, shift_phases
from cryoprism.structure.micrograph_signal import signal_sums
from cryoprism.structure.spherical_start import start_about_sphere

BOX, PIXEL, RADIUS, COUNT = 24, 3.0, 10, 24
PLAN = SearchPlan(orders=(1, 2), radii=(5, 8), shift_range=2.0, shift_step=1.0, keep=6)


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    with pretended_device() as device:
        here, there = torch.ones(3), torch.arange(3, device=device)
        assert there.device == device
        assert (there + 1).tolist() == [1, 2, 3]
        assert float((there * torch.tensor(2.0)).sum()) == 6.0
        assert torch.equal(here.to(device).cpu(), here)
        for wrong in (
            lambda: here + there,
            lambda: here[there],
            lambda: torch.cat([here, there]),
            lambda: torch.randn(3, generator=generator_for(0), device=device),
        ):
            with pytest.raises(WrongDeviceError):
                wrong()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.fixture(scope="module")
def data() -> AlignmentData:
    generator = generator_for(3, "devices")
    rotations = random_rotations(COUNT, generator)
    k = packed_frequencies(RADIUS).float().norm(dim=1) / (BOX * PIXEL)
    transfer = torch.sin(300 * k**2 + 0.3).expand(COUNT, -1).clone()
    views = FourierVolume.from_map(density(BOX), max_radius=RADIUS).slices(rotations, RADIUS) * transfer
    views = views * shift_phases(torch.randn(COUNT, 2, generator=generator), RADIUS, BOX)
    noise = pack(rfft2(0.3 * torch.randn(COUNT, BOX, BOX, generator=generator)), RADIUS)
    variance = torch.full((2, len(k)), 0.09 * BOX * BOX)
    return AlignmentData(views + noise, transfer, variance, torch.arange(COUNT) % 2, BOX)


def moved(data: AlignmentData, device: torch.device) -> AlignmentData:
    return AlignmentData(*(t.to(device) for t in (data.images, data.transfer, data.noise_variance, data.group)), BOX)


def close(there: torch.Tensor, here: torch.Tensor, rtol: float = 1e-3) -> None:
    torch.testing.assert_close(there.cpu(), here, rtol=rtol, atol=rtol * float(here.abs().max()))


def step(data: AlignmentData, device: torch.device) -> list[torch.Tensor]:
    """Expectation, maximisation, noise and scales, with the map on ``device``."""
    volume = FourierVolume.from_map(density(BOX).to(device), max_radius=RADIUS)
    found = search(data, volume, PLAN, symmetry="C2", offset=torch.eye(3))
    turns, moves = found.best()
    local = search_around(
        data, volume, turns, moves, step_in_degrees=4.0, reach=1, shift_step=0.5, shift_reach=1, radius=RADIUS
    )
    helix = HelicalSymmetry(12.0, 40.0)
    prior = Filament(helix, 40.0, axis_spread_in_degrees=30.0).prior(torch.eye(3)[data.group.cpu() % 2], 2.0, PIXEL)
    lying = search(data, volume, PLAN, prior=prior)
    sums = SliceAccumulator(BOX, max_radius=RADIUS, device=device)
    insert_posterior(sums, data, local, RADIUS, copies=torch.eye(3)[None], helix=HelicalCopies(helix, 2, PIXEL))
    made = sums.reconstruct(1e-3 * sums.shell_weights(), iterations=1)
    noise = noise_from_residuals(data, volume, local, RADIUS - 1, RADIUS)
    scales = micrograph_scales(data, volume, local, RADIUS)
    assert all(t.device.type == device.type for t in (turns, moves, local.weights, made, found.log_evidence))
    assert noise.device == scales.device == data.images.device
    return [
        turns,
        moves,
        found.log_evidence,
        lying.log_evidence,
        local.probability(),
        local.effective_orientations(),
        made,
        noise,
        scales,
    ]


@pytest.mark.parametrize("images_too", [False, True])
def test_expectation_and_maximisation(data: AlignmentData, images_too: bool) -> None:
    """With the images in the host's memory, and with everything on the device."""
    expected = step(data, torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(step(moved(data, device) if images_too else data, device), expected, strict=True):
            close(there, here)


@pytest.mark.parametrize("helical", [False, True])
def test_a_refinement(data: AlignmentData, helical: bool) -> None:
    helix = Filament(
        HelicalSymmetry(12.0, 40.0), 40.0, units=2, rise_range_in_angstroms=1.0, twist_range_in_degrees=3.0
    )
    axes = torch.eye(3)[torch.arange(COUNT) % 2] if helical else None
    settings = RefinementSettings(
        symmetry="C1",
        diameter_in_angstroms=60.0,
        pixel_size_in_angstroms=PIXEL,
        shift_range_in_angstroms=6.0,
        iterations=4 if helical else 3,
        finest_order=3,
        keep=6,
        filament=helix if helical else None,
    )
    reference = low_pass(density(BOX), PIXEL, 20.0)
    half_set = 1 + data.group

    def run(device: torch.device) -> tuple[torch.Tensor, ...]:
        state = start_state(data.images, data.transfer, data.group, reference.to(device), settings, RADIUS)
        end = refine(data.images, data.transfer, data.group, half_set, state, settings, axes=axes)
        assert end.maps[0].device == end.references[1].device == device
        assert end.rotations.device.type == "cpu"
        return end.maps[0], end.noise_variance, end.log_evidence, end.fsc

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 0.02)


def test_a_first_map_from_noise(data: AlignmentData) -> None:
    settings = RefinementSettings("C1", 60.0, PIXEL, shift_range_in_angstroms=6.0)

    def run(device: torch.device) -> tuple[torch.Tensor, ...]:
        first = FirstMapSettings(starts=2, passes=2)
        made = ab_initio(data.images, data.transfer, data.group, settings, first, box=BOX, device=device)
        assert made.map.device.type == device.type
        assert made.rotations.device.type == "cpu"
        return made.map, made.log_evidence

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 2e-2)


def test_round_particles(data: AlignmentData) -> None:
    """From noise and, as each half of a refinement does, from a low-passed map."""
    settings = RefinementSettings("O", 60.0, PIXEL, shift_range_in_angstroms=6.0)
    given = data.images, data.transfer, data.group

    def run(device: torch.device) -> tuple[torch.Tensor, ...]:
        first = FirstMapSettings(starts=1, trial_passes=1, passes=2, finest_in_angstroms=BOX * PIXEL / 7)
        made = start_about_sphere(*given, settings, first, box=BOX, device=device)
        assert made.radius == 7
        better, noise, _ = improve_about_sphere(*given, made.map, settings, passes=1)
        assert made.map.device.type == better.device.type == device.type
        return made.map, better, noise

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 1e-2)


def test_resolution_and_masks() -> None:
    first, second = (density(BOX) + 0.3 * torch.randn(BOX, BOX, BOX, generator=generator_for(n)) for n in (1, 2))
    mask = soft_sphere((BOX,) * 3, PIXEL, 24.0)
    here = half_map_fsc(first, second, PIXEL, mask=mask, seed=4)
    assert not math.isnan(float(here.corrected.sum()))
    with pretended_device() as device:
        there = half_map_fsc(first.to(device), second.to(device), PIXEL, mask=mask.to(device), seed=4)
        for name in ("unmasked", "masked", "randomised", "corrected"):
            close(getattr(there, name), getattr(here, name), 1e-4)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulate(tmp_path_factory.mktemp("devices"), 40, noise=1.0, beam_tilt=(0.5, -0.3), box=32)


def test_reconstruction(table: Particles) -> None:
    helix = HelicalCopies(HelicalSymmetry(8.0, 40.0), 2, 1.5)

    def run(device: torch.device) -> list[torch.Tensor]:
        batches = list(particle_batches(table, 15, batch_size=16, device=device))
        made = [
            reconstruct(batches, 32, symmetry="C3", device=device),
            reconstruct(batches, 32, helix=helix, iterations=0, device=device),
        ]
        assert all(m.map.device == device for m in made)
        return [made[0].map, made[0].half1, made[1].map, made[1].half2]

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 5e-3)


def test_defocus_and_beam_tilt(table: Particles) -> None:
    assert table.half_set is not None
    half_set = table.half_set

    def run(device: torch.device) -> list[torch.Tensor]:
        halves = (half.to(device) for half in noisy_halves(box=32))
        mask = soft_sphere((32,) * 3, 1.5, 18.0).to(device)
        reference = MapReference.from_half_maps(*halves, 1.5, mask=mask)
        match = match_particles(table, reference, half_set, device=device, batch_size=16)
        focus = refine_defocus(match)
        plane = refine_micrograph_defocus(match, iterations=1)
        tilt = estimate_beam_tilt(match)
        signal = signal_sums(match)
        return [
            focus.micrograph_offset_in_angstroms,
            focus.standard_deviation_in_angstroms,
            plane.standard_deviation_in_angstroms,
            torch.tensor([fit.beam_tilt_in_milliradians for fit in tilt]),
            signal.cross,
        ]

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 5e-3)


def test_classification(table: Particles, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_particle_images(table)
    transfer = particle_transfer(table, (32, 32))

    def run(device: str) -> list[torch.Tensor]:
        made = classify(
            images,
            transfer,
            classes=2,
            diameter_in_angstroms=36.0,
            pixel_size_in_angstroms=1.5,
            iterations=3,
            device=device,
        )
        return [made.averages, made.fraction, made.frc]

    expected = run("cpu")
    monkeypatch.setattr("cryoprism.structure.classes.resolve_device", torch.device)
    with pretended_device() as device:
        for there, here in zip(run(str(device)), expected, strict=True):
            close(there, here, 0.02)


def test_map_tools() -> None:
    first, second = (density(32) + 0.2 * torch.randn(32, 32, 32, generator=generator_for(n)) for n in (1, 2))
    helix = HelicalSymmetry(8.0, 40.0)

    def run(device: torch.device) -> list[torch.Tensor]:
        one, two = first.to(device), second.to(device)
        mask = mask_from_map(0.5 * (one + two), 4.0, extend_in_angstroms=0.0, soft_edge_in_angstroms=6.0)
        return [
            mask.data,
            impose_helical_symmetry(one, 1.5, helix, central_fraction=0.6),
            torch.tensor(helical_agreement(one, 1.5, helix)),
            local_resolution(one, two, 1.5, mask=mask.data, window_in_angstroms=18.0).data,
            low_pass(one, 1.5, 6.0),
        ]

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 5e-3)


def test_the_pose_network(data: AlignmentData) -> None:
    settings = RefinementSettings("C1", 60.0, PIXEL, shift_range_in_angstroms=6.0, iterations=1, keep=6)
    reference = low_pass(density(BOX), PIXEL, 20.0)

    def run(device: torch.device) -> list[torch.Tensor]:
        state = start_state(data.images, data.transfer, data.group, reference.to(device), settings, RADIUS)
        start = pose_network_start(data.images, data.transfer, data.group, state, settings, steps=1)
        candidates = torch.eye(3).expand(COUNT, 2, 3, 3)
        end = refine(data.images, data.transfer, data.group, 1 + data.group, state, settings, candidates=candidates)
        return [torch.linalg.det(start.candidates), end.maps[0], end.log_evidence]

    expected = run(torch.device("cpu"))
    with pretended_device() as device:
        for there, here in zip(run(device), expected, strict=True):
            close(there, here, 0.02)


def test_batches_follow_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = (batch_size(4e7, 1e6, 64, torch.device(name)) for name in ("cpu", "meta"))
    assert cpu == gpu == 40
    found = []
    for gigabytes in (1, 8, 80, 800):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=gigabytes: (free * 10**9, 10**12))
        found.append(batch_size(4e7, 1e6, 64, torch.device("cuda")))
    assert found == [40, 240, 1280, 1280]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_where_there_is_one(data: AlignmentData) -> None:
    for there, here in zip(step(data, torch.device("cuda:0")), step(data, torch.device("cpu")), strict=True):
        close(there, here, 0.01)
