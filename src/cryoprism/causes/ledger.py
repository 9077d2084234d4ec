"""The loss ledger: how many bits each cause took, by interventions on the fitted model and Shapley's rule.

Coherent information I = Σ n ½ log2(1 + SSNR) with n real coefficients up to Nyquist. SSNR = A_p D C² / (F + A_ice C²
+ X) is the specimen's
signal over everything else. For every set of causes put to their ideal the information is computed anew; the Shapley
value of a cause is its
average gain over all orders (Shapley 1953), so that the ledger adds up to the whole loss. Error bars come from
posterior samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, single_threaded
from cryoprism.microscope.ice import inelastic_mean_free_path_in_angstroms, inelastic_transmission

from .evidence import Circumstances, TiltPlane
from .graph import CAUSES, default_graph
from .inference import Fit
from .model import B_UNIT
from .spectrum import Spectrum

__all__ = ["Ledger", "LedgerEntry", "Observation", "information_under", "make_ledger"]


@dataclass(frozen=True)
class Observation:
    """Everything the ledger needs of one micrograph: fit, data, and evidence beside the spectrum.

    Causes in ``abstained`` are neither priced nor put to their ideal; without Thon rings there is no signal to price.
    """

    spectrum: Spectrum
    fit: Fit
    scale: float
    known: Circumstances
    log_transfer: Mapping[str, Tensor]
    ring_excess: Tensor
    thickness: tuple[float, float] | None
    tilt: TiltPlane
    rings_detected: bool = True
    abstained: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LedgerEntry:
    """Bits that one cause took: mean and standard deviation; None where the cause is not priced."""

    bits: float | None
    deviation: float | None


@dataclass(frozen=True)
class Ledger:
    """Information of the micrograph as it is, as it could be, and the bits each cause took.

    ``covariance`` [bits²] is that of the posterior samples: first of the information, then of the shares of the causes
    in ``priced``, in their order; empty where there was one sample.
    """

    information_in_bits: float
    information_deviation: float
    attainable_in_bits: float
    attainable_deviation: float
    entries: Mapping[str, LedgerEntry]
    priced: tuple[str, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()

    @property
    def lost_in_bits(self) -> float:
        """Difference between attainable and present information."""
        return self.attainable_in_bits - self.information_in_bits

    def shares(self) -> dict[str, float]:
        """Share of the lost bits of each priced cause; empty where nothing is lost."""
        positive = {name: max(entry.bits or 0.0, 0.0) for name, entry in self.entries.items() if entry.bits is not None}
        total = sum(positive.values())
        return {name: bits / total for name, bits in positive.items()} if total > 0 else {}


@dataclass(frozen=True)
class _Terms:
    """Spectral terms under one parameter vector, flattened over bins."""

    signal: Tensor
    noise: Tensor
    ice: Tensor
    rings: Tensor
    count: Tensor
    gains: dict[str, Tensor]
    ice_ratio: float
    noise_ratio: float
    defects: float
    areas: dict[str, float]


def _terms(observation: Observation, theta: Tensor, thickness: float | None, stride: int) -> _Terms:
    spectrum, fit = observation.spectrum, observation.fit
    grid, model = spectrum.grid, fit.model
    pick = slice(stride // 2, None, stride)
    contrast = torch.sin(0.5 * model.phase(theta)).square()
    drift = model.directional(theta)
    particles = model.log_particles(theta).exp()
    ice = model.log_ice(theta).exp()
    noise = model.log_noise(theta).exp()
    lens = model.lens
    gains: dict[str, Tensor] = {}
    ice_ratio, noise_ratio = 1.0, 1.0
    if thickness is not None:
        ideal = CAUSES["ice_thickness"].ideal
        if thickness > ideal:
            path = inelastic_mean_free_path_in_angstroms(lens.voltage_in_kilovolts)
            noise_ratio = float(inelastic_transmission(torch.tensor(ideal - thickness), path))
            gains["ice_thickness"] = torch.full_like(contrast, 2 * math.log(noise_ratio))
            ice_ratio = ideal / thickness * noise_ratio**2
    signal = particles * drift * contrast * float(observation.rings_detected)
    gains["motion"] = -drift.clamp_min(1e-8).log()
    blur = (theta[4] * B_UNIT - fit.prior.sharpest_b_factor).clamp_min(0.0)
    gains["envelope"] = (blur * grid.k.square() / 2)[:, None].expand_as(contrast)
    for name, transfer in observation.log_transfer.items():
        gains[name] = -transfer[:, None].expand_as(contrast)
    if observation.tilt.significant:
        gains["tilt"] = -_tilt_envelope(observation).clamp_min(1e-8).log()[:, None].expand_as(contrast)
    areas = {
        name: min(max(observation.known.area_fractions.get(name, 0.0), 0.0), 1.0)
        for name in ("contamination", "carbon")
    }

    # Below the fitted range the signal stands far above the noise: what is there beyond the noise floor is signal.
    low = observation.spectrum.low_k
    # At the low end F is poorly determined by the rings; its level up to 10 Å is not.
    low_noise = noise[grid.k < 0.1].mean().expand_as(low)
    low_signal = (spectrum.low_power / observation.scale - low_noise).clamp_min(0.0) * float(observation.rings_detected)
    low_signal = low_signal * float((signal[0].mean() / (signal[0] + (ice * drift * contrast)[0]).mean()).clamp(0, 1))
    low_share = (low / grid.k[0]).square()

    def cut(values: Tensor, low_values: Tensor) -> Tensor:
        return torch.cat([low_values, values.expand_as(contrast)[pick].reshape(-1)])

    nothing = torch.zeros_like(low)
    return _Terms(
        signal=cut(signal, low_signal),
        noise=cut(noise, low_noise),
        ice=cut(ice * drift * contrast, nothing),
        rings=cut(observation.ring_excess, nothing),
        count=2 * cut(spectrum.coefficients * stride, spectrum.low_coefficients),
        gains={name: cut(gain, low_share * float(gain[0].mean())) for name, gain in gains.items()},
        ice_ratio=ice_ratio,
        noise_ratio=noise_ratio,
        defects=max(observation.known.defect_power_share, 0.0),
        areas=areas,
    )


def _tilt_envelope(observation: Observation) -> Tensor:
    """Power left when a defocus plane is taken for flat: mean over the field of exp(iπλΔk²), squared."""
    grid, lens = observation.spectrum.grid, observation.fit.model.lens
    height, width = (n * grid.pixel_size_in_angstroms for n in observation.spectrum.shape)
    phase = lens.wavelength_in_angstroms * grid.k.square()
    envelope = torch.sinc(phase * observation.tilt.gradient_y * height) * torch.sinc(
        phase * observation.tilt.gradient_x * width
    )
    return envelope.square()


def _information(terms: _Terms, ideal: Sequence[frozenset[str]]) -> Tensor:
    """Information [bits] under each set of causes put to their ideal, (sets,)."""

    def chosen(name: str) -> Tensor:
        return torch.tensor([name in names for names in ideal])[:, None]

    thin = chosen("ice_thickness")
    log_gain = torch.zeros(len(ideal), 1)
    if terms.gains:
        choice = torch.tensor([[float(name in names) for name in terms.gains] for names in ideal])
        log_gain = (choice @ torch.stack(list(terms.gains.values()))).clamp(max=25.0)
    signal = terms.signal * torch.exp(log_gain)
    noise = terms.noise * torch.where(thin, terms.noise_ratio, 1.0)
    noise = noise * torch.where(chosen("defects"), 1.0, 1 + terms.defects)
    noise = noise + terms.ice * torch.where(thin, terms.ice_ratio, 1.0)
    noise = noise + terms.rings * torch.where(chosen("crystalline_ice"), 0.0, 1.0)
    bits = torch.log1p(signal / noise).double() @ (terms.count.double() * (0.5 / math.log(2)))
    for area, fraction in terms.areas.items():
        bits = bits * torch.where(chosen(area)[:, 0], 1.0, 1 - fraction)
    return bits


def _priced(observation: Observation) -> tuple[str, ...]:
    # Known curves have to be stated, and thickness takes the intensity of the beam; all others are seen.
    unknown = {"damage", "detector", "coherence"} - observation.log_transfer.keys()
    if observation.thickness is None:
        unknown.add("ice_thickness")
    return tuple(name for name, cause in CAUSES.items() if cause.priced and name not in unknown | observation.abstained)


@single_threaded
def information_under(observation: Observation, ideal: Sequence[str] = ()) -> float:
    """Information [bits] of the micrograph under do(cause = ideal) for the named causes, at the posterior mean.

    Raises
    ------
    InputError
        A name is no cause, or the data do not identify that cause.
    """
    for name in default_graph().check(ideal):
        if name in observation.abstained:
            raise InputError(f"do({name})", "these data do not identify it", "Ask for a cause that is priced.")
    thickness = observation.thickness[0] if observation.thickness else None
    return float(_information(_terms(observation, observation.fit.theta, thickness, 1), [frozenset(ideal)])[0])


def _shapley(values: Mapping[frozenset[str], float], names: Sequence[str]) -> dict[str, float]:
    count = len(names)
    shares = dict.fromkeys(names, 0.0)
    for name in names:
        others = [other for other in names if other != name]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for subset in itertools.combinations(others, size):
                base = frozenset(subset)
                shares[name] += weight * (values[base | {name}] - values[base])
    return shares


def _account(terms: _Terms, names: Sequence[str]) -> tuple[float, float, dict[str, float]]:
    base, *single = _information(terms, [frozenset(), *(frozenset({name}) for name in names)]).tolist()
    # A cause without any effect has no Shapley value and halves the number of sets.
    active = [name for name, value in zip(names, single, strict=True) if abs(value - base) > 1e-5 * max(base, 1.0)]
    subsets = [frozenset(s) for size in range(len(active) + 1) for s in itertools.combinations(active, size)]
    values = dict(zip(subsets, _information(terms, subsets).tolist(), strict=True))
    shares = dict.fromkeys(names, 0.0) | _shapley(values, active)
    return base, values[frozenset(active)], shares


@single_threaded
def make_ledger(observation: Observation, generator: torch.Generator, samples: int = 24) -> Ledger:
    """Shapley ledger of one micrograph at the posterior mean, with error bars from posterior samples.

    Parameters
    ----------
    observation
        Fit and evidence.
    generator
        For the posterior samples.
    samples
        How many; the standard deviation of a standard deviation from n samples is 1 / sqrt(2n).
    """
    names = _priced(observation)
    mean_thickness = observation.thickness[0] if observation.thickness else None
    information, attainable, shares = _account(_terms(observation, observation.fit.theta, mean_thickness, 1), names)
    stride = max(1, len(observation.spectrum.grid.k) // 60)
    draws = observation.fit.samples(samples, generator)
    rows: list[list[float]] = []
    for draw in draws:
        thickness = None
        if observation.thickness is not None:
            noise = float(torch.randn((), generator=generator))
            thickness = max(observation.thickness[0] + noise * observation.thickness[1], 0.0)
        base, best, sampled = _account(_terms(observation, draw, thickness, stride), names)
        rows.append([base, best, *(sampled[name] for name in names)])
    deviation = torch.tensor(rows, dtype=torch.float64).std(0).tolist() if samples > 1 else [0.0] * (len(names) + 2)
    entries = {name: LedgerEntry(None, None) for name in CAUSES}
    for name, sd in zip(names, deviation[2:], strict=True):
        entries[name] = LedgerEntry(shares[name], sd)
    covariance: tuple[tuple[float, ...], ...] = ()
    if samples > 1:
        drawn = torch.tensor(rows, dtype=torch.float64)[:, [0, *range(2, len(names) + 2)]]
        covariance = tuple(map(tuple, torch.cov(drawn.T).reshape(drawn.shape[1], drawn.shape[1]).tolist()))
    return Ledger(information, deviation[0], attainable, deviation[1], entries, names, covariance)
