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
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.causes import fitted_spectrum
from cryoprism.core import frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import MicrographRecord, OpticsGroup, read_image, write_mrc
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.restoration import View, restore_view
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import Rendered, render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from cryoprism.workflow import RestoreConfig, analyse_session, map_items
from cryoprism.workflow._analysis import Task, analyse

PEERS = Path(__file__).resolve().parents[1] / ".peers"
#: Resolution shells [Å], coarse to fine.
SHELLS = ((100, 40), (40, 25), (25, 15), (15, 10), (10, 7), (7, 5))
SEVERITIES: dict[str, dict[str, float]] = {
    "clean": {"ice_thickness_in_angstroms": 180.0},
    "ordinary": {"ice_thickness_in_angstroms": 400.0, "envelope_b_factor_in_square_angstroms": 40.0, "drift": 3.0},
    "severe": {"ice_thickness_in_angstroms": 800.0, "envelope_b_factor_in_square_angstroms": 100.0, "drift": 9.0},
}
METHODS = (
    "raw",
    "low-pass 20 Å",
    "phase flip, true CTF",
    "phase flip, our CTF",
    "Topaz U-Net",
    "Topaz U-Net + our phase flip",
    "CryoPrism view",
)


def topaz_python() -> Path:
    """Python of the environment with Topaz-Denoise; made on first use.

    Topaz asks for torchvision, which its denoiser does not use and which would bring a CUDA build of torch: left out.
    Its models are found through pkg_resources, which setuptools dropped in version 81.
    """
    python = PEERS / "topaz" / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import topaz.denoise"], capture_output=True).returncode == 0:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS / "topaz"], check=True)
    pip = [python, "-m", "pip", "install", "-q"]
    needed = [
        "numpy==2.4.6",
        "scipy==1.17.1",
        "setuptools<81",
        "future",
        "h5py",
        "pandas",
        "pillow",
        "psutil",
        "scikit-learn",
        "tqdm",
    ]
    subprocess.run([*pip, "torch==2.13.0", *needed], check=True)
    subprocess.run([*pip, "--no-deps", "topaz-em==0.3.20"], check=True)
    return python


def run_topaz(files: list[Path], out: Path) -> tuple[list[Tensor], float]:
    """Return denoised images, and CPU seconds per image with the start of the program shared among them."""
    python = topaz_python()
    out.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        python,
        "-m",
        "topaz.commands.denoise",
        "--device",
        "-1",
        "--arch",
        "unet",
        "--model",
        "unet",
        "-o",
        out,
        *files,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Topaz-Denoise failed: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [read_image(out / file.name).data for file in files], seconds / len(files)


def scene_of(seed: int, severity: str, index: int) -> Scene:
    g = generator_for(seed, "restore-benchmark", severity, index)
    u = lambda low, high: low + (high - low) * float(torch.rand((), generator=g))  # noqa: E731
    fields = dict(SEVERITIES[severity])
    drift, direction = fields.pop("drift", 0.0), u(0, 2 * math.pi)
    return Scene(
        name=f"{severity}-{index:02d}",
        seed=seed,
        defocus_in_angstroms=u(8000, 22000),
        astigmatism_in_angstroms=u(0, 600),
        astigmatism_angle_in_degrees=u(-90, 90),
        drift_y_in_angstroms=drift * math.sin(direction),
        drift_x_in_angstroms=drift * math.cos(direction),
        early_motion_y_in_angstroms=0.4 * drift * math.sin(direction + 0.5),
        early_motion_x_in_angstroms=0.4 * drift * math.cos(direction + 0.5),
        particle_count=60,
        **fields,  # type: ignore[arg-type]
    )


def render(scene: Scene) -> Rendered:
    return render_micrograph(scene, specimen_from_phantom(phantom("shell")), "multislice", poisson="exact")


def flip(image: Tensor, scene: Scene, aberrations: dict[str, float]) -> Tensor:
    """Image with the sign of a CTF taken out."""
    ky, kx = frequency_grid((image.shape[0], image.shape[1]), scene.pixel_size_in_angstroms)
    sign = torch.sign(contrast_transfer(ky, kx, scene.lens, **aberrations))
    return irfft2(rfft2(image - image.mean()) * sign, (image.shape[0], image.shape[1]))


def low_pass(image: Tensor, pixel: float, resolution: float) -> Tensor:
    """Fermi filter, half at the resolution [Å]."""
    ky, kx = frequency_grid((image.shape[0], image.shape[1]), pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    return irfft2(
        rfft2(image - image.mean()) * torch.sigmoid(-(k - 1 / resolution) / (0.02 / resolution)),
        (image.shape[0], image.shape[1]),
    )


@dataclass(frozen=True)
class Rings:
    """Ring number of each coefficient of the half plane, coefficients per ring, ring radius [1/Å]."""

    index: np.ndarray
    count: np.ndarray
    frequency: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, int], pixel: float) -> Rings:
        """Rings one Fourier pixel wide."""
        ky, kx = frequency_grid(shape, pixel)
        step = 1 / (min(shape) * pixel)
        index = (torch.sqrt(ky * ky + kx * kx) / step).round().long().numpy()
        # The first and last columns hold conjugate pairs; they are left out.
        index[:, 0] = index[:, -1] = 0
        count = np.bincount(index.ravel())
        return cls(index, count, np.arange(len(count)) * step)

    def correlation(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Fourier ring correlation; 0 where one of the two has nothing."""
        fa, fb = rfft2(a - a.mean()), rfft2(b - b.mean())
        size = len(self.count)
        cross = np.bincount(self.index.ravel(), (fa * fb.conj()).real.double().numpy().ravel(), size)
        pa = np.bincount(self.index.ravel(), fa.abs().double().square().numpy().ravel(), size)
        pb = np.bincount(self.index.ravel(), fb.abs().double().square().numpy().ravel(), size)
        # A band that a filter has closed holds rounding errors only.
        closed = (pa < 1e-10 * pa[1:].max()) | (pb < 1e-10 * pb[1:].max())
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(closed, 0.0, np.nan_to_num(cross / np.sqrt(pa * pb)))

    def within(self, coarse: float, fine: float) -> np.ndarray:
        """Say which rings lie in a shell [Å]."""
        return (self.frequency >= 1 / coarse) & (self.frequency < 1 / fine)

    def chance(self, coarse: float, fine: float) -> float:
        """Return the standard deviation of the mean ring correlation of images that have nothing in common."""
        n = self.count[self.within(coarse, fine)]
        return float(np.sqrt((1 / (2 * n)).sum()) / len(n))


def pearson(a: Tensor, b: Tensor) -> float:
    x, y = (a - a.mean()).double().flatten(), (b - b.mean()).double().flatten()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def figures(image: Tensor, truth: Tensor, rings: Rings, weight: np.ndarray) -> list[float]:
    """Mean ring correlation of each shell, mean weighted by true signal, real-space correlation."""
    frc = rings.correlation(image, truth)
    shells = [float(frc[rings.within(*shell)].mean()) for shell in SHELLS]
    return [*shells, float((frc * weight).sum() / weight.sum()), pearson(image, truth)]


def views_of(files: list[Path], names: list[str], pixel: float) -> tuple[list[View], list[object], float]:
    """Return views, settled estimates, and CPU seconds per micrograph (reading to view, one thread) of a session."""
    optics = OpticsGroup("simulated", 300.0, 2.7, 0.1, pixel)
    tasks = [
        Task(MicrographRecord(name, file, "simulated"), optics, RestoreConfig(inputs=str(file)), None)
        for name, file in zip(names, files, strict=True)
    ]
    began = time.process_time()
    analyses = [analyse(task) for task in tasks]
    session = analyse_session(names, [a.estimate for a in analyses])
    views = []
    for task, analysis, estimate in zip(tasks, analyses, session.estimates, strict=True):
        image = read_image(task.record.path).data
        settled = replace(analysis, estimate=estimate)
        views.append(
            restore_view(
                image,
                fitted_spectrum(estimate),
                name=task.record.name,
                defects=settled.all_defects(),
                artefacts=analysis.artefacts,
            )
        )
    return views, list(session.estimates), (time.process_time() - began) / len(files)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over micrographs."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


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


def reachable(image: Tensor, truth: Tensor, rings: Rings) -> float:
    """Real-space correlation if each ring of the image had the weight that suits it best."""
    frc = rings.correlation(image, truth)
    power = rfft2(truth - truth.mean()).abs().double().square().numpy().ravel()
    share = np.bincount(rings.index.ravel(), power, len(rings.count))
    return float(np.sqrt((frc**2 * share).sum() / share.sum()))


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
