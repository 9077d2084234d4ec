"""A matched session on disk: numbers as JSON and spectra beside them; workers and later runs need no micrographs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryoprism.core import InputError
from cryoprism.formats import read_weights, write_weights

from ._seen_artefacts import seen_from_dict
from .exposure import RadialCorrection
from .labels import write_json
from .matching import MatchedMicrograph, SessionMatch
from .noise import NoiseFit
from .scene import scene_from_dict, scene_to_dict

__all__ = ["read_match", "write_match"]

_SCHEMA = "cryoprism-match-1"
_NUMBERS = "match.json"
_SPECTRA = "spectra.safetensors"
_REMEDY = "Match the session again."
_OPTIONAL = ("background", "background_power")


def write_match(folder: Path, match: SessionMatch) -> None:
    """Write ``match.json`` and ``spectra.safetensors`` into a folder; the numbers last, so that they vouch for both."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"frequency": match.correction.frequency, "factor": match.correction.factor}
    entries: list[dict[str, Any]] = []
    for number, one in enumerate(match.micrographs):
        tensors[f"power{number}"], tensors[f"ice{number}"] = one.noise.power, one.ice_power
        tensors |= {f"{field}{number}": v for field in _OPTIONAL if (v := getattr(one.noise, field)) is not None}
        noise = asdict(one.noise)
        for field in ("power", *_OPTIONAL):
            del noise[field]
        entries.append(
            {
                "name": one.name,
                "scene": scene_to_dict(one.scene),
                "deviations": one.deviations,
                "density_in_inverse_square_micrometers": one.density_in_inverse_square_micrometers,
                "noise": {key: None if value == float("inf") else value for key, value in noise.items()},
                "agreement": one.agreement,
                "artefacts": asdict(one.artefacts),
            }
        )
    write_weights(folder / _SPECTRA, tensors, {"format": _SCHEMA})
    correction = {
        "frequency_in_inverse_angstroms": match.correction.frequency.tolist(),
        "factor": match.correction.factor.tolist(),
    }
    write_json(folder / _NUMBERS, {"schema": _SCHEMA, "correction": correction, "micrographs": entries})


def read_match(folder: Path) -> SessionMatch:
    """Read what :func:`write_match` wrote.

    Raises
    ------
    InputError
        The files are not there or not whole.
    """
    try:
        numbers = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
        tensors, _ = read_weights(folder / _SPECTRA, _SCHEMA, _REMEDY)
        micrographs = []
        for number, entry in enumerate(numbers["micrographs"]):
            noise = dict(entry["noise"])
            noise["electrons"] = float("inf") if noise["electrons"] is None else noise["electrons"]
            # One written before windows were cut had none: its waves fill whatever is drawn.
            noise["field_in_pixels"] = tuple(noise.get("field_in_pixels") or ()) or None
            micrographs.append(
                MatchedMicrograph(
                    name=entry["name"],
                    scene=scene_from_dict(entry["scene"]),
                    deviations=entry["deviations"],
                    density_in_inverse_square_micrometers=entry["density_in_inverse_square_micrometers"],
                    noise=NoiseFit(
                        power=tensors[f"power{number}"],
                        background=tensors.get(f"background{number}"),
                        background_power=tensors.get(f"background_power{number}"),
                        **noise,
                    ),
                    ice_power=tensors[f"ice{number}"],
                    agreement=entry["agreement"],
                    artefacts=seen_from_dict(entry.get("artefacts", {})),
                )
            )
        correction = RadialCorrection(tensors["frequency"], tensors["factor"])
    except (OSError, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise InputError(folder, f"holds no whole matched session ({error})", _REMEDY) from error
    return SessionMatch(micrographs=tuple(micrographs), correction=correction)
