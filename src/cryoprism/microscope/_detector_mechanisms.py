"""The detector's stages as operators on images of electrons per pixel, built from the functions of ``detector``."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Generator, Tensor

from ._registry import Mechanism, Parameters
from ._tensors import apply_transfer, grid_of, number, over_grid, uniform
from .detector import CountingMtf, Detector, count_electrons, defect_masks, gain_pattern, lose_coincidences

__all__ = ["MECHANISMS"]


def _stream(generator: Generator | None) -> Generator:
    if generator is None:
        raise ValueError("this mechanism draws random numbers: give it a generator")
    return generator


def _apply_shot_noise(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    counts = count_electrons(image, p["dqe0"], _stream(generator), reparametrised=True)
    return counts / over_grid(p["dqe0"], image)


def _apply_counting(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    return count_electrons(image, p["dqe0"], _stream(generator))


def _apply_blur(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, 1.0)
    k = torch.sqrt(ky * ky + kx * kx)
    strength = over_grid(p["blur_strength"], image)
    return apply_transfer(image, CountingMtf(number(p, "blur_in_pixels"))(k).clamp_min(1e-6) ** strength)


def _apply_coincidence(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    return lose_coincidences(
        image, number(p, "coincidence_area_in_square_pixels"), number(p, "readout_frames"), _stream(generator)
    )


def _apply_gain_residue(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    detector = Detector(
        gain_residue_deviation=number(p, "gain_residue_deviation"),
        row_residue_deviation=number(p, "row_residue_deviation"),
        column_residue_deviation=number(p, "column_residue_deviation"),
    )
    shape = (image.shape[-2], image.shape[-1])
    return image * gain_pattern(shape, detector, int(number(p, "session_seed")), like=image)


def _apply_defects(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    detector = Detector(
        hot_fraction=number(p, "hot_fraction"),
        dead_fraction=number(p, "dead_fraction"),
        dead_lines=int(number(p, "dead_lines")),
    )
    shape = (image.shape[-2], image.shape[-1])
    hot, dead = defect_masks(shape, detector, int(number(p, "session_seed")), device=image.device)
    raised = image + over_grid(p["hot_counts"], image) * hot.to(image.dtype)
    return torch.where(dead, torch.zeros_like(raised), raised)


def _seed(g: Generator) -> float:
    return float(int(uniform(g, 0, 1e6)))


_DQE = MappingProxyType({"dqe0": (0.01, 1.0)})
_PLAIN = MappingProxyType({"dqe0": "1"})

MECHANISMS = (
    Mechanism(
        name="shot_noise",
        cause="shot_noise",
        stage="detector",
        apply=_apply_shot_noise,
        sample_parameters=lambda g: {"dqe0": uniform(g, 0.3, 0.9)},
        ideal=MappingProxyType({"dqe0": 1.0}),
        bounds=_DQE,
        units=_PLAIN,
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
        ideal_is_identity=False,
        ideal_note="The Gaussian surrogate of the electrons' own Poisson noise stays; no detector can remove it.",
    ),
    Mechanism(
        name="electron_counting",
        cause="shot_noise",
        stage="detector",
        apply=_apply_counting,
        sample_parameters=lambda g: {"dqe0": uniform(g, 0.3, 0.9)},
        ideal=MappingProxyType({"dqe0": 1.0}),
        bounds=_DQE,
        units=_PLAIN,
        linear=False,
        random=True,
        differentiable=False,
        input_kind="image",
        ideal_is_identity=False,
        ideal_note="The electrons' own Poisson noise stays; no detector can remove it.",
    ),
    Mechanism(
        name="detector_blur",
        cause="detector_mtf",
        stage="detector",
        apply=_apply_blur,
        sample_parameters=lambda g: {"blur_in_pixels": uniform(g, 0.1, 0.3), "blur_strength": uniform(g, 0.5, 1.5)},
        ideal=MappingProxyType({"blur_strength": 0.0}),
        bounds=MappingProxyType({"blur_in_pixels": (0.0, 1.0), "blur_strength": (0.0, 4.0)}),
        units=MappingProxyType({"blur_in_pixels": "pixel", "blur_strength": "1"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("blur_strength",),
    ),
    Mechanism(
        name="coincidence_loss",
        cause="coincidence",
        stage="detector",
        apply=_apply_coincidence,
        sample_parameters=lambda g: {
            "coincidence_area_in_square_pixels": uniform(g, 2, 12),
            "readout_frames": 100.0,
        },
        ideal=MappingProxyType({"coincidence_area_in_square_pixels": 0.0}),
        bounds=MappingProxyType({"coincidence_area_in_square_pixels": (0.0, 100.0), "readout_frames": (1.0, 1e6)}),
        units=MappingProxyType({"coincidence_area_in_square_pixels": "pixel²", "readout_frames": "1"}),
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
    ),
    Mechanism(
        name="gain_residue",
        cause="gain_residue",
        stage="detector",
        apply=_apply_gain_residue,
        sample_parameters=lambda g: {
            "gain_residue_deviation": uniform(g, 0.005, 0.05),
            "row_residue_deviation": uniform(g, 0.0, 0.02),
            "column_residue_deviation": uniform(g, 0.0, 0.02),
            "session_seed": _seed(g),
        },
        ideal=MappingProxyType(
            {"gain_residue_deviation": 0.0, "row_residue_deviation": 0.0, "column_residue_deviation": 0.0}
        ),
        bounds=MappingProxyType(
            {
                "gain_residue_deviation": (0.0, 1.0),
                "row_residue_deviation": (0.0, 1.0),
                "column_residue_deviation": (0.0, 1.0),
            }
        ),
        units=MappingProxyType(
            {
                "gain_residue_deviation": "1",
                "row_residue_deviation": "1",
                "column_residue_deviation": "1",
                "session_seed": "1",
            }
        ),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
    ),
    Mechanism(
        name="defect_pixels",
        cause="defects",
        stage="detector",
        apply=_apply_defects,
        sample_parameters=lambda g: {
            "hot_fraction": uniform(g, 0.005, 0.02),
            "hot_counts": uniform(g, 20, 200),
            "dead_fraction": uniform(g, 0.005, 0.02),
            "dead_lines": 1.0,
            "session_seed": _seed(g),
        },
        ideal=MappingProxyType({"hot_fraction": 0.0, "dead_fraction": 0.0, "dead_lines": 0.0}),
        bounds=MappingProxyType(
            {
                "hot_fraction": (0.0, 0.5),
                "hot_counts": (0.0, 1e6),
                "dead_fraction": (0.0, 0.5),
                "dead_lines": (0.0, 10000.0),
            }
        ),
        units=MappingProxyType(
            {"hot_fraction": "1", "hot_counts": "counts", "dead_fraction": "1", "dead_lines": "1", "session_seed": "1"}
        ),
        linear=False,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("hot_counts",),
    ),
)
