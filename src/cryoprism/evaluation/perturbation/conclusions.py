"""What follows from a record's parameters, by the functions of the microscope's model, and what is decided by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cryoprism.causes import CAUSES
from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json
from cryoprism.formats import StarBlock, read_star
from cryoprism.microscope import (
    Lens,
    b_factor_envelope,
    contrast_transfer,
    drift_envelope,
    inelastic_mean_free_path_in_angstroms,
    inelastic_transmission,
)

from .sensitivity import Outcome, Parameter, Sensitivity, Values

__all__ = ["Conclusion", "Part", "parts_of"]

_CTF_SHELLS, _DIRECTIONS, _SIGNAL_SHELLS = 192, 12, 128
#: The CTF counts as the same while it correlates so with that at the means.
_LEAST_CORRELATION: Final = 0.5
#: A resolution counts as the same within this share.
_SAME_RESOLUTION: Final = 0.1
_WITHOUT_LIMIT_IN_ANGSTROMS: Final = 5.0
_POSITIVE: Final = (0.0, math.inf)
_FIX_FIRST: Final = "what to fix first"
_CTF: Final = "CTF, correlation to the limit of the fit"
_AMPLITUDE: Final = "amplitude left at the limit of the fit"
_RESOLUTION: Final = "resolution to which signal is left [Å]"
_LOST: Final = "share of the information that is lost"
_SHARPENING: Final = "amplification at the resolution by sharpening"


@dataclass(frozen=True)
class Conclusion:
    """A conclusion and what it hangs on.

    Attributes
    ----------
    where
        Micrograph, ``session`` or ``map``.
    name
        In words.
    at_means
        With every parameter at its mean.
    outcome
        Spread and indices of the number behind it; for what to fix first, of its lead over all others [bits].
    flips
        Share of draws in which the conclusion is another; None where it is a number that is no decision.
    instead
        What it is then most often.
    joint
        Whether the parameters were moved together, as the record says they go; the indices are those of independent
        ones all the same.
    """

    where: str
    name: str
    at_means: str
    outcome: Outcome
    flips: float | None
    instead: str = ""
    joint: bool = False

    def depends_on(self, least: float = 0.05) -> tuple[str, ...]:
        """Return the parameters whose total index is clearly above ``least``, the largest first."""
        found = [(index.value, name) for name, index in self.outcome.total.items() if index.low > least]
        return tuple(name for _, name in sorted(found, reverse=True))

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return {
            "where": self.where,
            "name": self.name,
            "at_means": self.at_means,
            "mean": self.outcome.mean,
            "standard_deviation": self.outcome.deviation,
            "flips": self.flips,
            "instead": self.instead,
            "joint": self.joint,
            "depends_on": list(self.depends_on()),
            "first_order": {name: vars(index) for name, index in self.outcome.first.items()},
            "total": {name: vars(index) for name, index in self.outcome.total.items()},
        }


_Decision = Callable[[str, Sensitivity, Values], Conclusion]


@dataclass(frozen=True, eq=False)
class Part:
    """What is moved at once, and what follows from it.

    Attributes
    ----------
    where
        Micrograph, ``session`` or ``map``.
    parameters
        That are moved.
    follow
        From their values, each (n,), to outcomes, each (n,).
    decisions
        From the draws and the outcomes at the means to what is concluded.
    correlation
        (p, p) of the parameters, None where a record does not hold it.
    """

    where: str
    parameters: Sequence[Parameter]
    follow: Callable[[Values], Values]
    decisions: Sequence[_Decision]
    correlation: NDArray[np.float64] | None = None


def parts_of(folder: Path, most: int, *, needed: bool = True) -> tuple[list[Part], int]:
    """Return what is moved together and what follows from it, and how many micrographs the record has."""
    causes = _read(folder / "causes.json", "cryoprism-causes-1")
    resolution = _read(folder / "resolution.json", "cryoprism-resolution-1")
    if needed and causes is None and resolution is None:
        raise InputError(
            folder, "holds neither causes.json nor resolution.json", "Name the folder of a restoration or of a map."
        )
    try:
        parts = [] if causes is None else [*_session(causes), *_micrographs(causes, folder, most)]
        parts += [] if resolution is None else _map(resolution)
        return parts, 0 if causes is None else len(causes["micrographs"])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, OSError) as error:
        raise InputError(
            folder, f"holds a file that lacks what it should have ({error})", "Run the job again."
        ) from error


def _session(causes: Mapping[str, Any]) -> list[Part]:
    losses = _losses(causes["session"]["ledger"])
    information = causes["session"]["information_in_bits"]
    together = causes["session"].get("ledger_correlation")
    return [_ledger_part("session", losses, information, together)] if losses else []


def _ledger_part(
    where: str, losses: Sequence[Parameter], information: Mapping[str, float], together: Mapping[str, Any] | None
) -> Part:
    kept = _parameter("information", information, _POSITIVE, "bits")
    names = [one.name for one in losses]

    first = max(range(len(losses)), key=lambda place: losses[place].mean)

    def follow(values: Values) -> Values:
        return _ledger_outcomes(values, names, first, float(information["mean"]))

    several = len(names) > 1
    decisions = [*([_fix_first(names)] if several else []), _number(_LOST, "{:.0%}")]
    parameters = [*losses, *([kept] if kept else [])]
    return Part(where, parameters, follow, decisions, _correlation(together, parameters))


def _correlation(together: Mapping[str, Any] | None, parameters: Sequence[Parameter]) -> NDArray[np.float64] | None:
    """Correlation of these parameters as the record has it; what it does not name stands for itself."""
    if together is None or len(parameters) < 2:
        return None
    names, told = list(together["names"]), np.array(together["matrix"], dtype=float)
    if told.shape != (len(names), len(names)):
        raise ValueError(f"a correlation of {len(names)} names has the shape {told.shape}")
    matrix = np.eye(len(parameters))
    known = [(i, names.index(one.name)) for i, one in enumerate(parameters) if one.name in names]
    for i, row in known:
        for j, column in known:
            matrix[i, j] = told[row, column]
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _ledger_outcomes(
    values: Values, names: Sequence[str], first: int, information: float
) -> dict[str, NDArray[np.float64]]:
    bits = np.stack([values[name] for name in names])
    lost = np.clip(bits, 0, None).sum(axis=0)
    kept = np.maximum(values.get("information", np.full_like(lost, information)), 1e-9)
    outcomes = {_LOST: lost / (lost + kept)}
    if len(names) > 1:
        # By how much the first at the means leads all others; below zero, another one leads, which is kept beside it.
        lead = bits[first] - np.delete(bits, first, axis=0).max(axis=0)
        outcomes |= {_FIX_FIRST: lead, "leader": bits.argmax(axis=0).astype(float)}
    return outcomes


def _micrographs(causes: Mapping[str, Any], folder: Path, most: int) -> list[Part]:
    lenses = _lenses(folder / "micrographs.star")
    parts: list[Part] = []
    every = causes["micrographs"]
    for number in dict.fromkeys(np.linspace(0, len(every) - 1, min(len(every), most)).round().astype(int).tolist()):
        micrograph = every[number]
        name = micrograph["name"]
        losses = _losses({cause: entry["bits_lost"] for cause, entry in micrograph["causes"].items()})
        if losses:
            together = micrograph.get("ledger_correlation")
            parts.append(_ledger_part(name, losses, micrograph["information_in_bits"], together))
        lens = lenses[number] if number < len(lenses) else None
        parts.append(_optics_part(micrograph, lens, folder / "weights" / f"{name}.star"))
    return parts


def _optics_part(micrograph: Mapping[str, Any], lens: Lens | None, weights: Path) -> Part:
    entries = {name: entry for cause in micrograph["causes"].values() for name, entry in cause["parameters"].items()}
    wanted = {
        "thickness": _POSITIVE, "b_factor": _POSITIVE, "drift": _POSITIVE, "direction": (-math.inf, math.inf),
        **({} if lens is None else {"mean_defocus": (-math.inf, math.inf), "astigmatism": _POSITIVE,
                                    "angle": (-math.inf, math.inf)}),
    }  # fmt: skip
    found = {name: _parameter(name, entries[name], bounds, entries[name]["unit"])
             for name, bounds in wanted.items() if name in entries}  # fmt: skip
    parameters = [one for one in found.values() if one is not None]
    fixed = {name: float(entry["mean"]) for name, entry in entries.items() if entry["mean"] is not None}
    limit = float(micrograph.get("fit_limit_in_angstroms") or _WITHOUT_LIMIT_IN_ANGSTROMS)
    signal = _signal(weights)
    voltage = 300.0 if lens is None else lens.voltage_in_kilovolts
    with_ctf = lens is not None and {"mean_defocus", "astigmatism", "angle"} <= fixed.keys()

    def follow(values: Values) -> Values:
        size = next(iter(values.values())).shape
        filled = {name: np.broadcast_to(value, size) for name, value in fixed.items()} | dict(values)
        outcomes = {_AMPLITUDE: _amplitude(filled, np.array([1 / limit]), voltage)[:, 0]}
        if signal is not None:
            outcomes[_RESOLUTION] = _finest(signal, filled, fixed, limit, voltage)
        if lens is not None and with_ctf:
            outcomes[_CTF] = _ctf_correlation(filled, fixed, lens, limit)
        return outcomes

    decisions = [_number(_AMPLITUDE, "{:.2f}")]
    if signal is not None:
        decisions.append(_resolution_holds)
    if with_ctf:
        decisions.append(_ctf_holds)
    return Part(micrograph["name"] + ", optics", parameters, follow, decisions)


def _amplitude(values: Values, k: NDArray[np.float64], voltage: float) -> NDArray[np.float64]:
    """Return what motion, B-factor and inelastic loss leave of the amplitude, mean square over directions, (n, k)."""
    size = len(next(iter(values.values())))
    zero = np.zeros(size)
    shells = torch.from_numpy(k)
    angles = torch.arange(_DIRECTIONS, dtype=torch.float64) * (math.pi / _DIRECTIONS)
    b = torch.from_numpy(np.array(values.get("b_factor", zero)))
    drift = torch.from_numpy(np.array(values.get("drift", zero)))
    towards = torch.deg2rad(torch.from_numpy(np.array(values.get("direction", zero))))
    drift_y, drift_x = drift * towards.sin(), drift * towards.cos()
    squared = torch.zeros(size, len(k), dtype=torch.float64)
    for angle in angles.tolist():
        ky, kx = shells[None, None] * math.sin(angle), shells[None, None] * math.cos(angle)
        moved = drift_envelope(ky, kx, drift_y, drift_x)
        squared += moved[:, 0] ** 2
    kept = torch.sqrt(squared / _DIRECTIONS) * b_factor_envelope(shells[None, None], b)[:, 0]
    path = inelastic_mean_free_path_in_angstroms(voltage)
    through = inelastic_transmission(torch.from_numpy(np.array(values.get("thickness", zero))), path)
    left: NDArray[np.float64] = (kept * torch.sqrt(through)[:, None]).numpy()
    return left


def _finest(
    signal: tuple[NDArray[np.float64], NDArray[np.float64]], values: Values, fixed: Mapping[str, float], limit: float,
    voltage: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Resolution [Å] at which the signal-to-noise ratio last stands above its value at the limit of the fit."""
    k, ssnr = signal
    threshold = float(np.interp(1 / limit, k, ssnr))
    base = _amplitude({name: np.array([value]) for name, value in fixed.items()}, k, voltage)
    moved = ssnr * (_amplitude(values, k, voltage) / np.maximum(base, 1e-12)) ** 2
    above = moved >= threshold * (1 - 1e-9)
    last = np.where(above.any(axis=1), above.shape[1] - 1 - above[:, ::-1].argmax(axis=1), 0)
    finest: NDArray[np.float64] = 1 / np.maximum(k[last], k[k > 0].min())
    return finest


def _ctf_correlation(values: Values, fixed: Mapping[str, float], lens: Lens, limit: float) -> NDArray[np.float64]:
    """Correlation over frequencies up to the limit between the CTF and that at the means (n,)."""
    k = torch.linspace(0.25 / limit, 1 / limit, _CTF_SHELLS, dtype=torch.float64)
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 8)
    ky, kx = k[:, None] * angles.sin(), k[:, None] * angles.cos()

    def transfer(mean: torch.Tensor, astigmatism: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        return contrast_transfer(
            ky, kx, lens, defocus_u_in_angstroms=mean + astigmatism / 2,
            defocus_v_in_angstroms=mean - astigmatism / 2, defocus_angle_in_degrees=angle,
        ).flatten(-2)  # fmt: skip

    names = ("mean_defocus", "astigmatism", "angle")
    base = transfer(*(torch.tensor(fixed[name], dtype=torch.float64) for name in names))
    found = []
    for rows in np.array_split(np.arange(len(values["mean_defocus"])), max(1, len(values["mean_defocus"]) // 128)):
        moved = transfer(*(torch.from_numpy(np.array(values[name][rows])) for name in names))
        found.append((moved @ base) / (moved.norm(dim=-1) * base.norm()))
    correlation: NDArray[np.float64] = torch.cat(found).numpy()
    return correlation


def _map(resolution: Mapping[str, Any]) -> list[Part]:
    b = {"mean": resolution["b_factor_in_square_angstroms"],
         "standard_deviation": resolution["b_factor_standard_deviation_in_square_angstroms"]}  # fmt: skip
    parameter = _parameter("b_factor", b, (-math.inf, math.inf), "Å²")
    at = next((resolution["resolution_in_angstroms"].get(key) for key in ("corrected", "masked", "unmasked")
               if resolution["resolution_in_angstroms"].get(key)), None)  # fmt: skip
    if parameter is None or at is None:
        return []

    def follow(values: Values) -> Values:
        k = torch.tensor([[[1 / at]]], dtype=torch.float64)
        b = torch.from_numpy(np.array(values["b_factor"]))
        return {_SHARPENING: b_factor_envelope(k, b)[:, 0, 0].numpy()}

    return [Part("map", [parameter], follow, [_number(_SHARPENING, "{:.3g}")])]


def _fix_first(names: Sequence[str]) -> _Decision:
    def decide(where: str, result: Sensitivity, means: Values) -> Conclusion:
        first = int(means["leader"][0])
        leaders = result.draws["leader"].astype(int)
        others = leaders[leaders != first]
        instead = names[int(np.bincount(others).argmax())] if len(others) else ""
        words = CAUSES[names[first]].words if names[first] in CAUSES else names[first]
        return Conclusion(where, _FIX_FIRST, words, result.outcomes[_FIX_FIRST], len(others) / len(leaders), instead)

    return decide


def _number(name: str, form: str) -> _Decision:
    def decide(where: str, result: Sensitivity, means: Values) -> Conclusion:
        return Conclusion(where, name, form.format(float(means[name][0])), result.outcomes[name], None)

    return decide


def _resolution_holds(where: str, result: Sensitivity, means: Values) -> Conclusion:
    at, draws = float(means[_RESOLUTION][0]), result.draws[_RESOLUTION]
    away = np.abs(np.log(draws / at)) > math.log1p(_SAME_RESOLUTION)
    worse = float((draws[away] > at).mean()) if away.any() else 0.0
    instead = "" if not away.any() else ("coarser by more than 10 %" if worse >= 0.5 else "finer by more than 10 %")
    return Conclusion(where, _RESOLUTION, f"{at:.2f} Å", result.outcomes[_RESOLUTION], float(away.mean()), instead)


def _ctf_holds(where: str, result: Sensitivity, means: Values) -> Conclusion:
    lost = float((result.draws[_CTF] < _LEAST_CORRELATION).mean())
    instead = f"below {_LEAST_CORRELATION:g}" if lost else ""
    return Conclusion(where, _CTF, f"{float(means[_CTF][0]):.2f}", result.outcomes[_CTF], lost, instead)


def _losses(ledger: Mapping[str, Any]) -> list[Parameter]:
    found = [_parameter(cause, entry, (-math.inf, math.inf), "bits") for cause, entry in ledger.items() if entry]
    return [one for one in found if one is not None]


def _parameter(name: str, entry: Mapping[str, Any], bounds: tuple[float, float], unit: str) -> Parameter | None:
    """Return the posterior as a parameter; None where it was stated, not fitted, or nothing is known."""
    mean, deviation = entry.get("mean"), entry.get("standard_deviation")
    if mean is None or not deviation:
        return None
    if not (math.isfinite(number_in(mean)) and math.isfinite(number_in(deviation))):
        raise ValueError(f"{name} is {mean!r:.40} ± {deviation!r:.40}")
    return Parameter(name, float(min(max(mean, bounds[0]), bounds[1])), float(deviation), bounds, unit)


def _signal(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    block = _block(path, "weights")
    if block is None or "cryoprismSsnr" not in block:
        return None
    k, ssnr = block.numbers("rlnResolution"), block.numbers("cryoprismSsnr")
    step = max(1, math.ceil(len(k) / _SIGNAL_SHELLS))
    return k[::step], ssnr[::step]


def _lenses(path: Path) -> list[Lens]:
    """Return the lens of every micrograph of a table, in its order; none where the table does not say them all."""
    optics, micrographs = _block(path, "optics"), _block(path, "micrographs")
    if optics is None or micrographs is None:
        return []
    try:
        groups = {
            row.get("rlnOpticsGroup", "1"): Lens(
                voltage_in_kilovolts=float(row["rlnVoltage"]),
                spherical_aberration_in_millimeters=float(row["rlnSphericalAberration"]),
                amplitude_contrast=float(row["rlnAmplitudeContrast"]),
            )
            for row in optics.records()
        }
        return [groups[row.get("rlnOpticsGroup", "1")] for row in micrographs.records()]
    except (KeyError, ValueError):
        return []


def _block(path: Path, name: str) -> StarBlock | None:
    if not path.is_file():
        return None
    return next((block for block in read_star(path) if block.name == name), None)


def _read(path: Path, schema: str) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except UnreadableError as error:
        raise InputError(path, f"cannot be read: {error}", "Run the job again.") from None
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise InputError(path, f"has not the form {schema}", "Run the job again with this version.")
    return content
