"""Synthetic micrographs against real ones: how well a classifier, a spectrum or a kernel tells them apart.

    python benchmarks/realism.py [--arms gaussian,spectrum,matched,...] [--learning-steps 4000] [--trainings 2]
                                 [--splits 3] [--steps 150] [--device cpu] [--json FILE] [--gallery FILE.png]
                                 [--no-large]

REAL: nine micrographs of apoferritin (EMPIAR-10146, unaligned averages, 1200 × 1240 pixels of 1.5 Å), from
CRYOPRISM_DATA (../shared/data if absent). Six are matched (gain, optics, envelope, radial amplitudes, density of the
annotated particles, noise), the other three are tested against; nothing is fitted to those. SYNTHETIC: six micrographs
by each arm, all from the same noise-free images: the 24-mer of 4OYN, low-passed to 15 Å, at random places.

``spectrum`` is Gaussian of the 2-D spectrum with varying strength; ``matched`` is what ``cryoprism synthesize`` makes;
``cut`` and ``cyclegan`` translate the clean image with white noise; ``matched and learned`` (``synthesize --noise
learned``) adds a learned residual to ``matched``, ``spectrum and learned`` to a poorer start, in a strength from 0 to 1
that patches kept from its training decide.

* AUC: convolutional classifier on patches of 128² pixels, folds by micrograph, 0.5 is perfect;
* spectrum: RMS difference of the mean log power, over the plane and over rings;
* statistics: RMS difference of moments, correlations and band powers, in deviations between real micrographs;
* kernel: squared MMD × 1000 on fixed random convolutional features.

All but the AUC are unbiased: two sets of one origin give 0 on average. What two sets of *real* micrographs give stands
in the last row (three tested against six matched). 95 % intervals; three micrographs are few, so ``--splits 3`` lets
every micrograph be a tested one once. The last table compares ``matched`` with every other arm in pairs: both come from
the same noise-free images and are held against the same real ones, so most of what makes the intervals wide cancels.
Over splits, values are means and intervals those of means of independent parts (tested micrographs are disjoint, of the
six matched ones two splits share three). Artefacts
(``artefact_mask``) are left out on both sides. CPU seconds of training are over those of the match, which all arms
share. Seconds per micrograph of 4096² are noise alone; the noise-free image costs every arm the same and stands above.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cryoprism.core import generator_for
from cryoprism.formats import read_image
from cryoprism.synthesis.matching import (
    draw_exposure,
    match_session,
)
from cryoprism.synthesis.realism import (
    REAL_AGAINST_REAL,
    Advantage,
    Measure,
    MicrographSet,
    Realism,
    compare_realism,
    gallery,
)
from realism_parts.arms import ARMS, arms_of
from realism_parts.material import (
    PIXEL,
    clean_image,
    data_folder,
    exemplars_of,
    specimen_of,
    weights_of,
    with_unannotated,
)

SPLITS = ((2, 5, 8), (1, 4, 7), (0, 3, 6))  # which micrographs are tested
OURS = "matched"
KINDS = ("measures", "advantages")
Figures = TypeVar("Figures", Realism, Advantage)


def cell(measure: Measure, digits: int = 2, scale: float = 1.0) -> str:
    def word(value: float) -> str:
        return f"{scale * value:.{digits}f}" if math.isfinite(value) else "?"

    return f"{word(measure.value)} ({word(measure.low)} to {word(measure.high)})"


def row(name: str, realism: Realism, costs: tuple[str, str]) -> str:
    folds = ", ".join(f"{part:.2f}" for part in realism.auc.parts)
    cells = [
        f"{cell(realism.auc)} [{folds}]",
        cell(realism.spectrum),
        cell(realism.rotational_spectrum),
        cell(realism.patch),
        cell(realism.kernel, 1, 1000.0),
        *costs,
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


HEAD = (
    "| arm | AUC [folds] | spectrum, plane [dB] | spectrum, rings [dB] | statistics [σ real] | kernel × 1000 "
    "| training [CPU s] | 4096² [s] |\n|---|---|---|---|---|---|---|---|"
)


def worst(realism: Realism, count: int = 6) -> str:
    order = sorted(realism.statistics.items(), key=lambda item: -abs(item[1]))[:count]
    return "; ".join(f"{name} {value:+.1f}" for name, value in order)


def low_pass(image: Tensor, deviation: float) -> Tensor:
    """Gaussian blur, for the eye."""
    ky = torch.fft.fftfreq(image.shape[-2])[:, None]
    kx = torch.fft.rfftfreq(image.shape[-1])
    blur = (-2 * (math.pi * deviation) ** 2 * (ky * ky + kx * kx)).exp()
    return torch.fft.irfft2(torch.fft.rfft2(image) * blur, s=image.shape[-2:])


def draw_gallery(path: Path, real: MicrographSet, synthetic: MicrographSet, title: str, seed: int) -> None:
    """Picture of patches without labels, raw above and low-passed below; the answer goes to the text."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    mixed = gallery(real, synthetic, generator_for(seed, "gallery", title))
    figure, axes = plt.subplots(4, 6, figsize=(15, 10.4))
    for number, patch in enumerate(mixed.patches):
        line, column = divmod(number, 6)
        axes[2 * line, column].imshow(patch, cmap="gray", vmin=-3, vmax=3)
        axes[2 * line, column].set_title(str(number + 1))
        axes[2 * line + 1, column].imshow(low_pass(patch, 3.0), cmap="gray", vmin=-1, vmax=1)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    plt.close(figure)
    answers = [str(number + 1) for number, is_real in enumerate(mixed.is_real.tolist()) if is_real]
    print(f"\n{path.name} ({title}): real are {', '.join(answers) or 'none'}")


def compare(args: argparse.Namespace) -> None:
    every: list[tuple[dict[str, Realism], dict[str, Advantage]]] = []
    costs: dict[str, tuple[str, str]] = {}
    for number, tested in enumerate(SPLITS[: args.splits]):
        every.append(one_split(args, tested, costs, first=number == 0))
    if len(every) > 1:
        print(f"\n## Mean of {len(every)} splits\n\n{HEAD}")
        for name in every[0][0]:
            print(row(name, pooled([rows[name] for rows, _ in every]), costs[name]))
    if len(every) > 1:
        print_advantages({name: pooled([found[name] for _, found in every]) for name in every[0][1]})
    if args.json is not None:
        record = [
            {kind: {name: one.to_json() for name, one in part.items()} for kind, part in zip(KINDS, both, strict=True)}
            for both in every
        ]
        args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def print_advantages(advantages: Mapping[str, Advantage]) -> None:
    """Table of how much nearer our arm is than each other one."""
    if not advantages:
        return
    print(f"\nHow much nearer to the real ones {OURS} is than each other arm; above 0: nearer.\n")
    print("| arm | AUC above 0.5 | spectrum, plane [dB²] | rings [dB²] | statistics [σ²] | kernel × 1000 |")
    print("|---|---|---|---|---|---|")
    for name, found in advantages.items():
        cells = [
            cell(found.auc),
            cell(found.spectrum, 3),
            cell(found.rotational_spectrum),
            cell(found.patch, 1),
            cell(found.kernel, 1, 1000.0),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Mean of figures of independent parts, and its interval."""
    n = len(measures)
    value = sum(m.value for m in measures) / n
    below = math.sqrt(sum((m.value - m.low) ** 2 for m in measures)) / n
    above = math.sqrt(sum((m.high - m.value) ** 2 for m in measures)) / n
    parts = tuple(part for m in measures for part in m.parts)
    return Measure(
        value=value, low=value - below, high=value + above, count=sum(m.count for m in measures), parts=parts
    )


def pooled(figures: Sequence[Figures]) -> Figures:
    """All measures of several splits in one."""
    first = figures[0]
    names = [f.name for f in fields(first) if isinstance(getattr(first, f.name), Measure)]
    return replace(first, **{name: mean_of([getattr(one, name) for one in figures]) for name in names})


def one_split(
    args: argparse.Namespace, tested_numbers: Sequence[int], costs: dict[str, tuple[str, str]], *, first: bool
) -> tuple[dict[str, Realism], dict[str, Advantage]]:
    """Match six micrographs, make every arm, and measure all against the other three."""
    data = data_folder()
    folder = data / "apoferritin"
    names = sorted(file.stem for file in (folder / "micrographs").glob("*.mrc"))
    matched_names = [name for number, name in enumerate(names) if number not in tested_numbers]
    specimen = specimen_of(data)
    exemplars = exemplars_of(matched_names, folder)
    tested = [read_image(folder / "micrographs" / f"{names[i]}.mrc").data.float() for i in tested_numbers]
    print(f"\n## Tested: {', '.join(names[i] for i in tested_numbers)}\n")
    start = time.process_time()
    match = with_unannotated(match_session(exemplars, specimen, PIXEL, seed=args.seed), exemplars, specimen)
    seconds = time.process_time() - start
    cleans = []
    for index in range(len(exemplars)):
        scene, source = draw_exposure(match, args.seed, index, f"synthetic-{index}")
        cleans.append(clean_image(match, specimen, scene, source, args.seed))
    print(f"match of {len(exemplars)} micrographs, shared by all arms: {seconds:.0f} CPU s", flush=True)
    large = None
    if first and not args.no_large:
        scene = replace(cleans[0].scene, name="large", height_in_pixels=4096, width_in_pixels=4096)
        start = time.process_time()
        large = clean_image(match, specimen, scene, cleans[0].source, args.seed)
        print(f"noise-free image of 4096², shared by all arms: {time.process_time() - start:.1f} CPU s")
    arms: dict[str, MicrographSet] = {}
    costs.setdefault(REAL_AGAINST_REAL, ("", ""))
    for name in args.arms.split(","):
        arm = arms_of(args.learning_steps, args.device)[name](match, exemplars, cleans, args.seed)
        images = [arm.draw(clean, args.seed) for clean in cleans]
        per_image = "not measured"
        if large is not None:
            start = time.process_time()
            arm.draw(large, args.seed)
            per_image = f"{time.process_time() - start:.1f}"
        training = f"{arm.training_cpu_seconds:.1f}"
        if args.device != "cpu" and arm.training_seconds:
            training += f", {arm.training_seconds:.0f} by the clock"
        costs.setdefault(name, (training, per_image))
        arms[name] = MicrographSet(images, PIXEL, weights_of(images), name)
    real = MicrographSet(tested, PIXEL, weights_of(tested), "tested real micrographs")
    other = MicrographSet([e.image for e in exemplars], PIXEL, [e.weight for e in exemplars], "matched ones")
    print(f"\n{HEAD}", flush=True)
    table, advantages = compare_realism(
        real,
        arms,
        other,
        seed=args.seed,
        trainings=args.trainings,
        steps=args.steps,
        progress=lambda name, realism: print(row(name, realism, costs[name]), flush=True),
        ours=OURS if OURS in arms else None,
    )
    print_advantages(advantages)
    print("\nstatistics that differ most (synthetic minus real, in deviations between real micrographs):\n")
    for name, realism in table.items():
        print(f"- {name}: {worst(realism)}")
    if first and args.gallery is not None:
        last = list(arms)[-1]
        draw_gallery(args.gallery, real, arms[last], last, args.seed)
    return table, advantages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=",".join(ARMS), help="Which, comma between them.")
    parser.add_argument("--splits", type=int, choices=(1, 2, 3), default=3, help="Of the nine micrographs.")
    parser.add_argument("--trainings", type=int, default=2, help="Of the classifier, per fold.")
    parser.add_argument("--steps", type=int, default=150, help="Of each training.")
    parser.add_argument("--learning-steps", type=int, default=4000, help="Of CycleGAN, CUT and the learned part.")
    parser.add_argument(
        "--device", default="cpu", help="Of CycleGAN, CUT and the learned part; the larger ones on a GPU."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="Write all figures here.")
    parser.add_argument("--gallery", type=Path, help="Draw the last arm mixed with real patches here (PNG).")
    parser.add_argument("--no-large", action="store_true", help="Do not time a micrograph of 4096².")
    args = parser.parse_args()
    unknown = [name for name in args.arms.split(",") if name not in ARMS]
    if unknown:
        sys.exit(f"--arms: {', '.join(unknown)} is not there; choose from {', '.join(ARMS)}.")
    if not (data_folder() / "apoferritin").is_dir():
        sys.exit(f"{data_folder()} holds no apoferritin/; set CRYOPRISM_DATA to the folder of the data.")
    with torch.no_grad():
        compare(args)


if __name__ == "__main__":
    main()
