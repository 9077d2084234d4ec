"""The content of ``causes.json``: posterior, ledger, weights and trace in the units and words of users."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cryoprism import __version__
from cryoprism.causes import (
    CAUSES,
    CausalGraph,
    Estimate,
    Gates,
    Ledger,
    LoopTrace,
    Prior,
    abstentions,
    default_graph,
)
from cryoprism.causes.model import B_UNIT, DEFOCUS_UNIT, LAYOUT

from .narrative import SCHEMA_NAME

__all__ = ["causes_document", "flags_of"]


def flags_of(estimate: Estimate) -> list[str]:
    """Reasons to look at a micrograph."""
    flags = []
    if not estimate.rings.detected:
        flags.append("no_thon_rings")
    if estimate.excess_significance > 6:
        flags.append("crystalline_ice")
    for name in ("contamination", "carbon"):
        if estimate.known.area_fractions.get(name, 0.0) > 0.2:
            flags.append(f"much_{name}")
    if not estimate.fit.converged:
        flags.append("fit_not_converged")
    low, high = estimate.search_limits_in_angstroms
    defocus = 0.5 * (estimate.ctf.defocus_u_in_angstroms + estimate.ctf.defocus_v_in_angstroms)
    margin = 3 * estimate.ctf.defocus_deviation_in_angstroms
    if estimate.rings.detected and not low + margin < defocus < high - margin:
        flags.append("defocus_at_search_limit")
    if estimate.other_mode > 0.05:
        flags.append("defocus_ambiguous")
    return flags


def _parameter(mean: float | None, sd: float | None, unit: str, identifiable: bool) -> dict[str, Any]:
    return {"mean": mean, "standard_deviation": sd, "unit": unit, "identifiable": identifiable}


def _parameters(estimate: Estimate, abstained: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Parameters of every cause; stated values have no deviation of their own."""
    ctf, fit, known = estimate.ctf, estimate.fit, estimate.known
    seen = estimate.rings.detected
    sd = ctf.defocus_deviation_in_angstroms
    sd_axis = math.hypot(sd, ctf.astigmatism_deviation_in_angstroms / 2)
    dy, dx = estimate.drift_in_angstroms
    length = math.hypot(dy, dx)
    block = [LAYOUT.index("drift_y"), LAYOUT.index("drift_x")]
    drift_cov = fit.covariance[block][:, block]
    unit_y, unit_x = dy / max(length, 1e-6), dx / max(length, 1e-6)
    along = float(unit_y**2 * drift_cov[0, 0] + unit_x**2 * drift_cov[1, 1] + 2 * unit_y * unit_x * drift_cov[0, 1])
    across = float(unit_x**2 * drift_cov[0, 0] + unit_y**2 * drift_cov[1, 1] - 2 * unit_y * unit_x * drift_cov[0, 1])
    sd_length = math.sqrt(max(along, 0.0))
    sd_direction = math.degrees(math.atan2(math.sqrt(max(across, 0.0)), max(length, 1e-6)))
    knows_motion = "motion" not in abstained
    tilt = estimate.tilt
    parameters: dict[str, dict[str, Any]] = {name: {} for name in CAUSES}
    parameters["defocus"] = {
        "defocus_u": _parameter(ctf.defocus_u_in_angstroms, sd_axis, "Å", seen),
        "defocus_v": _parameter(ctf.defocus_v_in_angstroms, sd_axis, "Å", seen),
        "mean_defocus": _parameter(0.5 * (ctf.defocus_u_in_angstroms + ctf.defocus_v_in_angstroms), sd, "Å", seen),
    }
    parameters["astigmatism"] = {
        "astigmatism": _parameter(
            ctf.defocus_u_in_angstroms - ctf.defocus_v_in_angstroms, ctf.astigmatism_deviation_in_angstroms, "Å", seen
        ),
        "angle": _parameter(ctf.defocus_angle_in_degrees, ctf.angle_deviation_in_degrees, "degrees", seen),
    }
    if estimate.phase_is_free:
        parameters["phase_shift"] = {
            "phase_shift": _parameter(ctf.phase_shift_in_degrees, ctf.phase_shift_deviation_in_degrees, "degrees", seen)
        }
    parameters["motion"] = {
        "drift": _parameter(length, sd_length, "Å", knows_motion),
        "direction": _parameter(math.degrees(math.atan2(dy, dx)) % 180, sd_direction, "degrees", knows_motion),
    }
    parameters["envelope"] = {
        "b_factor": _parameter(
            estimate.b_factor_in_square_angstroms,
            fit.deviation("b_factor") * B_UNIT,
            "Å²",
            "envelope" not in abstained,
        )
    }
    parameters["tilt"] = {
        "tilt": _parameter(
            tilt.tilt_in_degrees, math.degrees(math.atan(tilt.deviation)), "degrees", "tilt" not in abstained
        )
    }
    parameters["crystalline_ice"] = {
        "significance": _parameter(estimate.excess_significance, None, "1", "crystalline_ice" not in abstained)
    }
    for name in ("contamination", "carbon"):
        parameters[name] = {"area_fraction": _parameter(known.area_fractions.get(name, 0.0), None, "1", True)}
    parameters["defects"] = {"noise_share": _parameter(known.defect_power_share, None, "1", True)}
    if estimate.thickness is not None:
        parameters["ice_thickness"] = {"thickness": _parameter(*estimate.thickness, "Å", True)}
    exposure = known.exposure_in_electrons_per_square_angstrom
    if exposure is not None:
        for name in ("damage", "exposure"):
            parameters[name] = {"exposure": _parameter(exposure, None, "e/Å²", True)}
    if known.mtf_squared is not None:
        frequency, value = known.mtf_squared
        half = float(value[(frequency - 0.25).abs().argmin()].sqrt())
        parameters["detector"] = {"mtf_at_half_nyquist": _parameter(half, None, "1", True)}
    return parameters


def _quantity(mean: float, sd: float) -> dict[str, float]:
    return {"mean": mean, "standard_deviation": sd}


def _micrograph(estimate: Estimate, ledger: Ledger, gates: Mapping[str, Gates]) -> dict[str, Any]:
    abstained = abstentions(estimate)
    parameters = _parameters(estimate, abstained)
    causes = {}
    for name in CAUSES:
        if name == "phase_shift" and not estimate.phase_is_free:
            continue  # without a phase plate there is nothing to know or not to know
        entry = ledger.entries[name]
        cause: dict[str, Any] = {
            "identifiable": name not in abstained,
            "weight": min(max(gates[name].weight, 0.0), 1.0) if name in gates and name not in abstained else 0.0,
            "bits_lost": None if entry.bits is None else _quantity(entry.bits, entry.deviation or 0.0),
            "parameters": parameters[name],
        }
        if name in abstained:
            cause["reason"] = abstained[name]
        causes[name] = cause
    seen = estimate.rings.detected
    return {
        "flags": flags_of(estimate),
        "information_in_bits": _quantity(ledger.information_in_bits, ledger.information_deviation),
        "ideal_information_in_bits": _quantity(ledger.attainable_in_bits, ledger.attainable_deviation),
        **_correlation(_covariances([ledger])),
        "fit_limit_in_angstroms": estimate.rings.limit_in_angstroms if seen else None,
        "correlation": estimate.rings.figure_of_merit if seen else None,
        "causes": causes,
    }


def _sum(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    return _quantity(sum(mean for mean, _ in pairs), math.sqrt(sum(sd**2 for _, sd in pairs)))


def _covariances(ledgers: Sequence[Ledger]) -> dict[tuple[str, str], float]:
    """Sum of the covariances [bits²] of information and shares, by pairs of names; micrographs are independent."""
    found: dict[tuple[str, str], float] = {}
    for ledger in ledgers:
        names = ("information", *ledger.priced)
        for i, row in enumerate(ledger.covariance):
            for j, value in enumerate(row):
                found[names[i], names[j]] = found.get((names[i], names[j]), 0.0) + value
    return found


def _correlation(covariances: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Correlation of what moves, as the document holds it; nothing where fewer than two do."""
    names = [one for one, other in covariances if one == other and covariances[one, one] > 0]
    if len(names) < 2:
        return {}
    matrix = [
        [covariances.get((i, j), 0.0) / math.sqrt(covariances[i, i] * covariances[j, j]) for j in names] for i in names
    ]
    rounded = [[round(min(max(value, -1.0), 1.0), 4) for value in row] for row in matrix]
    return {"ledger_correlation": {"names": names, "matrix": rounded}}


def _priors(prior: Prior) -> dict[str, Any]:
    sd = prior.standard_deviation
    rows = (
        ("astigmatism", "astigmatism_c", 2 * DEFOCUS_UNIT, "Å", "astigmatism_along_0_degrees"),
        ("astigmatism", "astigmatism_s", 2 * DEFOCUS_UNIT, "Å", "astigmatism_along_45_degrees"),
        ("envelope", "b_factor", B_UNIT, "Å²", "b_factor"),
        ("motion", "drift_y", 1.0, "Å", "drift_y"),
        ("motion", "drift_x", 1.0, "Å", "drift_x"),
    )
    out: dict[str, Any] = {}
    for cause, entry, unit, unit_name, label in rows:
        index = LAYOUT.index(entry)
        out.setdefault(cause, {})[label] = {
            "mean": float(prior.mean[index]) * unit,
            "standard_deviation": float(sd[index]) * unit,
            "unit": unit_name,
        }
    return out


def _trace(trace: LoopTrace) -> dict[str, Any]:
    passes = []
    for number, step in enumerate(trace.passes, 1):
        causes = {
            name: {
                "bounds": gate.inside_bounds,
                "information": gate.information,
                "repeatability": gate.repeats,
                "stability": gate.stable,
                "in_distribution": gate.in_distribution,
                "weight": gate.weight,
                "shift_in_standard_deviations": step.moves.get(name, 0.0),
            }
            for name, gate in step.gates.items()
        }
        passes.append({"pass": number, "causes": causes})
    return {"converged": trace.converged, "passes": len(passes), "trace": passes}


def _graph(ledger: Mapping[str, Mapping[str, float]], causes: Collection[str]) -> dict[str, Any]:
    whole = default_graph()
    left_out = set(whole.causes).difference(causes)
    graph = CausalGraph(
        {name: cause for name, cause in whole.causes.items() if name in causes},
        tuple(edge for edge in whole.edges if not left_out.intersection(edge)),
    )
    total = sum(max(loss["mean"], 0.0) for loss in ledger.values())
    share = {name: max(loss["mean"], 0.0) / total if total > 0 else 0.0 for name, loss in ledger.items()}
    nodes = [
        {"name": name, "family": cause.family, "weight": share.get(name, 0.0)} for name, cause in graph.causes.items()
    ]
    stages = dict.fromkeys(node for edge in graph.edges for node in edge if node not in graph.causes)
    nodes += [{"name": stage, "family": "image", "weight": 1.0} for stage in stages]
    edges = [{"from": start, "to": end, "weight": share.get(start, 0.0)} for start, end in graph.edges]
    return {"nodes": nodes, "edges": edges}


def causes_document(
    names: Sequence[str],
    estimates: Sequence[Estimate],
    ledgers: Sequence[Ledger],
    gates: Sequence[Mapping[str, Gates]],
    prior: Prior,
    trace: LoopTrace,
) -> dict[str, Any]:
    """Content of ``causes.json``, see the schema in ``schemas/causes.schema.json``."""
    micrographs = []
    for name, estimate, ledger, judged in zip(names, estimates, ledgers, gates, strict=True):
        micrographs.append({"name": name, **_micrograph(estimate, ledger, judged)})
    session = {}
    for cause in CAUSES:
        pairs = [(e.bits, e.deviation or 0.0) for book in ledgers if (e := book.entries[cause]).bits is not None]
        if pairs:
            session[cause] = _sum(pairs)
    return {
        "schema": SCHEMA_NAME,
        "cryoprism_version": __version__,
        "session": {
            "micrographs": len(micrographs),
            "information_in_bits": _sum([(b.information_in_bits, b.information_deviation) for b in ledgers]),
            "ideal_information_in_bits": _sum([(b.attainable_in_bits, b.attainable_deviation) for b in ledgers]),
            "ledger": session,
            **_correlation(_covariances(ledgers)),
            "priors": _priors(prior),
            "loop": _trace(trace),
            "graph": _graph(session, {name for entry in micrographs for name in entry["causes"]} or CAUSES),
        },
        "micrographs": micrographs,
    }
