"""The causes themselves: what each does and where, what would tell it, what to do, and how it is called.

This is the only place that says so; graph, ledger, reports and sentences read it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CAUSES", "FAMILIES", "STAGES", "Cause"]

FAMILIES = ("scattering", "aberrations", "specimen", "detector")
#: Stages in the order in which the electron meets them.
STAGES = ("specimen", "exit wave", "image", "micrograph")


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One node of the graph.

    Attributes
    ----------
    name, label, words
        Identifier, the words a microscopist uses, and those that fit into "…% of the lost information is …".
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
        What to do first, in processing and at the microscope; "none" where nothing helps.
    priced
        Whether the ledger prices it in bits, where the data of a micrograph tell it.
    """

    name: str
    label: str
    words: str
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

    @property
    def advice(self) -> str:
        """The remedies in one sentence."""
        first, second = ("" if text == "none" else text for text in (self.remedy_processing, self.remedy_microscope))
        text = f"{first}; at the microscope: {second}" if first and second else first or second
        return f"{text[:1].upper()}{text[1:]}." if text else ""


def _causes() -> tuple[Cause, ...]:
    return (
        Cause(
            name="ice_thickness",
            label="ice thickness",
            words="thick ice",
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
            words="crystalline ice",
            family="scattering",
            stage="exit wave",
            mechanism=("crystalline_ice",),
            unit="excess power at 3.4 to 3.9 Å",
            bounds=(0.0, 1e4),
            ideal=0.0,
            evidence="narrow rings or spots at 3.90, 3.67 and 3.44 Å",
            unidentifiable_when="Nyquist lies below 1/3.95 Å",
            remedy_processing="mask the crystalline areas, drop the strongest cases",
            remedy_microscope="keep the grid colder: devitrification or slow vitrification makes crystals",
        ),
        Cause(
            name="contamination",
            label="contamination",
            words="contamination",
            family="scattering",
            stage="exit wave",
            mechanism=("contamination",),
            unit="area fraction",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="dark areas far beyond particle contrast",
            unidentifiable_when="never",
            remedy_processing="pick outside the mask",
            remedy_microscope="shorten transfers, check the vacuum, the cryo-box and the dryness of the nitrogen",
        ),
        Cause(
            name="damage",
            label="radiation damage",
            words="radiation damage",
            family="scattering",
            stage="specimen",
            mechanism=("radiation_damage",),
            unit="e/Å²",
            bounds=(0.0, 300.0),
            ideal=0.0,
            evidence="the stated exposure and the critical exposure curve",
            unidentifiable_when="the exposure is not stated",
            remedy_processing="weight frames by dose before summing, or use fewer of the late ones",
            remedy_microscope="stop the exposure earlier",
        ),
        Cause(
            name="defocus",
            label="defocus",
            words="defocus",
            family="aberrations",
            stage="image",
            mechanism=("contrast_transfer",),
            unit="Å",
            bounds=(-20000.0, 100000.0),
            ideal=0.0,
            evidence="positions of the Thon rings",
            unidentifiable_when="no Thon rings rise above the noise",
            remedy_processing="correct the CTF",
            remedy_microscope="a smaller underfocus loses less at the CTF's zeros; check autofocus when it wanders",
            priced=False,
        ),
        Cause(
            name="astigmatism",
            label="astigmatism",
            words="astigmatism",
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
            name="phase_shift",
            label="phase shift",
            words="the phase shift",
            family="aberrations",
            stage="image",
            mechanism=("contrast_transfer",),
            unit="degrees",
            bounds=(-10.0, 180.0),
            ideal=90.0,
            evidence="where the first Thon rings lie against the others",
            unidentifiable_when="no phase plate was asked for (--phase-plate)",
            remedy_processing="correct the CTF with it",
            remedy_microscope="check the phase plate's conditioning, move on to a fresh spot",
            priced=False,
        ),
        Cause(
            name="beam_tilt",
            label="beam tilt (coma)",
            words="beam tilt",
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
            words="partial coherence",
            family="aberrations",
            stage="image",
            mechanism=("partial_coherence",),
            unit="mrad",
            bounds=(0.0, 2.0),
            ideal=0.0,
            evidence="the instrument's stated source and energy spread",
            unidentifiable_when="source and energy spread are not stated: a spectrum cannot tell it from other blur",
            remedy_processing="none",
            remedy_microscope="use a more parallel beam and less defocus; check gun, high tension and energy filter",
        ),
        Cause(
            name="motion",
            label="specimen motion",
            words="motion",
            family="specimen",
            stage="specimen",
            mechanism=("linear_drift", "frame_motion"),
            unit="Å",
            bounds=(0.0, 60.0),
            ideal=0.0,
            evidence="Thon rings fade in one direction",
            unidentifiable_when="the fading has no direction: drift below about 1 Å, or no Thon rings",
            remedy_processing="align frames again with more patches or without the first ones, then polish particles",
            remedy_microscope="let the stage settle, and wait after beam exposure",
        ),
        Cause(
            name="envelope",
            label="isotropic blur",
            words="blur of unknown origin",
            family="specimen",
            stage="specimen",
            mechanism=("jitter",),
            unit="Å² (B-factor)",
            bounds=(-100.0, 1000.0),
            ideal=0.0,
            evidence="Thon rings fade faster with resolution than in the session's sharpest micrographs",
            unidentifiable_when="the specimen's own structure factor explains the fading as well",
            remedy_processing="give --mtf and --exposure, which name part of it; weight by B-factor, polish",
            remedy_microscope="check vibration, charging and focus during the exposure",
        ),
        Cause(
            name="tilt",
            label="tilted or bent specimen",
            words="tilt",
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
            words="carbon in the field",
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
            words="differences among the particles",
            family="specimen",
            stage="specimen",
            mechanism=(),
            unit="",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="particles that disagree after alignment",
            unidentifiable_when="always from one micrograph: it needs particles and poses",
            remedy_processing="classify once there are particles and poses",
            remedy_microscope="improve the biochemistry",
            priced=False,
        ),
        Cause(
            name="crowding",
            label="crowding",
            words="crowding",
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
            words="too few electrons",
            family="detector",
            stage="micrograph",
            mechanism=("shot_noise", "electron_counting"),
            unit="e/Å²",
            bounds=(0.0, 300.0),
            ideal=0.0,
            evidence="the stated exposure",
            unidentifiable_when="the exposure is not stated; its loss is the floor that all others are counted against",
            remedy_processing="collect more particles",
            remedy_microscope="trade exposure against damage",
            priced=False,
        ),
        Cause(
            name="detector",
            label="detector blur (MTF)",
            words="the detector",
            family="detector",
            stage="micrograph",
            mechanism=("detector_blur",),
            unit="MTF at half Nyquist",
            bounds=(0.0, 1.0),
            ideal=1.0,
            evidence="the detector's measured MTF curve",
            unidentifiable_when="no MTF curve is given",
            remedy_processing="correct the MTF after reconstruction",
            remedy_microscope="higher magnification or super-resolution counting blurs less",
        ),
        Cause(
            name="coincidence",
            label="coincidence loss",
            words="coincidence loss",
            family="detector",
            stage="micrograph",
            mechanism=("coincidence_loss",),
            unit="electrons/pixel/frame",
            bounds=(0.0, 5.0),
            ideal=0.0,
            evidence="a dip of the noise spectrum at low frequency in flat fields",
            unidentifiable_when="only specimen images are given: the dip hides below the specimen's own power",
            remedy_processing="none",
            remedy_microscope="lower the dose rate on the detector",
            priced=False,
        ),
        Cause(
            name="defects",
            label="bad pixels and gain residue",
            words="bad pixels and gain residue",
            family="detector",
            stage="micrograph",
            mechanism=("gain_residue", "defect_pixels"),
            unit="share of noise power",
            bounds=(0.0, 1.0),
            ideal=0.0,
            evidence="pixels, lines and a pattern that repeat or stand far outside their neighbourhood",
            unidentifiable_when="never",
            remedy_processing="use the cleaned pixels and the gain estimated here",
            remedy_microscope="take a new gain reference and defect map",
        ),
    )


#: All causes by name.
CAUSES: Mapping[str, Cause] = MappingProxyType({cause.name: cause for cause in _causes()})
