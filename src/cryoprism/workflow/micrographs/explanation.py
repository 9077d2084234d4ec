"""One session or one micrograph, taken out of ``causes.json``: words, a table, a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoprism.core import InputError
from cryoprism.workflow.jobs.files import atomic_path

from .narrative import cause_in_words, micrograph_sentences, read_causes, session_sentences

__all__ = ["Explanation", "explanation_of", "plot_ledger"]

_PLOT_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Explanation:
    """What to say about a session or a micrograph.

    Attributes
    ----------
    title
        Which one.
    sentences
        In words, most important first.
    ledger
        Cause to bits lost: ``{"mean", "standard_deviation"}``, largest first.
    abstained
        Causes that the data do not identify.
    numbers
        The part of ``causes.json`` this was made from.
    """

    title: str
    sentences: tuple[str, ...]
    ledger: Mapping[str, Mapping[str, float]]
    abstained: tuple[str, ...]
    numbers: Mapping[str, Any]

    def lines(self) -> list[str]:
        """Text for a terminal: sentences, then the ledger."""
        lines = [f"{self.title}:", *(f"  {sentence}" for sentence in self.sentences)]
        if self.ledger:
            lines += ["", f"  {'cause':<26}{'bits lost':>14}{'±':>12}"]
        for cause, loss in self.ledger.items():
            lines.append(f"  {cause_in_words(cause):<26}{loss['mean']:>14.0f}{loss['standard_deviation']:>12.0f}")
        for cause in self.abstained:
            lines.append(f"  {cause_in_words(cause):<26}{'not identifiable':>26}")
        return lines


def explanation_of(run: str | Path, micrograph: str | None = None) -> Explanation:
    """Explain the session in ``run``, or one of its micrographs.

    Raises
    ------
    InputError
        There is no ``causes.json``, or ``micrograph`` names none or several.
    """
    content = read_causes(run)
    if micrograph is None:
        return Explanation(
            title=f"Session of {len(content['micrographs'])} micrographs",
            sentences=session_sentences(content),
            ledger=_sorted(content["session"]["ledger"]),
            abstained=_unidentified(content["micrographs"]),
            numbers=content["session"],
        )
    entry = _find(content["micrographs"], micrograph)
    return Explanation(
        title=entry["name"],
        sentences=micrograph_sentences(entry),
        ledger=_sorted({n: c["bits_lost"] for n, c in entry["causes"].items() if c["bits_lost"] is not None}),
        abstained=_unidentified([entry]),
        numbers=entry,
    )


def plot_ledger(explanation: Explanation, path: str | Path) -> None:
    """Draw bits lost per cause with error bars.

    Raises
    ------
    InputError
        The suffix is none of .png, .pdf, .svg.
    """
    if Path(path).suffix.lower() not in _PLOT_SUFFIXES:
        raise InputError("--plot", f"'{path}' has no known suffix", f"Use one of {', '.join(_PLOT_SUFFIXES)}.")
    from matplotlib.figure import Figure

    names = [cause_in_words(cause) for cause in explanation.ledger][::-1]
    losses = list(explanation.ledger.values())[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.32 * max(len(names), 1)), layout="constrained")
    axes = figure.add_subplot()
    means, deviations = [loss["mean"] for loss in losses], [loss["standard_deviation"] for loss in losses]
    axes.barh(names, means, xerr=deviations, color="#3b6ea5", ecolor="#222222", capsize=3)
    axes.set_xlabel("lost information [bits]")
    axes.set_title(explanation.title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _sorted(ledger: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    return dict(sorted(ledger.items(), key=lambda item: -item[1]["mean"]))


def _unidentified(entries: list[Mapping[str, Any]]) -> tuple[str, ...]:
    names = sorted({name for entry in entries for name in entry["causes"]})
    return tuple(
        name
        for name in names
        if not any(entry["causes"][name]["identifiable"] for entry in entries if name in entry["causes"])
    )


def _find(micrographs: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    exact = [entry for entry in micrographs if name in (entry["name"], Path(entry["name"]).stem)]
    found = exact or [entry for entry in micrographs if name in entry["name"]]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(entry["name"] for entry in micrographs[:5])
        raise InputError("--micrograph", f"'{name}' is not in this session", f"It holds {known or 'none'} …")
    raise InputError(
        "--micrograph", f"'{name}' fits {len(found)} micrographs", "Give more of the name: " + found[0]["name"] + " …"
    )
