"""Gold-standard refinement of poses and map: two halves that share nothing beyond a low resolution.

Each pass finds the posterior of every particle against the map of its own half (:mod:`.pose_search`), makes new maps
(:mod:`.maximisation`), measures noise and resolution, and filters each half map by the correlation of the two, which is
the Wiener filter that their signal-to-noise ratio asks for (Scheres 2012, J. Struct. Biol. 180, 519).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, generator_for, point_group_matrices

from .candidates import near_candidates
from .fsc import first_crossing, fourier_shell_correlation, half_map_fsc, radial_filter, three_shell_mean
from .likelihood import AlignmentData, Posterior, radius_of
from .maximisation import insert_posterior, micrograph_scales, noise_from_residuals
from .orientations import angular_distance
from .pose_search import search, search_around
from .refinement_state import RefinementState, sphere_of, support_of
from .schedule import RefinementSettings, local_passes_begun, next_settings, order_of_next_pass, plan_for
from .slices import FourierVolume, SliceAccumulator, split_point_group
from .spherical_start import finest_of_start, improve_about_sphere, is_round_group

__all__ = ["posterior_of", "refine"]

_SHARED_IN_ANGSTROMS = 40.0
_SETTLED_IN_ANGSTROMS = 18.0


def refine(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    half_set: Tensor,
    state: RefinementState,
    settings: RefinementSettings,
    *,
    mask: Tensor | None = None,
    axes: Tensor | None = None,
    candidates: Tensor | None = None,
    on_pass: Callable[[RefinementState], None] | None = None,
) -> RefinementState:
    """Refine until resolution and poses settle.

    Parameters
    ----------
    images, transfer
        (n, N) packed coefficients of the whole, unmasked images, and what multiplies the signal.
    group
        (n,) micrograph of each particle.
    half_set
        (n,) 1 or 2.
    state
        From :func:`start_state` or an earlier call.
    mask
        (box, box, box) in [0, 1]: support of the map; a soft sphere of the diameter if absent.
    axes
        (n, 3) direction of each particle's filament in its view, see :meth:`Filament.prior`.
    candidates
        (n, k, 3, 3) about which the first pass looks, see :func:`pose_network_start`; everywhere if absent.
    on_pass
        Called with the state after each pass: log it, save it.

    Raises
    ------
    InputError
        A half set is empty.
    """
    halves = [torch.nonzero(half_set == h)[:, 0] for h in (1, 2)]
    if not all(len(h) for h in halves):
        raise InputError("half sets", f"{len(halves[0])} and {len(halves[1])} particles", "Both halves need particles.")
    finest = finest_of_start(settings.symmetry, settings.diameter_in_angstroms)
    begins = state.iteration == 0 and candidates is None
    if begins and is_round_group(settings.symmetry) and finest < settings.initial_resolution_in_angstroms:
        state = _about_sphere(images, transfer, group, halves, state, settings, mask)
    while state.iteration < settings.iterations:
        local = local_passes_begun(state.history, settings)
        if local > settings.local_passes:
            break
        near = candidates if state.iteration == 0 else None
        state = _pass(images, transfer, group, halves, state, settings, mask, axes, near, local=local > 0)
        settled = local_passes_begun(state.history, settings) > settings.local_passes
        state = replace(state, settled=settled or state.iteration >= settings.iterations)
        if on_pass is not None:
            on_pass(state)
    return state


def _about_sphere(
    images: Tensor, transfer: Tensor, group: Tensor, halves: list[Tensor], state: RefinementState,
    settings: RefinementSettings, mask: Tensor | None,
) -> RefinementState:  # fmt: skip
    """State of a nearly round particle after cheap passes with coarse cells, each half on its own.

    The state as it was where the halves do not agree beyond its radius afterwards.
    """
    maps, noise = [], state.noise_variance.clone()
    radius = 0
    for number, (chosen, reference) in enumerate(zip(halves, state.references, strict=True)):
        made, variance, radius = improve_about_sphere(
            images[chosen], transfer[chosen], group[chosen], reference, settings, mask=mask, seed=settings.seed + number
        )
        maps.append(made)
        mine = torch.unique(group[chosen])
        noise[mine, : variance.shape[1]] = variance.to(noise)[mine]
    support = (sphere_of(int(maps[0].shape[-1]), settings) if mask is None else mask).to(maps[0])
    fsc = fourier_shell_correlation(maps[0] * support, maps[1] * support, settings.pixel_size_in_angstroms).fsc.float()
    fsc[radius + 1 :] = 0
    if _reach_of(fsc) + 2 <= state.radius:
        return state  # the halves went different ways: better the common start
    references = _references(maps, fsc, support, radius, settings)
    return replace(
        state,
        references=references,
        maps=(maps[0], maps[1]),
        noise_variance=noise,
        fsc=fsc,
        radius=min(radius_of(images), _reach_of(fsc) + 2),
    )


def _pass(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    halves: list[Tensor],
    state: RefinementState,
    settings: RefinementSettings,
    mask: Tensor | None,
    axes: Tensor | None,
    candidates: Tensor | None,
    *,
    local: bool,
) -> RefinementState:
    started = time.process_time()
    box = int(state.references[0].shape[-1])
    here, device = images.device, state.references[0].device
    total = radius_of(images)
    insert = min(total, state.radius + max(6, state.radius // 3))
    exact, copies = split_point_group(point_group_matrices(settings.symmetry))
    offset = _offset(settings.seed, state.iteration)
    filament = None if settings.filament is None else settings.filament.with_history(state.history)
    noise = torch.zeros_like(state.noise_variance)
    scales = state.scales.clone()
    rotations, shifts = state.rotations.clone(), state.shifts.clone()
    probability, evidence = torch.zeros(len(images), device=here), torch.zeros(len(images), device=here)
    maps: list[Tensor] = []
    weights: list[Tensor] = []
    strength = state.scales[group][:, None]
    for chosen, reference in zip(halves, state.references, strict=True):
        volume = FourierVolume.from_map(reference, max_radius=state.radius)
        data = AlignmentData(
            images[chosen], transfer[chosen] * strength[chosen], state.noise_variance, group[chosen], box
        )
        if candidates is not None:
            posterior = near_candidates(data, volume, candidates[chosen], state.radius, settings)
        else:
            told = None if axes is None else axes[chosen]
            posterior = posterior_of(data, volume, state, chosen, settings, offset=offset, axes=told, local=local)
        accumulator = SliceAccumulator(box, max_radius=insert, device=device)
        insert_posterior(
            accumulator,
            data,
            posterior,
            insert,
            copies=copies if len(copies) > 1 else None,
            helix=None if filament is None else filament.copies(settings.pixel_size_in_angstroms),
        )
        if len(exact) > 1:
            accumulator = accumulator.symmetrised(exact)
        weights.append(accumulator.shell_weights())
        maps.append(
            accumulator.reconstruct(1e-3 * weights[-1].clamp_min(float(weights[-1].max()) * 1e-6), iterations=0)
        )
        mine = torch.unique(group[chosen])
        noise[mine] = noise_from_residuals(data, volume, posterior, state.radius, total)[mine]
        scales[mine] *= micrograph_scales(data, volume, posterior, state.radius)[mine]
        best = posterior.best()
        rotations[chosen], shifts[chosen] = best[0].to(here), best[1].to(here)
        probability[chosen], evidence[chosen] = posterior.probability().to(here), posterior.log_evidence.to(here)
        del posterior, accumulator
    support = (support_of(box, settings) if mask is None else mask).to(device)
    if filament is not None:
        if settings.filament is not None and state.iteration:
            found = settings.filament.refined(maps, settings.pixel_size_in_angstroms, state.iteration)
            filament = replace(filament, symmetry=found)
        maps = [filament.symmetrised(made, settings.pixel_size_in_angstroms) for made in maps]
    curves = half_map_fsc(
        maps[0], maps[1], settings.pixel_size_in_angstroms, mask=support, seed=settings.seed + state.iteration
    )
    fsc, corrected = curves.masked.float().clone(), curves.corrected.float().clone()
    corrected[insert + 1 :] = 0
    fsc[insert + 1 :] = 0
    crossing = first_crossing(curves.frequency, corrected, 0.143)
    resolution = crossing.resolution_in_angstroms or 2 * settings.initial_resolution_in_angstroms
    ahead = maps
    if state.iteration >= 2 and settings.momentum > 0 and not local:
        # Expectation maximisation creeps where the posterior is wide; a step beyond its own shortens the way. Low
        # shells have settled long before and would only swing.
        fine = (torch.arange(len(fsc)) > box * settings.pixel_size_in_angstroms / _SETTLED_IN_ANGSTROMS).float()
        ahead = [
            new + settings.momentum * radial_filter(new - old, fine) for new, old in zip(maps, state.maps, strict=True)
        ]
    references = _references(ahead, fsc, support, insert, settings)
    radius = min(total, max(5, _reach_of(fsc) + 2))
    change = float(_turned(rotations, state.rotations, settings.symmetry)) if state.iteration else math.nan
    row = {
        "iteration": float(state.iteration + 1),
        "resolution_in_angstroms": float(resolution),
        "radius": float(state.radius),
        "fsc_area": float(fsc[1:].clamp_min(0).sum()) / (box * settings.pixel_size_in_angstroms),
        "change_in_degrees": change,
        "log_evidence": float(evidence.mean()),
        "probability": float(probability.mean()),
        "order": float(order_of_next_pass(state.history, settings)),
        "cpu_seconds": time.process_time() - started,
    }
    if filament is not None:
        row["rise_in_angstroms"] = filament.symmetry.rise_in_angstroms
        row["twist_in_degrees"] = filament.symmetry.twist_in_degrees
    new = RefinementState(
        references=references,
        maps=(maps[0], maps[1]),
        noise_variance=noise,
        scales=scales,
        rotations=rotations,
        shifts=shifts,
        probability=probability,
        log_evidence=evidence,
        fsc=fsc,
        radius=radius,
        iteration=state.iteration + 1,
        history=(*state.history, row),
    )
    return new


def posterior_of(
    data: AlignmentData,
    volume: FourierVolume,
    state: RefinementState,
    chosen: Tensor,
    settings: RefinementSettings,
    *,
    offset: Tensor | None = None,
    axes: Tensor | None = None,
    local: bool = False,
) -> Posterior:
    """Posterior of particles as the next pass finds it.

    Parameters
    ----------
    data
        The particles ``chosen`` (m,) of the state.
    volume
        Transform of their half's reference, at ``state.radius`` at least.
    offset
        (3, 3) rotation of the grid.
    axes
        (m, 3) direction of each particle's filament in its view.
    local
        About the state's poses instead of everywhere.
    """
    prior = None
    if settings.filament is not None:
        pixel = settings.pixel_size_in_angstroms
        filament = settings.filament.with_history(state.history)
        prior = filament.prior(axes, settings.shift_range_in_angstroms / pixel, pixel)
    if not local:
        plan = plan_for(state.radius, next_settings(state.history, settings), data.box)
        # After two passes the shifts are known to a few pixels.
        near = state.shifts[chosen] if state.iteration >= 2 and prior is None else None
        return search(data, volume, plan, symmetry=settings.symmetry, offset=offset, prior=prior, near=near)
    detail = data.box * settings.pixel_size_in_angstroms / state.radius
    step = math.degrees(0.25 * detail / (0.5 * settings.diameter_in_angstroms))
    return search_around(
        data,
        volume,
        state.rotations[chosen],
        state.shifts[chosen],
        step_in_degrees=step,
        reach=2,
        shift_step=0.12 * detail / settings.pixel_size_in_angstroms,
        shift_reach=2,
        radius=state.radius,
        prior=prior,
    )


def _references(
    maps: list[Tensor], fsc: Tensor, support: Tensor, insert: int, settings: RefinementSettings
) -> tuple[Tensor, Tensor]:
    """Half maps filtered by their correlation, alike up to 40 Å, inside the support."""
    box = int(maps[0].shape[-1])
    weight = fsc.clamp(0, 1).clone()
    weight[_reach_of(fsc) + 3 :] = 0
    weight[insert + 1 :] = 0
    weight[:2] = 1
    shared = (torch.arange(len(weight)) <= box * settings.pixel_size_in_angstroms / _SHARED_IN_ANGSTROMS).float()
    difference = 0.5 * (maps[0] - maps[1])
    common = radial_filter(difference, shared)
    first = radial_filter(maps[0] - common, weight) * support
    second = radial_filter(maps[1] + common, weight) * support
    return first, second


def _reach_of(fsc: Tensor) -> int:
    """Last shell before the correlation, averaged over three shells, falls below 0.143."""
    below = torch.nonzero(three_shell_mean(fsc)[2:] < 0.143)[:, 0]
    return int(below[0]) + 1 if len(below) else len(fsc) - 1


def _offset(seed: int, iteration: int) -> Tensor:
    """Small random rotation of the grid, a new one in each pass."""
    angles = 15.0 * torch.rand(3, generator=generator_for(seed, "grid", iteration)) - 7.5
    return euler_to_matrix(*angles.double().unbind()).float()


def _turned(new: Tensor, old: Tensor, symmetry: str) -> Tensor:
    return angular_distance(new, old, symmetry).median()
