"""Two models that learn from what is known of a work and its neighbours: gradient boosting and GraphSAGE."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from cryoprism.core import HOW_TO_INSTALL_ASSESS, InputError

from .features import FEATURES, Snapshot
from .graph import Floats

__all__ = ["GradientBoosting", "GraphSage"]

_HIDDEN: Final = 32
_EPOCHS: Final = 150
_HELD_OUT: Final = 0.15
_PATIENCE: Final = 25


class GradientBoosting:
    """Histogram gradient boosting of scikit-learn on the features of the works.

    Parameters
    ----------
    seed
        Of its early stopping.

    Raises
    ------
    InputError
        scikit-learn is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as error:
            raise InputError("scikit-learn", "is not installed", HOW_TO_INSTALL_ASSESS) from error
        self._model: Any = HistGradientBoostingRegressor(
            learning_rate=0.06, max_iter=300, max_leaf_nodes=15, early_stopping=True, random_state=seed
        )

    def fit(self, cuts: Sequence[Snapshot], targets: Sequence[Floats]) -> GradientBoosting:
        """Fit to ln(1 + citations) of past snapshots and return itself."""
        self._model.fit(np.concatenate([cut.features[cut.rows] for cut in cuts]), np.log1p(np.concatenate(targets)))
        return self

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) ln(1 + citations) to come of the works of a snapshot."""
        return np.asarray(np.maximum(self._model.predict(cut.features[cut.rows]), 0.0))


def _sage_convolution() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which the library calls on import
            from torch_geometric.nn import SAGEConv
    except ImportError as error:
        raise InputError("torch-geometric", "is not installed", HOW_TO_INSTALL_ASSESS) from error
    return SAGEConv


class _Network(nn.Module):
    """Two layers of SAGEConv along citations and two against them, beside the work's own features."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        convolution = _sage_convolution()
        self.down = nn.ModuleList([convolution(inputs, _HIDDEN), convolution(_HIDDEN, _HIDDEN)])
        self.up = nn.ModuleList([convolution(inputs, _HIDDEN), convolution(_HIDDEN, _HIDDEN)])
        self.head = nn.Sequential(nn.Linear(inputs + 2 * _HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return (n,) ln(1 + citations) to come."""
        first = torch.relu(self.down[0](x, edges) + self.up[0](x, edges.flip(0)))
        second = torch.relu(self.down[1](first, edges) + self.up[1](first, edges.flip(0)))
        return self.head(torch.cat([x, first, second], dim=1)).squeeze(1)  # type: ignore[no-any-return]


class GraphSage:
    """GraphSAGE on the whole graph of each snapshot (full batch).

    Parameters
    ----------
    seed
        Of weights and of the works held out to stop early.
    epochs
        At most; one pass over every snapshot each.

    Raises
    ------
    InputError
        torch-geometric is not installed.

    References
    ----------
    Hamilton, Ying and Leskovec (2017), NeurIPS.
    """

    def __init__(self, seed: int = 0, epochs: int = _EPOCHS) -> None:
        _sage_convolution()
        self.seed, self.epochs = seed, epochs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _Network(len(FEATURES))
        self._mean, self._deviation = torch.zeros(len(FEATURES)), torch.ones(len(FEATURES))

    def fit(self, cuts: Sequence[Snapshot], targets: Sequence[Floats]) -> GraphSage:
        """Fit to ln(1 + citations) of past snapshots, keep the best on works held out, and return itself."""
        known = torch.from_numpy(np.concatenate([cut.features[cut.rows] for cut in cuts])).float()
        self._mean, self._deviation = known.mean(0), known.std(0).clamp_min(1e-3)
        generator = np.random.default_rng(self.seed)
        batches = []
        for cut, target in zip(cuts, targets, strict=True):
            out = torch.from_numpy(generator.random(len(cut.rows)) < _HELD_OUT)
            y = torch.from_numpy(np.log1p(target)).float()
            batches.append((*self._inputs(cut), torch.from_numpy(cut.rows), y, out))
        optimiser = torch.optim.Adam(self._network.parameters(), lr=0.01, weight_decay=1e-4)
        best, since = float("inf"), 0
        kept = {name: value.clone() for name, value in self._network.state_dict().items()}
        for _ in range(self.epochs):
            missed, count = 0.0, 0
            for x, edges, rows, y, out in batches:
                off = (self._network(x, edges)[rows] - y) ** 2
                optimiser.zero_grad()
                off[~out].mean().backward()
                optimiser.step()
                missed, count = missed + float(off[out].sum().detach()), count + int(out.sum())
            if missed / max(count, 1) < best - 1e-4:
                best, since = missed / max(count, 1), 0
                kept = {name: value.clone() for name, value in self._network.state_dict().items()}
            else:
                since += 1
                if since >= _PATIENCE:
                    break
        self._network.load_state_dict(kept)
        return self

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) ln(1 + citations) to come of the works of a snapshot."""
        with torch.no_grad():
            found = self._network(*self._inputs(cut))[torch.from_numpy(cut.rows)]
        return np.asarray(found.clamp_min(0.0).double().numpy())

    def _inputs(self, cut: Snapshot) -> tuple[Tensor, Tensor]:
        x = (torch.from_numpy(cut.features).float() - self._mean) / self._deviation
        edges = torch.from_numpy(np.stack([cut.graph.citing, cut.graph.cited]))
        return x.clamp(-8.0, 8.0), edges
