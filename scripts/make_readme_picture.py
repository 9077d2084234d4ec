"""Make docs/images/restore.png from a finished job: before, after, residual, rings, ledger.

After ``make demo``: ``.venv/bin/python scripts/make_readme_picture.py demo/restored 002-drift``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryoprism.causes import CAUSES


def main(run: Path, name: str, out: Path) -> None:
    """Draw one micrograph of a job into a picture."""
    panel = np.load(run / "panels" / f"{name}.npz")
    document = json.loads((run / "causes.json").read_text(encoding="utf-8"))
    entry = next(micrograph for micrograph in document["micrographs"] if micrograph["name"] == name)
    figure = Figure(figsize=(13, 6.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic("abc;def")
    nanometers = panel["before"].shape[1] * float(panel["pixel_size"]) / 10
    pictures = (("a", "before", "before"), ("b", "after", "after (view)"), ("c", "residual", "residual"))
    for key, picture, title in pictures:
        axes[key].imshow(panel[picture], cmap="gray", extent=(0, nanometers, nanometers, 0))
        axes[key].plot([8, 28], [nanometers - 8] * 2, color="white", linewidth=4)
        axes[key].text(18, nanometers - 12, "20 nm", color="white", ha="center", fontsize=10)
        axes[key].set_title(title)
        axes[key].set_axis_off()
    edge = float(panel["spectrum_edge"])
    axes["d"].imshow(panel["spectrum"], cmap="gray", extent=(-edge, edge, edge, -edge))
    axes["d"].set_title("spectrum | fitted rings")
    axes["d"].set_axis_off()
    k = panel["k"]
    axes["e"].plot(k, panel["observed"], color="#555555", linewidth=1, label="observed")
    axes["e"].plot(k, panel["fitted"], color="#d55e00", linewidth=1.4, label="fitted")
    spread = 4 * float(np.std(panel["observed"][len(k) // 8 :]))
    axes["e"].set_ylim(-spread, spread)
    axes["e"].axvline(1 / float(panel["limit"]), color="black", linestyle="--", linewidth=1)
    axes["e"].set_title(f"Thon rings, fitted to {float(panel['limit']):.1f} Å")
    axes["e"].set_xlabel("spatial frequency [1/Å]")
    axes["e"].legend(frameon=False, loc="upper right")
    losses = {
        CAUSES[cause].label: value["bits_lost"]
        for cause, value in entry["causes"].items()
        if value["bits_lost"] is not None and value["bits_lost"]["mean"] > 1
    }
    order = sorted(losses, key=lambda label: losses[label]["mean"])
    means = [losses[label]["mean"] / 1000 for label in order]
    errors = [losses[label]["standard_deviation"] / 1000 for label in order]
    axes["f"].barh(order, means, xerr=errors, color="#0072b2", ecolor="#333333", capsize=3)
    axes["f"].set_title("information lost [kbit]")
    axes["f"].spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{name} (simulated)")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=75)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    main(Path(sys.argv[1]), sys.argv[2], root / "docs" / "images" / "restore.png")
