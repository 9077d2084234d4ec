import pytest
import torch

from cryoprism.synthesis.translation import RealField, SyntheticField, TranslationSettings, particle_mask

PIXEL = 1.5


def toy(number: int, size: int = 96) -> tuple[RealField, SyntheticField]:
    """A real field with dark blobs in smooth noise, and a synthetic one with the same blobs in white noise."""
    generator = torch.Generator().manual_seed(number)
    xy = torch.rand(6, 2, generator=generator) * size
    mask = particle_mask((size, size), xy, 9.0)
    clean = -0.1 * mask
    white = torch.randn(size, size, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 1, size + 2, size + 2, generator=generator), 3, 1)[0, 0]
    real = RealField(name=f"real{number}", image=100 + 20 * smooth - 5 * mask.flip(0), pixel_size_in_angstroms=PIXEL)
    synthetic = SyntheticField(
        name=f"synthetic{number}",
        image=100 + 50 * clean + 10 * white,
        clean=clean,
        gain=50.0,
        mask=mask,
        pixel_size_in_angstroms=PIXEL,
    )
    return real, synthetic


@pytest.fixture(scope="session")
def fields() -> tuple[list[RealField], list[SyntheticField]]:
    pairs = [toy(number) for number in range(2)]
    return [real for real, _ in pairs], [synthetic for _, synthetic in pairs]


@pytest.fixture(scope="session")
def small() -> TranslationSettings:
    return TranslationSettings.compact(
        width=8,
        encoder=(1, 2),
        decoder=(1,),
        discriminator_width=8,
        discriminator_layers=2,
        projection=8,
        steps=6,
        batch=2,
        patch=48,
        points=16,
        judged=8,
    )
