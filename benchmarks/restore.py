"""The view against the noise-free truth, shell by shell, beside raw, low-pass, phase flips and Topaz-Denoise.

    python benchmarks/restore.py [--count 6] [--workers 1] [--without-topaz]

SIMULATED: multislice through ice, particles at their own heights, accelerating drift, Poisson counts, at three
severities. Truth: projected potential of the particles alone; every correlation is with its negative, since particles
are dark as recorded, so 1 is perfect.

How to read the shells: a filter that is linear and depends on the radius alone multiplies both sums of a Fourier ring
correlation by the same number. It cannot change the correlation of a ring, so no view of this kind can beat a phase
flip by the true CTF there, by construction, but for two things: a wrong CTF has wrong signs, and a filter may weight
directions (astigmatism, drift). What filtering changes is the real-space correlation, where each shell enters with its
own weight, and that is what an eye or a picker sees; "all rings at their best" is what a method would reach there if
its rings were weighted with the truth in hand. A shell in which a method returns nothing counts as 0.

Topaz-Denoise (Bepler et al. 2020, Nature Communications 11, 5208) with its own pre-trained U-Net runs in an environment
of its own under .peers/, which this command makes. It estimates the image, not the specimen, and corrects no CTF: it is
shown as it comes, phase-flipped by our CTF afterwards, and in a second table against its own aim, the noise-free image
through the CTF. It is not linear, so it can beat a phase flip within a shell.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.causes import fitted_spectrum
from cryoprism.core import frequency_grid, irfft2, rfft2
from cryoprism.formats import write_mrc
from cryoprism.restoration import View
from cryoprism.synthesis.render import Rendered
from cryoprism.workflow import map_items
from restore_parts.controls import controls
from restore_parts.material import SEVERITIES, flip, low_pass, render, scene_of, views_of
from restore_parts.measures import SHELLS, Rings, figures, interval, pearson, reachable
from restore_parts.topaz import run_topaz

METHODS = (
    "raw",
    "low-pass 20 Å",
    "phase flip, true CTF",
    "phase flip, our CTF",
    "Topaz U-Net",
    "Topaz U-Net + our phase flip",
    "CryoPrism view",
)


def print_rows(rows: dict[str, np.ndarray], seconds: dict[str, float], heads: list[str]) -> None:
    print(f"{'':<30}" + "".join(f"{head:>21}" for head in heads) + f"{'CPU s':>8}")
    for method, values in rows.items():
        cells = ""
        for column in values.T:
            low, high = interval(column)
            cells += f"{column.mean():>7.3f} [{low:>5.2f},{high:>5.2f}]"
        cost = f"{seconds[method]:>8.2f}" if method in seconds else f"{'':>8}"
        print(f"{method:<30}{cells}{cost}")


def difference(rows: dict[str, np.ndarray], one: str, other: str, heads: list[str]) -> None:
    """Where one method is better or worse than another, paired over micrographs."""
    better, worse = [], []
    for head, delta in zip(heads, (rows[one] - rows[other]).T, strict=True):
        low, high = interval(delta)
        if low > 0:
            better.append(f"{head} (+{delta.mean():.3f})")
        elif high < 0:
            worse.append(f"{head} ({delta.mean():.3f})")
    print(
        f"  {one} against {other} (paired, 95 %): better in {', '.join(better) or 'none'}; "
        f"worse in {', '.join(worse) or 'none'}"
    )


def severity_table(severity: str, args: argparse.Namespace, folder: Path) -> list[tuple[Rendered, Path, View]]:
    scenes = [scene_of(args.seed, severity, index) for index in range(args.count)]
    rendered = list(map_items(render, scenes, args.workers))
    files = []
    for r in rendered:
        files.append(folder / f"{r.scene.name}.mrc")
        write_mrc(files[-1], r.counts, r.scene.pixel_size_in_angstroms)
    pixel = scenes[0].pixel_size_in_angstroms
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}
    views, estimates, seconds["CryoPrism view"] = views_of(files, [s.name for s in scenes], pixel)
    topaz: list[Tensor] = []
    if not args.without_topaz:
        topaz, seconds["Topaz U-Net"] = run_topaz(files, folder / "topaz")
    rings = Rings.of(scenes[0].shape, pixel)
    rows: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    ceilings: dict[str, list[float]] = {"CryoPrism view": [], "Topaz U-Net + our phase flip": []}
    image_rows: dict[str, list[float]] = {
        name: [] for name in ("raw", "low-pass 20 Å", "Topaz U-Net", "CryoPrism view through the fitted transfer")
    }
    for index, (r, view, estimate) in enumerate(zip(rendered, views, estimates, strict=True)):
        truth, counts, ctf = -r.potential, r.counts, estimate.ctf  # type: ignore[attr-defined]
        ours = {
            "defocus_u_in_angstroms": ctf.defocus_u_in_angstroms,
            "defocus_v_in_angstroms": ctf.defocus_v_in_angstroms,
            "defocus_angle_in_degrees": ctf.defocus_angle_in_degrees,
            "phase_shift_in_degrees": ctf.phase_shift_in_degrees,
        }
        images: dict[str, Callable[[], Tensor]] = {
            "raw": lambda c=counts: c,
            "low-pass 20 Å": lambda c=counts: low_pass(c, pixel, 20.0),
            "phase flip, true CTF": lambda c=counts, s=r.scene: flip(c, s, s.aberrations()),
            "phase flip, our CTF": lambda c=counts, s=r.scene, o=ours: flip(c, s, o),
            "CryoPrism view": lambda v=view: v.view,
        }
        if topaz:
            images["Topaz U-Net"] = lambda t=topaz[index]: t
            images["Topaz U-Net + our phase flip"] = lambda t=topaz[index], s=r.scene, o=ours: flip(t, s, o)
        best = rings.correlation(images["phase flip, true CTF"](), truth).clip(0, 0.999)
        weight = rings.count * best**2 / (1 - best**2)
        weight[~rings.within(100, 2 * pixel)] = 0.0
        for method, image in images.items():
            rows[method].append(figures(image(), truth, rings, weight))
        for method, values in ceilings.items():
            if method in images:
                values.append(reachable(images[method](), truth, rings))
        model = fitted_spectrum(estimate)  # type: ignore[arg-type]
        ky, kx = frequency_grid(r.scene.shape, pixel)
        seen = irfft2(rfft2(view.view) * model.transfer(ky, kx), r.scene.shape)
        image_rows["raw"].append(pearson(counts, r.signal))
        image_rows["low-pass 20 Å"].append(pearson(low_pass(counts, pixel, 20.0), r.signal))
        if topaz:
            image_rows["Topaz U-Net"].append(pearson(topaz[index], r.signal))
        image_rows["CryoPrism view through the fitted transfer"].append(pearson(seen, r.signal))
    table = {method: np.array(values) for method, values in rows.items() if values}
    heads = [f"{coarse}-{fine} Å" for coarse, fine in SHELLS] + ["by signal", "real space"]
    print(f"\n{severity.upper()}: {args.count} micrographs, multislice, seed {args.seed}; {SEVERITIES[severity]}")
    print("mean over micrographs and its 95 % bootstrap interval; correlation with the particles' potential")
    print_rows(table, seconds, heads)
    best_of = ", ".join(f"{method} {np.mean(values):.3f}" for method, values in ceilings.items() if values)
    print(f"  real space with all rings at their best: {best_of}")
    difference(table, "CryoPrism view", "raw", heads)
    difference(table, "CryoPrism view", "phase flip, true CTF", heads)
    difference(table, "phase flip, our CTF", "phase flip, true CTF", heads)
    if topaz:
        difference(table, "CryoPrism view", "Topaz U-Net", heads)
        difference(table, "CryoPrism view", "Topaz U-Net + our phase flip", heads)
    print(
        "correlation in real space with the noise-free image (through the true CTF), "
        "which is what a denoiser without CTF aims at"
    )
    for method, values in image_rows.items():
        if values:
            low, high = interval(np.array(values))
            print(f"  {method:<44}{np.mean(values):>7.3f} [{low:.3f}, {high:.3f}]")
    return list(zip(rendered, files, views, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6, help="micrographs of each severity")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-topaz", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restore-benchmark-") as name:
        folder = Path(name)
        material = {severity: severity_table(severity, args, folder) for severity in SEVERITIES}
        controls(material["clean"], args, folder)


if __name__ == "__main__":
    main()
