"""What two half maps say about a map: every curve and figure, the verdict in words, and ``resolution.json``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from cryoprism import __version__
from cryoprism.core import InputError, point_group_matrices
from cryoprism.formats import Mtf, Volume, write_map
from cryoprism.structure import (
    Crossing,
    DirectionalFsc,
    FscCurve,
    HalfMapFsc,
    LocalResolution,
    Sharpening,
    ViewingDirections,
    directional_fsc,
    half_map_fsc,
    is_round_group,
    local_resolution,
    low_pass,
    mask_from_map,
    molecule_threshold,
    require_half_maps,
    sharpen,
)
from cryoprism.workflow.jobs.files import write_json

from .resolution_words import cautions, common_start, few_particles, only_round, shared_noise, verdict

__all__ = ["THRESHOLDS", "ModelFit", "ResolutionSummary", "summarise_resolution"]

#: FSC at which resolutions are read off: for half maps, and the stricter one half.
THRESHOLDS: Final = (0.143, 0.5)
_WINDOW_RESOLUTIONS: Final = 7.0


@dataclass(frozen=True, eq=False)
class ModelFit:
    """A map against an atomic model.

    Attributes
    ----------
    name
        File of the model.
    fsc
        Of the sharpened map and the model's own map, under a soft mask around the model.
    q_score
        Mean over atoms.
    atoms
        Their number.
    fitted
        Whether the model was moved.
    """

    name: str
    fsc: FscCurve
    q_score: float
    atoms: int
    fitted: bool = False

    def crossing(self) -> Crossing:
        """Resolution at FSC = 0.5."""
        return self.fsc.crossing(0.5)


@dataclass(frozen=True, eq=False, kw_only=True)
class ResolutionSummary:
    """All that two half maps say. ``document`` is ``resolution.json``; ``write`` writes it and the maps.

    Attributes
    ----------
    mean
        Unfiltered mean of the halves.
    fsc
        All curves.
    sharpening
        The sharpened map and its Guinier plots.
    mask
        (z, y, x); made from the map if none was given.
    mask_fraction
        Its mean.
    directional, local, viewing, model
        None where they were not asked for.
    symmetry
        Point group of the map.
    particles_count
        Number of particles, None if unknown.
    seconds
        Of the whole job so far.
    warnings
        What to be careful about, in words.
    mask_made
        How the mask came about where the user gave none, in words.
    few
        Why no resolution is to be taken from the halves, in words: too few particles, agreement on what is round only,
        or shared noise. None where nothing of the kind is known.
    shares_noise
        Whether the halves were seen to share it.
    """

    mean: Volume
    fsc: HalfMapFsc
    sharpening: Sharpening
    mask: Tensor
    mask_fraction: float
    mask_given: bool
    symmetry: str
    particles_count: int | None
    seconds: float | None
    directional: DirectionalFsc | None = None
    local: LocalResolution | None = None
    viewing: ViewingDirections | None = None
    model: ModelFit | None = None
    warnings: tuple[str, ...] = field(default=())
    mask_made: str = "made from the map"
    few: str | None = None
    shares_noise: bool = False

    @property
    def sharpened(self) -> Volume:
        """Sharpened map."""
        return Volume(self.sharpening.data, self.mean.voxel_size_in_angstroms, self.mean.origin_in_angstroms)

    @property
    def resolution_in_angstroms(self) -> float | None:
        """Corrected FSC = 0.143; None where the halves do not agree at all."""
        return self.fsc.crossing().resolution_in_angstroms

    def sentences(self) -> tuple[str, ...]:
        """Return the verdict in words, the resolution first."""
        return tuple(verdict(self))

    def document(self) -> dict[str, Any]:
        """Return the content of ``resolution.json``."""
        return _document(self)

    def write(self, folder: Path) -> list[Path]:
        """Write map.mrc, map_sharpened.mrc, mask.mrc, local_resolution.mrc (if there is one) and resolution.json."""
        voxel, origin = self.mean.voxel_size_in_angstroms, self.mean.origin_in_angstroms
        maps = {"map": self.mean.data, "map_sharpened": self.sharpening.data, "mask": self.mask}
        if self.local is not None:
            maps["local_resolution"] = self.local.data
        paths = []
        for name, data in maps.items():
            paths.append(folder / f"{name}.mrc")
            write_map(paths[-1], Volume(data.cpu(), voxel, origin))
        paths.append(folder / "resolution.json")
        write_json(paths[-1], self.document())
        return paths


def summarise_resolution(
    half1: Volume,
    half2: Volume,
    mask: Tensor | None = None,
    *,
    symmetry: str = "C1",
    particles_count: int | None = None,
    smaller_half: int | None = None,
    seconds: float | None = None,
    viewing: ViewingDirections | None = None,
    mtf: Mtf | None = None,
    mtf_pixel_size_in_angstroms: float | None = None,
    b_factor_in_square_angstroms: float | None = None,
    mask_threshold: float | None = None,
    mask_extend_in_angstroms: float = 5.0,
    mask_soft_edge_in_angstroms: float = 12.0,
    directions: bool = True,
    local: bool = True,
    seed: int = 0,
    start_in_angstroms: float | None = None,
    names: tuple[str, str] = ("half map 1", "half map 2"),
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ResolutionSummary:
    """Measure the resolution of a map from its two half maps in every way that they allow.

    Parameters
    ----------
    half1, half2
        Unfiltered half maps of disjoint particles.
    mask
        (z, y, x), 0 … 1; made from the map if absent.
    symmetry
        Point group of the map: it lowers the number of independent coefficients.
    particles_count, seconds, viewing
        Only passed on to the summary.
    smaller_half
        Particles in the smaller half; half of ``particles_count`` if absent.
    mtf, mtf_pixel_size_in_angstroms
        Detector curve, and the pixel size [Å] of the micrographs where it was measured; the voxel size if absent.
    b_factor_in_square_angstroms
        For sharpening, negative; fitted if absent.
    mask_threshold, mask_extend_in_angstroms, mask_soft_edge_in_angstroms
        For the mask that is made.
    directions, local
        Whether to measure the resolution by direction and by place.
    seed
        Of the randomised phases.
    start_in_angstroms
        Low-pass of the map that both halves were refined from.
    names
        What errors call the halves.
    on_stage
        Called with the name of each stage that is done.

    Raises
    ------
    InputError
        The halves or the mask cannot be used: different boxes or voxel sizes, values that are not finite, constant
        maps, the same map twice, or an unknown point group.
    """
    if abs(half1.voxel_size_in_angstroms / half2.voxel_size_in_angstroms - 1) > 1e-3:
        raise InputError(
            names[1],
            f"a voxel size of {half2.voxel_size_in_angstroms:g} Å, but {names[0]} has "
            f"{half1.voxel_size_in_angstroms:g} Å",
            "Give the two half maps of one refinement.",
        )
    require_half_maps(half1.data, half2.data, names)
    try:
        order = int(point_group_matrices(symmetry).shape[0])
    except ValueError as error:
        raise InputError("--symmetry", f"'{symmetry}' is no point group", str(error)) from error
    voxel = half1.voxel_size_in_angstroms
    one, two = half1.data.float(), half2.data.float()
    mean = Volume((one + two) / 2, voxel, half1.origin_in_angstroms)
    given = mask is not None
    if mask is None:
        mask = mask_from_map(
            mean.data,
            voxel,
            threshold=mask_threshold,
            extend_in_angstroms=mask_extend_in_angstroms,
            soft_edge_in_angstroms=mask_soft_edge_in_angstroms,
        ).data
    on_stage("mask")
    fsc = half_map_fsc(one, two, voxel, mask=mask, seed=seed)
    on_stage("FSC")
    limit = fsc.crossing().resolution_in_angstroms
    sharpening = sharpen(
        mean.data,
        voxel,
        fsc.corrected,
        resolution_in_angstroms=limit,
        b_factor_in_square_angstroms=b_factor_in_square_angstroms,
        mtf=mtf,
        mtf_pixel_size_in_angstroms=mtf_pixel_size_in_angstroms,
    )
    on_stage("sharpening")
    cones = directional_fsc(one, two, voxel, mask=mask) if directions else None
    on_stage("directions")
    places = _local(one, two, voxel, mask, limit) if local else None
    on_stage("local resolution")
    if smaller_half is None and particles_count is not None:
        smaller_half = particles_count // 2
    few = few_particles(smaller_half, order, limit, _diameter(mask, voxel))
    if few is None and limit is not None and is_round_group(symmetry):
        few = only_round(one, two, voxel, mask, limit)
    few = few or common_start(limit, start_in_angstroms)
    shares_noise = False
    if few is None and fsc.crossing().at_nyquist:
        # A mask that was given may leave parts of the molecule out.
        around = torch.maximum(mask, mask_from_map(mean.data, voxel).data) if given else mask
        few, shares_noise = shared_noise(one, two, voxel, around)
    summary = ResolutionSummary(
        mean=mean,
        fsc=fsc,
        sharpening=sharpening,
        mask=mask,
        mask_fraction=float(mask.mean()),
        mask_given=given,
        symmetry=symmetry.upper(),
        particles_count=particles_count,
        seconds=seconds,
        directional=cones,
        local=places,
        viewing=viewing,
        warnings=tuple(cautions(fsc, cones, mean, sharpening, order, viewing, few)),
        few=few,
        shares_noise=shares_noise,
    )
    return summary


def _diameter(mask: Tensor, voxel: float) -> float:
    """Diameter of the ball that is as large as the mask [Å]."""
    return float((6 / math.pi * mask.double().sum()) ** (1 / 3)) * voxel


def _local(one: Tensor, two: Tensor, voxel: float, mask: Tensor, limit: float | None) -> LocalResolution | None:
    if limit is None:
        return None
    smallest, largest = 15 * voxel, 0.5 * min(one.shape) * voxel
    if largest < smallest:
        return None
    window = min(max(_WINDOW_RESOLUTIONS * limit, smallest), largest)
    return local_resolution(one, two, voxel, _molecule(one + two, voxel, mask), window_in_angstroms=window)


def _molecule(total: Tensor, voxel: float, mask: Tensor) -> Tensor:
    """Return where the molecule itself is: the mask's margin is solvent, and would count as badly resolved."""
    smooth = low_pass(total, voxel, max(15.0, 2.5 * voxel))
    inside = (smooth > molecule_threshold(smooth.cpu())) & (mask > 0.5)
    return inside.float() if float(inside.sum()) > 0.1 * float((mask > 0.5).sum()) else mask


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.double().tolist()]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _document(summary: ResolutionSummary) -> dict[str, Any]:
    fsc, guinier = summary.fsc, summary.sharpening.weighted

    def resolutions(threshold: float) -> dict[str, float | None]:
        curves = ("unmasked", "masked", "corrected")
        return {name: fsc.crossing(name, threshold).resolution_in_angstroms for name in curves}

    content: dict[str, Any] = {
        "schema": "cryoprism-resolution-1",
        "cryoprism_version": __version__,
        "verdict": list(summary.sentences()),
        "warnings": list(summary.warnings),
        "resolution_in_angstroms": resolutions(0.143),
        "resolution_at_half_in_angstroms": resolutions(0.5),
        "reaches_nyquist": fsc.crossing().at_nyquist,
        "voxel_size_in_angstroms": summary.mean.voxel_size_in_angstroms,
        "box_in_voxels": list(reversed(summary.mean.data.shape)),
        "symmetry": summary.symmetry,
        "particles": summary.particles_count,
        "seconds": _number(summary.seconds),
        "randomised_beyond_in_angstroms": fsc.randomised_beyond_in_angstroms,
        "mask": {"fraction": summary.mask_fraction, "given": summary.mask_given},
        "b_factor_in_square_angstroms": guinier.b_factor_in_square_angstroms,
        "b_factor_standard_deviation_in_square_angstroms": guinier.standard_deviation_in_square_angstroms,
        "curves": {
            "frequency_in_inverse_angstroms": fsc.frequency.tolist(),
            "coefficients": [int(n) for n in fsc.count.tolist()],
            "fsc_unmasked": _finite(fsc.unmasked),
            "fsc_masked": _finite(fsc.masked),
            "fsc_randomised": _finite(fsc.randomised),
            "fsc_corrected": _finite(fsc.corrected),
            "guinier_original": _finite(summary.sharpening.original.logarithm),
            "guinier_weighted": _finite(guinier.logarithm),
            "guinier_sharpened": _finite(summary.sharpening.sharpened.logarithm),
        },
        "local_resolution": None,
        "directional": None,
        "viewing": None,
        "model": None,
    }
    if summary.local is not None:
        quantiles = torch.quantile(summary.local.points, torch.tensor([0.05, 0.5, 0.95])).tolist()
        content["local_resolution"] = {
            "quantiles_5_50_95_in_angstroms": quantiles,
            "window_in_angstroms": summary.local.window_in_angstroms,
            "threshold": summary.local.threshold,
        }
    if summary.directional is not None:
        by = summary.directional.resolution_in_angstroms
        content["directional"] = {
            "cone_in_degrees": summary.directional.cone_in_degrees,
            "best_in_angstroms": _number(float(by.min())),
            "worst_in_angstroms": _number(float(by.max())),
            "sphericity": summary.directional.sphericity,
            "directions": [[round(c, 5) for c in axis] for axis in summary.directional.directions.tolist()],
            "resolution_in_angstroms": _finite(by),
        }
    if summary.viewing is not None:
        names = ("sampling_compensation_factor", "weakest", "strongest", "missing_fraction", "largest_share")
        content["viewing"] = {name: getattr(summary.viewing, name) for name in names}
    if summary.model is not None:
        model = summary.model
        content["model"] = {
            "name": model.name,
            "resolution_at_half_in_angstroms": model.crossing().resolution_in_angstroms,
            "mean_q_score": _number(model.q_score),
            "atoms": model.atoms,
            "fitted": model.fitted,
            "fsc": _finite(model.fsc.fsc),
        }
    return content
