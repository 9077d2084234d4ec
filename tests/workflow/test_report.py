"""The report: every name and number of the document is on the page, and nothing else is needed to show it."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cryoprism.causes.graph import CAUSES, STAGES, default_graph
from cryoprism.core import InputError
from cryoprism.workflow.report import write_graph, write_report
from cryoprism.workflow.report._numbers import bit_unit, plain, with_error
from cryoprism.workflow.report._panels import jpeg_source, read_panel, spectrum_picture
from cryoprism.workflow.report._plots import ticks

WAVELENGTH = 0.01969  # Å at 300 kV


def _value(mean: float | None, deviation: float | None, unit: str, identifiable: bool = True) -> dict[str, Any]:
    return {"mean": mean, "standard_deviation": deviation, "unit": unit, "identifiable": identifiable}


def _loss(mean: float, deviation: float) -> dict[str, float]:
    return {"mean": mean, "standard_deviation": deviation}


def _micrograph(name: str, rng: np.random.Generator, rings: bool = True) -> dict[str, Any]:
    """Estimates of one micrograph such as a session of ferritin gives."""
    u = rng.uniform(9000, 24000)
    length, angle = rng.gamma(3, 1.6), rng.uniform(0, math.pi)
    parameters: dict[str, dict[str, Any]] = {
        "defocus": {"defocus": _value(u, rng.uniform(9, 40), "Å")},
        "astigmatism": {
            "astigmatism": _value(rng.uniform(80, 800), 21.0, "Å"),
            "angle": _value(rng.normal(-55, 5), 1.6, "degrees"),
        },
        "motion": {
            "drift_y": _value(length * math.sin(angle), 0.4, "Å"),
            "drift_x": _value(length * math.cos(angle), 0.4, "Å"),
        },
        "envelope": {"b_factor": _value(rng.normal(95, 20), 8.0, "Å²")},
        "ice_thickness": {"thickness": _value(rng.normal(420, 90), 60.0, "Å")},
        "tilt": {"tilt": _value(rng.gamma(2, 1.5), 1.1, "degrees")},
        "damage": {"exposure": _value(41.3, 1.2, "e/Å²")},
        "detector": {"mtf": _value(0.61, 0.02, "1")},
        "carbon": {"area": _value(rng.uniform(0, 0.03), 0.004, "1")},
        "contamination": {"area": _value(rng.uniform(0, 0.05), 0.006, "1")},
        "crystalline_ice": {"excess": _value(0.02, 0.02, "1")},
        "defects": {"share": _value(0.003, 0.001, "1")},
    }
    bits = {
        "motion": (9000 * length, 2200.0),
        "envelope": (21000.0 + rng.normal(0, 3000), 3100.0),
        "ice_thickness": (8000.0, 1500.0),
        "damage": (15000.0, 900.0),
        "detector": (12000.0, 400.0),
        "carbon": (900.0, 130.0),
        "contamination": (1400.0 + rng.uniform(0, 900), 210.0),
        "tilt": (500.0, 700.0),
        "crystalline_ice": (-60.0, 90.0),
        "defects": (310.0, 25.0),
    }
    causes: dict[str, Any] = {}
    for cause in CAUSES.values():
        known = cause.name in parameters and (rings or cause.family != "aberrations")
        lost = _loss(*bits[cause.name]) if known and cause.name in bits else None
        values = copy.deepcopy(parameters.get(cause.name, {}))
        if not known:
            for value in values.values():
                value["identifiable"] = False
        entry = {"identifiable": known, "weight": float(rng.uniform(0.05, 0.9)) if known else 0.0}
        causes[cause.name] = entry | {"bits_lost": lost, "parameters": values}
        if not known:
            causes[cause.name]["reason"] = cause.unidentifiable_when
    lost_bits = sum(c["bits_lost"]["mean"] for c in causes.values() if c["bits_lost"])
    kept = rng.uniform(60000, 120000) if rings else 210.0
    return {
        "name": name,
        "flags": [] if rings else ["no_thon_rings"],
        "information_in_bits": _loss(kept, 1800.0),
        "ideal_information_in_bits": _loss(kept + lost_bits, 4300.0),
        "fit_limit_in_angstroms": rng.uniform(3.6, 5.2) if rings else None,
        "correlation": rng.uniform(0.6, 0.95) if rings else None,
        "causes": causes,
    }


def _document(names: list[str], without_rings: tuple[str, ...] = ()) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    micrographs = [_micrograph(name, rng, name not in without_rings) for name in names]
    ledger: dict[str, dict[str, float]] = {}
    for name in CAUSES:
        losses = [m["causes"][name]["bits_lost"] for m in micrographs if m["causes"][name]["bits_lost"]]
        if losses:
            ledger[name] = _loss(
                sum(loss["mean"] for loss in losses), math.hypot(*(loss["standard_deviation"] for loss in losses))
            )
    graph = default_graph()
    weights = {
        n: float(np.mean([m["causes"][n]["weight"] for m in micrographs])) if micrographs else 0.0 for n in CAUSES
    }
    judged = {
        n: {"bounds": 1.0, "information": 0.3, "repeatability": 0.91, "stability": 0.97, "in_distribution": 0.99}
        | {"weight": weights[n], "shift_in_standard_deviations": 0.1}
        for n in ledger
    }
    first = {n: g | {"shift_in_standard_deviations": 1.0 + 0.31 * i} for i, (n, g) in enumerate(judged.items())}
    session = {
        "micrographs": len(micrographs),
        "information_in_bits": _loss(sum(m["information_in_bits"]["mean"] for m in micrographs), 5100.0),
        "ideal_information_in_bits": _loss(sum(m["ideal_information_in_bits"]["mean"] for m in micrographs), 12100.0),
        "ledger": ledger,
        "priors": {
            "envelope": {"b_factor": {"mean": 97.3, "standard_deviation": 22.1, "unit": "Å²"}},
            "motion": {"drift_x": {"mean": 0.0, "standard_deviation": 3.27, "unit": "Å"}},
        },
        "loop": {
            "converged": True,
            "passes": 2,
            "trace": [{"pass": 1, "causes": first}, {"pass": 2, "causes": judged}],
        },
        "graph": {
            "nodes": [{"name": c.name, "family": c.family, "weight": weights[c.name]} for c in CAUSES.values()]
            + [{"name": stage, "family": "image", "weight": 1.0} for stage in STAGES],
            "edges": [{"from": a, "to": b, "weight": weights.get(a, 1.0)} for a, b in graph.edges],
        },
    }
    return {
        "schema": "cryoprism-causes-1",
        "cryoprism_version": "0.1.0",
        "session": session,
        "micrographs": micrographs,
    }


def _panel(path: Path, entry: dict[str, Any], rng: np.random.Generator, size: int = 480) -> None:
    """Dark discs in noise, Thon rings of a real lens, and curves that part at the fit's limit."""
    rings = not entry["flags"]
    defocus, limit = entry["causes"]["defocus"]["parameters"]["defocus"]["mean"], entry["fit_limit_in_angstroms"]
    half = 0.5 * entry["causes"]["astigmatism"]["parameters"]["astigmatism"]["mean"]
    y, x = np.mgrid[:size, : size - 16]
    specimen = np.zeros(y.shape)
    for _ in range(60):
        cy, cx = rng.uniform(0, size, 2)
        r = np.hypot(y - cy, x - cx)
        specimen -= np.exp(-(((r - 8) / 3.0) ** 2))
    noise = rng.normal(size=y.shape)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 1.6
    before = 128 + 22 * specimen + 34 * noise
    after = 150 + 60 * specimen + 5 * noise
    mask = np.zeros(y.shape, dtype=np.uint8)
    mask[x > size - 70 + 0.1 * y] = 3
    mask[np.hypot(y - 100, x - 90) < 35] = 2
    mask[300, :] = 1
    n, edge = 480, 0.3
    ky, kx = ((np.mgrid[:n, :n] - n // 2) * edge / (n // 2)).astype(float)
    angle = np.arctan2(ky, kx)
    local = defocus + half * np.cos(2 * (angle - math.radians(-55)))
    k2 = kx**2 + ky**2
    phase = np.pi * WAVELENGTH * local * k2 - 0.5 * np.pi * 2.7e7 * WAVELENGTH**3 * k2**2
    ctf2 = np.sin(phase + 0.07) ** 2 * np.exp(-95 * k2 / 2) * rings
    spectrum = np.where(kx < 0, ctf2 + 0.25 * rng.gamma(6, 1 / 6, kx.shape), ctf2 + 0.25)
    k = np.linspace(0.01, edge, 260)
    fitted = 0.5 * (1 - 2 * np.sin(np.pi * WAVELENGTH * defocus * k**2 + 0.07) ** 2) * np.exp(-95 * k**2 / 2) * -rings
    reach = 1 / limit if limit else 0.0
    agree = 0.95 / (1 + np.exp((k - reach) / 0.012)) if limit else np.zeros_like(k)
    noise_power = 3 * np.exp(-6 * k) + 1
    model = noise_power + 14 * np.exp(-12 * k) * (0.5 + fitted)
    np.savez(
        path,
        before=np.clip(before, 0, 255).astype(np.uint8),
        after=np.clip(after, 0, 255).astype(np.uint8),
        residual=np.clip(128 + 30 * noise, 0, 255).astype(np.uint8),
        mask=mask,
        spectrum=np.clip(200 * spectrum, 0, 255).astype(np.uint8),
        spectrum_edge=edge,
        k=k,
        observed=fitted * agree + 0.05 * rng.normal(size=k.size),
        fitted=fitted,
        correlation=agree + 0.05 * rng.normal(size=k.size),
        radial_power=model * (1 + 0.05 * rng.normal(size=k.size)),
        radial_model=model,
        radial_noise=noise_power,
        pixel_size=4.3,
        limit=limit or math.inf,
        defocus_u=defocus + half,
        defocus_v=defocus - half,
        defocus_angle=-55.0,
    )


NAMES = [f"MotionCorr/job002/May08_03.{i:02d}.02.bin.mrc" for i in range(6)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Six micrographs: one without rings, one whose pictures are missing."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "panels").mkdir()
    document = _document(NAMES, without_rings=(NAMES[3],))
    for index, entry in enumerate(document["micrographs"]):
        if index != 4:
            _panel(folder / "panels" / f"{Path(entry['name']).stem}.npz", entry, np.random.default_rng(index))
    path = write_report(folder, document, title="Ferritin <script>alert('x')</script> & friends")
    return folder, document, path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Numbers, addresses, tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[float, float | None]] = []
        self.addresses: list[str] = []
        self.targets: set[str] = set()
        self.without_words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "data":
            deviation = given.get("data-deviation")
            self.numbers.append((float(given["value"] or "nan"), None if deviation is None else float(deviation)))
        self.addresses += [given[key] or "" for key in ("src", "href", "srcset", "data", "action") if key in given]
        if "id" in given:
            assert given["id"] not in self.targets, f"id {given['id']} twice"
            self.targets.add(given["id"] or "")
        if (tag == "img" and not given.get("alt")) or (tag == "svg" and not given.get("aria-label")):
            self.without_words.append(tag)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("path", "rect", "circle"):
            return
        raise AssertionError(f"<{tag}/> is not closed in HTML")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_generator_follows_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((files("cryoprism.workflow") / "schemas" / "causes.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(_document(NAMES, without_rings=(NAMES[3],)), schema)


def test_page_is_well_formed_and_needs_nothing_else(session: tuple[Path, dict[str, Any], str]) -> None:
    text = session[2]
    page = _Page(text)
    assert page.open == []
    assert page.without_words == []
    for address in page.addresses:
        assert address.startswith(("data:image/", "#")), address[:60]
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= page.targets
    assert not re.search(r"https?://|@import|url\((?!data:|#)", text)


def test_all_names_flags_and_user_text_are_there_and_escaped(session: tuple[Path, dict[str, Any], str]) -> None:
    _, document, text = session
    for entry in document["micrographs"]:
        assert entry["name"] in text
    assert "no Thon rings" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; friends" in text
    for cause in CAUSES.values():
        assert cause.label in text


def test_numbers_are_those_of_the_document(session: tuple[Path, dict[str, Any], str]) -> None:
    _, document, text = session
    numbers = _Page(text).numbers
    wanted: list[tuple[float, float | None]] = []
    for part in (document["session"], *document["micrographs"]):
        quantity = part["information_in_bits"]
        wanted.append((quantity["mean"], quantity["standard_deviation"]))
        wanted.append((part["ideal_information_in_bits"]["mean"] - quantity["mean"], None))
    wanted += [(q["mean"], q["standard_deviation"]) for q in document["session"]["ledger"].values()]
    for entry in document["micrographs"]:
        for cause in entry["causes"].values():
            if cause["identifiable"]:
                wanted.append((cause["weight"], None))
                wanted += [(p["mean"], p["standard_deviation"]) for p in cause["parameters"].values()]
            if cause["bits_lost"]:
                wanted.append((cause["bits_lost"]["mean"], cause["bits_lost"]["standard_deviation"]))
        if entry["fit_limit_in_angstroms"] is not None:
            wanted += [(entry["fit_limit_in_angstroms"], None), (entry["correlation"], None)]
    for priors in document["session"]["priors"].values():
        wanted += [(p["mean"], p["standard_deviation"]) for p in priors.values()]
    missing = [pair for pair in wanted if pair not in numbers]
    assert missing == []


def test_abstentions_say_why(session: tuple[Path, dict[str, Any], str]) -> None:
    text = session[2]
    flagged = text[text.index('id="m4"') : text.index('id="m5"')]
    assert "<dt>defocus</dt><dd>no Thon rings rise above the noise</dd>" in flagged
    assert "no Thon rings found" in flagged
    assert text.count('stroke-dasharray="4 4"') >= 6  # nodes of the graph that no micrograph tells


def test_missing_or_broken_pictures_leave_a_note(session: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, document, text = session
    note = "There are no pictures of this micrograph"
    assert text.count(note) == 1
    assert note in text[text.index('id="m5"') : text.index('id="m6"')]
    (tmp_path / "panels").mkdir()
    stems = [Path(name).stem for name in NAMES]
    whole = (folder / "panels" / f"{stems[0]}.npz").read_bytes()
    (tmp_path / "panels" / f"{stems[0]}.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "panels" / f"{stems[1]}.npz").write_bytes(b"not an archive")
    np.savez(tmp_path / "panels" / f"{stems[2]}.npz", before=np.zeros((4, 4), dtype=np.uint8))
    assert write_report(tmp_path, document).read_text(encoding="utf-8").count(note) == len(NAMES)


def test_no_micrograph_gets_the_picture_of_another(session: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    """``a.01`` looks like a suffix, but ``a`` is another micrograph; and two twins may not share one file."""
    folder = session[0]
    (tmp_path / "panels").mkdir()
    picture = (folder / "panels" / f"{Path(NAMES[0]).stem}.npz").read_bytes()
    (tmp_path / "panels" / "a.npz").write_bytes(picture)
    text = write_report(tmp_path, _document(["a", "a.01"])).read_text(encoding="utf-8")
    assert "There are no pictures" not in text[text.index('id="m1"') : text.index('id="m2"')]
    assert "There are no pictures" in text[text.index('id="m2"') :]
    text = write_report(tmp_path, _document(["x/a.mrc", "y/a.mrc"])).read_text(encoding="utf-8")
    assert text.count("There are no pictures") == 2


def test_large_session_shows_both_ends_and_stays_small(tmp_path: Path) -> None:
    names = [f"m{index:03d}.mrc" for index in range(70)]
    document = _document(names)
    (tmp_path / "panels").mkdir()
    ranked = sorted(document["micrographs"], key=lambda entry: entry["information_in_bits"]["mean"])
    _panel(tmp_path / "panels" / "first.npz", ranked[0], np.random.default_rng(0))
    one = (tmp_path / "panels" / "first.npz").read_bytes()
    for entry in document["micrographs"]:
        (tmp_path / "panels" / f"{Path(entry['name']).stem}.npz").write_bytes(one)
    path = write_report(tmp_path, document)
    text = path.read_text(encoding="utf-8")
    shown = set(re.findall(r'<article class="box card" id="m(\d+)"', text))
    ends = [*ranked[:20], *ranked[-20:]]
    assert shown == {str(names.index(entry["name"]) + 1) for entry in ends}
    assert all(name in text for name in names)
    assert "in full, in causes.json" in text
    assert path.stat().st_size < 25_000_000


def test_empty_session_and_a_loop_that_did_not_settle(tmp_path: Path) -> None:
    document = _document([])
    document["session"]["loop"] = {"converged": False, "passes": 0, "trace": []}
    page = _Page(write_report(tmp_path, document).read_text(encoding="utf-8"))
    assert page.open == []
    document = _document(NAMES[:1])
    document["session"]["loop"]["converged"] = False
    assert "did not settle" in write_report(tmp_path, document).read_text(encoding="utf-8")


def test_scale_bar_and_rings_have_the_size_they_claim(session: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, text = session
    panel = read_panel(folder / "panels" / f"{Path(NAMES[0]).stem}.npz")
    assert panel is not None
    width, nanometres = re.search(
        r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"[^>]*/><text[^>]*>(\d+) nm', text
    ).groups()  # type: ignore[union-attr]
    assert float(width) * panel.pixel_size / 10 == pytest.approx(float(nanometres), rel=0.01)
    for angle in (0.0, 0.7, 2.1):
        local = 0.5 * (panel.defocus_u + panel.defocus_v) + 0.5 * (panel.defocus_u - panel.defocus_v) * math.cos(
            2 * (angle + math.radians(55))
        )
        k = panel.ring_at(0.2, angle)
        assert k**2 * local == pytest.approx(0.2**2 * 0.5 * (panel.defocus_u + panel.defocus_v), rel=1e-9)


@pytest.mark.parametrize(
    ("mean", "deviation", "words"),
    [
        (21075.3, 51.2, "21\u202f075 ± 51"),
        (-0.0361, 0.022, "\u22120.036 ± 0.022"),
        (5.0, 0.0, "5.000"),
        (2e9, 3e8, "2e+09 ± 3e+08"),
    ],
)
def test_errors_set_the_digits(mean: float, deviation: float, words: str) -> None:
    assert with_error(mean, deviation) == words


def test_small_helpers() -> None:
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(3, 3) == [3]
    assert plain(None) == plain(math.nan) == "–"
    assert bit_unit([3.2e6, -10.0]).name == "Mbit"
    assert bit_unit([]).name == "bit"
    noise = np.random.default_rng(1).integers(0, 255, (300, 300)).astype(np.uint8)
    assert len(jpeg_source(noise, 10_000)) < len(jpeg_source(noise, 10_000_000))


def test_averaged_quarter_of_the_spectrum_lies_on_the_fitted_rings(session: tuple[Path, dict[str, Any], str]) -> None:
    """Opposite points of the Fourier plane hold the same power: the lower left quarter meets the upper right one."""
    panel = read_panel(session[0] / "panels" / f"{Path(NAMES[0]).stem}.npz")
    assert panel is not None
    picture = spectrum_picture(panel).astype(float)
    n = len(picture)
    averaged = picture[n // 2 + 1 :, 1 : n // 2]
    y, x = np.mgrid[n // 2 + 1 : n, 1 : n // 2]
    fitted = picture[n - y, n - x]  # the same |k| at the opposite side
    radius = np.hypot(y - n // 2, x - n // 2) * 2 * panel.spectrum_edge / n
    # Compare away from the middle and only as far as the noise allows; each ring is brought to one strength.
    ring = (radius > 0.05) & (radius < 0.12)
    bins = (radius[ring] / 0.012).astype(int)
    a, f = averaged[ring], fitted[ring]
    for number in np.unique(bins):
        for values in (a, f):
            values[bins == number] -= values[bins == number].mean()
            values[bins == number] /= values[bins == number].std()
    assert np.corrcoef(a, f)[0, 1] > 0.8
    turned = replace(panel, defocus_u=0.8 * panel.defocus_u, defocus_v=1.2 * panel.defocus_v)
    wrong = spectrum_picture(turned).astype(float)[n // 2 + 1 :, 1 : n // 2][ring]
    assert np.corrcoef(wrong, f)[0, 1] < 0.5


def test_the_graph_stands_on_its_own(session: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    write_graph(session[1], tmp_path / "graph.svg")
    tree = ElementTree.parse(tmp_path / "graph.svg")
    words = " ".join(tree.getroot().itertext())
    for cause in session[1]["session"]["graph"]["nodes"]:
        assert (CAUSES[cause["name"]].label if cause["name"] in CAUSES else cause["name"]) in words
    with pytest.raises(InputError, match=r"\.svg"):
        write_graph(session[1], tmp_path / "graph.png")
