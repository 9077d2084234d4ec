"""The ice as a grid of cells that particles fill: who fits where, and how a crowd makes room.

Placing one by one at random stops at about half of what a film can hold (random sequential addition of discs jams at
0.547 of the area, Feder 1980, J. Theor. Biol. 87, 237), but micrographs are often fuller. So the last particles are put
where they overlap least, and then whoever overlaps moves away from the cells that it shares, a cell or two at a time,
until nobody does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._envelope import Footprint

__all__ = ["Drawn", "Guest", "Occupancy"]

Integers = NDArray[np.int64]
Drawn = Callable[[int], Integers]

_TRIES = 32  # positions looked at together
_MOVES = 120  # per particle, to make room: what a film three quarters full needs, and half as much again
_SETTLED, _HOPELESS = 12, 0.02  # more shared cells than this share after so many moves never go away
_SKIN = 48  # cells that are looked at first; most collisions show there


@dataclass(eq=False)
class Guest:
    """A particle on its way to a place: cells it fills, what holds it, and its home cell (x, y, z) once it has one.

    ``draw(k)`` returns up to k homes (x, y) to try. ``surface`` is 1 for the upper surface of the ice, -1 for the
    lower, 0 for anywhere between.
    """

    footprint: Footprint
    flat: Integers
    draw: Drawn
    surface: int = 0
    home: Integers | None = None


class Occupancy:
    """Cells of the film and its surroundings.

    Parameters
    ----------
    half_depth
        (y, x) [cells]: cells up to this many above and below the middle are ice; negative where there is no ice.
    half_width
        (x, y) [cells]: homes lie within this distance of the middle. Beyond it the crowd repeats: particles that end at
        a hard border would gather there and leave the middle too thin.
    reach
        Largest distance [cells] of a particle's cell from its home.
    walls
        Whether what is not ice is closed to particles.
    closed
        (y, x) True where no particle may be at any height.
    """

    def __init__(
        self,
        half_depth: Integers,
        half_width: tuple[int, int],
        reach: int,
        *,
        walls: bool,
        closed: NDArray[np.bool_] | None = None,
    ) -> None:
        self.half_depth = half_depth
        self.half_width = np.array(half_width)
        self.reach = reach
        self.middle_z = int(max(half_depth.max(), 0)) + reach + 1
        ny, nx = half_depth.shape
        self.shape = (2 * self.middle_z + 1, ny, nx)
        self.middle = np.array([nx // 2, ny // 2])
        count = np.zeros(self.shape, np.uint8)
        if walls:
            for k in range(self.shape[0]):
                count[k] = abs(k - self.middle_z) > half_depth
        if closed is not None:
            count[:, closed] = 1
        self.walls = walls
        self.count = count.reshape(-1)

    def guest(self, footprint: Footprint, draw: Drawn, surface: int = 0) -> Guest:
        """Return a particle that has no place yet."""
        z, y, x = footprint.offsets.T
        return Guest(footprint, (z * self.shape[1] + y) * self.shape[2] + x, draw, surface)

    def heights(self, guest: Guest, xy: Integers) -> tuple[Integers, Integers]:
        """Lowest and highest home (k,) [cells from the middle] at homes (k, 2) that leaves the particle in the ice."""
        half = self.half_depth[xy[:, 1] + self.middle[1], xy[:, 0] + self.middle[0]]
        low, high = -half - guest.footprint.below, half - guest.footprint.above
        if not self.walls:
            central = (low + high) // 2
            low, high = np.where(low > high, central, low), np.where(low > high, central, high)
        if guest.surface:
            at_surface = high if guest.surface > 0 else low
            low, high = np.where(low <= high, at_surface, low), np.where(low <= high, at_surface, high)
        return low, high

    def at_heights(self, guest: Guest, xy: Integers, rng: np.random.Generator) -> Integers:
        """Homes (k, 3) at places (k, 2): uniform over the depth the particle has there, fewer where it has none."""
        low, high = self.heights(guest, xy)
        fits = low <= high
        z = np.floor(low + rng.random(len(xy)) * (high - low + 1)).astype(np.int64)
        return np.concatenate([xy, z[:, None]], 1)[fits]

    def _index(self, homes: Integers) -> Integers:
        x, y, z = homes[..., 0] + self.middle[0], homes[..., 1] + self.middle[1], homes[..., 2] + self.middle_z
        out: Integers = (z * self.shape[1] + y) * self.shape[2] + x
        return out

    def within(self, homes: Integers) -> Integers:
        """Homes (k, 2 or 3) brought back between the borders: who leaves on one side comes in on the other."""
        out = homes.copy()
        out[..., :2] = np.mod(homes[..., :2] + self.half_width, 2 * self.half_width + 1) - self.half_width
        return out

    def _places(self, home: Integers) -> Integers:
        """Index of a home (3,) and of its images beyond the borders that come near enough to be met."""
        images = [home]
        for axis in (0, 1):
            period = 2 * int(self.half_width[axis]) + 1
            if period <= 2 * self.reach:  # a particle would meet itself
                continue
            if home[axis] + self.reach > self.half_width[axis]:
                shift = -period
            elif home[axis] - self.reach < -self.half_width[axis]:
                shift = period
            else:
                continue
            images += [image + shift * np.eye(3, dtype=np.int64)[axis] for image in images]
        return self._index(np.array(images))

    def free(self, guest: Guest, homes: Integers) -> NDArray[np.bool_]:
        """Whether the particle would touch nobody and nothing at homes (k, 3)."""
        at = self._index(homes)
        skin = guest.flat[:: max(1, len(guest.flat) // _SKIN)]
        good: NDArray[np.bool_] = ~self.count[at[:, None] + skin].any(1)
        for i in np.flatnonzero(good):
            good[i] = not self.count[at[i] + guest.flat].any()
        return good

    def first_free(self, guest: Guest, homes: Integers) -> Integers | None:
        """First of homes (k, 3) where the particle touches nobody; None if there is none."""
        if not len(homes):
            return None
        at = self._index(homes)
        skin = guest.flat[:: max(1, len(guest.flat) // _SKIN)]
        for i in np.flatnonzero(~self.count[at[:, None] + skin].any(1)):
            if not self.count[at[i] + guest.flat].any():
                found: Integers = homes[i]
                return found
        return None

    def enter(self, guest: Guest, home: Integers) -> None:
        """Give the particle a place, free or not."""
        guest.home = home
        for place in self._places(home):
            self.count[place + guest.flat] += 1

    def fill(self, guest: Guest, homes: Integers) -> None:
        """Close the cells of a particle at all of homes (k, 3), each once."""
        self.count[np.unique((self._index(homes)[:, None] + guest.flat).ravel())] += 1

    def leave(self, guest: Guest) -> None:
        """Take the particle away from its place."""
        if guest.home is not None:
            for place in self._places(guest.home):
                self.count[place + guest.flat] -= 1
            guest.home = None

    def crowded(self, guest: Guest) -> NDArray[np.bool_]:
        """Which of a placed particle's cells it shares."""
        assert guest.home is not None
        shared: NDArray[np.bool_] = self.count[self._index(guest.home) + guest.flat] > 1
        return shared

    def seat(self, guest: Guest, rng: np.random.Generator, tries: int = 4) -> bool:
        """Give the particle a free place or else the one that it shares least; False where it finds none at all."""
        least: tuple[int, Integers] | None = None
        for _ in range(tries):
            homes = self.at_heights(guest, guest.draw(_TRIES), rng)
            found = self.first_free(guest, homes)
            if found is not None:
                self.enter(guest, found)
                return True
            for home in homes[:4]:
                shared = int(np.count_nonzero(self.count[self._index(home) + guest.flat]))
                if least is None or shared < least[0]:
                    least = (shared, home)
        if least is None:
            return False
        self.enter(guest, least[1])
        return True

    def make_room(
        self, guests: Sequence[Guest], rng: np.random.Generator, patience: int = 40, moves: int = _MOVES
    ) -> bool:
        """Move particles that share cells until none does.

        False once ``patience`` rounds have brought nothing, or after ``moves`` times the number of particles.
        """
        least, since, sweep, left = math.inf, 0, 0, moves * len(guests)
        hopeless = _HOPELESS * sum(len(g.flat) for g in guests)
        while since <= patience and left >= 0:
            shares = self.shares(guests)
            if not shares.any():
                return True
            least, since = (shares.sum(), 0) if shares.sum() < 0.99 * least else (least, since + 1)
            if left < (moves - _SETTLED) * len(guests) and shares.sum() > hopeless:
                return False
            active = np.flatnonzero(shares)
            for i in rng.permutation(active).tolist():
                self._step_aside(guests[i], rng, elsewhere=sweep % 5 == 0)
            sweep += 1
            left -= len(active)
        return False

    def shares(self, guests: Sequence[Guest]) -> Integers:
        """Cells (n,) that each particle shares."""
        return np.array([int(self.crowded(g).sum()) if g.home is not None else 0 for g in guests], np.int64)

    def _step_aside(self, guest: Guest, rng: np.random.Generator, *, elsewhere: bool) -> None:
        shared = self.crowded(guest)
        if not shared.any() or guest.home is None:
            return
        home = guest.home
        self.leave(guest)
        if elsewhere:
            found = self.first_free(guest, self.at_heights(guest, guest.draw(_TRIES), rng))
            if found is not None:
                self.enter(guest, found)
                return
        push = -guest.footprint.offsets[shared].mean(0)[::-1]
        length = float(np.linalg.norm(push))
        push = push / length if length > 1e-6 else np.zeros(3)
        step = np.rint(push * (0.6 + rng.random()) + 0.4 * rng.standard_normal(3)).astype(np.int64)
        there = self.within(home + step)
        low, high = self.heights(guest, there[None, :2])
        if low[0] <= high[0]:
            there[2] = np.clip(there[2], low[0], high[0])
            self.enter(guest, there)
        else:
            self.enter(guest, home)

    def thin_out(self, guests: Sequence[Guest], rng: np.random.Generator) -> int:
        """Return how many particles fit: all in conflict leave, and come back a few at a time while there is room."""
        shares, out = self.shares(guests), []
        while shares.any():
            worst = int(shares.argmax())
            self.leave(guests[worst])
            out.append(guests[worst])
            shares[worst] = 0
            touched = np.flatnonzero(shares)
            shares[touched] = self.shares([guests[i] for i in touched.tolist()])
        fit = sum(g.home is not None for g in guests)
        few = max(1, len(out) // 4)
        for start in range(0, len(out), few):
            back = out[start : start + few]
            if not all(self.seat(guest, rng) for guest in back) or not self.make_room(guests, rng, 20, 40):
                break
            fit += len(back)
        return fit
