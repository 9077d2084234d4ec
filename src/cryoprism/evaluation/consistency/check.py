"""Is a model consistent: every rule as obligations, Coq's verdict on each, and a score with its deviation."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cryoprism.evaluation.evidence import Answer, Verdict, available, not_available
from cryoprism.formats import Volume, sha256_of_file

from ._cases import RULES, WEIGHTS, Case, Offender, cases_of
from ._certificate import NOT_ASKED, TRUSTED, certificate_files, sha256, write_certificate
from ._coq import HOW_TO_INSTALL, PLAIN, Prover, coq_version, library_folder
from ._emit import HEADER, asked_source, data_source
from ._envelope import Envelope, envelope_of
from ._lean import check_lean, lean_source
from ._model import Model, read_model
from ._sentences import deviation_of, remarks_of, score_of, sentences_of
from ._symmetry import find_copies
from ._topology import build_topology
from ._words import residue_words

__all__ = ["Consistency", "Limits", "RuleResult", "check_consistency"]

#: The file of each rule; what takes little time shares one, since to load the library takes longer.
_FILES = {"clashes": "Clashes", "copies": "Copies_of_model"}
_SHARED = "Local_rules"


@dataclass(frozen=True)
class Limits:
    """What the prover may use: CPU seconds in all, and memory."""

    cpu_seconds: float = 300.0
    memory_in_bytes: int = 4 << 30


@dataclass(frozen=True)
class RuleResult:
    """Verdicts of one rule.

    Attributes
    ----------
    name, title, unit
        Of the rule, what it says, what one obligation is.
    obligations, proved, refuted, unknown
        Counts; the last three add up to the first.
    weight
        Of one obligation in the score.
    why_unknown
        Empty where nothing is.
    offenders
        What refutes obligations; where the prover gave no verdict, what was found without one (``refuted`` is 0 then).
    by_residue
        (proved, refuted, unknown) obligations of each residue, by its number in the file from 0.
    """

    name: str
    title: str
    unit: str
    obligations: int
    proved: int
    refuted: int
    unknown: int
    weight: float
    why_unknown: str
    note: str
    offenders: tuple[Offender, ...]
    by_residue: Mapping[int, tuple[int, int, int]] = field(repr=False)


@dataclass(frozen=True)
class Consistency:
    """What the rules say about a model.

    Attributes
    ----------
    rules
        In the order of the report.
    prover
        ``Coq 8.16.1``, or why there was none.
    sandbox, lean
        How the prover was kept apart, in words; what became of the Lean source.
    cpu_seconds, memory_in_bytes
        Of everything, the prover included (but not its library, which is compiled once); largest memory of one prover
        process.
    remarks
        What to know about the model: alternative locations, several models, digits.
    envelope
        Of the map, where one was given.
    model_sha256
        Checksum of the model's file.
    """

    model: Model = field(repr=False)
    rules: tuple[RuleResult, ...]
    prover: str
    sandbox: str
    lean: str
    cpu_seconds: float
    memory_in_bytes: int
    remarks: tuple[str, ...]
    sources: Mapping[str, str] = field(repr=False)
    transcript: str = field(repr=False)
    lean_text: str = field(repr=False)
    model_sha256: str
    envelope: Envelope | None = field(default=None, repr=False)

    @property
    def verdict(self) -> Verdict:
        """Refuted where anything is; else unknown where anything is, or nothing could be asked; else proved."""
        if any(rule.refuted for rule in self.rules):
            return "refuted"
        return "unknown" if any(rule.unknown for rule in self.rules) or not self.rules else "proved"

    def count(self, what: Literal["obligations", "proved", "refuted", "unknown"]) -> int:
        """Sum over the rules."""
        return sum(int(getattr(rule, what)) for rule in self.rules)

    def _counts(self) -> dict[str, int]:
        return {
            "obligations": self.count("obligations"),
            "proved": self.count("proved"),
            "refuted": self.count("refuted"),
            "unknown": self.count("unknown"),
        }

    @property
    def score(self) -> float | None:
        """LogicScore: weighted proved obligations over all weighted obligations; None without any."""
        return score_of(self.rules)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the score; each rule as a Beta posterior, and the span of what is unknown."""
        return deviation_of(self.rules)

    def sentences(self) -> tuple[str, ...]:
        """Return the verdict in words, the most important first."""
        return sentences_of(self.model.path.name, self.verdict, self._counts(), self.rules, self.remarks)

    def answer(self) -> Answer:
        """Return the answer for ``cryoprism assess``.

        It is there wherever there is an obligation: with no verdict on any of them (no prover, a limit) it is 0, so
        that to starve the prover never serves a model.
        """
        evidence = self.to_json()
        score, deviation = self.score, self.deviation
        if score is None or deviation is None:
            return not_available(self.sentences()[0], "Give a model with polymer residues.", evidence)
        return available(score, deviation, self.sentences(), evidence)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``consistency.json``."""
        return {
            "schema": "cryoprism-consistency-1",
            "model": self.model.path.name,
            "model_sha256": self.model_sha256,
            "atoms": len(self.model),
            "residues": len(self.model.residues),
            "verdict": self.verdict,
            "logic_score": {"value": self.score, "standard_deviation": self.deviation},
            "counts": self._counts(),
            "prover": self.prover,
            "sandbox": self.sandbox,
            "lean": self.lean,
            "cpu_seconds": self.cpu_seconds,
            "memory_in_bytes": self.memory_in_bytes,
            "sentences": list(self.sentences()),
            "trusted": list(TRUSTED),
            "files": {name: sha256(text) for name, text in self._certificate.items()},
            "rules": [self._rule(rule) for rule in self.rules],
            "not_asked": {
                name: why for name, why in NOT_ASKED.items() if name not in {rule.name for rule in self.rules}
            },
            "by_residue": self._residues(),
        }

    def _rule(self, rule: RuleResult) -> dict[str, Any]:
        return {
            "name": rule.name,
            "title": rule.title,
            "unit": rule.unit,
            "weight": rule.weight,
            "obligations": rule.obligations,
            "proved": rule.proved,
            "refuted": rule.refuted,
            "unknown": rule.unknown,
            "why_unknown": rule.why_unknown,
            "note": rule.note,
            "offenders": [
                {
                    "words": one.words,
                    "residues": [residue_words(self.model.residues[k]) for k in one.residues],
                    "atoms": list(one.atoms),
                    "value": one.value,
                }
                for one in rule.offenders
            ],
        }

    def _residues(self) -> list[dict[str, Any]]:
        found = []
        for index, residue in enumerate(self.model.residues):
            counts = {rule.name: list(rule.by_residue[index]) for rule in self.rules if index in rule.by_residue}
            if counts and residue.role != "water":
                found.append(
                    {
                        "chain": residue.chain,
                        "name": residue.name,
                        "number": f"{residue.number}{residue.insertion}",
                        "counts": counts,
                    }
                )
        return found

    @cached_property
    def _certificate(self) -> dict[str, str]:
        return certificate_files(self.model, self.sources, self.transcript, self.lean_text)

    def write_certificate(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder that lets anyone check the proofs again, a copy of ``consistency.json`` in it."""
        path = Path(folder)
        write_certificate(path, self._certificate, self.to_json())
        return path


def check_consistency(
    model: str | os.PathLike[str] | Model,
    *,
    volume: Volume | None = None,
    contour: float | None = None,
    margin_in_angstroms: float = 3.0,
    symmetry: str | None = None,
    rise_in_angstroms: float | None = None,
    twist_in_degrees: float | None = None,
    assembly: str | None = None,
    limits: Limits | None = None,
    coq: Prover = PLAIN,
) -> Consistency:
    """Check a model against every rule that applies, and have Coq confirm each verdict.

    Parameters
    ----------
    model
        A PDB or mmCIF file; its first model is taken.
    volume
        The map in the model's frame, for the rule about its envelope; its central voxel (n//2) is the centre of point
        groups and helices, else the origin of the coordinates is.
    contour, margin_in_angstroms
        Of the envelope: level of the map (found if absent), and how far beyond it an atom may lie.
    symmetry, rise_in_angstroms, twist_in_degrees, assembly
        Which copies must not overlap; see :func:`cryoprism.evaluation.consistency.find_copies`.
    limits, coq
        Of the prover, and how it is run.

    Raises
    ------
    InputError
        The model, the map or the symmetry cannot be used.
    """
    started = _seconds()
    chosen = limits or Limits()
    held = model if isinstance(model, Model) else read_model(model)
    checksum = sha256_of_file(held.path)
    centre = (0.0, 0.0, 0.0)
    if volume is not None:
        z, y, x = (n // 2 for n in volume.data.shape)
        ox, oy, oz = volume.origin_in_angstroms
        size = volume.voxel_size_in_angstroms
        centre = (ox + x * size, oy + y * size, oz + z * size)
    copies = find_copies(
        held,
        symmetry=symmetry,
        rise_in_angstroms=rise_in_angstroms,
        twist_in_degrees=twist_in_degrees,
        assembly=assembly,
        centre_in_angstroms=centre,
    )
    envelope = (
        None if volume is None else envelope_of(held, volume, contour=contour, margin_in_angstroms=margin_in_angstroms)
    )
    cases = cases_of(held, build_topology(held), copies, envelope, volume)
    sources = {"Data": data_source(held)}
    for case in cases:
        # Which residues are ligands no theorem says; the count of obligations is taken from this list.
        asked = asked_source(case.residues) if case.name == "ligands" else ""
        part = f"\nModule {case.name.capitalize()}.\n{case.source}{asked}End {case.name.capitalize()}.\n"
        file = _FILES.get(case.name, _SHARED)
        sources[file] = sources.get(file, HEADER) + part
    reasons, transcript, prover, spent, memory = _prove(sources, chosen, coq)
    lean_text = lean_source(held, [case.lean for case in cases])
    rules = tuple(_result(case, reasons.get(_FILES.get(case.name, _SHARED), "")) for case in cases)
    return Consistency(
        held,
        rules,
        prover,
        coq.words if prover.startswith("Coq") else "No Coq ran.",
        check_lean(lean_text),
        _seconds() - started + spent,
        memory,
        remarks_of(held),
        sources,
        transcript,
        lean_text,
        checksum,
        envelope,
    )


def _seconds() -> float:
    times = os.times()
    return times.user + times.system


def _prove(sources: Mapping[str, str], limits: Limits, coq: Prover) -> tuple[dict[str, str], str, str, float, int]:
    """Return why each file was not accepted (absent where it was), what Coq said, which Coq, CPU s, most memory."""
    version = coq_version()
    if version is None:
        why = f"no Coq was found. {HOW_TO_INSTALL}"
        return dict.fromkeys(sources, why), f"{why}\n", "no Coq found", 0.0, 0
    scratch = Path(tempfile.mkdtemp(prefix="cryoprism-prove-"))
    reasons: dict[str, str] = {}
    transcript, left, memory = f"Coq {version}. {coq.words}\n", limits.cpu_seconds, 0
    try:
        library = library_folder(version, scratch)
        for name, text in sources.items():
            if left < 1:
                reasons[name] = f"time limit of {limits.cpu_seconds:g} CPU s reached; raise --time-limit."
            elif "Data" in reasons:
                reasons[name] = reasons["Data"]
            else:
                file = scratch / f"{name}.v"
                file.write_text(text, encoding="utf-8")
                run = coq.run(file, library, left, limits.memory_in_bytes)
                left -= run.cpu_seconds
                memory = max(memory, run.memory_in_bytes)
                if run.reason:
                    reasons[name] = _remedy(run.reason, limits)
                how = run.reason or "accepted"
                transcript += f"\n== {name}.v: {how} ==\n{run.output}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return reasons, transcript, f"Coq {version}", limits.cpu_seconds - left, memory


def _remedy(reason: str, limits: Limits) -> str:
    if reason.startswith("time"):
        return f"time limit of {limits.cpu_seconds:g} CPU s reached; raise --time-limit."
    if reason.startswith("memory"):
        return f"memory limit of {limits.memory_in_bytes / 1e9:.3g} GB reached; raise --max-memory."
    return f"{reason}."


def _result(case: Case, why: str) -> RuleResult:
    title, unit = RULES[case.name]
    count = len(case.residues)
    unknown = set(range(count)) if why else case.borderline
    refuted = set() if why else case.refuted
    per: dict[int, list[int]] = {}
    for number, residue in enumerate(case.residues):
        tally = per.setdefault(residue, [0, 0, 0])
        tally[2 if number in unknown else 1 if number in refuted else 0] += 1
    reason = why or (case.why if unknown else "")
    return RuleResult(
        case.name,
        title,
        unit,
        count,
        count - len(refuted) - len(unknown),
        len(refuted),
        len(unknown),
        WEIGHTS[case.name],
        reason,
        case.note,
        tuple(case.offenders),
        {residue: (a, b, c) for residue, (a, b, c) in per.items()},
    )
