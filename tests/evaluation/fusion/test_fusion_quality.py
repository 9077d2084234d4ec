"""The shape of the score on held-out pairs, and whether weights and measured quality move together."""

import os
from pathlib import Path

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.fusion import (
    COMPONENTS,
    Assessed,
    Judgement,
    Shape,
    default_shape,
    default_weights,
    hyperscore,
    learn_shape,
    read_quality_table,
    regress_quality,
)


def pairs(count, shape, seed, sharpness=0.4):
    """SIMULATED judge who goes by differences of the score with the default weights."""
    generator = np.random.default_rng(seed)
    weights = np.array([default_weights().mean[name] for name in COMPONENTS])
    values = generator.random((count, 2, 5))
    v = (values * weights).sum(-1)
    scores = hyperscore(v, shape)
    picked = generator.random(count) < 1 / (1 + np.exp(-sharpness * (scores[:, 0] - scores[:, 1])))
    values[..., 2] = np.expm1(values[..., 2])
    sides = [[Assessed("x", dict(zip(COMPONENTS, side.tolist(), strict=True))) for side in pair] for pair in values]
    return [Judgement(a, b, "a" if first else "b") for (a, b), first in zip(sides, picked, strict=True)]


def test_a_shape_that_is_far_from_the_default_is_found_to_be_better():
    pytest.importorskip("optuna", reason="optuna is not installed (the extra 'assess')")
    # A judge for whom all below V = 0.6 is alike, which the default does not say.
    found = learn_shape(pairs(500, Shape(14.0, 7.0, 4.0), 0, sharpness=0.3), trials=25)
    assert found.gain > 0
    assert found.pairs == 500
    assert learn_shape(pairs(60, Shape(14.0, 7.0, 4.0), 0), trials=3, seed=2) == learn_shape(
        pairs(60, Shape(14.0, 7.0, 4.0), 0), trials=3, seed=2
    )


@pytest.mark.parametrize("seed", [1, 3])
def test_no_learned_shape_gives_every_work_the_same_score(seed):
    """Sharpness is fitted beside the shape: without a floor one that squeezes the score into nothing does as well."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'cryoprism[assess]'")
    generator = np.random.default_rng(seed)
    weights = np.array([0.1, 0.54, 0.1, 0.17, 0.09])
    said = []
    for _ in range(150):  # SIMULATED judge who always picks the larger sum
        x = generator.random((2, 5))
        a, b = (Assessed("x", dict(zip(COMPONENTS, side.tolist(), strict=True))) for side in x)
        said.append(Judgement(a, b, "a" if (x[0] - x[1]) @ weights > 0 else "b"))
    found = learn_shape(said, trials=40)
    v = np.linspace(0.2, 0.8, 50)
    for shape in (found.best, found.shape):
        assert shape.rise >= default_shape().rise * (1 - 1e-6)
        assert np.ptp(hyperscore(v, shape)) > 0.8 * np.ptp(hyperscore(v, default_shape()))


def test_the_default_shape_stays_where_it_is_the_truth():
    pytest.importorskip("optuna", reason="optuna is not installed (the extra 'assess')")
    found = learn_shape(pairs(300, default_shape(), 1), trials=12)
    assert found.shape == default_shape()
    assert "stays the default" in found.sentence()
    with pytest.raises(InputError, match="5 pairs"):
        learn_shape(pairs(5, default_shape(), 0))


def table(tmp_path, count=300, seed=0, noise=0.05, shuffled=False, weights=None):
    generator = np.random.default_rng(seed)
    w = np.array([(weights or default_weights().mean)[name] for name in COMPONENTS])
    values = generator.random((count, 5))
    quality = values @ w + noise * generator.standard_normal(count)
    if shuffled:
        generator.shuffle(quality)
    values[:, 2] = np.expm1(values[:, 2])
    path = tmp_path / "table.tsv"
    rows = ["\t".join(["name", *COMPONENTS, "q_score"])]
    rows += [
        "\t".join([f"m{i}", *(f"{x:.6f}" for x in [*row, q])])
        for i, (row, q) in enumerate(zip(values, quality, strict=True))
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_weights_that_make_quality_are_found_and_said(tmp_path):
    found = regress_quality(read_quality_table(table(tmp_path), "q_score"), default_weights(), bootstraps=200)
    share = np.array([one.value for one in found.coefficients])
    assert share / share.sum() == pytest.approx(list(default_weights().mean.values()), abs=0.04)
    assert found.explained > 0.7
    assert found.score_correlation[1] > 0.7
    assert found.weights_correlation[1] > 0.9
    assert "V and q_score move together" in found.sentences[0]
    turned = regress_quality(
        read_quality_table(table(tmp_path), "q_score"), default_weights(), bootstraps=200, lower_is_better=True
    )
    assert turned.score_correlation[2] < 0
    assert "move against each other" in turned.sentences[0]


def test_shuffled_quality_moves_with_nothing(tmp_path):
    found = regress_quality(
        read_quality_table(table(tmp_path, shuffled=True), "q_score"), default_weights(), bootstraps=200
    )
    assert found.score_correlation[1] < 0 < found.score_correlation[2]
    assert "are not seen to move together" in found.sentences[0]
    assert found.explained < 0.05


def test_intervals_cover_the_truth_as_often_as_they_say(tmp_path):
    w = np.array(list(default_weights().mean.values()))
    inside = total = 0
    for seed in range(25):
        found = regress_quality(
            read_quality_table(table(tmp_path, count=120, seed=seed, noise=0.2), "q_score"),
            default_weights(), bootstraps=150, ridge=1e-6,
        )  # fmt: skip
        spread = np.sqrt(1 / 12)
        truth = w * spread / np.sqrt((w**2).sum() / 12 + 0.04)
        inside += sum(one.lower <= t <= one.upper for one, t in zip(found.coefficients, truth, strict=True))
        total += 5
    assert 0.86 <= inside / total <= 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("logic,q\n1,2\n", "1 rows"),
        ("logic,q\n" + "1,2,3\n" * 30, "line 2"),
        ("logic,q\n" + "1,2\n" * 3 + "one,2\n" + "1,2\n" * 30, "line 5: logic"),
        ("logic,other\n" + "1,2\n" * 30, "no column 'q'"),
        ("logic,q\n" + "1,2\n" * 30, "same in every row"),
        ("logic,q\n" + "1," + "9" * 200_000 + "\n", "field larger"),
        ("impact,q\n" + "-1,2\n" * 30, "line 2: impact"),
        ("logic,q\n" + "1.5,2\n" * 30, "line 2: logic"),
        ("name,q\n" + "abc,2\n" * 30, "no column of numbers"),
        ("assessment,q\n" + "none.json,2\n" * 30, "line 2"),
    ],
)
def test_bad_tables_are_refused_by_line_or_column(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        regress_quality(read_quality_table(path, "q"), default_weights(), bootstraps=5)


def test_quality_does_not_explain_itself(tmp_path):
    rows = "\n".join(f"{k},{k % 7}" for k in range(30))
    (tmp_path / "t.csv").write_text(f"q,x\n{rows}\n")
    with pytest.raises(InputError, match="the quality itself"):
        read_quality_table(tmp_path / "t.csv", "q", ["x", "q"])
    assert read_quality_table(tmp_path / "t.csv", "q", ["x"]).columns == ("x",)


def test_a_table_with_a_mark_and_separators_of_other_systems_is_read(tmp_path):
    path = tmp_path / "bad.csv"
    rows = "".join(f'"one\u2028two",{i / 50},{i}\r\n' for i in range(30))
    path.write_bytes(("\ufeff" + "name,logic,q\r\n" + rows).encode("utf-8"))
    found = read_quality_table(path, "q")
    assert found.columns == ("logic",)
    assert len(found.quality) == 30


def test_answers_that_no_row_has_are_left_out_and_their_weight_is_shared(tmp_path):
    generator = np.random.default_rng(3)
    values = generator.random((60, 2))
    mean = default_weights().mean
    quality = values @ [mean["logic"], mean["meta"]] + 0.01 * generator.standard_normal(60)
    path = tmp_path / "table.tsv"
    rows = ["\t".join([*COMPONENTS, "q"])]
    rows += [f"{a:.5f}\t\t\t0.4\t{b:.5f}\t{q:.5f}" for (a, b), q in zip(values, quality, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    found = regress_quality(read_quality_table(path, "q"), default_weights(), bootstraps=200)
    assert [one.name for one in found.coefficients] == ["logic", "meta"]
    assert found.score_correlation[0] > 0.95
    assert found.weights_correlation is None  # of two weights a correlation is ±1, whatever they are
    said = " ".join(found.sentences)
    assert "V is without novelty, impact and" in said
    assert "reproducibility (the same in every row)" in said
    # One answer is no sum: V would be that answer.
    (tmp_path / "one.tsv").write_text("meta\tq\n" + "".join(f"{i / 40}\t{i}\n" for i in range(30)))
    alone = regress_quality(read_quality_table(tmp_path / "one.tsv", "q"), default_weights(), bootstraps=50)
    assert alone.score_correlation is None
    assert "cannot be said" in alone.sentences[0]


def test_rows_that_belong_together_are_drawn_together(tmp_path):
    """Copies of rows are no evidence: by groups the intervals are those of the rows without copies."""
    generator = np.random.default_rng(5)
    values = generator.random((40, 2))
    quality = values @ [0.5, 0.1] + 0.2 * generator.standard_normal(40)
    head = "name,logic,meta,q\n"
    rows = [f"m{i},{a:.6f},{b:.6f},{q:.6f}\n" for i, ((a, b), q) in enumerate(zip(values, quality, strict=True))]
    (tmp_path / "once.csv").write_text(head + "".join(rows))
    (tmp_path / "copies.csv").write_text(head + "".join(row for row in rows for _ in range(9)))
    once = regress_quality(read_quality_table(tmp_path / "once.csv", "q"), default_weights(), ridge=1e-6)
    copies = read_quality_table(tmp_path / "copies.csv", "q", group="name")
    grouped = regress_quality(copies, default_weights(), ridge=1e-6)
    alone = regress_quality(read_quality_table(tmp_path / "copies.csv", "q"), default_weights(), ridge=1e-6)
    width = [found.coefficients[0].upper - found.coefficients[0].lower for found in (once, grouped, alone)]
    assert width[1] == pytest.approx(width[0], rel=0.15)
    assert width[2] < 0.5 * width[0]
    assert grouped.explained == pytest.approx(once.explained, abs=0.1)
    assert any("40 groups" in sentence for sentence in grouped.sentences)
    with pytest.raises(InputError, match="no column 'nothing'"):
        read_quality_table(tmp_path / "once.csv", "q", group="nothing")
    (tmp_path / "few.csv").write_text(head + "".join(f"m{i % 3},0.{i},0.5,{i}\n" for i in range(30)))
    with pytest.raises(InputError, match="3 groups"):
        read_quality_table(tmp_path / "few.csv", "q", group="name")


@pytest.mark.real
def test_the_real_table_of_emdb_entries(tmp_path):
    data = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).parents[4] / "shared/data"))
    path = data / "tables/emdb_q_scores.tsv"
    if not path.is_file():
        pytest.skip(f"{path} is absent: set CRYOPRISM_DATA")
    found = regress_quality(read_quality_table(path, "q_score"), default_weights(), bootstraps=50)
    resolution = next(one for one in found.coefficients if one.name == "resolution_angstrom")
    assert resolution.upper < 0  # finer maps have better Q-scores
    assert found.score_correlation is None
    assert "cannot be said" in found.sentences[0]
