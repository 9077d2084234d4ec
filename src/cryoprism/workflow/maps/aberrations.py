"""What a refinement of aberrations found: in words, and as ``aberrations.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryoprism.structure import (
    AstigmatismRefinement,
    BeamTilt,
    DefocusRefinement,
    Match,
    MicrographSignal,
    beam_tilt_causes,
)

__all__ = ["Found", "found_document", "found_sentences", "found_warnings"]


@dataclass(frozen=True)
class Found:
    """Particles against their maps, and what was refined so far."""

    match: Match
    tilts: tuple[BeamTilt, ...] = ()
    defocus: DefocusRefinement | None = None
    astigmatism: AstigmatismRefinement | None = None
    signal: MicrographSignal | None = None


def found_sentences(found: Found) -> tuple[str, ...]:
    """Return what was found, in words."""
    lines = []
    for tilt in found.tilts:
        (x, y), (sx, sy) = tilt.beam_tilt_in_milliradians, tilt.standard_deviation_in_milliradians
        lines.append(
            f"Optics group {tilt.group}: beam tilt {x:.3f} ± {sx:.3f}, {y:.3f} ± {sy:.3f} mrad "
            f"({tilt.significance:.1f} standard deviations)"
            + ("." if tilt.determined else "; not determined, the table keeps its value.")
        )
    if found.defocus is not None:
        d = found.defocus
        if d.spread_in_angstroms > 0:
            share = float(d.determined.double().mean())
            lines.append(
                f"Defocus: particles spread by {d.spread_in_angstroms:.0f} Å about their micrographs; {share:.0%} "
                f"determine their own, to ± {float(d.standard_deviation_in_angstroms.median()):.0f} Å."
            )
        else:
            lines.append("Defocus: these particles show no differences of height, none got a defocus of its own.")
        if d.micrograph_spread_in_angstroms > 0:
            lines.append(
                f"Micrographs: defocus was off by {d.micrograph_spread_in_angstroms:.0f} Å; "
                f"{int(d.micrograph_determined.sum())} of {len(d.micrograph_determined)} were corrected."
            )
    if found.astigmatism is not None:
        determined = found.astigmatism.determined[:, 1:].any(1)
        lines.append(f"Astigmatism: {int(determined.sum())} of {len(determined)} micrographs were corrected.")
    if found.signal is not None:
        s = found.signal
        lines.append(
            f"Signal: {int(s.drift_determined.sum())} of {len(s.names)} micrographs lost it along one direction; "
            f"B-factors relative to the map from {float(s.b_factor_in_square_angstroms.min()):.0f} to "
            f"{float(s.b_factor_in_square_angstroms.max()):.0f} Å²."
        )
    return tuple(lines)


def found_warnings(found: Found) -> list[str]:
    """Return what to be careful about, in words."""
    out = []
    if found.defocus is not None and found.defocus.at_limit > 0.02 * len(found.match.particles):
        out.append(
            f"{found.defocus.at_limit} particles would move further than --search allows; widen it if the defocus of "
            "the micrographs is that uncertain."
        )
    for tilt in found.tilts:
        if tilt.scatter > 2:
            out.append(
                f"Optics group {tilt.group}: phases scatter {tilt.scatter:.1f} times as much as noise makes them; "
                "another aberration, or optics groups that should be split."
            )
    return out


def found_document(found: Found, sentences: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """Return the content of ``aberrations.json``."""
    match = found.match
    reference = match.reference
    document: dict[str, Any] = {
        "schema": "cryoprism-aberrations-1",
        "sentences": list(sentences),
        "particles": len(match.particles),
        "finest_frequencies_in_angstroms": reference.box * reference.pixel_size_in_angstroms / reference.radius,
        "scale_of_images_over_maps": match.noise.scale,
        "optics_groups": [_optics_group(tilt) for tilt in found.tilts],
        "micrographs": _micrographs(found),
        "seconds": round(seconds, 2),
    }
    if found.defocus is not None:
        d = found.defocus
        document["defocus"] = {
            "spread_in_angstroms": d.spread_in_angstroms,
            "micrograph_spread_in_angstroms": d.micrograph_spread_in_angstroms,
            "particles_determined": int(d.determined.sum()),
            "median_standard_deviation_in_angstroms": float(d.standard_deviation_in_angstroms.median()),
            "particles_at_limit": d.at_limit,
        }
    if found.astigmatism is not None:
        document["astigmatism"] = {"spread_in_angstroms": found.astigmatism.prior_in_angstroms.tolist()}
    return document


def _optics_group(tilt: BeamTilt) -> dict[str, Any]:
    parameters = beam_tilt_causes(tilt)
    cause: dict[str, Any] = {
        "identifiable": tilt.determined,
        "parameters": {
            p.name: {
                "mean": p.value,
                "standard_deviation": p.standard_deviation,
                "unit": p.unit,
                "identifiable": p.identifiable,
            }
            for p in parameters
        },
    }
    if not tilt.determined:
        cause["reason"] = parameters[0].reason
    return {
        "optics_group": tilt.group,
        "particles": tilt.particles,
        "significance": tilt.significance,
        "scatter": tilt.scatter,
        "shift_in_angstroms": list(tilt.shift_in_angstroms),
        "causes": {"beam_tilt": cause},
    }


def _micrographs(found: Found) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for i, name in enumerate(found.match.noise.names):
        row: dict[str, Any] = {"name": name}
        if found.defocus is not None:
            d = found.defocus
            row["defocus_change"] = {
                "mean": float(d.micrograph_offset_in_angstroms[i]),
                "standard_deviation": float(d.micrograph_standard_deviation_in_angstroms[i]),
                "unit": "Å",
                "identifiable": bool(d.micrograph_determined[i]),
            }
        if found.astigmatism is not None:
            a = found.astigmatism
            for part, label in enumerate(("mean_defocus_change", "astigmatism_along_0", "astigmatism_along_45")):
                row[label] = {
                    "mean": float(a.change_in_angstroms[i, part]),
                    "standard_deviation": float(a.standard_deviation_in_angstroms[i, part]),
                    "unit": "Å",
                    "identifiable": bool(a.determined[i, part]),
                }
        if found.signal is not None:
            s = found.signal
            row["signal"] = {
                "scale": float(s.scale[i]),
                "scale_deviation": float(s.scale_deviation[i]),
                "b_factor": float(s.b_factor_in_square_angstroms[i]),
                "b_factor_deviation": float(s.b_factor_deviation[i]),
                "drift": float(s.drift_in_angstroms[i].norm()),
                "drift_deviation": float(s.drift_deviation[i]),
                "drift_axis_in_degrees": float(s.axis_in_degrees[i]) if bool(s.drift_determined[i]) else None,
                "drift_identifiable": bool(s.drift_determined[i]),
            }
        out.append(row)
    return out
