"""Match a session: from real micrographs to the distribution that synthetic ones are drawn from.

Each real micrograph gives one :class:`MatchedMicrograph`: optics, envelope and drift with their standard deviations
from ``causes``, how many particles there are, what their contrast is worth in grey values, and what is left as noise.
:func:`draw_exposure` takes one of them, moves its optics within their posterior, and its defocus by a kernel of the
session's spread, so that a thousand scenes are not nine repeated.

Gain and radial amplitudes are not known beforehand: a recorded grey value may be anything. The mean of the particles
cut out of the real micrograph is compared with the mean of those of a synthetic one, whose centres were found in the
same way with the same errors; the gain is right when both are equal (indirect inference: Gouriéroux, Monfort & Renault
1993). The same means, ring by ring over all micrographs, tell how the map's radial amplitudes have to be corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cryoprism.causes import Estimate
from cryoprism.causes.model import B_UNIT
from cryoprism.core import InputError, frequency_grid, generator_for, random_rotations, rfft2
from cryoprism.microscope.optics import contrast_transfer

from ._centring import FINEST_OF_MEAN, Centring, share_of
from ._ice_power import ice_power
from ._local_power import excess_power, noise_excess, places_beside, ring_means
from ._seen_artefacts import ArtefactMasks, SeenArtefacts, look_at_artefacts
from .exposure import RadialCorrection, particle_contrast
from .noise import NoiseFit, add_noise, brightness_rise, fit_noise, power_spectrum
from .placement import Placement
from .scene import Scene
from .specimen import Specimen

__all__ = ["Exemplar", "MatchedMicrograph", "SessionMatch", "draw_exposure", "match_session", "noise_for", "scene_of"]

_ROUNDS = 3
_FINEST_OF_POWER = 10.0  # [Å] the power of particles over the noise between them is known to about there
_LEAST_OF_POWER = 1e-3
_FEWEST = 12
_LARGEST_B_FACTOR = 2000.0  # [Å²] that a scene may have


@dataclass(frozen=True, eq=False, kw_only=True)
class Exemplar:
    """A real micrograph as evidence.

    Parameters
    ----------
    name
        For labels.
    image
        (y, x) grey values.
    estimate
        Its causes.
    xy_in_pixels
        (n, 2) picks.
    weight
        (y, x) share of each pixel that is ordinary field; None for all.
    artefacts
        Where contamination and support film lie; None where nobody looked.
    """

    name: str
    image: Tensor
    estimate: Estimate
    xy_in_pixels: Tensor
    weight: Tensor | None = None
    artefacts: ArtefactMasks | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MatchedMicrograph:
    """What one real micrograph says.

    Parameters
    ----------
    name
        Of the real micrograph.
    scene
        Its exposure at the mean of the posterior.
    deviations
        Posterior standard deviations by field of the scene.
    density_in_inverse_square_micrometers
        Particles per area of ordinary field.
    noise
        Gain, mean and what the particles leave over.
    ice_power
        (n, n // 2 + 1) [relative contrast²] of the part of the noise that went through the lens, before CTF².
    agreement
        Correlation of the mean real and mean synthetic particle.
    artefacts
        Contamination and support film.
    """

    name: str
    scene: Scene
    deviations: dict[str, float]
    density_in_inverse_square_micrometers: float
    noise: NoiseFit
    ice_power: Tensor
    agreement: float
    artefacts: SeenArtefacts = field(default_factory=SeenArtefacts)


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionMatch:
    """Real micrographs of one session, matched; ``correction`` is that of the map's radial amplitudes."""

    micrographs: tuple[MatchedMicrograph, ...]
    correction: RadialCorrection

    @property
    def defocus_kernel_in_angstroms(self) -> float:
        """Width by which a drawn defocus is spread around that of its micrograph: Silverman's rule."""
        values = torch.tensor([m.scene.defocus_in_angstroms for m in self.micrographs], dtype=torch.float64)
        if len(values) < 2:
            return 0.0
        return float(1.06 * values.std() * len(values) ** -0.2)

    @property
    def defocus_range_in_angstroms(self) -> tuple[float, float]:
        """Least and most that a scene is drawn with: half of the session's least defocus, twice its largest."""
        values = [m.scene.defocus_in_angstroms for m in self.micrographs]
        return 0.5 * min(values), min(2.0 * max(values), 1e5)


def scene_of(exemplar: Exemplar, pixel_size_in_angstroms: float) -> tuple[Scene, dict[str, float]]:
    """Scene at the mean of a micrograph's posterior, and the standard deviations of its fields.

    What the spectrum does not tell apart (damage, coherence, detector) stays within the fitted B-factor: those
    mechanisms are set to do nothing.
    """
    estimate = exemplar.estimate
    ctf, fit = estimate.ctf, estimate.fit
    drift_y, drift_x = estimate.drift_in_angstroms
    height, width = exemplar.image.shape
    known = estimate.known.exposure_in_electrons_per_square_angstrom
    scene = Scene(
        name=exemplar.name,
        height_in_pixels=int(height),
        width_in_pixels=int(width),
        pixel_size_in_angstroms=pixel_size_in_angstroms,
        voltage_in_kilovolts=estimate.lens.voltage_in_kilovolts,
        spherical_aberration_in_millimeters=estimate.lens.spherical_aberration_in_millimeters,
        amplitude_contrast=estimate.lens.amplitude_contrast,
        defocus_in_angstroms=0.5 * (ctf.defocus_u_in_angstroms + ctf.defocus_v_in_angstroms),
        astigmatism_in_angstroms=ctf.defocus_u_in_angstroms - ctf.defocus_v_in_angstroms,
        astigmatism_angle_in_degrees=ctf.defocus_angle_in_degrees,
        phase_shift_in_degrees=ctf.phase_shift_in_degrees,
        drift_y_in_angstroms=drift_y,
        drift_x_in_angstroms=drift_x,
        envelope_b_factor_in_square_angstroms=min(max(0.0, estimate.b_factor_in_square_angstroms), _LARGEST_B_FACTOR),
        damage_scale=0.0,
        source_semi_angle_in_milliradians=0.0,
        focal_spread_in_angstroms=0.0,
        detector_blur_in_pixels=-1.0,
    )
    if known is not None:
        scene = replace(scene, exposure_in_electrons_per_square_angstrom=known)
    deviations = {
        "defocus_in_angstroms": ctf.defocus_deviation_in_angstroms,
        "astigmatism_in_angstroms": ctf.astigmatism_deviation_in_angstroms,
        "astigmatism_angle_in_degrees": ctf.angle_deviation_in_degrees,
        "envelope_b_factor_in_square_angstroms": fit.deviation("b_factor") * B_UNIT,
        "drift_y_in_angstroms": fit.deviation("drift_y"),
        "drift_x_in_angstroms": fit.deviation("drift_x"),
    }
    return scene, deviations


def match_session(
    exemplars: Sequence[Exemplar], specimen: Specimen, pixel_size_in_angstroms: float, *, seed: int = 0
) -> SessionMatch:
    """Match every exemplar with the specimen that it shows.

    Parameters
    ----------
    exemplars
        Real micrographs with causes and picks.
    specimen
        What the particles are.
    pixel_size_in_angstroms
        Of all of them.
    seed
        Of the synthetic twins that the gain is found with.

    Raises
    ------
    InputError
        No exemplars, or fewer than 12 particles on all of them.
    """
    if not exemplars:
        raise InputError("--match", "no micrographs", "Give at least one real micrograph to match.")
    total = sum(len(e.xy_in_pixels) for e in exemplars)
    if total < _FEWEST:
        raise InputError(
            "--match",
            f"{total} particles were found on {len(exemplars)} micrographs",
            "Give micrographs with more particles, their --coordinates, or the right --diameter.",
        )
    known = [e for e in exemplars if len(e.xy_in_pixels) >= _FEWEST]
    if not known:
        raise InputError(
            "--match", f"no micrograph has {_FEWEST} particles or more", "Give micrographs with more particles."
        )
    twins = [_Twin(e, specimen, pixel_size_in_angstroms, seed) for e in known]
    correction = _correction(twins)
    gains = {id(twin.exemplar): twin.corrected_gain(correction) for twin in twins}
    typical = float(torch.tensor([gains[id(e)] / float(e.image.std()) for e in known]).median())
    matched = []
    for exemplar in exemplars:
        gain = gains.get(id(exemplar), typical * float(exemplar.image.std()))
        matched.append(_Twin(exemplar, specimen, pixel_size_in_angstroms, seed, correction, gain).matched())
    return SessionMatch(micrographs=tuple(matched), correction=correction)


def draw_exposure(match: SessionMatch, seed: int, index: int, name: str) -> tuple[Scene, MatchedMicrograph]:
    """Scene number ``index`` of a synthetic session, and the real micrograph whose noise it has.

    Real micrographs take turns in a random order. Optics move within their posterior; defocus also by the session's
    kernel, where there are several micrographs. A kernel as wide as the session reaches below focus: what it draws
    beyond the session's range is reflected at its ends, and both axes of an astigmatic lens stay underfocused.
    """
    count = len(match.micrographs)
    turn, place = divmod(index, count)
    order = torch.randperm(count, generator=generator_for(seed, "turn", turn)).tolist()
    chosen = match.micrographs[order[place]]
    generator = generator_for(seed, index, "posterior")
    moved: dict[str, float] = {}
    for quantity, deviation in chosen.deviations.items():
        step = deviation * float(torch.randn((), generator=generator))
        moved[quantity] = getattr(chosen.scene, quantity) + (step if math.isfinite(step) else 0.0)
    moved["defocus_in_angstroms"] += match.defocus_kernel_in_angstroms * float(torch.randn((), generator=generator))
    low, high = match.defocus_range_in_angstroms
    if low > 0:  # a session of the wrong hand is refused where it is placed, and not made right here
        defocus = moved["defocus_in_angstroms"] = _reflected(moved["defocus_in_angstroms"], low, high)
        moved["astigmatism_in_angstroms"] = min(max(moved["astigmatism_in_angstroms"], -defocus), defocus)
    moved["envelope_b_factor_in_square_angstroms"] = min(
        max(0.0, moved["envelope_b_factor_in_square_angstroms"]), _LARGEST_B_FACTOR
    )
    area = chosen.scene.height_in_pixels * chosen.scene.width_in_pixels * chosen.scene.pixel_size_in_angstroms**2 * 1e-8
    expected = chosen.density_in_inverse_square_micrometers * area
    particles = int(torch.poisson(torch.tensor(expected), generator=generator)) if expected > 0 else 0
    # A crowded film does not vary like a gas: the draw is kept within a tenth of what was counted.
    particles = min(max(particles, round(0.9 * expected)), round(1.1 * expected))
    scene = replace(chosen.scene, name=name, seed=seed, session_seed=seed, particle_count=particles, **moved)
    return scene, chosen


def _reflected(value: float, low: float, high: float) -> float:
    """Bring a value into a range by reflection at its ends; one that lies within stays as it is."""
    if low <= value <= high:
        return value
    over = math.fmod(abs(value - low), 2 * (high - low))
    return low + min(over, 2 * (high - low) - over)


def noise_for(chosen: MatchedMicrograph, scene: Scene) -> NoiseFit:
    """Noise of a drawn scene: that of its micrograph, with the Thon rings of the ice moved to the scene's defocus."""
    n = chosen.noise.power.shape[0]
    ky, kx = frequency_grid((n, n), scene.pixel_size_in_angstroms)
    before = contrast_transfer(ky, kx, chosen.scene.lens, **chosen.scene.aberrations()).square()
    now = contrast_transfer(ky, kx, scene.lens, **scene.aberrations()).square()
    power = torch.maximum(chosen.noise.power + chosen.ice_power * (now - before), 0.2 * chosen.noise.power)
    return replace(chosen.noise, power=power)


def _centred_placement(xy: Tensor, scene: Scene, generator: torch.Generator) -> Placement:
    middle = torch.tensor([scene.width_in_pixels // 2, scene.height_in_pixels // 2])
    flat = (xy.float() - middle) * scene.pixel_size_in_angstroms
    return Placement(
        centres_in_angstroms=torch.cat([flat, torch.zeros(len(flat), 1)], 1),
        rotations=random_rotations(len(flat), generator),
    )


def _clean(scene: Scene, specimen: Specimen, xy: Tensor, seed: int, correction: RadialCorrection | None) -> Tensor:
    """Contrast of particles at given places in random orientations."""
    generator = generator_for(seed, scene.name, "twin")
    placement = _centred_placement(xy, scene, generator)
    return particle_contrast(scene, specimen, placement, correction=correction)


def _correction(twins: Sequence[_Twin], rings: int = 8) -> RadialCorrection:
    """Radial factor from all mean particles, ring by ring: how much of the map is in the real means against the twins'.

    Not against the ideal means: centres are found with errors of some Å, which fade a real mean and that of a noisy
    twin alike; taken for the map's own, the fading would be put into every synthetic particle.
    """
    coarse, fine = twins[0].band
    edges = torch.linspace(1 / coarse, 1 / fine, rings + 1)
    middle = 0.5 * (edges[1:] + edges[:-1])
    factor = torch.ones(rings, dtype=torch.float64)
    for _ in range(_ROUNDS):
        real, seen = torch.zeros(rings, dtype=torch.float64), torch.zeros(rings, dtype=torch.float64)
        correction = RadialCorrection(middle, factor.float())
        for twin in twins:
            twin.corrected_gain(correction, rounds=1)
            twin_mean = twin.noisy_mean()
            n = twin_mean.shape[0]
            ky, kx = frequency_grid((n, n), twin.pixel)
            ring = torch.bucketize(torch.sqrt(ky * ky + kx * kx), edges) - 1
            inside = (ring >= 0) & (ring < rings)
            model = rfft2(twin.ideal_mean)[inside].conj()
            for total, mean in ((real, twin.real_mean), (seen, twin_mean)):
                total.index_add_(0, ring[inside], (rfft2(mean)[inside] * model).real.double() / twin.gain)
        # A ring in which the model has next to nothing tells nothing: it stays as it is.
        prior = 0.02 * seen.abs().mean()
        factor = (factor * (real + prior) / (seen + prior).clamp_min(prior)).clamp(0.3, 3.0)
    return _completed(RadialCorrection(middle, factor.float()), twins)


def _completed(coarse: RadialCorrection, twins: Sequence[_Twin], rings: int = 6) -> RadialCorrection:
    """Factor at finer rings, from the power that a micrograph has on its particles and not between them.

    The mean of particles in all orientations is a ball: finer than about half a radius it says nothing of the power of
    single views, and its nodes lie elsewhere with every Å of size.
    """
    radius, pixel = twins[0].specimen.radius_in_angstroms, twins[0].pixel
    last = 1 / twins[0].band[1]
    edges = torch.linspace(last, 1 / max(_FINEST_OF_POWER, 2.5 * pixel), rings + 1)
    found, ideal = torch.zeros(rings, dtype=torch.float64), torch.zeros(rings, dtype=torch.float64)
    for twin in twins:
        image, weight = twin.exemplar.image, twin.exemplar.weight
        places = places_beside(twin.xy, radius / pixel, tuple(image.shape), weight)
        if places is None:
            continue
        twin.corrected_gain(coarse)
        noise = twin.noise()
        real, _ = excess_power(image / twin.gain, places)
        model, darker = excess_power(_clean(twin.scene, twin.specimen, twin.xy, twin.seed, None), places)
        real = real - noise_excess(noise.power, brightness_rise(noise), darker, places.side)
        found += ring_means(real, pixel, edges)
        ideal += ring_means(model, pixel, edges)
    kept = coarse.frequency < last
    known = ideal > _LEAST_OF_POWER * ideal.max()  # finer than the map itself there is nothing to scale
    fine = (found / ideal.clamp_min(1e-30)).clamp_min(0).sqrt().clamp(0.3, 3.0)[known]
    return RadialCorrection(
        torch.cat([coarse.frequency[kept], (0.5 * (edges[1:] + edges[:-1]))[known]]),
        torch.cat([coarse.factor[kept], fine.float()]),
    )


class _Twin:
    """One real micrograph beside a synthetic one of the same particles in other orientations."""

    def __init__(
        self,
        exemplar: Exemplar,
        specimen: Specimen,
        pixel: float,
        seed: int,
        correction: RadialCorrection | None = None,
        gain: float | None = None,
    ) -> None:
        self.exemplar, self.specimen, self.pixel, self.seed = exemplar, specimen, pixel, seed
        self.scene, self.deviations = scene_of(exemplar, pixel)
        power = power_spectrum(exemplar.image, weight=exemplar.weight)
        self.centring = Centring(self.scene, specimen, power, seed)
        self.xy = self.centring.centres(exemplar.image, exemplar.xy_in_pixels)
        self.moved = (self.xy - exemplar.xy_in_pixels[: len(self.xy)]).square().mean().sqrt()
        self.real_mean = self.centring.mean(exemplar.image, self.xy)
        radius = specimen.radius_in_angstroms
        self.band = (4.0 * radius, max(FINEST_OF_MEAN, 0.5 * radius))
        self._render(correction)
        if gain is None:
            gain = max(self._share(self.real_mean), 1e-3 * float(exemplar.image.std()))
        self.gain = gain

    def _render(self, correction: RadialCorrection | None) -> None:
        self.clean = _clean(self.scene, self.specimen, self.xy, self.seed, correction)
        self.ideal_mean = self.centring.mean(self.clean, self.xy)

    def _share(self, mean: Tensor) -> float:
        return share_of(mean, self.ideal_mean, self.pixel, *self.band)[0]

    def corrected_gain(self, correction: RadialCorrection, rounds: int = _ROUNDS) -> float:
        """Grey values per relative contrast, with the map corrected."""
        self._render(correction)
        self.gain = max(self._share(self.real_mean), 1e-3 * float(self.exemplar.image.std()))
        for _ in range(rounds):
            self._improve()
        return self.gain

    def noisy_mean(self) -> Tensor:
        """Mean particle of a noisy twin, whose centres were found as those of the real one were."""
        twin = add_noise(
            "matched", self.noise(), self.clean, pixel_size_in_angstroms=self.pixel, seed=self.seed, name="twin"
        )
        generator = generator_for(self.seed, self.scene.name, "picks")
        picks = self.xy + torch.randn(self.xy.shape, generator=generator) * self.moved
        return self.centring.mean(twin, self.centring.centres(twin, picks))

    def _improve(self) -> None:
        """Compare the mean particle of a noisy twin with this gain to the real one; the quotient corrects the gain."""
        here = self._share(self.noisy_mean())
        real = self._share(self.real_mean)
        if here > 0 and real > 0:
            self.gain *= min(max(real / here, 0.5), 2.0)

    def noise(self) -> NoiseFit:
        """Fit what particles of this gain leave over."""
        return fit_noise(
            self.exemplar.image,
            self.clean,
            self.gain,
            pixel_size_in_angstroms=self.pixel,
            weight=self.exemplar.weight,
        )

    def matched(self) -> MatchedMicrograph:
        """Return what is left to say once gain and correction are known."""
        noise, seen = self.noise(), SeenArtefacts()
        if (masks := self.exemplar.artefacts) is not None:
            radius = self.specimen.radius_in_angstroms
            seen = look_at_artefacts(self.exemplar.image, masks, self.pixel, noise.gain, radius)
        return MatchedMicrograph(
            name=self.exemplar.name,
            scene=self.scene,
            deviations=self.deviations,
            density_in_inverse_square_micrometers=_density(self.exemplar, self.specimen, self.pixel),
            noise=noise,
            ice_power=ice_power(noise.power, self.scene),
            agreement=share_of(self.real_mean, self.ideal_mean, self.pixel, *self.band)[1],
            artefacts=seen,
        )


def _density(exemplar: Exemplar, specimen: Specimen, pixel: float) -> float:
    """Particles per square micrometre, counted where a whole particle fits and the field is ordinary."""
    edge = specimen.radius_in_angstroms / pixel
    height, width = exemplar.image.shape
    xy = exemplar.xy_in_pixels
    inside = (xy[:, 0] >= edge) & (xy[:, 0] < width - edge) & (xy[:, 1] >= edge) & (xy[:, 1] < height - edge)
    area = max(0.0, height - 2 * edge) * max(0.0, width - 2 * edge)
    if exemplar.weight is not None:
        area *= max(float(exemplar.weight.mean()), 1e-3)
    return float(inside.sum()) / max(area * pixel**2 * 1e-8, 1e-12)
