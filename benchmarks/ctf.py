"""CTF estimation against CTFFIND 5.0.2 on real micrographs, and against the truth on simulated ones.

    python benchmarks/ctf.py [--data ../shared/data] [--count 200] [--workers 2]

Real: nine micrographs of EMPIAR-10146 (unaligned averages). CTFFIND's values are those of its own run (box 512, 30 to
4 Å, 5000 to 50000 Å, step 500 Å); changing its step or upper limit moves its defocus by up to 205 Å, which is the noise
floor of the comparison. Its CPU seconds are those published with the values, on another machine; ours are measured here
with one thread.
Simulated: multislice through ice, particles and ice at heights of their own, accelerating drift, counting noise: not
what the estimator assumes (one defocus, uniform drift, smooth structure factor).
"""

from __future__ import annotations

import argparse
import math
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cryoprism.causes import Circumstances, Estimate, estimate_causes, measure_spectrum
from cryoprism.core import generator_for
from cryoprism.formats import read_catalogue, read_image
from cryoprism.microscope.optics import Lens
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from cryoprism.workflow import analyse_session, map_items

#: Defocus U, V [Å], angle [degrees, counter-clockwise from x towards +row], fit limit [Å]: CTFFIND 5.0.2.
CTFFIND = {
    "May08_03.05.02": (20023, 19134, -56.8, 4.7),
    "May08_03.13.02": (22481, 21446, -56.0, 4.6),
    "May08_03.15.02": (23048, 22013, -57.7, 4.5),
    "May08_03.43.44": (20693, 19737, -58.1, 4.4),
    "May08_04.32.27": (17047, 16484, -52.0, 4.8),
    "May08_04.33.57": (17245, 16752, -39.8, 3.9),
    "May08_04.36.57": (17889, 17455, -54.1, 4.4),
    "May08_05.24.39": (16710, 16361, -53.7, 4.1),
    "May08_05.31.00": (22401, 21997, -59.4, 4.3),
}
CTFFIND_SECONDS = {"1240×1200": 0.5, "4096×4096": 1.0}


def turn(a: float, b: float) -> float:
    """Smallest difference of two axes [degrees]."""
    return (a - b + 90) % 180 - 90


def real(data: Path) -> None:
    catalogue = read_catalogue(data / "apoferritin" / "micrographs.star")
    lens = Lens(amplitude_contrast=0.07)
    torch.set_num_threads(1)
    for _ in range(2):  # the first round warms caches up
        names, estimates, seconds = [], [], []
        for record in catalogue:
            image = read_image(record.path).data
            began = time.process_time()
            spectrum = measure_spectrum(image, catalogue.optics_of(record).pixel_size_in_angstroms, workers=1)
            estimates.append(estimate_causes(spectrum, lens))
            seconds.append(time.process_time() - began)
            names.append(record.name)
    session = analyse_session(names, estimates)
    for title, row in (("each micrograph alone", estimates), ("with the session's priors", list(session.estimates))):
        print(f"\nREAL, EMPIAR-10146: {title}")
        print(
            f"{'micrograph':<16}{'defocus':>9}{'±':>5}{'Δ':>6}{'astig.':>8}{'CTFFIND':>9}{'axis':>7}{'±':>5}{'Δ':>6}"
            f"{'limit':>7}{'CTFFIND':>9}"
        )
        defocus, axes = [], []
        for name, estimate in zip(names, row, strict=True):
            u, v, angle, limit = CTFFIND[name]
            ctf = estimate.ctf
            mean = 0.5 * (ctf.defocus_u_in_angstroms + ctf.defocus_v_in_angstroms)
            delta, axis = mean - 0.5 * (u + v), turn(ctf.defocus_angle_in_degrees, angle)
            defocus.append(abs(delta))
            if u - v > 400:
                axes.append(abs(axis))
            print(
                f"{name:<16}{mean:>9.0f}{ctf.defocus_deviation_in_angstroms:>5.0f}{delta:>6.0f}"
                f"{ctf.defocus_u_in_angstroms - ctf.defocus_v_in_angstroms:>8.0f}{u - v:>9.0f}"
                f"{ctf.defocus_angle_in_degrees:>7.1f}{ctf.angle_deviation_in_degrees:>5.1f}{axis:>6.1f}"
                f"{ctf.limit_in_angstroms:>7.2f}{limit:>9.1f}"
            )
        print(
            f"median |Δ defocus| {np.median(defocus):.0f} Å (mark 60), worst {max(defocus):.0f} Å (mark 210); "
            f"axis where astigmatism > 400 Å: median {np.median(axes):.1f}°, worst {max(axes):.1f}° (mark 6)"
        )
    big = torch.randn(4096, 4096, generator=generator_for(0, "big")) + 40
    measure_spectrum(big, 1.0, workers=1)
    began = time.process_time()
    estimate_causes(measure_spectrum(big, 1.0, workers=1), lens)
    large = time.process_time() - began
    print(f"\n{'CPU seconds, one thread':<26}{'CryoPrism':>10}{'CTFFIND 5.0.2':>15}{'ratio':>8}")
    for size, own in (("1240×1200", float(np.median(seconds))), ("4096×4096", large)):
        print(f"{size:<26}{own:>10.2f}{CTFFIND_SECONDS[size]:>15.1f}{own / CTFFIND_SECONDS[size]:>8.2f}")


def draw(seed: int, index: int) -> Scene:
    g = generator_for(seed, "ctf-benchmark", index)

    def u(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    length, direction = 6 * u(0, 1) ** 2, u(0, 2 * math.pi)
    return Scene(
        name=f"ctf-{index}",
        seed=seed,
        amplitude_contrast=0.07,
        defocus_in_angstroms=u(6000, 28000),
        astigmatism_in_angstroms=u(0, 1000),
        astigmatism_angle_in_degrees=u(-90, 90),
        ice_thickness_in_angstroms=u(180, 700),
        exposure_in_electrons_per_square_angstrom=u(20, 60),
        drift_y_in_angstroms=length * math.sin(direction),
        drift_x_in_angstroms=length * math.cos(direction),
        early_motion_y_in_angstroms=0.5 * length * math.sin(direction + 0.6),
        early_motion_x_in_angstroms=0.5 * length * math.cos(direction + 0.6),
        envelope_b_factor_in_square_angstroms=u(0, 80),
        particle_count=int(u(20, 70)),
    )


def one(index: int, *, seed: int) -> tuple[Scene, Estimate]:
    kinds = ("shell", "barrel", "globule")
    specimen = specimen_from_phantom(phantom(kinds[index % 3]))  # type: ignore[arg-type]
    scene = draw(seed, index)
    rendered = render_micrograph(scene, specimen, "multislice")
    spectrum = measure_spectrum(rendered.counts, scene.pixel_size_in_angstroms, workers=1)
    known = Circumstances(exposure_in_electrons_per_square_angstrom=scene.exposure_in_electrons_per_square_angstrom)
    return scene, estimate_causes(spectrum, scene.lens, known)


def simulated(count: int, workers: int, seed: int) -> None:
    results = list(map_items(partial(one, seed=seed), list(range(count)), workers))
    rows = []
    for scene, estimate in results:
        ctf = estimate.ctf
        error = 0.5 * (ctf.defocus_u_in_angstroms + ctf.defocus_v_in_angstroms) - scene.defocus_in_angstroms
        half = 0.5 * scene.astigmatism_in_angstroms
        axis = math.radians(2 * scene.astigmatism_angle_in_degrees)
        theta, covariance = estimate.fit.theta[1:3] * 100, estimate.fit.covariance[1:3, 1:3] * 1e4
        across = (theta - torch.tensor([half * math.cos(axis), half * math.sin(axis)])).double()
        mahalanobis = float(across @ torch.linalg.solve(covariance.double(), across))
        rows.append((error, ctf.defocus_deviation_in_angstroms, mahalanobis, estimate.rings.detected))
    table = np.array(rows, dtype=float)
    error, sd, squared, found = table.T
    inside = np.abs(error) < sd
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(error), (2000, len(error)))
    low, high = np.percentile(inside[draws].mean(1), [2.5, 97.5])
    print(f"\nSIMULATED, multislice, {count} micrographs of 1024², three phantoms (seed {seed})")
    print(f"rings found in {int(found.sum())} of {count}")
    size = np.abs(error)
    print(
        f"defocus error: median |Δ| {np.median(size):.1f} Å, 95 % {np.percentile(size, 95):.0f} Å, "
        f"worst {size.max():.0f} Å, mean {error.mean():.1f} Å"
    )
    print(
        f"68 % posterior interval of defocus covers {100 * inside.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}] "
        "(mark 60 to 76)"
    )
    print(f"68 % posterior ellipse of astigmatism covers {100 * (squared < 2.2789).mean():.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CRYOPRISM_DATA", "../shared/data")))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if (args.data / "apoferritin").is_dir():
        real(args.data)
    else:
        print(f"no real data in {args.data}: set CRYOPRISM_DATA")
    if args.count:
        simulated(args.count, args.workers, args.seed)


if __name__ == "__main__":
    main()
