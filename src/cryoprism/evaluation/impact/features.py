"""What is known of a work at a moment, from before that moment only, and what became of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .graph import CitationGraph, Floats, Integers

__all__ = ["FEATURES", "HORIZON_IN_YEARS", "OLDEST_IN_YEARS", "Snapshot", "later_citations", "snapshot"]

#: How far ahead citations are counted, and up to which age works are forecast.
HORIZON_IN_YEARS: Final = 5.0
OLDEST_IN_YEARS: Final = 3.0
FEATURES: Final = (
    "age",
    "citations",
    "citations in the last year",
    "citations by patents",
    "authors",
    "references",
    "references in the graph",
    "mean citations of its references",
    "recent citations of its references",
    "mean age of its references",
    "mean citations of its citers",
    "citations of works that share its references",
)


@dataclass(frozen=True)
class Snapshot:
    """The graph at a moment.

    Attributes
    ----------
    graph
        Up to the moment: nothing after it is in here.
    moment
        In years.
    rows
        (k,) positions of the works to forecast: publications of at most ``OLDEST_IN_YEARS``.
    features
        (n, len(FEATURES)) of every work, counts as ln(1 + count).
    """

    graph: CitationGraph
    moment: float
    rows: Integers
    features: Floats


def snapshot(graph: CitationGraph, moment: float) -> Snapshot:
    """Cut a graph off at a moment and describe every work in it."""
    known = graph.until(moment)
    count = len(known.ids)
    by_patent = known.is_patent[known.citing]
    citing, cited = known.citing[~by_patent], known.cited[~by_patent]
    recent = known.time[citing] > moment - 1
    total = _count(cited, count)
    fresh = _count(cited[recent], count)
    outgoing = _count(citing, count)
    age = moment - known.time
    # Of references and citers: logarithms first, as one famous neighbour says little.
    reference_total = _mean(citing, np.log1p(total)[cited], count)
    reference_fresh = _mean(citing, np.log1p(fresh)[cited], count)
    reference_age = _mean(citing, known.time[citing] - known.time[cited], count)
    citer_total = _mean(cited, np.log1p(total)[citing], count)
    # Two steps: what is cited by those who cite what this cites.
    shared = _mean(citing, _mean(cited, np.log1p(fresh)[citing], count)[cited], count)
    columns = (
        age,
        np.log1p(total),
        np.log1p(fresh),
        np.log1p(_count(known.cited[by_patent], count)),
        np.log1p(known.authors),
        np.log1p(known.references),
        np.log1p(outgoing),
        reference_total,
        reference_fresh,
        reference_age,
        citer_total,
        shared,
    )
    rows = np.flatnonzero((age <= OLDEST_IN_YEARS) & ~known.is_patent)
    return Snapshot(known, moment, rows, np.stack(columns, axis=1))


def later_citations(graph: CitationGraph, cut: Snapshot, *, by_patents: bool = False) -> Floats:
    """Count the citations of the works of a snapshot in the ``HORIZON_IN_YEARS`` after it; the only look ahead.

    Returns
    -------
    ndarray
        (k,) in the order of ``cut.rows``.
    """
    moment = graph.edge_time
    inside = (moment > cut.moment) & (moment <= cut.moment + HORIZON_IN_YEARS)
    inside &= graph.is_patent[graph.citing] == by_patents
    return _count(graph.cited[inside], len(graph.ids))[cut.rows]


def _count(index: Integers, length: int) -> Floats:
    return np.bincount(index, minlength=length).astype(float)


def _mean(index: Integers, values: Floats, length: int) -> Floats:
    return np.asarray(np.bincount(index, values, length) / np.maximum(np.bincount(index, minlength=length), 1))
