"""Global search over defocus and astigmatism, the multi-modal part of the fit.

Per direction, the spectrum is divided by its smooth envelope and correlated with CTF² for every defocus on a fine
list (one matrix
product). An astigmatic hypothesis is then a curve through that (direction, defocus) table, so thousands of them cost
nothing.
The score is the correlation CTFFIND and Gctf maximise (Rohou & Grigorieff 2015; Zhang 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.microscope.optics import Lens, contrast_transfer

from .spectrum import PolarGrid, Spectrum, window_autocorrelation

__all__ = ["DefocusCandidate", "modulation_damping", "search_defocus", "smooth_background"]


@dataclass(frozen=True)
class DefocusCandidate:
    """A hypothesis of the global search: defocus [Å], axis [degrees], phase shift [degrees] and correlation."""

    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float
    phase_shift_in_degrees: float
    score: float

    @property
    def mean_defocus_in_angstroms(self) -> float:
        """Mean of both axes [Å]."""
        return 0.5 * (self.defocus_u_in_angstroms + self.defocus_v_in_angstroms)


def smooth_background(values: Tensor, width: Tensor) -> Tensor:
    """Gaussian running mean along shells (…, shells), ``width`` (shells,) of its own for every shell [shells]."""
    index = torch.arange(values.shape[-1], dtype=values.dtype)
    kernel = torch.exp(-0.5 * ((index[None, :] - index[:, None]) / width[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    return values @ kernel.T


def modulation_damping(grid: PolarGrid, lens: Lens, defocus_in_angstroms: Tensor | float) -> Tensor:
    """Share of the CTF² oscillation that survives window and binning, (shells, …) for defocus of shape (…,).

    The phase 2χ turns locally with 2λΔf k - 2Csλ³k³ cycles per 1/Å: a lag in real space. The tile's window passes it
    with its
    autocorrelation, the shell's width with a sinc.
    """
    k = grid.k
    defocus = torch.as_tensor(defocus_in_angstroms, dtype=k.dtype)
    shape = (-1, *([1] * defocus.ndim))
    wavelength = lens.wavelength_in_angstroms
    cubic = 2 * lens.spherical_aberration_in_millimeters * 1e7 * wavelength**3 * k.view(shape) ** 3
    lag = 2 * wavelength * defocus * k.view(shape) - cubic
    extent = grid.edge * grid.pixel_size_in_angstroms
    return window_autocorrelation(lag / extent) * torch.sinc(lag * grid.shell_width)


def search_defocus(
    spectrum: Spectrum,
    lens: Lens,
    *,
    minimum_in_angstroms: float = 3000.0,
    maximum_in_angstroms: float = 50000.0,
    phase_shifts_in_degrees: tuple[float, ...] = (0.0,),
    count: int = 3,
) -> list[DefocusCandidate]:
    """Best distinct defocus hypotheses, best first.

    Parameters
    ----------
    spectrum
        Observed spectrum.
    lens
        Optics.
    minimum_in_angstroms, maximum_in_angstroms
        Range of mean defocus [Å].
    phase_shifts_in_degrees
        Phase shifts to try; (0,) without a phase plate.
    count
        How many candidates, at least 500 Å apart.
    """
    grid = spectrum.grid
    # A width that spans the oscillation of the lowest defocus of interest at low k and stays local at high k.
    background_width = torch.linspace(8.0, 16.0, len(grid.k)) * (512 / grid.edge) ** -1
    log_power = spectrum.power.clamp_min(1e-30).log()
    radial_weight = grid.count.sum(1)
    radial = (log_power * grid.count).sum(1) / radial_weight
    residual = log_power - smooth_background(radial, background_width)[:, None]
    # Local standardisation keeps the strong rings near the origin from deciding alone.
    spread = smooth_background(residual.square().mean(1), background_width * 1.5).sqrt()
    residual = (residual / spread[:, None].clamp_min(1e-6)).clamp(-3, 3)
    # The noise grows towards high k, the oscillation fades: weight by the repeatability across directions.
    coherent = smooth_background(residual.mean(1).square(), background_width * 1.5)
    incoherent = smooth_background(residual.var(1) / residual.shape[1], background_width * 1.5)
    trust = (coherent / incoherent.clamp_min(1e-9) - 1).clamp(0.05, 20.0)
    weight = grid.count * (trust / (1 + trust))[:, None]
    residual = residual - (residual * weight).sum(0) / weight.sum(0)

    steps = int((maximum_in_angstroms - minimum_in_angstroms) / 50) + 1
    defocus = torch.linspace(minimum_in_angstroms, maximum_in_angstroms, steps)
    best: list[DefocusCandidate] = []
    for shift in phase_shifts_in_degrees:
        table = _direction_table(grid, lens, residual, weight, defocus, shift, background_width)
        best += _astigmatic_maxima(table, grid, defocus, shift, count)
    best.sort(key=lambda candidate: -candidate.score)
    distinct: list[DefocusCandidate] = []
    for candidate in best:
        mean = candidate.defocus_u_in_angstroms + candidate.defocus_v_in_angstroms
        if all(
            abs(mean - other.defocus_u_in_angstroms - other.defocus_v_in_angstroms) > 1000
            or candidate.phase_shift_in_degrees != other.phase_shift_in_degrees
            for other in distinct
        ):
            distinct.append(candidate)
    return distinct[:count]


def _direction_table(
    grid: PolarGrid,
    lens: Lens,
    residual: Tensor,
    weight: Tensor,
    defocus: Tensor,
    phase_shift: float,
    background_width: Tensor,
) -> Tensor:
    """Score table (sectors, defocus): inner products of the residual with the modulation of each defocus."""
    k = grid.k[:, None]
    ctf = contrast_transfer(
        torch.zeros_like(k),
        k,
        lens,
        defocus_u_in_angstroms=defocus,
        defocus_v_in_angstroms=defocus,
        phase_shift_in_degrees=phase_shift,
    )[..., 0].T
    wave = (ctf.square() - 0.5) * modulation_damping(grid, lens, defocus)
    # The smooth background removed from the data is removed from the model too.
    wave = wave - smooth_background(wave.T, background_width).T
    radial_weight = weight.mean(1)[:, None]
    norm = (wave.square() * radial_weight).sum(0).sqrt()
    scale = (residual.square() * weight).sum().sqrt() / math.sqrt(weight.shape[1])
    return ((residual * weight).T @ wave) / (norm * scale * weight.shape[1]).clamp_min(1e-9)


def _astigmatic_maxima(
    table: Tensor, grid: PolarGrid, defocus: Tensor, phase_shift: float, count: int
) -> list[DefocusCandidate]:
    step = float(defocus[1] - defocus[0])
    angle = torch.deg2rad(grid.angle_in_degrees)
    halves = torch.tensor([0.0, 100, 200, 300, 450, 600, 800, 1000, 1300, 1600])
    axes = torch.deg2rad(torch.arange(0.0, 180.0, 10.0))
    shift = halves[:, None, None] * torch.cos(2 * (angle[None, None, :] - axes[None, :, None]))
    shift = shift.reshape(-1, len(angle))
    offset = torch.round(shift / step).long()
    reach = int(offset.abs().max())
    padded = torch.nn.functional.pad(table, (reach, reach), value=-1.0)
    # For every hypothesis add the shifted rows of the table: (hypotheses, defocus).
    scores = torch.zeros(len(offset), table.shape[1])
    base = torch.arange(table.shape[1]) + reach
    for sector in range(table.shape[0]):
        scores += padded[sector][base[None, :] + offset[:, sector, None]]
    # A mild preference for little astigmatism settles what noise would otherwise decide.
    penalty = 0.02 * (halves / 1000)[:, None].expand(-1, len(axes)).reshape(-1, 1)
    scores = scores - penalty * scores.max().clamp_min(0)
    found: list[DefocusCandidate] = []
    flat, which = scores.max(0)
    flat = flat.clone()
    for _ in range(count):
        at = int(flat.argmax())
        hypothesis = int(which[at])
        half = float(halves[hypothesis // len(axes)])
        axis = float(torch.rad2deg(axes[hypothesis % len(axes)]))
        mean = float(defocus[at])
        found.append(DefocusCandidate(mean + half, mean - half, axis, phase_shift, float(flat[at])))
        low, high = max(0, at - int(600 / step)), at + int(600 / step) + 1
        flat[low:high] = -torch.inf
        if not torch.isfinite(flat).any():
            break
    return found
