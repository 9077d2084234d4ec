"""A first map: the spherical average of the particle first, then what is not round about it.

Shells of high symmetry (ferritin, capsids, cages) look alike from everywhere until detail of about 12 Å takes part, so
a search that goes from coarse to fine freezes whatever a random start happened to hold; other molecules get stuck more
seldom, but for the same reason. Here the coarse part is measured without any orientation: the spherical average, and
with it the centre of every particle and the noise. What is left is weak at first, and its posterior over all
orientations wide, so expectation maximisation over the whole asymmetric unit starts from random detail at full
resolution, without pruning, and finds one harmonic that the symmetry allows after the other. Each pass goes further
than its own step (over-relaxation: Salakhutdinov & Roweis 2003, ICML), because expectation maximisation creeps where
posteriors are wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import generator_for, point_group_matrices, random_rotations

from ._transforms import resample
from .fsc import fourier_shell_correlation, radial_filter, three_shell_mean
from .likelihood import AlignmentData, radius_of, real_and_imaginary, shift_phases
from .orientations import OrientationCells, shift_disc
from .round_part import centred, some_particles, spherical_average, support_of_start
from .schedule import FirstMapSettings, RefinementSettings
from .slices import FourierVolume, SliceAccumulator, split_point_group

__all__ = [
    "SphericalStart",
    "StartState",
    "finest_of_start",
    "improve_about_sphere",
    "is_round_group",
    "order_of_start",
    "start_about_sphere",
]

_ENOUGH_COPIES = 4
_BATCH = 128
_OVERSHOOT = 0.8
_LEAST_GROUP = 12
# Of what is not round, as a share of the round map: half of what ferritin shows at 9 Å.
_AMPLITUDE = 0.13


@dataclass(frozen=True)
class SphericalStart:
    """Map of the best start.

    Attributes
    ----------
    map
        (box, box, box) in the units of the images.
    log_evidence
        (starts,) mean log evidence per particle over the last three trial passes, against an empty image.
    chosen
        Which start was continued.
    radius
        Shells that were used.
    """

    map: Tensor
    log_evidence: Tensor
    chosen: int
    radius: int


@dataclass(frozen=True)
class StartState:
    """Everything that the next pass of :func:`start_about_sphere` needs; a search goes on from it.

    Attributes
    ----------
    passes
        Done, of all starts together.
    scores
        Log evidence of each start whose trial is over.
    evidence
        Mean log evidence per particle in each pass of the start that runs.
    best
        (box, box, box) what is not round of the best start whose trial is over; zeros before the first.
    angular, ahead
        (box, box, box) what is not round after the last pass, and from where the next one goes on.
    moves
        (n, 2) [pixels] by which the passes have moved the particles from their first centres.
    """

    passes: int
    scores: tuple[float, ...]
    evidence: tuple[float, ...]
    best: Tensor
    angular: Tensor
    ahead: Tensor
    moves: Tensor


def is_round_group(symmetry: str) -> bool:
    """Whether a point group (T, O, I) makes a particle so round that low resolution shows no orientation."""
    return symmetry.upper()[0] in "TOI" and len(point_group_matrices(symmetry)) >= _LEAST_GROUP


def order_of_start(symmetry: str) -> int:
    """HEALPix order of the cells of a first map: 3 (7.5°) where four copies or more share the orientations, else 2."""
    return 3 if len(point_group_matrices(symmetry)) >= _ENOUGH_COPIES else 2


def finest_of_start(symmetry: str, diameter_in_angstroms: float) -> float:
    """Detail [Å] that the cells of a first map can still tell apart at the rim of a particle.

    12 Å at least, 9 Å where the particle is nearly round and shows nothing of its orientation before.
    """
    rim = math.radians(60.0 / 2 ** order_of_start(symmetry)) * 0.5 * diameter_in_angstroms
    return max(9.0 if is_round_group(symmetry) else 12.0, rim)


def start_about_sphere(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    settings: RefinementSettings,
    first: FirstMapSettings,
    *,
    box: int,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    state: StartState | None = None,
    on_pass: Callable[[StartState], None] = lambda state: None,
) -> SphericalStart:
    """Find a map from noise.

    Parameters
    ----------
    images, transfer
        (n, N) packed coefficients of the unmasked images, and what multiplies the signal.
    group
        (n,) micrograph of each particle.
    settings
        Symmetry, diameter, pixel size, range of shifts.
    first
        Starts, passes, detail, seed.
    box
        Side of the images [pixels].
    device
        Where the work is done.
    on_progress
        Called with passes done and passes in all: before the first pass, and after each.
    state
        What ``on_pass`` was given last by an earlier run of the same search: it goes on from there to the same map.
    on_pass
        Called after each pass.
    """
    trial, usual = (12, 30) if order_of_start(settings.symmetry) == 3 else (8, 16)
    passes = usual if first.passes is None else first.passes
    trial = min(passes, trial if first.trial_passes is None else first.trial_passes)
    seed, radius = first.seed, _radius_of_start(images, settings, first, box)
    data = some_particles(images, transfer, group, radius, box, seed, 1.0, device)
    data, ball = centred(data, settings, radius, seed)
    search = _Search(data, ball, settings, radius)
    in_trials = first.starts * trial
    total = in_trials + passes - trial
    if state is None:
        nothing = torch.zeros_like(ball)
        state = StartState(0, (), (), nothing, nothing, nothing, search.moves)
    else:
        here = {name: getattr(state, name).to(ball.device) for name in ("best", "angular", "ahead", "moves")}
        state = replace(state, **here)
        search.move(state.moves)
    if on_progress is not None:
        on_progress(state.passes, total)
    while state.passes < total:
        state = _next_pass(search, state, trial, in_trials, seed)
        on_pass(state)
        if on_progress is not None:
            on_progress(state.passes, total)
    evidence = torch.tensor(state.scores)
    last = state.angular if total > in_trials else state.best
    return SphericalStart(ball + last, evidence, int(evidence.argmax()), radius)


def _next_pass(search: _Search, state: StartState, trial: int, in_trials: int, seed: int) -> StartState:
    """One pass: of the trial of each start in turn, then of the best one alone."""
    done, angular, ahead, trail = state.passes, state.angular, state.ahead, state.evidence
    index, number = divmod(done, trial) if done < in_trials else (0, done - in_trials + trial)
    if done < in_trials and number == 0:
        angular = ahead = search.random(generator_for(seed, "round-start", index))
        trail = ()
    elif done == in_trials:
        angular = ahead = state.best
    # Passes of one number share their grid, so that starts can be compared.
    new, evidence = search.step(ahead, random_rotations(1, generator_for(seed, "round-grid", number))[0])
    trail, scores, best = (*trail, evidence), state.scores, state.best
    if done < in_trials and number == trial - 1:
        score = sum(trail[-3:]) / len(trail[-3:])
        best = new if not scores or score > max(scores) else best
        scores = (*scores, score)
    return StartState(done + 1, scores, trail, best, new, new + _OVERSHOOT * (new - angular), search.moves)


def _radius_of_start(images: Tensor, settings: RefinementSettings, first: FirstMapSettings, box: int) -> int:
    """Shells of a first map, for images (n, N)."""
    finest = first.finest_in_angstroms or finest_of_start(settings.symmetry, settings.diameter_in_angstroms)
    return min(radius_of(images), max(3, round(box * settings.pixel_size_in_angstroms / finest)))


def improve_about_sphere(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    reference: Tensor,
    settings: RefinementSettings,
    *,
    mask: Tensor | None = None,
    passes: int = 9,
    seed: int = 0,
) -> tuple[Tensor, Tensor, int]:
    """Bring a low-passed map of a nearly round particle to the detail that 7.5° cells can tell apart.

    The same passes as from noise, on a small grid, from the detail that the reference has: each takes a tenth of the
    time of a search over finer cells.

    Parameters
    ----------
    images, transfer
        (n, N) packed coefficients of images of the reference's box; all particles belong to one half.
    group
        (n,) micrograph of each particle.
    reference
        (box, box, box) at any positive scale.
    mask
        (box, box, box) in [0, 1]: support of the map; a soft sphere of the diameter if absent.
    passes
        Of expectation maximisation.

    Returns
    -------
    tuple
        Map (box, box, box) in the units of the images, variance of the noise (groups, M) packed at the radius, and
        that radius in shells.
    """
    box = int(reference.shape[-1])
    extent = box * settings.pixel_size_in_angstroms
    finest = finest_of_start(settings.symmetry, settings.diameter_in_angstroms)
    radius = min(radius_of(images), round(extent / finest))
    side = min(box, 2 * scipy.fft.next_fast_len(math.ceil(1.2 * radius) + 2))
    factor = (side / box) ** 2
    small = replace(settings, pixel_size_in_angstroms=extent / side)
    data = some_particles(images, transfer, group, radius, side, seed, factor, reference.device)
    small_mask = None if mask is None else resample(mask.to(reference), side).clamp(0, 1)
    data, ball = centred(data, small, radius, seed, mask=small_mask)
    search = _Search(data, ball, small, radius, small_mask)
    start = resample(reference, side) * search.support * (1 if small_mask is None else small_mask)
    average = spherical_average(start)
    # As strong, beside the round part, as the reference has it: too much is punished, too little forgets it.
    scale = (average * ball).sum() / average.square().sum().clamp_min(1e-30)
    angular = ahead = (start - average) * scale
    for number in range(passes):
        new, _ = search.step(ahead, random_rotations(1, generator_for(seed, "round-grid", number))[0])
        # The first step sets the strength.
        ahead = new if number == 0 else new + _OVERSHOOT * (new - angular)
        angular = new
    return resample(ball + angular, box) * ((side / box) ** 3 / factor), data.noise_variance / factor**2, radius


def _gain(half1: Tensor, half2: Tensor) -> Tensor:
    """Wiener gain (box // 2 + 1,) of the mean of two halves, their correlation averaged over three shells."""
    fsc = fourier_shell_correlation(half1, half2, 1.0).fsc.float()
    smooth = three_shell_mean(fsc).clamp(0, 1)
    return 2 * smooth / (1 + smooth)


class _Search:
    """Expectation maximisation over all orientations of one order, about a round map that stays as it is."""

    def __init__(
        self,
        data: AlignmentData,
        ball: Tensor,
        settings: RefinementSettings,
        radius: int,
        mask: Tensor | None = None,
    ) -> None:
        self.order = order_of_start(settings.symmetry)
        self.data = data
        self.ball = ball
        self.radius = radius
        self.mask = mask
        self.symmetry = settings.symmetry
        self.support = support_of_start(data.box, settings, ball.device)
        exact, copies = split_point_group(point_group_matrices(settings.symmetry))
        self.exact, self.copies = exact.to(ball.device), copies.to(ball.device)
        # The centres are known to about a pixel.
        self.disc = shift_disc(1.01, 1.0, ball.device)
        self.over_noise = data.transfer / data.noise_variance[data.group]
        self.moves = torch.zeros(len(data), 2, device=ball.device)
        self._centred = data.images

    def move(self, moves: Tensor) -> None:
        """Move all particles (n, 2) [pixels] from their first centres."""
        # Always from the images as they were: a search that goes on from these moves then has the very same images.
        self.moves = moves
        ramps = shift_phases(moves[:, None], self.radius, self.data.box)[:, 0]
        self.data = replace(self.data, images=self._centred * ramps)

    def random(self, generator: torch.Generator) -> Tensor:
        """Weak random detail with the symmetry, where the round map has mass, none of it round."""
        box, radius = self.data.box, self.radius
        white = torch.randn(box, box, box, generator=generator).to(self.ball.device)
        shells = torch.arange(box // 2 + 1, device=white.device).float()
        smooth = radial_filter(white, torch.exp(-0.5 * (shells / (0.8 * radius)) ** 2)) * self.support
        turns = random_rotations(500, generator).to(white.device)
        accumulator = SliceAccumulator(box, max_radius=radius, device=white.device)
        views = FourierVolume.from_map(smooth, max_radius=radius).slices(turns, radius)
        self._insert(accumulator, views, torch.ones_like(views.real), turns)
        detail = self._symmetrised(accumulator).reconstruct(iterations=0) * self.support
        detail = detail * (self.ball > 0.3 * self.ball.max())
        detail = detail - spherical_average(detail)
        detail *= _AMPLITUDE * self.ball.norm() / detail.norm().clamp_min(1e-30)
        return detail

    def step(self, angular: Tensor, offset: Tensor) -> tuple[Tensor, float]:
        """One pass from the part that is not round to the next one, and the mean log evidence per particle before."""
        data, radius = self.data, self.radius
        cells = OrientationCells(self.order, offset)
        turns = cells.matrices(cells.asymmetric_unit(self.symmetry)).to(self.ball.device)
        views = FourierVolume.from_map(self.ball + angular, max_radius=radius).slices(turns, radius)
        columns = real_and_imaginary(views).T.contiguous()
        power = (views.real.square() + views.imag.square()).T.contiguous()
        ramps = shift_phases(self.disc, radius, data.box)
        size, count = len(turns), views.shape[1]
        sums = torch.zeros(2, size, 2 * count, device=columns.device)
        weights = torch.zeros(2, size, count, device=columns.device)
        evidence = 0.0
        moves = torch.zeros(len(data), 2, device=columns.device)
        for start in range(0, len(data), _BATCH):
            run = slice(start, start + _BATCH)
            values = (data.images[run] * self.over_noise[run])[:, None] * ramps
            squares = data.transfer[run] * self.over_noise[run]
            flat = real_and_imaginary(values).reshape(-1, 2 * count)
            scores = (2 * (flat @ columns)).reshape(len(values), len(self.disc), size)
            scores -= (squares @ power)[:, None]
            total = torch.logsumexp(scores.flatten(1), 1)
            evidence += float((total - math.log(scores[0].numel())).sum())
            share = torch.exp(scores - total[:, None, None])
            moves[run] = share.sum(2) @ self.disc
            # Two halves, every other particle, only to see how much of each shell is noise.
            flat = flat.reshape(len(values), len(self.disc), 2 * count)
            for half in range(2):
                sums[half] += share[half::2].reshape(-1, size).T @ flat[half::2].reshape(-1, 2 * count)
                weights[half] += share[half::2].sum(1).T @ squares[half::2]
        # What is not round has drawn the first centres towards itself: they follow the map.
        self.move(self.moves + moves)
        halves = [self._map(s, w, turns) for s, w in zip(sums, weights, strict=True)]
        gain = _gain(halves[0], halves[1])
        new = radial_filter(0.5 * (halves[0] + halves[1]), gain) * self.support
        if self.mask is not None:
            # The whole map ends at the mask: outside it, what is not round takes the round part away.
            new = (self.ball + new) * self.mask - self.ball
        return new, evidence / len(data)

    def _map(self, sums: Tensor, weights: Tensor, turns: Tensor) -> Tensor:
        count = weights.shape[1]
        accumulator = SliceAccumulator(self.data.box, max_radius=self.radius, device=sums.device)
        self._insert(accumulator, torch.view_as_complex(sums.view(len(sums), count, 2)), weights, turns)
        accumulator = self._symmetrised(accumulator)
        shells = accumulator.shell_weights()
        prior = (0.02 * shells[1:].mean()).expand(len(shells))
        plain = accumulator.reconstruct(prior, iterations=0) * self.support
        # The last shells are faded out: a sharp edge would ring.
        index = torch.arange(self.data.box // 2 + 1, device=plain.device).float()
        fade = 0.5 * (1 + torch.cos(math.pi * ((index - self.radius + 1) / 3).clamp(0, 1)))
        plain = radial_filter(plain, fade) * self.support
        return plain - spherical_average(plain)

    def _insert(self, accumulator: SliceAccumulator, values: Tensor, weights: Tensor, turns: Tensor) -> None:
        for copy in self.copies:
            accumulator.add(values, weights, turns @ copy.T)

    def _symmetrised(self, accumulator: SliceAccumulator) -> SliceAccumulator:
        return accumulator.symmetrised(self.exact) if len(self.exact) > 1 else accumulator
