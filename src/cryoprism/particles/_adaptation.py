"""Adaptation of a picker to a user's few clicks, from positive and unlabelled points.

A click says that there is a particle; that a point was not clicked says nothing. With π the share of points that lie on
a centre, the risk of a classifier needs no negatives (du Plessis et al. 2015), and its negative part, which cannot be
below zero, is kept from going there by over-fitting (Kiryo, Niu, du Plessis & Sugiyama 2017, NeurIPS 30, 1674):

    R = π ⟨ℓ(f, 1)⟩_P + max(0, ⟨ℓ(f, 0)⟩_U − π ⟨ℓ(f, 0)⟩_P),   ℓ(f, y) = −y log σ(f) − (1 − y) log σ(−f).

Points are pixels of the working image: P those within 0.12 diameters of a click, U those of patches that are
drawn anywhere. The weights are drawn back to where they started, which keeps what the picker knew before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for
from cryoprism.restoration.masks import ArtefactMask

from ._inputs import PIXELS_PER_DIAMETER, Transfer, picker_channels, working_pixel
from .network import LearnedPicker, copy_of

__all__ = ["ClickedMicrograph", "adapt"]

_NEAR = 0.12  # diameters from a click that count as its centre: weighs as much as the spot of training
_PATCH = 6 * PIXELS_PER_DIAMETER


@dataclass(frozen=True, eq=False, kw_only=True)
class ClickedMicrograph:
    """A micrograph and the particles that a user has marked on it, not necessarily all.

    ``image`` (h, w) raw pixels, ``clicks`` (n, 2) x, y in its pixels; ``transfer`` and ``mask`` as for
    :meth:`LearnedPicker.score`.
    """

    image: Tensor
    pixel_size_in_angstroms: float
    clicks: Tensor
    transfer: Transfer | None = None
    mask: Tensor | ArtefactMask | None = None


def adapt(
    picker: LearnedPicker,
    micrographs: Sequence[ClickedMicrograph],
    *,
    diameter_in_angstroms: float,
    expected_count: float,
    steps: int = 150,
    batch: int = 3,
    learning_rate: float = 1e-3,
    anchor: float = 1e-3,
    seed: int = 0,
) -> LearnedPicker:
    """Fine-tune a picker on a few clicks.

    Parameters
    ----------
    picker
        Where to start; not changed.
    micrographs
        With 10 to 50 clicks in all; those without any count as unlabelled.
    diameter_in_angstroms
        Of the particle.
    expected_count
        Particles on a micrograph, roughly: it sets π, and with it how many the adapted picker will find.
    steps, batch, learning_rate
        Of the optimiser; each step takes ``batch`` patches around clicks and as many from anywhere.
    anchor
        How strongly the weights are drawn back, per step relative to the learning rate.
    seed
        Of every draw.

    Returns
    -------
    LearnedPicker
        On the same device. ``notes["threshold"]`` is the score above which the given micrographs hold as many
        particles as were expected.

    Raises
    ------
    InputError
        No clicks, clicks outside of their micrograph, or a count that is not positive or would fill the field.
    """
    _check(micrographs, expected_count, steps)
    pixel = working_pixel(diameter_in_angstroms)
    channels = [
        picker_channels(
            m.image.to(picker.device),
            m.pixel_size_in_angstroms,
            diameter_in_angstroms=diameter_in_angstroms,
            transfer=m.transfer,
            mask=m.mask if m.mask is None or isinstance(m.mask, ArtefactMask) else m.mask.to(picker.device),
        )
        for m in micrographs
    ]
    clicked = [m.clicks.double() * (m.pixel_size_in_angstroms / pixel) for m in micrographs]
    area = sum(c.shape[1] * c.shape[2] for c in channels) / len(channels)
    prior = expected_count * math.pi * (_NEAR * PIXELS_PER_DIAMETER) ** 2 / area
    if prior > 0.3:
        raise InputError("--expected-count", f"{expected_count:g} particles would fill the field", "Give fewer.")
    network = copy_of(picker.network).to(picker.device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    with torch.no_grad():
        # The output is made log-odds of the same event that π counts.
        network.get_parameter("head.bias").sub_(picker.offset)
        start = [value.detach().clone() for value in network.parameters()]
    places = [(i, j) for i, points in enumerate(clicked) for j in range(len(points))]
    for step in range(steps):
        share = step / steps
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * share))
        generator = generator_for(seed, "adaptation", step)
        patches = [_cut(channels, clicked, places, generator, near_click=k < batch) for k in range(2 * batch)]
        output = network(torch.stack([p[0] for p in patches]).to(memory_format=torch.channels_last))
        loss = _risk(output[batch:], output[torch.stack([p[1] for p in patches])], prior)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for value, origin in zip(network.parameters(), start, strict=True):
                value.lerp_(origin, anchor)
    # What scores were worth before says nothing about those of the new network.
    notes = {name: value for name, value in picker.notes.items() if name != "calibration"}
    notes["adapted"] = f"{len(places)} clicks, {expected_count:g} expected, {steps} steps"
    adapted = replace(picker, network=network.eval(), offset=0.0, notes=MappingProxyType(notes))
    threshold = _threshold(adapted, micrographs, diameter_in_angstroms, expected_count)
    return replace(adapted, notes=MappingProxyType(dict(adapted.notes) | {"threshold": f"{threshold:.3f}"}))


def _threshold(
    picker: LearnedPicker, micrographs: Sequence[ClickedMicrograph], diameter: float, expected_count: float
) -> float:
    """Score above which the micrographs hold as many particles, half a diameter apart, as are expected."""
    merits = []
    for m in micrographs:
        score = picker.score(
            m.image, m.pixel_size_in_angstroms, diameter_in_angstroms=diameter, transfer=m.transfer, mask=m.mask
        )
        picks = score.picks(0.5 * diameter, -math.inf, pixel_size_in_angstroms=m.pixel_size_in_angstroms)
        merits.append(picks.figure_of_merit)
    ranked = torch.cat(merits).sort(descending=True).values
    return float(ranked[min(len(ranked), max(1, round(expected_count * len(micrographs)))) - 1])


def _check(micrographs: Sequence[ClickedMicrograph], expected_count: float, steps: int) -> None:
    if sum(len(m.clicks) for m in micrographs) == 0:
        raise InputError("--coordinates", "there are no clicks", "Mark 10 to 50 particles.")
    for m in micrographs:
        if m.clicks.ndim != 2 or m.clicks.shape[1] != 2:
            raise InputError("clicks", f"have shape {tuple(m.clicks.shape)}", "Give (n, 2) as x, y.")
        limit = torch.tensor([m.image.shape[1], m.image.shape[0]], dtype=torch.float64)
        if bool(((m.clicks < 0) | (m.clicks >= limit)).any()):
            raise InputError("clicks", "lie outside of their micrograph", "Give pixels of the micrograph as x, y.")
    if not (math.isfinite(expected_count) and expected_count > 0):
        raise InputError("--expected-count", f"is {expected_count}", "Give how many particles a micrograph has.")
    if steps < 1:
        raise InputError("--steps", f"is {steps}", "Give 1 or more.")


def _cut(
    channels: Sequence[Tensor],
    clicked: Sequence[Tensor],
    places: Sequence[tuple[int, int]],
    generator: torch.Generator,
    *,
    near_click: bool,
) -> tuple[Tensor, Tensor]:
    """Patch (3, p, p) around a click that is drawn, or anywhere, and (p, p) bool of what is near a click."""
    draws = torch.rand(5, generator=generator).tolist()
    which, number = places[int(draws[0] * len(places))]
    if not near_click:
        which = int(draws[0] * len(channels))
    image, points = channels[which], clicked[which]
    size = [min(_PATCH, int(n)) for n in image.shape[1:]]
    room = [int(n) - m for n, m in zip(image.shape[1:], size, strict=True)]
    if near_click:
        x0, y0 = points[number].tolist()
        start = [round(y0 - draws[1] * size[0]), round(x0 - draws[2] * size[1])]
    else:
        start = [int(draws[1] * (room[0] + 1)), int(draws[2] * (room[1] + 1))]
    top, left = (max(0, min(at, most)) for at, most in zip(start, room, strict=True))
    y = torch.arange(top, top + _PATCH, device=image.device)[:, None]
    x = torch.arange(left, left + _PATCH, device=image.device)[None, :]
    near = torch.zeros(_PATCH, _PATCH, dtype=torch.bool, device=image.device)
    for px, py in points.tolist():
        near |= (x - px) ** 2 + (y - py) ** 2 <= (_NEAR * PIXELS_PER_DIAMETER) ** 2
    patch = image[:, top : top + size[0], left : left + size[1]]
    patch = torch.nn.functional.pad(patch, (0, _PATCH - size[1], 0, _PATCH - size[0]))
    turns = int(draws[3] * 4)
    patch, near = torch.rot90(patch, turns, (1, 2)), torch.rot90(near, turns, (0, 1))
    if draws[4] < 0.5:
        patch, near = patch.flip(-1), near.flip(-1)
    return patch, near


def _risk(unlabelled: Tensor, positive: Tensor, prior: float) -> Tensor:
    """Non-negative risk of log-odds at unlabelled points and at clicked ones, each of any shape."""
    cost_of_yes = torch.nn.functional.softplus  # ℓ(f, 0)
    missed = prior * cost_of_yes(-positive).mean()  # ℓ(f, 1) = ℓ(−f, 0)
    false = cost_of_yes(unlabelled).mean() - prior * cost_of_yes(positive).mean()
    # Per particle instead of per pixel: the gradient keeps its size whatever the prior.
    return (missed + false.clamp_min(0.0)) / prior
