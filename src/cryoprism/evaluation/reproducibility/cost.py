"""What a job will cost: time, CPU time and memory from its size, with an interval, learned from jobs that were run.

A cost is what the program takes to start, which is measured and paid once by each process, and what it does. For each
kind of job the logarithm of the second is linear in the logarithms of pixels in all and in the largest image, of
particles and box, and in whether data products are written: a Bayesian regression with a conjugate prior that holds the
exponents near 1 (cost in proportion; time to all pixels, memory to the largest image) until the jobs say otherwise.
What it predicts is a Student distribution (Gelman et al., Bayesian Data Analysis, section 14.2), whose quantiles are
the interval. Only exponents have a prior; every level comes from measured jobs. Where jobs that are left out of the fit
lie outside, the intervals are widened until they hold nine of ten. Beyond the sizes of the jobs that were measured a
forecast says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json

from .record import Record

__all__ = ["Cost", "CostModel", "Observation", "Range", "Size", "fit_cost_model", "shipped_cost_model", "size_of"]

_SCHEMA: Final = "cryoprism-cost-2"
_TARGETS: Final = ("cpu_seconds", "memory_in_bytes")
_FEATURES: Final = ("pixels", "image", "particles", "box", "products")
#: Before any job: cost in proportion, time to all that is read, memory to the largest of it.
_EXPONENTS: Final = {"cpu_seconds": {"image": 0.0}, "memory_in_bytes": {"pixels": 0.0}}
_WITHIN: Final = 0.9
#: Sizes within this factor of those that were measured are not called outside.
_ROOM: Final = 1.25
# In units of the noise: exponents are 1 give or take twice the scatter, the level is free.
_PRIOR_DEVIATION: Final = 2.0
_LEVEL_DEVIATION: Final = 1e3
# As much as two jobs that scatter by a factor of 1.35.
_NOISE_SHAPE, _NOISE_SCALE = 1.0, 1.0 * 0.3**2
_FEWEST: Final = 3
_MOST: Final = 1e15
_LEAST_SHARE: Final = 0.02
_TABLES: Final = {".star", ".cs", ".json", ".txt", ".xml"}


@dataclass(frozen=True)
class Size:
    """Size of a job.

    Attributes
    ----------
    pixels
        Of the images and maps that it reads, or makes where it reads none.
    particles
        In its table; 0 where there is none.
    box
        Side of a particle's image or of a map [pixels]; 0 where there is none.
    processes
        How many load the program: one, or that one and its workers.
    products
        Whether data products are written for every image.
    image
        Pixels of the largest image or map; 0 where there is none.
    """

    pixels: float
    particles: float = 0.0
    box: float = 0.0
    processes: int = 1
    products: bool = False
    image: float = 0.0


@dataclass(frozen=True)
class Observation:
    """A job that was run: its kind, its size and what it took."""

    kind: str
    size: Size
    wall_seconds: float
    cpu_seconds: float
    memory_in_bytes: float


@dataclass(frozen=True)
class Range:
    """Median and 90 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What a job will take.

    Time on the clock is not foretold: it depends on what else runs there.

    Attributes
    ----------
    outside
        What of the job lies outside the range of those that were measured, in words; empty within it.
    """

    cpu_seconds: Range
    memory_in_bytes: Range
    outside: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return asdict(self)


@dataclass(frozen=True)
class CostModel:
    """What was learned of each kind of job.

    Attributes
    ----------
    kinds
        Kind to features used, their means, and for each cost the posterior: mean, covariance (in units of the noise),
        shape and scale of the noise's variance; smallest and largest logarithm of each feature.
    machine
        On which the jobs were run.
    start
        What the program takes to start, by cost.
    worker
        What it takes to start one more process of it.
    widened
        By what factor intervals are wider than the posterior's, by cost, so that jobs that were left out lie inside.
    sessions
        What the start took whenever jobs were measured, by cost: the same program takes more beside others. From two
        sessions on their spread widens every interval.
    """

    kinds: Mapping[str, Mapping[str, Any]]
    machine: str
    start: Mapping[str, float] = field(default_factory=dict)
    worker: Mapping[str, float] = field(default_factory=dict)
    widened: Mapping[str, float] = field(default_factory=dict)
    sessions: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def predict(self, kind: str, size: Size) -> Cost | None:
        """Return what a job of this kind and size will take; None for a kind that was not learned."""
        known = self.kinds.get(kind)
        if known is None:
            return None
        logs = _logs(size)
        x = np.array([1.0, *(logs[name] - known["means"][name] for name in known["features"])])
        told = [_beyond(name, logs[name], *known["ranges"][name]) for name in _FEATURES]
        ranges = []
        for target in _TARGETS:
            fit = known["costs"][target]
            mean = float(x @ np.array(fit["mean"]))
            spread = float(x @ np.array(fit["covariance"]) @ x)
            scale = math.sqrt(fit["scale"] / fit["shape"] * (1 + spread))
            half = _student_quantile(0.95, 2 * fit["shape"]) * scale * self.widened.get(target, 1.0)
            start = self.start.get(target, 0.0) + (size.processes - 1) * self.worker.get(target, 0.0)
            low, middle, high = (start + math.exp(value) for value in (mean - half, mean, mean + half))
            between = _between(self.sessions.get(target, ()))
            down, up = (math.hypot(math.log(end / middle), between) for end in (low, high))
            ranges.append(Range(middle, middle * math.exp(-down), middle * math.exp(up)))
        return Cost(ranges[0], ranges[1], ", ".join(filter(None, told)))

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        content = {"schema": _SCHEMA, "machine": self.machine} | {
            name: dict(getattr(self, name)) for name in ("start", "worker", "widened", "sessions", "kinds")
        }
        Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> CostModel:
        """Read what :meth:`write` wrote.

        Raises
        ------
        InputError
            It is no such file.
        """
        try:
            content = read_json(path)
        except (FileNotFoundError, UnreadableError):
            content = None
        whole = (
            isinstance(content, dict)
            and {"schema", "kinds", "machine", "start", "worker", "widened", "sessions"} <= content.keys()
        )
        if not whole or content["schema"] != _SCHEMA:
            raise InputError(path, "is no cost model", "Make one with: python benchmarks/cost_model.py")
        return cls(content["kinds"], content["machine"], content["start"], content["worker"], content["widened"],
                   content["sessions"])  # fmt: skip


def shipped_cost_model() -> CostModel | None:
    """Return the model that is installed with the package."""
    path = files("cryoprism.evaluation.reproducibility") / "cost_model.json"
    return CostModel.read(Path(str(path))) if path.is_file() else None


def fit_cost_model(
    observations: Sequence[Observation],
    machine: str,
    start: Observation | None = None,
    worker: Observation | None = None,
) -> CostModel:
    """Learn from jobs; kinds with fewer than three of them are left out.

    Parameters
    ----------
    observations
        Jobs that were run.
    machine
        On which.
    start
        What the program takes to start and do nothing; nothing if absent.
    worker
        What one more process of it takes to start; as much as ``start`` if absent.

    Raises
    ------
    InputError
        A cost is not above zero.
    """
    base = {} if start is None else {target: float(getattr(start, target)) for target in _TARGETS}
    each = base if worker is None else {target: float(getattr(worker, target)) for target in _TARGETS}
    kinds: dict[str, dict[str, Any]] = {}
    missed: dict[str, list[float]] = {target: [] for target in _TARGETS}
    for kind in sorted({one.kind for one in observations}):
        mine = [one for one in observations if one.kind == kind]
        if len(mine) < _FEWEST:
            continue
        logs = [_logs(one.size) for one in mine]
        used = [name for name in _FEATURES if max(row[name] for row in logs) - min(row[name] for row in logs) > 1e-9]
        means = {name: sum(row[name] for row in logs) / len(logs) for name in used}
        x = np.array([[1.0, *(row[name] - means[name] for name in used)] for row in logs])
        costs = {}
        for target in _TARGETS:
            values = np.array([getattr(one, target) for one in mine], dtype=float)
            if not (values > 0).all():
                raise InputError(target, f"a {kind} job has {values.min():g}", "Leave it out.")
            # A job that seems to cost no more than the start does so by chance.
            least = max(_LEAST_SHARE * base.get(target, 0.0), 1e-12)
            more = np.array([one.size.processes - 1 for one in mine])
            started = base.get(target, 0.0) + each.get(target, 0.0) * more
            work = np.log(np.maximum(values - started, least))
            prior = np.array([_EXPONENTS[target].get(name, 1.0) for name in used])
            costs[target] = _posterior(x, work, prior)
            missed[target] += _left_out(x, work, prior)
        ranges = {name: [min(row[name] for row in logs), max(row[name] for row in logs)] for name in _FEATURES}
        kinds[kind] = {"jobs": len(mine), "features": used, "means": means, "ranges": ranges, "costs": costs}
    return CostModel(kinds, machine, base, each, {target: _widening(told) for target, told in missed.items()})


def _left_out(x: np.ndarray, y: np.ndarray, prior: np.ndarray) -> list[float]:
    """How far each job lies from what the others foretell, in half widths of the interval."""
    if len(y) <= _FEWEST:
        return []
    found = []
    for out in range(len(y)):
        rest = np.arange(len(y)) != out
        fit = _posterior(x[rest], y[rest], prior)
        spread = float(x[out] @ np.array(fit["covariance"]) @ x[out])
        scale = math.sqrt(fit["scale"] / fit["shape"] * (1 + spread))
        off = abs(float(y[out] - x[out] @ np.array(fit["mean"])))
        found.append(off / (_student_quantile(0.95, 2 * fit["shape"]) * scale))
    return found


def _between(sessions: Sequence[float]) -> float:
    """Return the half width of the interval of a new session, as a logarithm; 0 where fewer than two are known."""
    if len(sessions) < 2:
        return 0.0
    spread = float(np.std(np.log(sessions), ddof=1)) * math.sqrt(1 + 1 / len(sessions))
    return _student_quantile(0.95, len(sessions) - 1) * spread


def _widening(missed: Sequence[float]) -> float:
    """Return the factor with which intervals hold nine of ten of the jobs left out (split conformal); at least 1."""
    if not missed:
        return 1.0
    return max(1.0, sorted(missed)[min(len(missed), math.ceil(_WITHIN * (len(missed) + 1))) - 1])


def _beyond(name: str, log: float, low: float, high: float) -> str:
    if name == "products":
        return "" if low <= log <= high else "data products" if log > high else "no data products"
    room = math.log(_ROOM)
    if low - room <= log <= high + room:
        return ""
    words = {"image": "pixels in one image", "box": "pixels of box"}.get(name, name)
    return f"{math.exp(log):,.0f} {words} (measured: {math.exp(low):,.0f} to {math.exp(high):,.0f})"


def _posterior(x: np.ndarray, y: np.ndarray, prior: np.ndarray) -> dict[str, Any]:
    start = np.array([y.mean(), *prior])
    precision = np.diag([_LEVEL_DEVIATION**-2, *[_PRIOR_DEVIATION**-2] * (x.shape[1] - 1)])
    after = precision + x.T @ x
    mean = np.linalg.solve(after, precision @ start + x.T @ y)
    residual = y - x @ mean
    away = mean - start
    scale = _NOISE_SCALE + 0.5 * float(residual @ residual + away @ precision @ away)
    return {
        "mean": mean.tolist(),
        "covariance": np.linalg.inv(after).tolist(),
        "shape": _NOISE_SHAPE + 0.5 * len(y),
        "scale": scale,
    }


def _student_quantile(probability: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, freedom))


def _logs(size: Size) -> dict[str, float]:
    logs = {name: math.log(max(getattr(size, name), 1.0)) for name in ("pixels", "image", "particles", "box")}
    return {**logs, "products": float(size.products)}


def size_of(record: Record) -> Size:
    """Return the size of a recorded job, from its configuration, inputs and results."""
    config, notes = record.config, record.notes
    read = [one.bytes / 4 for one in record.inputs if one.path.suffix.lower() not in _TABLES]
    images, image = sum(read), max(read, default=0.0)
    if not images:
        sides = _count(config.get("width_in_pixels")) * _count(config.get("height_in_pixels"))
        image = sides
        images = sides * _count(config.get("micrographs", 1)) * max(_count(config.get("frames")), 1.0)
    result: dict[str, Any] = {}
    for name in ("reconstruction.json", "resolution.json", "initial_model.json"):
        try:
            content = read_json(record.folder / name)
        except (FileNotFoundError, UnreadableError):
            continue
        result |= content if isinstance(content, dict) else {}
    particles = _count(notes.get("particles")) or _count(result.get("particles"))
    particles = particles or sum(map(_count, _list(result.get("particles_in_halves"))))
    box = next(
        (side for place, name in ((config, "scaled_box_in_pixels"), (config, "box_in_pixels"),
                                  (result, "box_in_pixels")) if (side := _count(place.get(name)))),
        max(map(_count, _list(result.get("box_in_voxels"))), default=0.0),
    )  # fmt: skip
    # Jobs on particles name a table; their images are counted by number and side.
    workers = int(min(_count(config.get("workers")), max(len(read), 1)))
    products = config.get("views") is True
    return Size(
        images or particles * box**2, particles, box, 1 + workers if workers > 1 else 1, products, image or box**2
    )


def _count(value: object) -> float:
    """Return a number above 0 that a count can be; 0 for anything else."""
    number = number_in(value)
    return number if 0 < number < _MOST else 0.0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
