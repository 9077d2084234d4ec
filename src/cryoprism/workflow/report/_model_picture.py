"""A model in its map: three views of the map with the trace of the model over it, as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, map_coordinates

from cryoprism.evaluation.consistency import Consistency, Envelope, Model
from cryoprism.formats import Volume
from cryoprism.workflow.judgement.model_in_map import ResidueRange, misfits, ranges_of

from ._map_pictures import VIEWS, png_source
from ._numbers import escape

__all__ = ["PICTURE_CSS", "Trace", "model_section", "trace_of"]

PICTURE_CSS: Final = """
.views{display:flex;flex-wrap:wrap;align-items:flex-end;gap:10px}
.views svg{display:block;max-width:100%;height:auto;background:#000;border-radius:6px}
.views figcaption{font-size:13px;color:var(--quiet);margin-top:3px}
.t-in{stroke:#56b4e9;fill:none}.t-out{stroke:#ff8a3d;fill:none}.o-in{fill:#56b4e9}.o-out{fill:#ff8a3d}
.line{display:inline-block;width:16px;height:0;border-top:3px solid;margin-right:6px;vertical-align:middle}
"""
#: All three views side by side, and the highest [pixels]; all have one scale.
_WIDE: Final = 1130
_TALL: Final = 420
#: Places of the trace that are drawn in one view; of longer traces every second, third … is.
_MOST_PLACES: Final = 9000
_MOST_RANGES: Final = 24
#: Longest step of an unbroken trace [Å]: Cα to Cα, P to P.
_STEPS: Final = {"CA": 5.0, "P": 9.0}
#: Axes (x 0, y 1, z 2) to the right and upwards in each view.
_AXES: Final = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True, eq=False)
class Trace:
    """One place a residue: Cα or P.

    Attributes
    ----------
    places
        (n, 3), x, y, z [Å].
    residues
        (n,), their places in the file.
    joined
        (n,), whether the chain goes on from the place before.
    """

    places: NDArray[np.float64]
    residues: NDArray[np.int64]
    joined: NDArray[np.bool_]


def trace_of(model: Model) -> Trace:
    """Return the trace of the polymers; of a model without any, all atoms but hydrogens and waters, unjoined."""
    atoms: list[int] = []
    joined: list[bool] = []
    names: list[str] = []
    for residue in model.residues:
        if residue.role != "polymer":
            continue
        own = {model.names[k]: k for k in range(residue.stop - 1, residue.start - 1, -1) if model.elements[k] in "CP"}
        name = next((one for one in _STEPS if one in own), None)
        if name is None:
            continue
        before = atoms[-1] if atoms else None
        near = False
        if before is not None and names[-1] == name:
            same = model.residues[int(model.residue_of[before])].chain == residue.chain
            apart = float(np.linalg.norm(model.points[own[name]] - model.points[before])) / 1000
            near = same and apart <= _STEPS[name]
        atoms.append(own[name])
        names.append(name)
        joined.append(near)
    if not atoms:
        atoms = [int(k) for k in np.flatnonzero(model.kinds < 3)]
        joined = [False] * len(atoms)
    chosen = np.array(atoms, dtype=np.int64)
    return Trace((model.points[chosen] + model.corner) / 1000, model.residue_of[chosen], np.array(joined, dtype=bool))


def model_section(result: Consistency, volume: Volume | None) -> str:
    """Return a section with three views: the map's projection with the trace over it, or the trace alone."""
    trace = trace_of(result.model)
    if not len(trace.places):
        return ""
    envelope = result.envelope if volume is not None else None
    outside = misfits(result)
    out = np.isin(trace.residues, list(outside))
    low, high = _window(trace, volume, envelope, out)
    size = high - low
    scale = min(
        _WIDE / sum(float(size[across]) for across, _ in _AXES), _TALL / float(max(size[up] for _, up in _AXES))
    )
    figures = ""
    for view, name in enumerate(VIEWS):
        across, up = _AXES[view]
        wide, tall = size[across], size[up]
        picture = ""
        if volume is not None and envelope is not None:
            shown = _projection(volume, envelope, view, low, high, scale, trace)
            picture = f'<image href="{png_source(shown)}" width="{wide * scale:.1f}" height="{tall * scale:.1f}"/>'
        x = (trace.places[:, across] - low[across]) * scale
        y = (high[up] - trace.places[:, up]) * scale
        figures += (
            f'<figure><svg viewBox="0 0 {wide * scale:.1f} {tall * scale:.1f}" width="{wide * scale:.0f}" role="img" '
            f'aria-label="model {name}">'
            f"{picture}{_lines(x, y, trace.joined, out)}{_scale_bar(scale, tall * scale)}</svg><figcaption>{name}: "
            f"{'xyz'[across]} to the right, {'xyz'[up]} upwards</figcaption></figure>"
        )
    keys = '<span><i class="line" style="color:#56b4e9"></i>model (Cα or P of each residue)</span>'
    if envelope is not None:
        keys += (
            '<span><i class="line" style="color:#ff8a3d"></i>residues with atoms outside the map</span>'
            '<span><i class="line" style="color:#999"></i>how far atoms may lie (contour '
            f"{envelope.contour:.3g} and {envelope.margin_in_angstroms:g} Å beyond)</span>"
        )
    title = "The model in its map" if envelope is not None else "The model"
    about = (
        "The map is summed over the depth of the model, light where it is dense."
        if envelope is not None
        else "No map was given: whether the model fits one was not asked."
    )
    if envelope is not None and envelope.doubt:
        about = "The map looks like noise: whether the model lies in it is unknown, and no residue is marked."
    return (
        f'<section id="model"><h3>{title}</h3><div class="box"><div class="views">{figures}</div>'
        f'<div class="legend">{keys}</div><p class="quiet small">{about}</p>{_ranges(result, outside)}</div></section>'
    )


def _ranges(result: Consistency, outside: frozenset[int]) -> str:
    ranges = sorted(ranges_of(result.model, outside), key=lambda one: -one.residues)
    if not ranges:
        return ""
    by_chain: dict[str, list[ResidueRange]] = {}
    for one in ranges[:_MOST_RANGES]:
        by_chain.setdefault(one.chain, []).append(one)
    rows = "".join(
        f"<li>Chain {escape(chain)}: {escape(', '.join(one.words() for one in several))}</li>"
        for chain, several in by_chain.items()
    )
    left = ranges[_MOST_RANGES:]
    more = (
        f'<p class="quiet small">and {len(left):,} shorter ranges with {sum(one.residues for one in left):,} residues, '
        "in consistency.json</p>"
        if left
        else ""
    )
    return f'<h4>Outside the map, the longest ranges first</h4><ul class="small">{rows}</ul>{more}'


def _window(
    trace: Trace, volume: Volume | None, envelope: Envelope | None, out: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners [Å] of what is shown: model and molecule; the model's surroundings where the molecule is far larger."""
    low, high = trace.places.min(axis=0), trace.places.max(axis=0)
    room = max(6.0, 0.04 * float((high - low).max()))
    if volume is not None and envelope is not None:
        size, origin = volume.voxel_size_in_angstroms, np.array(volume.origin_in_angstroms)
        ends = []
        for axis in range(3):
            filled = np.flatnonzero(envelope.inside.any(axis=tuple(k for k in range(3) if k != 2 - axis)))
            ends.append((origin[axis] + size * filled[0], origin[axis] + size * filled[-1]))
        first, last = np.array(ends).T
        both = np.minimum(low, first), np.maximum(high, last)
        if out.mean() > 0.5 or (both[1] - both[0]).max() <= 3 * (high - low).max():
            low, high = both
        else:
            room = max(room, 0.25 * float((high - low).max()))
    return low - room, high + room


def _projection(
    volume: Volume,
    envelope: Envelope,
    view: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    scale: float,
    trace: Trace,
) -> NDArray[np.uint8]:
    """Return grey (h, w): density within the envelope summed over the model's depth, and the envelope's outline."""
    size, origin = volume.voxel_size_in_angstroms, np.array(volume.origin_in_angstroms)
    depth = 2 - view  # the axis looked along; view and array axis have the same number
    near, far = trace.places[:, depth].min() - 5, trace.places[:, depth].max() + 5
    count = volume.data.shape[view]
    start = int(np.clip((near - origin[depth]) / size, 0, count))
    stop = int(np.clip(np.ceil((far - origin[depth]) / size) + 1, 0, count))
    if stop - start < 2:  # the model lies elsewhere
        start, stop = 0, count
    chosen = [slice(None)] * 3
    chosen[view] = slice(start, stop)
    inside = envelope.inside[tuple(chosen)]
    data = np.where(inside, volume.data.numpy()[tuple(chosen)], 0.0)
    plane = np.clip(data, 0.0, None).sum(axis=view)
    across, up = _AXES[view]
    wide, tall = (int(np.ceil((high[k] - low[k]) * scale)) for k in (across, up))
    rows = (high[up] - (np.arange(tall) + 0.5) / scale - origin[up]) / size
    columns = (low[across] + (np.arange(wide) + 0.5) / scale - origin[across]) / size
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    drawn = map_coordinates(plane, grid, order=1, cval=0.0)
    cover = map_coordinates(inside.any(axis=view).astype(np.float32), grid, order=1, cval=0.0) > 0.5
    most = float(np.quantile(drawn[drawn > 0], 0.995)) if (drawn > 0).any() else 1.0
    # Dim, so that the lines over it are seen.
    picture = np.clip(drawn / max(most, 1e-12), 0, 1) ** 0.8 * 165
    edge = cover & ~binary_erosion(cover, iterations=1, border_value=1)
    picture[edge] = 150
    return np.asarray(picture.astype(np.uint8))


def _lines(x: NDArray[np.float64], y: NDArray[np.float64], joined: NDArray[np.bool_], out: NDArray[np.bool_]) -> str:
    step = -(-len(x) // _MOST_PLACES)
    if step > 1:
        # A step is unbroken where all that it spans are.
        breaks = np.cumsum(~joined)
        kept = np.arange(0, len(x), step)
        joined = np.concatenate([[False], breaks[kept[1:]] == breaks[kept[:-1]]])
        x, y, out = x[kept], y[kept], out[kept]
    width = 1.6 if len(x) < 1500 else 1.0 if len(x) < 5000 else 0.7
    ways = {"in": "", "out": ""}
    for k in range(1, len(x)):
        if joined[k]:
            way = "out" if out[k] and out[k - 1] else "in"
            goes_on = k > 1 and joined[k - 1] and way == ("out" if out[k - 1] and out[k - 2] else "in")
            ways[way] += "" if goes_on else f"M{x[k - 1]:.1f} {y[k - 1]:.1f}"
            ways[way] += f"L{x[k]:.1f} {y[k]:.1f}"
    drawn = f'<path class="t-in" stroke-width="{width}" d="{ways["in"]}"/>' if ways["in"] else ""
    if ways["out"]:
        drawn += f'<path class="t-out" stroke-width="{1.6 * width:g}" d="{ways["out"]}"/>'
    lone = ~joined & ~np.append(joined[1:], False)
    drawn += "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{width}" fill="#56b4e9"/>'
        for a, b in zip(x[lone & ~out], y[lone & ~out], strict=True)
    )
    drawn += "".join(
        f'<circle class="o-out" cx="{a:.1f}" cy="{b:.1f}" r="{1.5 * width:g}"/>'
        for a, b in zip(x[out], y[out], strict=True)
    )
    return drawn


def _scale_bar(scale: float, bottom: float) -> str:
    long = next((one for one in (500, 200, 100, 50, 20, 10, 5, 2) if one * scale <= 110), 1)
    return (
        f'<path d="M10 {bottom - 10:.1f}h{long * scale:.1f}" stroke="#fff" stroke-width="2.5"/><text x="10" '
        f'y="{bottom - 16:.1f}" style="fill:#fff;font:12px system-ui,sans-serif">{long} Å</text>'
    )
