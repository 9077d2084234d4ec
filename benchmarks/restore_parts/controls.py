"""Negative controls: what comes back where nothing is."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import write_mrc
from cryoprism.restoration import View
from cryoprism.synthesis.render import Rendered

from .material import views_of
from .measures import Rings
from .topaz import run_topaz


def random_phases(image: Tensor, pixel: float, beyond: float, seed: str) -> Tensor:
    """Image whose phases finer than a resolution [Å] are those of white noise."""
    shape = (image.shape[0], image.shape[1])
    ky, kx = frequency_grid(shape, pixel)
    noise = rfft2(torch.randn(shape, generator=generator_for(0, "phases", seed)))
    f = rfft2(image)
    swapped = f.abs() * noise / noise.abs().clamp_min(1e-20)
    fine = torch.sqrt(ky * ky + kx * kx) >= 1 / beyond
    return irfft2(torch.where(fine, swapped, f), shape)


def pure_noise(image: Tensor, rings: Rings, seed: str) -> Tensor:
    """Gaussian noise with the image's radial spectrum, smoothed over the Thon rings, by which a signal shows itself."""
    f = rfft2(image - image.mean())
    power = np.bincount(rings.index.ravel(), f.abs().double().square().numpy().ravel(), len(rings.count)) / np.maximum(
        rings.count, 1
    )
    power[0] = power[1]
    width = len(power) // 6
    smooth = np.exp(
        np.convolve(
            np.pad(np.log(np.maximum(power, 1e-9)), width, mode="edge"),
            np.ones(2 * width + 1) / (2 * width + 1),
            "valid",
        )
    )
    shape = (image.shape[0], image.shape[1])
    white = rfft2(torch.randn(shape, generator=generator_for(0, "noise", seed)))
    ky, kx = frequency_grid(shape, 1.0)
    radius = (torch.sqrt(ky * ky + kx * kx) * min(shape)).round().long().clamp_max(len(smooth) - 1)
    gain = torch.from_numpy(np.sqrt(smooth / math.prod(shape)).astype(np.float32))[radius]
    return irfft2(white * gain, shape) + image.mean()


def controls(material: list[tuple[Rendered, Path, View]], args: argparse.Namespace, folder: Path) -> None:
    """Print what comes back where nothing is: variance left and correlation with the truth, beside chance."""
    pixel = material[0][0].scene.pixel_size_in_angstroms
    rings = Rings.of(material[0][0].scene.shape, pixel)
    band = (18.0, 5.0)  # clear of the edge of the phases that were changed
    chance = rings.chance(*band)
    arms: dict[str, Callable[[Rendered], Tensor]] = {
        "as recorded": lambda r: r.counts,
        "pure noise, same smooth spectrum": lambda r: pure_noise(r.counts, rings, r.scene.name),
        "phases random beyond 20 Å": lambda r: random_phases(r.counts, pixel, 20.0, r.scene.name),
        "all phases random": lambda r: random_phases(r.counts, pixel, 1e6, r.scene.name),
    }
    print(
        f"\nNEGATIVE CONTROLS on the clean set, band {band[0]:g} to {band[1]:g} Å; "
        "share: variance of the result over that of the input"
    )
    print(
        f"chance: one micrograph's correlation has a standard deviation of {chance:.4f}, "
        f"the mean of {len(material)} has {chance / math.sqrt(len(material)):.4f}"
    )
    print(
        f"{'input':<36}{'rings found':>12}{'view: share':>13}{'mean corr.':>12}{'worst |corr.|':>15}"
        f"{'Topaz: share':>14}{'mean corr.':>12}{'worst |corr.|':>15}"
    )
    verdicts = []
    for arm, make in arms.items():
        inside = folder / arm.replace(" ", "-").replace(",", "")
        inside.mkdir()
        images = [make(r) for r, _, _ in material]
        files = [inside / f"{r.scene.name}.mrc" for r, _, _ in material]
        for file, image in zip(files, images, strict=True):
            write_mrc(file, image, pixel)
        views, estimates, _ = views_of(files, [r.scene.name for r, _, _ in material], pixel)
        found = sum(bool(e.rings.detected) for e in estimates)  # type: ignore[attr-defined]
        results = [[v.view for v in views]]
        if not args.without_topaz:
            results.append(run_topaz(files, inside / "topaz")[0])
        line = f"{arm:<36}{f'{found} of {len(files)}':>12}"
        for result, width in zip(results, (13, 14), strict=False):
            share = np.mean([float(x.var() / i.var()) for x, i in zip(result, images, strict=True)])
            frc = [
                float(rings.correlation(x, -r.potential)[rings.within(*band)].mean())
                for x, (r, _, _) in zip(result, material, strict=True)
            ]
            line += f"{share:>{width}.5f}{np.mean(frc):>12.4f}{max(map(abs, frc)):>15.4f}"
        print(line)
        if arm == "as recorded":
            continue
        frc = [
            float(rings.correlation(v.view, -r.potential)[rings.within(*band)].mean())
            for v, (r, _, _) in zip(views, material, strict=True)
        ]
        zero = sum(float(v.view.abs().max()) == 0.0 for v in views)
        z = np.mean(frc) / chance * math.sqrt(len(frc))
        verdicts.append(
            f"  view, {arm}: zero in {zero} of {len(views)}, mean correlation {z:+.1f} standard deviations from 0"
        )
    print(
        "A spectrum cannot tell a specimen from noise with the same rings: where all phases are random the rings are\n"
        "found and a share of the variance is kept, as the spectrum says it should; what must vanish there is the\n"
        "correlation. Where no rings are found, the view must be zero."
    )
    print("\n".join(verdicts))
