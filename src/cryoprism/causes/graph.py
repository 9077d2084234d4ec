"""The causal graph of the microscope: what can go wrong, through which stage, what would tell, what to do.

Every cause is one node that owns its mechanism (names in the registry of ``cryoprism.microscope``), the parameter it
moves, physical
bounds, the ideal value at which it does no harm, and the evidence that identifies it. Edges lead from causes to the
stage of image
formation they act on, and from stage to stage: specimen → exit wave → image → recorded micrograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryoprism.core import InputError

__all__ = ["CAUSES", "FAMILIES", "STAGES", "CausalGraph", "Cause", "default_graph"]

FAMILIES = ("scattering", "aberrations", "specimen", "detector")
#: Stages in the order in which the electron meets them.
STAGES = ("specimen", "exit wave", "image", "micrograph")


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One node of the graph.

    Attributes
    ----------
    name, label
        Identifier and the words a microscopist uses.
    family, stage
        Family of the mission and the stage of image formation it acts on.
    mechanism
        Names of its operators in the registry of ``cryoprism.microscope``.
    unit, bounds, ideal
        Of its leading parameter.
    evidence
        Which observable identifies it.
    unidentifiable_when
        When the data cannot tell, so that the estimator abstains.
    remedy_processing, remedy_microscope
        What to do first, in processing and at the microscope.
    priced
        Whether the ledger can price it in bits from one micrograph.
    """

    name: str
    label: str
    family: str
    stage: str
    mechanism: tuple[str, ...]
    unit: str
    bounds: tuple[float, float]
    ideal: float
    evidence: str
    unidentifiable_when: str
    remedy_processing: str
    remedy_microscope: str
    priced: bool = True


def _causes() -> tuple[Cause, ...]:
    return (
        Cause(
            name="ice_thickness",
            label="ice thickness",
            family="scattering",
            stage="exit wave",
            mechanism=("inelastic_loss", "vitreous_ice"),
            unit="Å",
            bounds=(0.0, 5000.0),
            ideal=150.0,
            evidence="mean intensity against the incident beam: t = Λ ln(I0 / I)",
            unidentifiable_when="grey values are not proportional to electrons, or the exposure is not known",
            remedy_processing="leave out the thickest micrographs",
            remedy_microscope="blot longer or choose thinner holes",
        ),
        Cause(
            name="crystalline_ice",
            label="crystalline ice",
            family="scattering",
            stage="exit wave",
            mechanism=("crystalline_ice",),
            unit="excess power at 3.4 to 3.9 Å",
            bounds=(0.0, 1e4),
            ideal=0.0,
            evidence="narrow rings or spots at 3.90, 3.67 and 3.44 Å",
            unidentifiable_when="Nyquist lies below 1/3.95 Å",
            remedy_processing="mask the crystalline areas",
            remedy_microscope="keep the grid colder: devitrification or slow freezing makes crystals",
        ),
        Cause(
            name="contamination",
            label="contamination",
            family="scattering",
            stage="exit wave",
            mechanism=("contamination",),
            unit="area fraction",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="dark areas far beyond particle contrast",
            unidentifiable_when="never",
            remedy_processing="pick outside the mask",
            remedy_microscope="shorten transfers, check the cryo-box and the dryness of the nitrogen",
        ),
        Cause(
            name="damage",
            label="radiation damage",
            family="scattering",
            stage="specimen",
            mechanism=("radiation_damage",),
            unit="e/Å²",
            bounds=(0.0, 300.0),
            ideal=0.0,
            evidence="the stated exposure and the critical exposure curve",
            unidentifiable_when="the exposure is not stated",
            remedy_processing="weight frames by dose before summing",
            remedy_microscope="stop the exposure earlier",
        ),
        Cause(
            name="defocus",
            label="defocus",
            family="aberrations",
            stage="image",
            mechanism=("contrast_transfer",),
            unit="Å",
            bounds=(-20000.0, 100000.0),
            ideal=0.0,
            evidence="positions of the Thon rings",
            unidentifiable_when="no Thon rings rise above the noise",
            remedy_processing="correct the CTF",
            remedy_microscope="check autofocus when it wanders",
            priced=False,
        ),
        Cause(
            name="astigmatism",
            label="astigmatism",
            family="aberrations",
            stage="image",
            mechanism=("contrast_transfer",),
            unit="Å",
            bounds=(0.0, 5000.0),
            ideal=0.0,
            evidence="elliptical Thon rings",
            unidentifiable_when="no Thon rings rise above the noise",
            remedy_processing="correct the CTF in two dimensions",
            remedy_microscope="stigmate the objective",
            priced=False,
        ),
        Cause(
            name="beam_tilt",
            label="beam tilt (coma)",
            family="aberrations",
            stage="image",
            mechanism=("odd_aberrations",),
            unit="mrad",
            bounds=(-10.0, 10.0),
            ideal=0.0,
            evidence="antisymmetric phase errors of particles with known poses",
            unidentifiable_when="always from a power spectrum: it is odd in k and leaves no trace there",
            remedy_processing="refine beam tilt once poses exist",
            remedy_microscope="align coma-free",
            priced=False,
        ),
        Cause(
            name="coherence",
            label="partial coherence",
            family="aberrations",
            stage="image",
            mechanism=("partial_coherence",),
            unit="mrad",
            bounds=(0.0, 2.0),
            ideal=0.0,
            evidence="the instrument's stated source and energy spread",
            unidentifiable_when="source and energy spread are not stated: a spectrum cannot tell it from other blur",
            remedy_processing="none",
            remedy_microscope="smaller condenser aperture, parallel illumination, less defocus",
        ),
        Cause(
            name="motion",
            label="specimen motion",
            family="specimen",
            stage="specimen",
            mechanism=("linear_drift", "frame_motion"),
            unit="Å",
            bounds=(0.0, 60.0),
            ideal=0.0,
            evidence="Thon rings fade in one direction",
            unidentifiable_when="the fading has no direction: drift below about 1 Å, or no Thon rings",
            remedy_processing="align the movie frames, then polish particles",
            remedy_microscope="let the stage settle, and wait after beam exposure",
        ),
        Cause(
            name="envelope",
            label="isotropic blur",
            family="specimen",
            stage="specimen",
            mechanism=("jitter",),
            unit="Å² (B-factor)",
            bounds=(-100.0, 1000.0),
            ideal=0.0,
            evidence="Thon rings fade faster with resolution than in the session's sharpest micrographs",
            unidentifiable_when="the specimen's own structure factor explains the fading as well",
            remedy_processing="weight by B-factor, polish",
            remedy_microscope="check vibration, charging and focus during the exposure",
        ),
        Cause(
            name="tilt",
            label="tilted or bent specimen",
            family="specimen",
            stage="specimen",
            mechanism=("contrast_transfer",),
            unit="degrees",
            bounds=(0.0, 70.0),
            ideal=0.0,
            evidence="local defocus changes across the field",
            unidentifiable_when="the field is too small for its noise",
            remedy_processing="use local defocus for every particle",
            remedy_microscope="level the grid",
        ),
        Cause(
            name="carbon",
            label="carbon or support film",
            family="specimen",
            stage="specimen",
            mechanism=("carbon_edge",),
            unit="area fraction",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="an area of other texture and brightness with an edge",
            unidentifiable_when="the whole field is support",
            remedy_processing="pick outside the mask",
            remedy_microscope="centre the beam on the hole",
        ),
        Cause(
            name="heterogeneity",
            label="conformational heterogeneity",
            family="specimen",
            stage="specimen",
            mechanism=(),
            unit="",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="particles that disagree after alignment",
            unidentifiable_when="always from one micrograph: it needs particles and poses",
            remedy_processing="classify",
            remedy_microscope="improve the biochemistry",
            priced=False,
        ),
        Cause(
            name="crowding",
            label="crowding",
            family="specimen",
            stage="specimen",
            mechanism=(),
            unit="particles/µm²",
            bounds=(0.0, 1e5),
            ideal=0.0,
            evidence="distances between picked particles",
            unidentifiable_when="before particles are picked",
            remedy_processing="leave out touching particles",
            remedy_microscope="dilute the sample",
            priced=False,
        ),
        Cause(
            name="exposure",
            label="shot noise",
            family="detector",
            stage="micrograph",
            mechanism=("shot_noise", "electron_counting"),
            unit="e/Å²",
            bounds=(0.0, 300.0),
            ideal=0.0,
            evidence="the stated exposure",
            unidentifiable_when="the exposure is not stated; its loss is the floor that all others are counted against",
            remedy_processing="none",
            remedy_microscope="trade exposure against damage",
            priced=False,
        ),
        Cause(
            name="detector",
            label="detector blur (MTF)",
            family="detector",
            stage="micrograph",
            mechanism=("detector_blur",),
            unit="MTF at half Nyquist",
            bounds=(0.0, 1.0),
            ideal=1.0,
            evidence="the detector's measured MTF curve",
            unidentifiable_when="no MTF curve is given",
            remedy_processing="correct the MTF after reconstruction",
            remedy_microscope="higher magnification or super-resolution counting",
        ),
        Cause(
            name="coincidence",
            label="coincidence loss",
            family="detector",
            stage="micrograph",
            mechanism=("coincidence_loss",),
            unit="electrons/pixel/frame",
            bounds=(0.0, 5.0),
            ideal=0.0,
            evidence="a dip of the noise spectrum at low frequency in flat fields",
            unidentifiable_when="only specimen images are given: the dip hides below the specimen's own power",
            remedy_processing="none",
            remedy_microscope="lower the dose rate",
            priced=False,
        ),
        Cause(
            name="defects",
            label="bad pixels and gain residue",
            family="detector",
            stage="micrograph",
            mechanism=("gain_residue", "defect_pixels"),
            unit="share of noise power",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="pixels, lines and a pattern that repeat or stand far outside their neighbourhood",
            unidentifiable_when="never",
            remedy_processing="use the cleaned pixels and the gain estimated here",
            remedy_microscope="take a new gain reference",
        ),
    )


#: All causes by name.
CAUSES: Mapping[str, Cause] = MappingProxyType({cause.name: cause for cause in _causes()})


@dataclass(frozen=True)
class CausalGraph:
    """A directed acyclic graph over causes and stages.

    Attributes
    ----------
    causes
        The nodes that are switched on, by name.
    edges
        (from, to) pairs of node names, causes and stages together.
    """

    causes: Mapping[str, Cause]
    edges: tuple[tuple[str, str], ...]

    def parents(self, node: str) -> tuple[str, ...]:
        """Nodes with an edge into ``node``."""
        return tuple(start for start, end in self.edges if end == node)

    def order(self) -> tuple[str, ...]:
        """Nodes in topological order: the order of ancestral sampling.

        Raises
        ------
        ValueError
            The edges form a cycle.
        """
        nodes = list(dict.fromkeys([*self.causes, *STAGES]))
        waiting = {node: set(self.parents(node)) for node in nodes}
        order: list[str] = []
        while waiting:
            ready = [node for node in nodes if node in waiting and not waiting[node]]
            if not ready:
                raise ValueError(f"the causal graph has a cycle among {sorted(waiting)}")
            for node in ready:
                del waiting[node]
                order.append(node)
            for parents in waiting.values():
                parents.difference_update(ready)
        return tuple(order)

    def check(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return ``names`` if every one is a cause of this graph that can be set to its ideal.

        Raises
        ------
        InputError
            A name is unknown.
        """
        wanted = tuple(names)
        for name in wanted:
            if name not in self.causes:
                raise InputError(f"do({name})", "no such cause", "Use one of: " + ", ".join(self.causes) + ".")
        return wanted


def default_graph() -> CausalGraph:
    """Return the graph of single-particle cryo-EM with every cause switched on."""
    edges = [(cause.name, cause.stage) for cause in CAUSES.values()]
    edges += list(itertools.pairwise(STAGES))
    # Causes that act on causes: a thick or contaminated specimen moves and charges, exposure damages and moves.
    edges += [("exposure", "damage"), ("exposure", "motion"), ("tilt", "motion"), ("exposure", "coincidence")]
    edges += [("defocus", "coherence")]
    return CausalGraph(CAUSES, tuple(edges))
