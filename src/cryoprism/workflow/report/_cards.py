"""One card per micrograph: pictures, spectrum, fit, and the table of causes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ._numbers import UNKNOWN, bit_unit, escape, family_of, flag_words, label_of, measured, plain, share
from ._panels import Panel, jpeg_source, mask_source, spectrum_picture
from ._plots import Frame, bar, curve, svg, ticks
from ._session import leading, lost_bits, scale_of
from ._style import MASK_COLOURS, MASK_LABELS

__all__ = ["NOT_FOR_RECONSTRUCTION", "card", "flags_of", "limit_of", "thumbnail"]

NOT_FOR_RECONSTRUCTION: Final = "view: for eyes and pickers only, not for reconstruction"
_CIRCLES: Final = (10.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0)  # Å


def card(
    number: int, entry: Mapping[str, Any], panel: Panel | None, graph: Mapping[str, Any], rank: str, budget: int
) -> str:
    """Return the card of one micrograph.

    Parameters
    ----------
    number
        Position in the session from 1: the card's address is ``#m<number>``.
    entry
        Item of ``micrographs`` of ``causes.json``.
    panel
        Its pictures; None if there are none.
    graph
        Of the session, for the families.
    rank
        Words for its place by information.
    budget
        Bytes that one picture may take.
    """
    parts = [
        f'<article class="box card" id="m{number}"><div class="card-head"><h3>{number}. '
        f"{escape(entry['name'])}</h3>{flags_of(entry)}"
        f'<span class="quiet small">{rank}</span></div>{_facts(entry, panel)}'
    ]
    if panel is None:
        parts.append(
            '<p class="notice">There are no pictures of this micrograph: it failed before they were drawn, or '
            "its file is missing.</p>"
        )
        parts.append(f"{_causes(entry, graph)}{_abstentions(entry)}</article>")
        return "".join(parts)
    parts.append(_pictures(entry["name"], panel, budget))
    left, right = _rings(panel) + _powers(panel), _causes(entry, graph)
    # The list of abstentions goes where there is room.
    if sum(cause["identifiable"] for cause in entry["causes"].values()) > 8:
        left += _abstentions(entry)
    else:
        right += _abstentions(entry)
    parts.append(f'<div class="fit"><div>{left}</div><div class="scroll">{right}</div></div></article>')
    return "".join(parts)


def flags_of(entry: Mapping[str, Any]) -> str:
    """Badges that say what to look at."""
    return " ".join(f'<span class="flag">⚑ {escape(flag_words([flag]))}</span>' for flag in entry["flags"])


def limit_of(entry: Mapping[str, Any]) -> str:
    """How far the fit reaches."""
    return measured(entry.get("fit_limit_in_angstroms"), None, "Å", decimals=2)


def thumbnail(name: str, panel: Panel | None, budget: int) -> str:
    """Small picture of the restored view for the list of best and worst."""
    if panel is None:
        return '<div class="nothing">no picture</div>'
    picture = panel.after
    height, width = (n // 2 * 2 for n in picture.shape)
    if min(height, width) > 200:
        picture = picture[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)).astype(np.uint8)
    source = jpeg_source(np.ascontiguousarray(picture), budget)
    return f'<div class="picture"><img src="{source}" alt="Restored view of {escape(name)}"></div>'


def _facts(entry: Mapping[str, Any], panel: Panel | None) -> str:
    unit = bit_unit([entry["ideal_information_in_bits"]["mean"]])
    lost = measured(lost_bits(entry), None, unit.name, divide_by=unit.bits)
    facts = [f"information {unit.html(entry['information_in_bits'])}", f"lost {lost}", f"fit limit {limit_of(entry)}"]
    if entry.get("correlation") is not None:
        facts.append(f"correlation with the fit {measured(entry['correlation'], decimals=2)}")
    defocus = leading(entry, "defocus")
    if panel is not None and defocus is not None:
        facts.append(
            f"defocus {plain(panel.defocus_u, 5)} / {plain(panel.defocus_v, 5)} Å at {plain(panel.defocus_angle, 3)}°"
        )
    return '<div class="card-facts small">' + "".join(f"<span>{fact}</span>" for fact in facts) + "</div>"


def _pictures(name: str, panel: Panel, budget: int) -> str:
    safe, bar_length = escape(name), _scale_bar(panel)
    shown = (
        (panel.before, f"Micrograph {safe} before", "before"),
        (panel.after, f"Micrograph {safe} after restoration", "after"),
        (panel.residual, f"Residual of {safe}: before minus after", "residual: what was taken away"),
    )
    figures = "".join(
        f'<figure><div class="picture"><img src="{jpeg_source(picture, budget)}" alt="{alt}" loading="lazy"><div '
        f'class="mask"></div>{bar_length}</div>'
        f"<figcaption>{caption}<br><span class='caution'>{NOT_FOR_RECONSTRUCTION}</span></figcaption></figure>"
        for picture, alt, caption in shown
    )
    labels = [label for label in range(1, len(MASK_LABELS)) if bool((panel.mask == label).any())]
    if labels:
        areas = ", ".join(
            f"{MASK_LABELS[label]} {plain(100 * float((panel.mask == label).mean()), 2)} %" for label in labels
        )
        mask = f' style="--mask:url({mask_source(panel.mask)})"'
        switch = (
            f'<input type="checkbox" class="mask-toggle mask-switch" id="t-{_identity(name)}"><label '
            f'class="mask-switch small" for="t-{_identity(name)}"> '
            f"show the artefact mask ({areas} of the area)</label>"
        )
        keys = "".join(
            f'<span><span class="dot" style="background:rgb{MASK_COLOURS[label]}"></span>{MASK_LABELS[label]}</span>'
            for label in labels
        )
        switch += f'<div class="legend mask-key">{keys}</div>'
    else:
        mask, switch = "", '<span class="quiet small">artefact mask: nothing masked</span>'
    return f'{switch}<div class="pictures"{mask}>{figures}{_spectrum(safe, panel, budget)}</div>'


def _identity(name: str) -> str:
    return name.encode("utf-8").hex()


def _scale_bar(panel: Panel) -> str:
    height, width = panel.before.shape
    pixel = panel.pixel_size / 10  # nm
    if not (pixel > 0 and math.isfinite(pixel)):
        return ""
    length = _round_below(0.36 * width * pixel)
    x, y, size = 0.04 * width, 0.95 * height, 0.06 * width
    body = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{length / pixel:.1f}" height="{0.014 * width:.1f}" '
        f'style="fill:#fff;stroke:#000;stroke-width:.8"/>'
        f'<text x="{x:.1f}" y="{y - 0.02 * width:.1f}" style="font-size:{size:.0f}px">{length:g} nm</text>'
    )
    return svg(width, height, body, f"scale bar of {length:g} nm")


def _round_below(value: float) -> float:
    """Largest of 1, 2, 5, 10, … that is not larger than a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(m * power for m in (1.0, 2.0, 5.0) if m * power <= value)


def _spectrum(safe: str, panel: Panel, budget: int) -> str:
    n = panel.spectrum.shape[0]
    centre, per_frequency, size = n // 2 + 0.5, n / 2 / panel.spectrum_edge, 0.05 * n
    parts = [f'<path d="M{centre} 0V{n}" style="stroke:#fff;stroke-width:{n / 400:.1f};opacity:.6"/>']
    last = 0.0
    for spacing in _CIRCLES:
        radius = per_frequency / spacing
        if radius > 0.98 * n / 2 or radius - last < 0.16 * n / 2:
            continue
        last = radius
        x, y = centre + 0.7071 * radius, centre - 0.7071 * radius
        parts.append(
            f'<circle cx="{centre}" cy="{centre}" r="{radius:.1f}" '
            f'style="fill:none;stroke:#fff;opacity:.35;stroke-width:{n / 400:.1f}"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" style="font-size:{0.8 * size:.0f}px">{spacing:g} Å</text>')
    caption = "no Thon rings found"
    if math.isfinite(panel.limit) and panel.limit > 0:
        points = []
        for step in range(73):
            angle = step * math.pi / 36
            radius = per_frequency * panel.ring_at(1 / panel.limit, angle)
            points.append(f"{centre + radius * math.cos(angle):.1f} {centre + radius * math.sin(angle):.1f}")
        parts.append(
            f'<path d="M{"L".join(points)}Z" '
            f'style="fill:none;stroke:#ffb000;stroke-width:{n / 160:.1f};stroke-dasharray:{n / 40:.0f} {n / 60:.0f}"/>'
        )
        caption = f"dashed: the fit reaches {plain(panel.limit)} Å"
    for x, anchor, text in ((0.02 * n, "start", "observed"), (0.98 * n, "end", "fitted")):
        parts.append(
            f'<text x="{x:.0f}" y="{0.07 * n:.0f}" text-anchor="{anchor}" style="font-size:{1.1 * size:.0f}px">'
            f"{text}</text>"
        )
    if math.isfinite(panel.limit):
        parts.append(
            f'<text x="{0.02 * n:.0f}" y="{0.97 * n:.0f}" style="font-size:{1.1 * size:.0f}px">averaged</text>'
        )
        parts.append(f'<path d="M0 {centre}H{centre}" style="stroke:#fff;stroke-width:{n / 400:.1f};opacity:.6"/>')
    overlay = svg(n, n, "".join(parts), "circles of resolution and the reach of the fit")
    source = jpeg_source(spectrum_picture(panel), budget)
    words = "observed at the upper left, averaged along curves of equal phase at the lower left, fitted on the right"
    return (
        f'<figure><div class="picture"><img src="{source}" alt="Power spectrum of {safe}: {words}" loading="lazy">'
        f'{overlay}</div><figcaption>power spectrum; {caption}<br><span class="caution">{NOT_FOR_RECONSTRUCTION}</span>'
        "</figcaption></figure>"
    )


def _frequencies(frame: Frame) -> list[tuple[float, str]]:
    return [(k, f"{k:g}" if k == 0 else f"{k:g} ({plain(1 / k, 2)} Å)") for k in ticks(*frame.x, 4)]


def _limit_line(frame: Frame, panel: Panel, *, label: bool) -> str:
    if not (math.isfinite(panel.limit) and panel.limit > 0 and frame.x[0] < 1 / panel.limit <= frame.x[1]):
        return ""
    x = frame.at_x(1 / panel.limit)
    side, anchor = (-5, "end") if x > frame.left + 0.6 * frame.width else (5, "start")
    text = (
        f'<text class="tick" x="{x + side:.1f}" y="{frame.top + 11:g}" text-anchor="{anchor}">limit '
        f"{plain(panel.limit)} Å</text>"
        if label
        else ""
    )
    return f'<path class="whisker" stroke-dasharray="4 3" d="M{x:.1f} {frame.top:g}v{frame.height:g}"/>{text}'


def _key(x: float, y: float, colour: str, text: str) -> str:
    line = f'<path class="curve" style="stroke:var(--{colour})" stroke-width="2.5" d="M{x:g} {y - 4:g}h18"/>'
    return f'{line}<text class="tick" x="{x + 23:g}" y="{y:g}">{text}</text>'


def _range(k: NDArray[np.float64]) -> tuple[float, float]:
    finite = k[np.isfinite(k)]
    return (0.0, float(finite.max()) if finite.size and finite.max() > 0 else 1.0)


def _rings(panel: Panel) -> str:
    """Observed and fitted oscillation, and below it how well they agree."""
    shown = np.concatenate([panel.observed, panel.fitted])
    shown = np.abs(shown[np.isfinite(shown)])
    reach = float(np.quantile(shown, 0.97)) * 1.35 if shown.size else 1.0
    reach = reach if reach > 0 else 1.0
    upper = Frame(48, 22, 420, 118, _range(panel.k), (-reach, reach))
    lower = Frame(48, 152, 420, 56, upper.x, (-0.5, 1.0))
    body = (
        upper.axes("", "Thon rings", x_ticks=[], y_ticks=[(0.0, "0")])
        + curve(upper, panel.k, panel.observed, "observed")
        + curve(upper, panel.k, panel.fitted, "fitted", width=1.7)
        + _limit_line(upper, panel, label=True)
        + lower.axes(
            "spatial frequency [1/Å]",
            "correlation",
            x_ticks=_frequencies(lower),
            y_ticks=[(0.0, "0"), (0.5, "0.5"), (1.0, "1")],
        )
        + curve(lower, panel.k, panel.correlation, "specimen", width=1.8)
        + _limit_line(lower, panel, label=False)
        + _key(52, 14, "observed", "observed without background")
        + _key(252, 14, "fitted", "fitted")
        + _key(324, 14, "specimen", "correlation of the two")
    )
    return svg(
        500,
        246,
        body,
        "Thon rings along curves of equal phase: observed, fitted, and their correlation against spatial frequency",
    )


def _power_of_ten(logarithm: float) -> str:
    """Write 10 to a power without many noughts."""
    if abs(logarithm) < 3.9:
        return plain(10.0**logarithm, 1)
    power = math.floor(logarithm + 1e-9)
    factor = round(10 ** (logarithm - power))
    tens = "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return tens if factor == 1 else f"{factor}·{tens}"


def _decades(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2, 5, 10, … between two logarithms; of powers of ten alone where those are enough."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for steps in ((1.0,), (1.0, 2.0, 5.0)):
        found = [power + math.log10(m) for power in powers for m in steps if low <= power + math.log10(m) <= high]
        if len(found) >= 3:
            return found[:: max(1, len(found) // 5)]
    return found


def _powers(panel: Panel) -> str:
    """Mean power on a logarithmic scale."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [
            np.where(p > 0, np.log10(p), np.nan) for p in (panel.radial_power, panel.radial_model, panel.radial_noise)
        ]
    seen = np.concatenate(logs[:2])
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(np.quantile(seen, 0.995))) if seen.size else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.5
    frame = Frame(48, 22, 420, 108, _range(panel.k), (low - pad, high + pad))
    y_ticks = [(t, _power_of_ten(t)) for t in _decades(low, high)]
    body = (
        frame.axes("spatial frequency [1/Å]", "mean power (log)", x_ticks=_frequencies(frame), y_ticks=y_ticks)
        + curve(frame, panel.k, logs[0], "observed")
        + curve(frame, panel.k, logs[1], "fitted", width=1.7)
        + curve(frame, panel.k, logs[2], "noise", width=1.7, dash="5 3")
        + _key(52, 14, "observed", "observed")
        + _key(150, 14, "fitted", "model")
        + _key(230, 14, "noise", "its part without rings: noise")
    )
    return svg(
        500,
        168,
        body,
        "Mean power against spatial frequency on a logarithmic scale: observed, model, and the noise in the model",
    )


def _causes(entry: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    """Bits and parameters of every cause; the largest loss first, abstentions last."""
    causes = entry["causes"]
    priced = {name: cause["bits_lost"] for name, cause in causes.items() if cause["bits_lost"] is not None}
    unit = bit_unit([loss["mean"] for loss in priced.values()])
    low, high = scale_of(priced)
    lost = lost_bits(entry)
    known = [name for name in causes if causes[name]["identifiable"]]
    order = sorted(known, key=lambda n: (n not in priced, -priced[n]["mean"] if n in priced else 0.0))
    rows = []
    for name in order:
        cause, family = causes[name], family_of(name, graph)
        loss = priced.get(name)
        picture = (
            ""
            if loss is None
            else bar(
                loss["mean"], loss["standard_deviation"], low, high, family, label=f"{label_of(name)}: bar", width=100
            )
        )
        dot = f'<span class="dot key f-{family}"></span>'
        rows.append(
            f'<tr><th scope="row">{dot}{escape(label_of(name))}</th><td>{_parameters(cause)}</td>'
            f'<td class="bar">{picture}</td><td class="number">{unit.html(loss, unit=False)}</td><td '
            f'class="number">{share(loss, lost)}</td>'
            f'<td class="number">{measured(cause["weight"], decimals=2)}</td></tr>'
        )
    if not rows:
        return '<p class="quiet">No cause could be told.</p>'
    return (
        '<table class="compact"><thead><tr><th scope="col">cause</th><th scope="col">mean ± standard deviation</th>'
        f'<th scope="col" colspan="2">information lost [{unit.name}]</th><th scope="col" class="number">of the '
        f"loss</th>"
        f'<th scope="col" class="number">weight</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _abstentions(entry: Mapping[str, Any]) -> str:
    """Causes of which this micrograph tells nothing, with the reason."""
    rows = "".join(
        f"<dt>{escape(label_of(name))}</dt><dd>{escape(cause.get('reason', 'no reason was recorded'))}</dd>"
        for name, cause in entry["causes"].items()
        if not cause["identifiable"]
    )
    return (
        f'<p class="abstentions"><b>Cannot be told from these data</b></p><dl class="abstentions">{rows}</dl>'
        if rows
        else ""
    )


def _parameters(cause: Mapping[str, Any]) -> str:
    lines = []
    for name, value in cause["parameters"].items():
        text = measured(value["mean"], value["standard_deviation"], value["unit"])
        if not value["identifiable"]:
            text = f'<span class="quiet">{text} (prior)</span>' if value["mean"] is not None else UNKNOWN
        named = len(cause["parameters"]) > 1 or value["unit"] in ("", "1")
        key = f'<span class="quiet">{escape(name.replace("_", " "))}</span> ' if named else ""
        lines.append(f"{key}{text}")
    return "<br>".join(lines) or UNKNOWN
