"""Weights of the five answers and shape of the score: what they are before and after people have judged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json

__all__ = [
    "COMPONENTS",
    "ENOUGH_JUDGEMENTS",
    "SYMBOLS",
    "Shape",
    "Weights",
    "default_shape",
    "default_weights",
    "impact_bound_in_citations",
    "read_weights",
    "softmax",
    "weights_path",
]

#: The answers that are weighed, in the order of w1 … w5.
COMPONENTS: Final = ("logic", "novelty", "impact", "reproducibility", "meta")
SYMBOLS: Final[Mapping[str, str]] = dict(zip(COMPONENTS, "π∞i△⋄", strict=True))
#: With fewer judgements the score keeps the weights that it had before any.
ENOUGH_JUDGEMENTS: Final = 100
_SCHEMA: Final = "cryoprism-weights-1"
_DRAWS: Final = 20_000
#: A shape with a smaller rise (of 100, from V = 0 to V = 1) gives every work the same score.
_LEAST_RISE: Final = 0.01
#: Softmax of the logits and the weights that stand beside them in a file are the same up to rounding.
_ROUNDING: Final = 1e-6

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """Return weights that are positive and sum to 1 over the last axis of ``logits`` (…, 5)."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Shape:
    """β, γ and κ of HyperScore = 100·[1 + σ(β·ln V + γ)^κ].

    Raises
    ------
    InputError
        A number is not finite, or β or κ is not positive: the score would fall where V rises.
    """

    beta: float
    gamma: float
    kappa: float

    def __post_init__(self) -> None:
        for name in ("beta", "gamma", "kappa"):
            number = number_in(getattr(self, name))
            if not math.isfinite(number):
                raise InputError(
                    name,
                    f"{getattr(self, name)!r:.40} is no number",
                    "Give the β, γ, κ of a score, such as 5, -0.69, 2.",
                )
            if name != "gamma" and number <= 0:
                raise InputError(name, f"{number} is not positive", "The score has to rise with V: give one above 0.")

    @property
    def rise(self) -> float:
        """σ(γ)^κ: by how much of 100 the score rises from V = 0 to V = 1."""
        return math.exp(-self.kappa * float(np.logaddexp(0.0, -self.gamma)))

    def to_json(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"beta": self.beta, "gamma": self.gamma, "kappa": self.kappa}


@dataclass(frozen=True)
class Weights:
    """Weights w = softmax(θ) of the components, θ normally distributed.

    Attributes
    ----------
    logits
        (5,) mean of θ, in the order of ``COMPONENTS``.
    covariance
        (5, 5) of θ.
    judgements
        How many judgements they were learned from; 0 for a prior.
    prior
        What they were before; None for a prior.
    """

    logits: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    judgements: int = 0
    prior: Weights | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        many = len(COMPONENTS)
        matrix = np.asarray(self.covariance, dtype=float)
        if len(self.logits) != many or matrix.shape != (many, many):
            raise InputError("weights", f"not {many} logits with their covariance", "Learn the weights again.")
        if not (np.isfinite(self.logits).all() and np.isfinite(matrix).all()):
            raise InputError("weights", "a logit or its covariance is no number", "Learn the weights again.")
        if not np.allclose(matrix, matrix.T, atol=1e-9) or np.linalg.eigvalsh(matrix).min() < -1e-9:
            raise InputError("weights", "the covariance of the logits is not one", "Learn the weights again.")

    @property
    def mean(self) -> dict[str, float]:
        """Softmax of the mean logits, by component."""
        return dict(zip(COMPONENTS, softmax(np.asarray(self.logits)).tolist(), strict=True))

    @property
    def in_use(self) -> Weights:
        """What a score uses: these, or the prior where they rest on fewer than ``ENOUGH_JUDGEMENTS`` judgements."""
        return self if self.prior is None or self.judgements >= ENOUGH_JUDGEMENTS else self.prior

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Draw (count, 5) weights."""
        matrix = np.asarray(self.covariance)
        values, vectors = np.linalg.eigh(matrix)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        return softmax(np.asarray(self.logits) + generator.standard_normal((count, len(COMPONENTS))) @ root.T)

    def intervals(self, seed: int = 0) -> dict[str, dict[str, float]]:
        """Mean, standard deviation and 95 % interval of each weight."""
        drawn = self.sample(_DRAWS, np.random.default_rng(seed))
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        return {
            name: {
                "weight": self.mean[name],
                "standard_deviation": float(drawn[:, i].std()),
                "lower": float(low[i]),
                "upper": float(high[i]),
            }
            for i, name in enumerate(COMPONENTS)
        }

    def sentence(self) -> str:
        """Say where the weights in use come from."""
        if self.prior is None:
            return "The weights are those from before any judgement; their spread is in the intervals."
        if self.in_use is not self:
            return (
                f"The weights are those from before any judgement: {self.judgements} judgements of at least "
                f"{ENOUGH_JUDGEMENTS} are there."
            )
        return f"The weights were learned from {self.judgements} judgements."

    def to_json(self) -> dict[str, Any]:
        """Return what ``weights.json`` holds of them."""
        content: dict[str, Any] = {
            "schema": _SCHEMA,
            "components": list(COMPONENTS),
            "judgements": self.judgements,
            "judgements_needed": ENOUGH_JUDGEMENTS,
            "in_use": "learned" if self.prior is not None and self.in_use is self else "prior",
            "weights": self.intervals(),
            "logits": list(self.logits),
            "covariance": [list(row) for row in self.covariance],
        }
        if self.prior is not None:
            content["prior"] = self.prior.to_json()
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "weights.json") -> Weights:
        """Read back what :meth:`to_json` made.

        Raises
        ------
        InputError
            It is something else.
        """
        remedy = "Give the weights.json of cryoprism weights learn."
        if not isinstance(content, Mapping) or content.get("schema") != _SCHEMA:
            raise InputError(where, f"no {_SCHEMA} document", remedy)
        if content.get("components") != list(COMPONENTS):
            raise InputError(where, f"the components are not {', '.join(COMPONENTS)}", remedy)
        try:
            found = cls(
                tuple(float(x) for x in content["logits"]),
                tuple(tuple(float(x) for x in row) for row in content["covariance"]),
                int(content["judgements"]),
                cls.from_json(content["prior"], where) if "prior" in content else None,
            )
            shown = {name: float(content["weights"][name]["weight"]) for name in COMPONENTS}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(where, f"cannot be read: {error}", remedy) from error
        for name, weight in found.mean.items():
            if not abs(shown[name] - weight) <= _ROUNDING:
                said = f"its weight of {name} is {shown[name]:.6g}, but its logits say {weight:.6g}"
                raise InputError(where, said, "It was changed by hand: give the file as it was written.")
        return found


def prior_weights(weights: Sequence[float], standard_deviation_of_logits: float) -> Weights:
    """Return independent, equally uncertain logits whose softmax is ``weights`` (5, positive, sum 1)."""
    values = np.log(np.asarray(weights, dtype=float))
    variance = standard_deviation_of_logits**2
    return Weights(
        tuple((values - values.mean()).tolist()),
        tuple(tuple(row) for row in (variance * np.eye(len(values))).tolist()),
    )


def _defaults() -> dict[str, Any]:
    text = (resources.files(__package__) / "defaults.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def default_weights() -> Weights:
    """Weights before any judgement; ``defaults.json`` says why."""
    content = _defaults()
    return prior_weights([content["weights"][name] for name in COMPONENTS], content["standard_deviation_of_logits"])


def default_shape() -> Shape:
    """Shape before any judgement; ``defaults.json`` says why."""
    return Shape(**_defaults()["shape"])


def impact_bound_in_citations() -> float:
    """Largest impact that is reckoned with where impact is unknown."""
    return float(_defaults()["impact_bound_in_citations"])


def weights_path(path: str | Path) -> Path:
    """Return the ``weights.json`` that is meant by it or by the folder of its job."""
    return Path(path) / "weights.json" if Path(path).is_dir() else Path(path)


def read_weights(path: str | Path) -> tuple[Weights, Shape]:
    """Read weights and shape from the ``weights.json`` of a job, or the job's folder.

    Raises
    ------
    InputError
        There is none, or it is something else.
    """
    file = weights_path(path)
    remedy = "Give the folder of cryoprism weights learn, or its weights.json."
    try:
        content = read_json(file)
    except (FileNotFoundError, UnreadableError) as error:
        raise InputError(file, f"cannot be read: {error}", remedy) from error
    weights = Weights.from_json(content, str(file))
    told = content.get("shape", default_shape().to_json())
    try:
        shape = Shape(**{name: told[name] for name in ("beta", "gamma", "kappa")})
    except (KeyError, TypeError) as error:
        raise InputError(file, "the shape is not β, γ and κ", remedy) from error
    if (rise := shape.rise) < _LEAST_RISE:
        raise InputError(
            file, f"its shape hardly moves the score: by {100 * rise:.2g} from V = 0 to V = 1", "Learn it again."
        )
    return weights, shape
