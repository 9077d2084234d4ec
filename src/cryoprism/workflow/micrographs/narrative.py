"""A ledger in words that a microscopist uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryoprism.causes import CAUSES
from cryoprism.core import InputError

__all__ = ["advice_for", "cause_in_words", "micrograph_sentences", "read_causes", "session_sentences"]

SCHEMA_NAME: Final = "cryoprism-causes-1"
_MOST_SENTENCES = 3
_LARGE = 0.1  # share of the loss that is worth a word even if it is uncertain
_CLEAR = 2.0  # standard deviations above zero before a loss is called one


def cause_in_words(cause: str) -> str:
    """Name of a cause inside a sentence."""
    return CAUSES[cause].words if cause in CAUSES else cause.replace("_", " ")


def advice_for(cause: str) -> str:
    """Return what to do about a cause, or an empty text."""
    return CAUSES[cause].advice if cause in CAUSES else ""


def read_causes(path: str | Path) -> dict[str, Any]:
    """Read ``causes.json`` from a job folder or by its name.

    Raises
    ------
    InputError
        It is not there, is not JSON, or is another format.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "causes.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(file, "does not exist", "Name the folder that cryoprism restore wrote (--out).") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(file, "is not JSON", "Name the folder that cryoprism restore wrote (--out).") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(content, dict) or found != SCHEMA_NAME:
        raise InputError(
            file, f"has the format {found!r}, not '{SCHEMA_NAME}'", "Run cryoprism restore of this version again."
        )
    return content


def session_sentences(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what the session lost, to which causes, in which micrographs, and what to do; most important first."""
    session = content["session"]
    micrographs = content["micrographs"]
    if not micrographs:
        return ("No micrograph was estimated.",)
    lost = session["ideal_information_in_bits"]["mean"] - session["information_in_bits"]["mean"]
    if lost <= 0:
        return ("No cause took a measurable amount of information.",)
    sentences = []
    for cause, loss in _ranked(session["ledger"], lost)[:_MOST_SENTENCES]:
        where = _where(cause, micrographs)
        what = f"{_percent(loss, lost)} of the lost information is {cause_in_words(cause)}{where}."
        sentences.append(f"{what} {advice_for(cause)}".strip())
    unsure = _unsure(session["ledger"], lost)
    if unsure:
        sentences.append(f"Possibly large, but too uncertain to say: {unsure}.")
    abstained = _abstained(micrographs)
    if abstained:
        sentences.append(
            f"Not identifiable from these data, so nothing is claimed: {', '.join(abstained)}. "
            "Shares are of the loss that could be priced."
        )
    flagged = [entry["name"] for entry in micrographs if entry["flags"]]
    if flagged:
        sentences.append(f"{len(flagged)} of {len(micrographs)} micrographs are flagged.")
    return tuple(sentences)


def micrograph_sentences(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Say the same for one micrograph, an item of ``micrographs``."""
    lost = entry["ideal_information_in_bits"]["mean"] - entry["information_in_bits"]["mean"]
    ledger = {name: cause["bits_lost"] for name, cause in entry["causes"].items() if cause["bits_lost"] is not None}
    sentences = []
    if lost > 0:
        for cause, loss in _ranked(ledger, lost)[:_MOST_SENTENCES]:
            sentences.append(f"{_percent(loss, lost)} of the lost information is {cause_in_words(cause)}.")
        unsure = _unsure(ledger, lost)
        if unsure:
            sentences.append(f"Possibly large, but too uncertain to say: {unsure}.")
    if not sentences:
        sentences.append("No cause took a measurable amount of information.")
    if entry["flags"]:
        sentences.append("Flagged: " + ", ".join(flag.replace("_", " ") for flag in entry["flags"]) + ".")
    return tuple(sentences)


def _ranked(ledger: Mapping[str, Any], lost: float) -> list[tuple[str, Mapping[str, float]]]:
    """Causes worth a sentence: clearly above zero, and above a hundredth of the loss."""
    clear = [(c, q) for c, q in ledger.items() if q["mean"] > max(0.01 * lost, _CLEAR * q["standard_deviation"])]
    return sorted(clear, key=lambda item: -item[1]["mean"])


def _unsure(ledger: Mapping[str, Any], lost: float) -> str:
    """Causes whose share is large but within its error: unsaid, it would make the others look like everything."""
    clear = {cause for cause, _ in _ranked(ledger, lost)}
    shares = [
        (quantity["mean"] / lost, f"{cause_in_words(cause)} ({_percent(quantity, lost)})")
        for cause, quantity in ledger.items()
        if cause not in clear and quantity["mean"] > _LARGE * lost
    ]
    return ", ".join(text for _, text in sorted(shares, reverse=True))


def _percent(quantity: Mapping[str, float], lost: float) -> str:
    # Whole percents; an error is never rounded to none.
    return f"{100 * quantity['mean'] / lost:.0f} ± {max(100 * quantity['standard_deviation'] / lost, 1):.0f} %"


def _where(cause: str, micrographs: list[Mapping[str, Any]]) -> str:
    losses = [_bits(entry, cause) for entry in micrographs]
    total = sum(losses)
    if len(losses) < 4 or total <= 0:
        return ""
    # The fewest micrographs in a row, at an end of the session, that hold most of the loss: at most a third.
    third = len(losses) // 3
    for count in range(1, third + 1):
        for part, place in ((losses[:count], "first"), (losses[-count:], "last")):
            if sum(part) > 0.6 * total:
                images = "image" if count == 1 else f"{count} of {len(losses)} images"
                return f", mostly in the {place} {images}"
    worst = sorted(losses, reverse=True)[:third]
    if third and sum(worst) > 0.7 * total:
        return f", mostly in {third} of {len(losses)} images"
    return ""


def _bits(entry: Mapping[str, Any], cause: str) -> float:
    found = entry["causes"].get(cause)
    return 0.0 if found is None or found["bits_lost"] is None else max(0.0, float(found["bits_lost"]["mean"]))


def _abstained(micrographs: list[Mapping[str, Any]]) -> list[str]:
    names = {name for entry in micrographs for name in entry["causes"]}
    return sorted(
        cause_in_words(name)
        for name in names
        if not any(entry["causes"][name]["identifiable"] for entry in micrographs if name in entry["causes"])
    )
