"""What the settings of ``synthesize`` come to, without a session."""

import sys
from types import SimpleNamespace

import pytest

from cryoprism.core import InputError
from cryoprism.synthesis import NoRoom, Population, Scene, Species, phantom, specimen_from_phantom
from cryoprism.workflow._synthesis import clean_image

# By its name the package has the function.
MODULE = sys.modules["cryoprism.workflow._synthesis"]


@pytest.fixture(scope="module")
def shells():
    return Population(species=(Species(name="shell", conformations=(specimen_from_phantom(phantom("shell")),)),))


@pytest.mark.parametrize(("error", "tries"), [(NoRoom, 5), (InputError, 1)])
def test_only_what_does_not_fit_is_tried_in_thicker_ice(shells, monkeypatch, error, tries):
    thicknesses = []

    def refuse(scene, *_):
        thicknesses.append(scene.ice_thickness_in_angstroms)
        raise error("scene", "is wrong", "Change it.")

    monkeypatch.setattr(MODULE, "place_population", refuse)
    with pytest.raises(error):
        clean_image(Scene(), 0, SimpleNamespace(ice_thickness_in_angstroms=None), shells, None)
    assert len(thicknesses) == tries
