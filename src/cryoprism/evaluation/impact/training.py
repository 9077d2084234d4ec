"""Train the models on the past, choose the best on later years, measure its errors on works it was not chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from cryoprism.core import InputError

from .attachment import PreferentialAttachment, WangSongBarabasi
from .conformal import Conformal, Prediction
from .features import HORIZON_IN_YEARS, OLDEST_IN_YEARS, Snapshot, later_citations, snapshot
from .graph import CitationGraph, Floats, Integers
from .learned import GradientBoosting, GraphSage
from .validation import Compared, Coverage, compare, held_out_coverage

__all__ = ["MODELS", "Model", "Trained", "fit_model", "forecast_works", "train"]

#: Names of the models, the simplest first: of equals the first is taken.
MODELS: Final = (
    "median of the past",
    "preferential attachment",
    "Wang–Song–Barabási",
    "gradient boosting",
    "GraphSAGE",
)
_TRAINING_CUTS: Final = 3
_LEAST_WORKS: Final = 60


class Model(Protocol):
    """What foretells ln(1 + citations) of the works of a snapshot."""

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) in the order of ``cut.rows``."""


@dataclass(frozen=True)
class Median:
    """The same for every work: the median of what works of the past came to, which no model may be worse than.

    Attributes
    ----------
    value
        ln(1 + citations).
    """

    value: float

    @classmethod
    def fit(cls, targets: Sequence[Floats]) -> Median:
        """Take it of the citations (k,) of the works of past snapshots."""
        return cls(float(np.median(np.log1p(np.concatenate(targets)))))

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) in the order of ``cut.rows``."""
        return np.full(len(cut.rows), self.value)


def fit_model(name: str, cuts: Sequence[Snapshot], targets: Sequence[Floats], seed: int) -> Model:
    """Fit one of ``MODELS``.

    Raises
    ------
    InputError
        The name is unknown, or the library behind it is not installed.
    """
    if name == "median of the past":
        return Median.fit(targets)
    if name == "preferential attachment":
        return PreferentialAttachment.fit(cuts, targets)
    if name == "Wang–Song–Barabási":
        return WangSongBarabasi.fit(cuts, targets, seed)
    if name == "gradient boosting":
        return GradientBoosting(seed).fit(cuts, targets)
    if name == "GraphSAGE":
        return GraphSage(seed).fit(cuts, targets)
    raise InputError("model", f"'{name}' is unknown", f"Choose from {', '.join(MODELS)}.")


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes
    ----------
    by_patents
        Whether citations by patents were foretold.
    chosen
        Name of the model that was best on the validation year.
    errors
        Mean absolute error of ln(1 + citations) of every model there.
    compared
        How sure these are.
    coverage
        Of the intervals, measured on the works that give them, each by the others.
    absent
        Models that could not be tried, and why.
    model, conformal
        The chosen one and its errors.
    works
        How many works trained, chose, and gave the intervals.
    moments
        When the training snapshots were taken, the validation snapshot, and until when citations were counted [years].
    """

    by_patents: bool
    chosen: str
    errors: Mapping[str, float]
    compared: Mapping[str, Compared]
    coverage: Coverage
    absent: Mapping[str, str]
    model: Model
    conformal: Conformal
    works: tuple[int, int, int]
    moments: tuple[tuple[float, ...], float, float]

    def to_json(self) -> dict[str, Any]:
        """Return all but the model."""
        return {
            "by_patents": self.by_patents,
            "chosen": self.chosen,
            "mean_absolute_error_of_log1p": dict(self.errors),
            "mean_absolute_error_interval": {name: [one.low, one.high] for name, one in self.compared.items()},
            "behind_the_chosen": {
                name: [one.behind, one.behind_low, one.behind_high] for name, one in self.compared.items()
            },
            "held_out_coverage": self.coverage.to_json(),
            "absent": dict(self.absent),
            "works": {"training": self.works[0], "choosing": self.works[1], "intervals": self.works[2]},
            "training_moments": list(self.moments[0]),
            "validation_moment": self.moments[1],
            "counted_until": self.moments[2],
        }

    def sentence(self) -> str:
        """Say which model is used and how wrong it was."""
        others = ", ".join(f"{name} {self._error(name)}" for name in self.errors if name != self.chosen)
        what = "patent citations" if self.by_patents else "citations"
        said = (
            f"{what.capitalize()} are forecast by {self.chosen}: mean absolute error of ln(1 + {what}) "
            f"{self._error(self.chosen)} on {self.works[1]} works from before {self.moments[1]:.1f}"
        )
        said = f"{said} ({others})." if others else f"{said}."
        alike = [name for name, one in self.compared.items() if name != self.chosen and one.is_as_good]
        if alike:
            said += f" These works do not tell {' and '.join(alike)} from it."
        held = self.coverage
        return (
            f"{said} Of {held.works} held-out works the 95 % intervals held {100 * held.share:.1f} % (95 % "
            f"{100 * held.low:.1f} to {100 * held.high:.1f} %)."
        )

    def _error(self, name: str) -> str:
        one = self.compared[name]
        return f"{self.errors[name]:.3f} (95 % {one.low:.3f} to {one.high:.3f})"


def train(
    graph: CitationGraph,
    now: float | None = None,
    *,
    seed: int = 0,
    by_patents: bool = False,
    models: Sequence[str] = MODELS,
) -> Trained:
    """Train every model on the past and choose the best, looking at nothing after ``now``.

    Validation is the snapshot five years before now, whose citations are counted until now; training snapshots lie
    five years and more before that one, so that no count reaches into it. Half the works of the validation snapshot
    choose the model, the other half give the intervals.

    Parameters
    ----------
    graph
        All that is known.
    now
        In years; the date of the newest work if None.
    seed
        Of models and halves.
    by_patents
        Foretell citations by patents, not by works.
    models
        Which to try.

    Raises
    ------
    InputError
        The graph reaches back too little, or no model can be tried.
    """
    now = float(graph.time[-1]) if now is None else now
    known = graph.until(now)
    validation = now - HORIZON_IN_YEARS
    cuts, targets, moments = [], [], []
    for back in range(_TRAINING_CUTS):
        moment = validation - HORIZON_IN_YEARS - back
        cut = snapshot(known, moment)
        if len(cut.rows) >= _LEAST_WORKS and len(cut.graph.citing):
            cuts.append(cut)
            targets.append(later_citations(known, cut, by_patents=by_patents))
            moments.append(moment)
    check = snapshot(known, validation)
    if not cuts or len(check.rows) < 2 * _LEAST_WORKS:
        raise InputError(
            "the citation graph",
            f"holds {len(check.rows)} works of the {OLDEST_IN_YEARS:g} years before {validation:.1f} and "
            f"{sum(len(cut.rows) for cut in cuts)} of those before {validation - HORIZON_IN_YEARS:.1f}",
            f"Give works of {2 * HORIZON_IN_YEARS + OLDEST_IN_YEARS:g} years or more, at least {2 * _LEAST_WORKS} a "
            "period.",
        )
    truth = np.log1p(later_citations(known, check, by_patents=by_patents))
    order = np.random.default_rng(seed).permutation(len(check.rows))
    choose, rest = order[: len(order) // 2], order[len(order) // 2 :]
    fitted: dict[str, Model] = {}
    predicted: dict[str, Floats] = {}
    errors: dict[str, float] = {}
    missed: dict[str, Floats] = {}
    absent: dict[str, str] = {}
    for name in models:
        try:
            fitted[name] = fit_model(name, cuts, targets, seed)
        except InputError as error:
            absent[name] = str(error)
            continue
        predicted[name] = fitted[name].predict(check)
        missed[name] = np.abs(predicted[name] - truth)[choose]
        errors[name] = float(missed[name].mean())
    if not errors:
        raise InputError("models", f"none can be tried: {'; '.join(absent.values())}", "Install what is missing.")
    chosen = min(errors, key=lambda name: errors[name])
    return Trained(
        by_patents,
        chosen,
        errors,
        compare(missed, chosen, seed),
        held_out_coverage(predicted[chosen][rest], truth[rest], seed),
        absent,
        fitted[chosen],
        Conformal.of(predicted[chosen][rest], truth[rest]),
        (sum(len(cut.rows) for cut in cuts), len(choose), len(rest)),
        (tuple(moments), validation, now),
    )


def forecast_works(trained: Trained, graph: CitationGraph, now: float) -> tuple[Integers, Prediction]:
    """Return the ids of the works of the last years before ``now`` and the forecast of each."""
    cut = snapshot(graph, now)
    return cut.graph.ids[cut.rows], trained.conformal.predict(trained.model.predict(cut))
