"""SIMULATED citation graphs for tests and benchmarks; nothing in them was ever published."""

from __future__ import annotations

from typing import Final

import numpy as np

from .graph import CitationGraph, Integers, ordered_graph

__all__ = ["simulate_citations"]

_STEPS_A_YEAR: Final = 12
_START: Final = 1990.0
_OFFSET: Final = 1.0


def simulate_citations(
    works: int,
    *,
    years: float = 30.0,
    mean_references: float = 12.0,
    patents: float = 0.0,
    topics: int = 12,
    growth: float = 0.06,
    seed: int = 0,
) -> CitationGraph:
    """Grow a citation graph: preferential attachment, fitness, log-normal ageing, topics.

    A new work cites an older one with a chance in proportion to its fitness times (citations + 1) times a log-normal
    density of its age, ten times more within its topic. Fitness is log-normal: a part of it shows in the number of
    authors, a part is the topic's, which fades and blooms, the rest is hidden. So nothing can foretell all of it.

    Parameters
    ----------
    works
        How many.
    years
        From 1990.0 on.
    mean_references
        Of a work, to works in the graph.
    patents
        Patents for each work; they cite two works each on average.
    topics
        How many; each work has one.
    growth
        Of the yearly output.
    seed
        Of everything.

    Returns
    -------
    CitationGraph
        With ``simulated`` set.
    """
    generator = np.random.default_rng(seed)
    share = generator.random(works)
    time = _START + np.log1p(share * (np.exp(growth * years) - 1)) / growth
    time.sort()
    topic = generator.integers(0, topics, works)
    phase, period = generator.uniform(0, 2 * np.pi, topics), generator.uniform(6, 20, topics)
    seen = generator.normal(0.0, 0.5, works)
    heat = 0.5 * np.sin(2 * np.pi * (time - _START) / period[topic] + phase[topic])
    fitness = np.exp(seen + heat + generator.normal(0.0, 0.6, works))
    authors = 1 + generator.poisson(np.exp(1.4 + 0.8 * seen))
    peak, width = generator.normal(1.1, 0.25, works), generator.uniform(0.7, 1.0, works)
    count = np.zeros(works)
    edges: list[Integers] = []
    references = np.zeros(works)
    is_patent_time = np.sort(generator.uniform(_START + 1, _START + years, round(patents * works)))
    for step in range(int(years * _STEPS_A_YEAR)):
        begin = _START + step / _STEPS_A_YEAR
        end = begin + 1 / _STEPS_A_YEAR
        old = int(np.searchsorted(time, begin))
        new = np.arange(old, int(np.searchsorted(time, end)))
        granted = np.arange(*np.searchsorted(is_patent_time, (begin, end)))
        if old < 5 or len(new) + len(granted) == 0:
            continue
        age = np.maximum(begin - time[:old], 1e-3)
        rate = np.exp(-0.5 * ((np.log(age) - peak[:old]) / width[:old]) ** 2) / (age * width[:old])
        weight = fitness[:old] * (count[:old] + _OFFSET) * rate
        for citer in (*new, *(-1 - granted)):
            mean = mean_references if citer >= 0 else 2.0
            wanted = min(generator.poisson(mean), old // 2)
            if wanted == 0:
                continue
            near = weight * np.where(topic[:old] == topic[citer], 10.0, 1.0) if citer >= 0 else weight * fitness[:old]
            # Gumbel's trick draws without replacement.
            score = np.log(near + 1e-300) + generator.gumbel(size=old)
            cited = np.argpartition(-score, wanted - 1)[:wanted]
            edges.append(np.stack([np.full(wanted, citer + 1 if citer >= 0 else citer), cited + 1], axis=1))
            if citer >= 0:
                references[citer] = wanted
                count[cited] += 1
    patent_ids = -1 - np.arange(len(is_patent_time))
    return ordered_graph(
        np.concatenate([np.arange(1, works + 1), patent_ids]).astype(np.int64),
        np.concatenate([time, is_patent_time]),
        np.concatenate([authors.astype(float), np.zeros(len(patent_ids))]),
        np.concatenate([references, np.zeros(len(patent_ids))]),
        np.concatenate(edges).astype(np.int64) if edges else np.zeros((0, 2), dtype=np.int64),
        True,
    )
