"""Classifier two-sample test: whether a network that was trained for it can tell two sets of micrographs apart.

Lopez-Paz & Oquab 2017 (ICLR, "Revisiting classifier two-sample tests"), with the area under the ROC curve on held-out
micrographs in the place of the accuracy: 0.5 is perfect, 1 is a giveaway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoprism.core import generator_for, single_threaded

from ._samples import (
    PATCH,
    Measure,
    MicrographSet,
    check_pair,
    corners_on_grid,
    normalised,
    ordinary_corners,
    patches_at,
)

__all__ = ["TwoSampleScores", "auc", "auc_advantage", "two_sample_auc", "two_sample_scores"]

_WIDTHS = (12, 24, 48, 64, 64)
_BATCH = 32
_RATE = 6e-3
_DECAY = 1e-2
_DRAWS = 1000
_INTERVAL = torch.tensor([0.025, 0.975], dtype=torch.float64)


def _network(generator: torch.Generator) -> nn.Sequential:
    """78 000 parameters; every layer halves the image, the first one sees single pixels and their neighbours."""
    layers: list[nn.Module] = []
    before = 1
    for number, width in enumerate(_WIDTHS):
        size = 5 if number == 0 else 3
        layer = nn.Conv2d(before, width, size, stride=2, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(layer.weight, a=0.1, generator=generator)
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)  # a fifth faster
        layers += [layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
        before = width
    last = nn.Linear(before, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


class _Sampler:
    """Random patches of a set: each micrograph as often as any other, any place, mirrored along x and y."""

    def __init__(self, images: list[Tensor], allowed: list[Tensor | None], members: list[int]) -> None:
        self.images = [images[i] for i in members]
        self.allowed = [allowed[i] for i in members]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Patches (count, 1, 128, 128)."""
        which = torch.randint(len(self.images), (count,), generator=generator)
        places = torch.rand(count, 2, generator=generator)
        flips = torch.randint(4, (count,), generator=generator)
        out = torch.empty(count, PATCH, PATCH)
        for number, index in enumerate(which.tolist()):
            image, allowed = self.images[index], self.allowed[index]
            if allowed is None:
                room = torch.tensor([image.shape[0] - PATCH + 1, image.shape[1] - PATCH + 1])
                y, x = (places[number] * room).long().tolist()
            else:
                y, x = allowed[int(places[number, 0] * len(allowed))].tolist()
            patch = image[y : y + PATCH, x : x + PATCH]
            axes = [axis for axis in (0, 1) if int(flips[number]) >> axis & 1]
            out[number] = patch.flip(axes) if axes else patch
        return out[:, None]


def _train(real: _Sampler, synthetic: _Sampler, steps: int, generator: torch.Generator) -> nn.Sequential:
    network = _network(generator)
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=max(2, steps))
    half = _BATCH // 2
    target = torch.cat([torch.ones(half), torch.zeros(half)])
    network.train()
    for _ in range(steps):
        batch = torch.cat([real.draw(half, generator), synthetic.draw(half, generator)])
        score = network(batch)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(score, target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def auc(positive: Tensor, negative: Tensor) -> float:
    """Chance that a positive score (n,) exceeds a negative one (m,), ties half."""
    order = torch.sort(negative.double()).values
    scores = positive.double()
    below = torch.searchsorted(order, scores).double()
    up_to = torch.searchsorted(order, scores, right=True).double()
    return float((0.5 * (below + up_to)).mean() / len(order))


@dataclass(frozen=True, eq=False)
class _Fold:
    """Scores on held-out micrographs: one tensor (seeds, patches) for each."""

    real: list[Tensor]
    synthetic: list[Tensor]

    def auc(self, seed: int) -> float:
        return auc(torch.cat([s[seed] for s in self.real]), torch.cat([s[seed] for s in self.synthetic]))

    def redrawn(self, seed: int, generator: torch.Generator) -> float:
        """AUC with the held-out micrographs, and the patches of each, drawn anew with replacement."""
        return auc(_redraw(self.real, seed, generator), _redraw(self.synthetic, seed, generator))


@dataclass(frozen=True, eq=False)
class TwoSampleScores:
    """What the classifiers of a two-sample test said of the micrographs that were held out from them."""

    folds: list[_Fold]
    trainings: int
    seed: int

    def by_fold(self) -> tuple[float, ...]:
        """AUC of each fold, mean over trainings."""
        return tuple(sum(fold.auc(t) for t in range(self.trainings)) / self.trainings for fold in self.folds)

    def redrawn(self) -> Tensor:
        """AUC (draws,) with folds, trainings, held-out micrographs and their patches drawn anew.

        Two tests of one seed and of as many folds and trainings draw the same ones, so that draws can be paired.
        """
        generator = generator_for(self.seed, "two-sample", "bootstrap")
        draws = torch.empty(_DRAWS, dtype=torch.float64)
        for draw in range(_DRAWS):
            chosen = torch.randint(len(self.folds), (len(self.folds),), generator=generator).tolist()
            starts = torch.randint(self.trainings, (len(self.folds),), generator=generator).tolist()
            # Sets may differ in their number of patches: what is drawn of them must not shift what is drawn next.
            own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
            values = [self.folds[f].redrawn(s, own) for f, s in zip(chosen, starts, strict=True)]
            draws[draw] = sum(values) / len(values)
        return draws

    def measure(self) -> Measure:
        """AUC with its interval."""
        by_fold = self.by_fold()
        low, high = torch.quantile(self.redrawn(), _INTERVAL).tolist()
        value = sum(by_fold) / len(by_fold)
        count = sum(s.shape[1] for fold in self.folds for s in (*fold.real, *fold.synthetic))
        return Measure(value=value, low=min(low, value), high=max(high, value), count=count, parts=by_fold)


def auc_advantage(ours: TwoSampleScores, baseline: TwoSampleScores) -> Measure:
    """AUC above 0.5 of a baseline less that of ours, by a paired bootstrap; both against the same real micrographs.

    Below 0.5 counts as 0.5: a classifier that does worse than chance on other micrographs has not found them alike.
    ``parts`` are the differences of the folds.
    """
    folds = [b - o for b, o in zip(baseline.by_fold(), ours.by_fold(), strict=True)]

    def above(value: Tensor) -> Tensor:
        return (value - 0.5).clamp_min(0)

    mean = [torch.tensor(scores.by_fold(), dtype=torch.float64).mean() for scores in (baseline, ours)]
    value = float(above(mean[0]) - above(mean[1]))
    low, high = torch.quantile(above(baseline.redrawn()) - above(ours.redrawn()), _INTERVAL).tolist()
    return Measure(value=value, low=min(low, value), high=max(high, value), count=len(folds), parts=tuple(folds))


def _redraw(scores: list[Tensor], seed: int, generator: torch.Generator) -> Tensor:
    members = torch.randint(len(scores), (len(scores),), generator=generator).tolist()
    parts = []
    for member in members:
        line = scores[member][seed]
        parts.append(line[torch.randint(len(line), (len(line),), generator=generator)])
    return torch.cat(parts)


def two_sample_auc(
    real: MicrographSet,
    synthetic: MicrographSet,
    *,
    seed: int = 0,
    folds: int = 3,
    trainings: int = 2,
    steps: int = 150,
) -> Measure:
    """Held-out AUC of a small convolutional classifier on patches of 128 × 128 pixels: 0.5 is perfect.

    Every micrograph is brought to mean 0 and deviation 1, so neither tells anything. Folds are by micrograph: the
    classifier is trained on some micrographs of both sets and tested on others, on patches that do not overlap. The
    value is the mean over folds and trainings.

    With few micrographs a classifier also learns what sets *these* apart (their defocus, their ice) and then does worse
    than chance on others, so that real against real of other micrographs may come out on either side of 0.5: it must
    always be printed beside. A low value says that this classifier, with this training, finds no difference; not that
    there is none.

    Parameters
    ----------
    real, synthetic
        The two sets; patches with less than 0.9 ordinary field are left out.
    seed
        Names all draws: same seed, same result.
    folds
        At most as many as the smaller set has micrographs.
    trainings
        From different starts, per fold.
    steps
        Of 32 patches each. Defaults take about 50 CPU seconds.

    Returns
    -------
    Measure
        The interval is a bootstrap over folds, held-out micrographs, their patches and trainings; with three folds it
        is rather too narrow. ``count`` is the number of held-out patches, ``parts`` the AUC of each fold.
    """
    return two_sample_scores(real, synthetic, seed=seed, folds=folds, trainings=trainings, steps=steps).measure()


@single_threaded
def two_sample_scores(
    real: MicrographSet,
    synthetic: MicrographSet,
    *,
    seed: int = 0,
    folds: int = 3,
    trainings: int = 2,
    steps: int = 150,
) -> TwoSampleScores:
    """Train and test the classifiers of :func:`two_sample_auc`, with the same parameters."""
    check_pair(real, synthetic)
    folds = min(folds, len(real), len(synthetic))
    tests: list[_Fold] = []
    images = [normalised(real), normalised(synthetic)]
    sets = [real, synthetic]
    allowed = [[ordinary_corners(s.weight(i), s.images[i].shape) for i in range(len(s))] for s in sets]
    grids = [[corners_on_grid(s.images[i].shape, s.weight(i)) for i in range(len(s))] for s in sets]
    for fold in range(folds):
        train = [[i for i in range(len(s)) if i % folds != fold] for s in sets]
        held = [[i for i in range(len(s)) if i % folds == fold] for s in sets]
        scores: list[list[list[Tensor]]] = [[[] for _ in members] for members in held]
        for training in range(trainings):
            generator = generator_for(seed, "two-sample", fold, training)
            samplers = [_Sampler(images[side], allowed[side], train[side]) for side in (0, 1)]
            with torch.enable_grad():
                network = _train(samplers[0], samplers[1], steps, generator)
            with torch.no_grad():
                for side in (0, 1):
                    for place, i in enumerate(held[side]):
                        cut = patches_at(images[side][i], grids[side][i])[:, None]
                        part = torch.cat(
                            [
                                network(c.contiguous())[:, 0]
                                for c in cut.tensor_split(list(range(_BATCH, len(cut), _BATCH)))
                            ]
                        )
                        scores[side][place].append(part)
        stacked = [[torch.stack(lines) for lines in side] for side in scores]
        tests.append(_Fold(stacked[0], stacked[1]))
    return TwoSampleScores(tests, trainings, seed)
