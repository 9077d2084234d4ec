"""Why the axis of astigmatism differs from CTFFIND's on some real micrographs: variants of the fit, and a simulation.

python benchmarks/axis.py [--data ../shared/data] [--draws 16]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from cryoprism.causes import Estimate, default_prior, estimate_causes, measure_spectrum
from cryoprism.causes import spectrum as spectrum_module
from cryoprism.formats import read_catalogue, read_image
from cryoprism.microscope.optics import Lens
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from ctf import CTFFIND, turn


def fit(
    image: torch.Tensor, *, drift: bool = True, low: float = 30.0, high: float = 2.5, tile: float = 720.0
) -> Estimate:
    """Estimate one micrograph under a variant of the fit."""
    prior = default_prior()
    if not drift:
        prior = prior.with_marginal("drift_y", 0.0, 1e-3).with_marginal("drift_x", 0.0, 1e-3)
    usual = spectrum_module._TILE_EXTENT_IN_ANGSTROMS
    spectrum_module._TILE_EXTENT_IN_ANGSTROMS = tile
    try:
        spectrum = measure_spectrum(image, 1.5, low_in_angstroms=low, high_in_angstroms=high)
    finally:
        spectrum_module._TILE_EXTENT_IN_ANGSTROMS = usual
    return estimate_causes(spectrum, Lens(amplitude_contrast=0.07), prior=prior)


VARIANTS: dict[str, dict[str, float | bool]] = {
    "as it is": {},
    "no drift in the model": {"drift": False},
    "no drift, to 4 Å": {"drift": False, "high": 4.0},
    "tiles of 1000 Å": {"tile": 1000.0},
    "from 20 Å": {"low": 20.0},
    "from 15 Å": {"low": 15.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CRYOPRISM_DATA", "../shared/data")))
    parser.add_argument("--draws", type=int, default=16)
    args = parser.parse_args()
    names = [name for name, (u, v, _, _) in CTFFIND.items() if u - v > 400]
    if (args.data / "apoferritin").is_dir():
        catalogue = read_catalogue(args.data / "apoferritin" / "micrographs.star")
        images = {record.name: read_image(record.path).data for record in catalogue if record.name in names}
        print("REAL: axis minus CTFFIND's [degrees]\n" + " " * 24 + "".join(f"{name[6:]:>10}" for name in names))
        for title, options in VARIANTS.items():
            angles = [
                turn(fit(images[name], **options).ctf.defocus_angle_in_degrees, CTFFIND[name][2])  # type: ignore[arg-type]
                for name in names
            ]
            print(f"{title:<24}" + "".join(f"{angle:>10.1f}" for angle in angles))
    specimen = specimen_from_phantom(phantom("shell"))
    errors: dict[str, list[float]] = {"as it is": [], "no drift in the model": []}
    for seed in range(args.draws):
        scene = Scene(
            name=f"axis-{seed}",
            seed=seed,
            height_in_pixels=1200,
            width_in_pixels=1240,
            amplitude_contrast=0.07,
            defocus_in_angstroms=16950.0,
            astigmatism_in_angstroms=500.0,
            astigmatism_angle_in_degrees=127.0,
            drift_y_in_angstroms=1.7,
            drift_x_in_angstroms=4.9,
            particle_count=110,
            envelope_b_factor_in_square_angstroms=50.0,
            ice_thickness_in_angstroms=250.0,
        )
        image = render_micrograph(scene, specimen, "projection").counts
        for title, values in errors.items():
            values.append(turn(fit(image, **VARIANTS[title]).ctf.defocus_angle_in_degrees, 127.0))  # type: ignore[arg-type]
    print(f"\nSIMULATED like May08_04.33.57, {args.draws} draws: axis minus truth [degrees]")
    for title, values in errors.items():
        spread = float(np.std(values))
        print(f"{title:<24} mean {np.mean(values):.1f} ± {spread / len(values) ** 0.5:.1f}, scatter {spread:.1f}")


if __name__ == "__main__":
    main()
