import json

import pytest

from cryoprism.core import InputError
from cryoprism.workflow import (
    AssessConfig,
    NoveltyQueryConfig,
    PickConfig,
    ProveConfig,
    RestoreConfig,
    SandboxConfig,
    SimulateConfig,
    WeightsLearnConfig,
)
from cryoprism.workflow.jobs.resume import changed_files, changed_options


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("voltage_in_kilovolts", 300_000, "--voltage"),
        ("pixel_size_in_angstroms", 0, "--pixel-size"),
        ("pixel_size_in_angstroms", float("nan"), "--pixel-size"),
        ("spherical_aberration_in_millimeters", -2.7, "--spherical-aberration"),
        ("amplitude_contrast", 1.0, "--amplitude-contrast"),
        ("exposure_in_electrons_per_square_angstrom", 0, "--exposure"),
        ("workers", 0, "--workers"),
        ("workers", "many", "--workers"),
        ("seed", -1, "--seed"),
        ("max_memory_in_gigabytes", -1, "--max-memory"),
        ("device", "tpu7", "--device"),
        ("inputs", (), "IN"),
    ],
)
def test_a_bad_value_names_option_value_and_remedy(field, value, option):
    with pytest.raises(InputError) as caught:
        RestoreConfig(**{"inputs": "a.mrc", field: value})
    assert caught.value.where == option
    assert str(value) in caught.value.found
    assert caught.value.remedy


def test_nothing_to_restore_names_the_argument():
    with pytest.raises(InputError, match="IN: nothing was given"):
        RestoreConfig()


def test_an_unknown_field_is_refused_and_the_known_ones_listed():
    with pytest.raises(InputError, match=r"'voltag'.*voltage_in_kilovolts"):
        RestoreConfig(inputs="a.mrc", voltag=300)


@pytest.mark.parametrize(
    "values",
    [
        {"lowest_defocus_in_angstroms": 30_000, "highest_defocus_in_angstroms": 10_000},
        {"coarsest_resolution_in_angstroms": 4, "finest_resolution_in_angstroms": 30},
        {"only_do_unfinished": True, "overwrite": True},
    ],
)
def test_values_that_contradict_each_other_are_refused(values):
    with pytest.raises(InputError, match=r" and --"):
        RestoreConfig(inputs="a.mrc", **values)


@pytest.mark.parametrize(
    ("kind", "base", "given", "option", "words"),
    [
        (ProveConfig, {"model_file": "a.pdb"}, {"contour": 0.1}, "--contour", "needs --map"),
        (ProveConfig, {"model_file": "a.pdb"}, {"voxel_size_in_angstroms": 1.5}, "--pixel-size", "needs --map"),
        (ProveConfig, {"model_file": "a.pdb"}, {"margin_in_angstroms": 4}, "--margin", "needs --map"),
        (ProveConfig, {"model_file": "a.pdb", "symmetry": "C3"}, {"assembly": "1"}, "--assembly", "Give one"),
        (AssessConfig, {"model_file": "a.pdb"}, {"contour": 0.1}, "--contour", "needs --map"),
        (AssessConfig, {"model_file": "a.pdb"}, {"publication": "W1"}, "--publication", "needs --impact"),
        (AssessConfig, {"model_file": "a.pdb"}, {"rerun_budget_in_seconds": 9}, "--rerun-budget", "needs --record"),
        (AssessConfig, {"model_file": "a.pdb"}, {"perturbed_micrographs": 9}, "micrographs", "needs --record"),
        (
            AssessConfig,
            {"model_file": "a.pdb", "record": "job", "rerun": False},
            {"rerun_budget_in_seconds": 9},
            "--rerun-budget",
            "--no-rerun",
        ),
        (
            AssessConfig,
            {"model_file": "a.pdb", "symmetry": "C3"},
            {"helical_rise_in_angstroms": 4.7, "helical_twist_in_degrees": 1},
            "--helical-rise",
            "Give one",
        ),
        (NoveltyQueryConfig, {"model_or_map": "a.pdb"}, {"prior": 0.2}, "--prior", "needs --index"),
        (NoveltyQueryConfig, {"model_or_map": "a.pdb"}, {"neighbours": 3}, "--neighbours", "needs --index"),
        (NoveltyQueryConfig, {"model_or_map": "a.pdb"}, {"voxel_size_in_angstroms": 2}, "--pixel-size", "needs a map"),
        (NoveltyQueryConfig, {"model_or_map": "a.mrc"}, {"assembly": "1"}, "--assembly", "needs a model"),
        (SandboxConfig, {"formula": "1"}, {"inputs": ("a",)}, "--input", "reads no files"),
        (SandboxConfig, {"command": ("true",)}, {"unit": "nm"}, "--unit", "no formula"),
        (WeightsLearnConfig, {"inputs": "a", "learn_shape": False}, {"trials": 9}, "--trials", "needs --shape"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(kind, base, given, option, words):
    kind(**base)
    with pytest.raises(InputError) as caught:
        kind(**base, **given)
    assert option in caught.value.where
    assert words in str(caught.value)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_configuration_comes_back_from_its_file(tmp_path, suffix):
    config = RestoreConfig(inputs=["b.mrc", "a.mrc"], output=tmp_path / "Å", voltage_in_kilovolts=200, views=False)
    path = tmp_path / f"config.{suffix}"
    text = config.to_yaml() if suffix == "yaml" else json.dumps(config.model_dump(mode="json"))
    path.write_text(text, encoding="utf-8")
    assert RestoreConfig.from_file(path) == config


@pytest.mark.parametrize("content", ["", "- 1\n- 2\n", "a: [", "voltage_in_kilovolts: fast\n", "\x00"])
def test_a_broken_configuration_file_is_an_error_not_a_crash(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(InputError):
        RestoreConfig.from_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        RestoreConfig.from_file(tmp_path / "absent.yaml")


def test_only_what_decides_the_result_changes_its_hash(tmp_path):
    config = RestoreConfig(inputs="a.mrc")
    assert config.result_hash() == RestoreConfig(inputs="a.mrc", workers=4, output=tmp_path).result_hash()
    assert config.result_hash() != RestoreConfig(inputs="a.mrc", seed=1).result_hash()
    assert SimulateConfig(seed=1).result_hash() != SimulateConfig(seed=2).result_hash()


def test_every_field_is_described():
    for config in (RestoreConfig, SimulateConfig):
        for name, field in config.model_fields.items():
            assert field.description, name


@pytest.mark.parametrize(("kind", "more"), [(RestoreConfig, {}), (PickConfig, {"diameter_in_angstroms": 100.0})])
def test_a_session_that_grew_is_the_same_job(kind, more):
    """A shell that spells a glob out gives other arguments when a micrograph is added."""
    one, two = kind(inputs="a.mrc", **more), kind(inputs=("a.mrc", "b.mrc"), **more)
    assert one.result_hash() == two.result_hash()
    assert changed_options(two, one.model_dump(mode="json")) == []


def test_changed_options_are_named_with_both_values_and_files_apart():
    before = RestoreConfig(inputs="a.mrc", views=False).model_dump(mode="json")
    now = RestoreConfig(inputs="a.mrc", voltage_in_kilovolts=200.0, mtf_file="m.star")
    assert changed_options(now, before) == ["--voltage was not given, now 200", "--views was off, now on"]
    assert changed_files(now, before) == ["--mtf was not given, now m.star"]
    assert changed_options(now, {}) == []
    del before["views"]  # what an earlier version did not know had its default
    assert changed_options(now, before) == ["--voltage was not given, now 200"]
