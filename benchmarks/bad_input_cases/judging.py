"""Models, maps, records, indexes, judgements and programs that are wrong: cases of the commands that judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .making import Case, Prepare
from .making_particles import volume

_ATOM = "ATOM  {number:5d}  CA  ALA A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  \n"


def _model(folder: Path) -> None:
    """Ten consecutive Cα, 3.8 Å apart."""
    rows = [_ATOM.format(number=k + 1, x=3.8 * k, y=0.0, z=0.0) for k in range(10)]
    (folder / "model.pdb").write_text("".join(rows) + "END\n")


def _nothing(folder: Path) -> None:
    pass


def given(*options: str, more: Callable[[Path], object] = _nothing, model: str = "model.pdb") -> Prepare:
    """Return a model, with one thing wrong."""

    def prepare(folder: Path) -> tuple[str, ...]:
        _model(folder)
        more(folder)
        return (model, *options)

    return prepare


def _nan(folder: Path) -> None:
    text = (folder / "model.pdb").read_text()
    (folder / "model.pdb").write_text(text.replace("   3.800", "     nan"))


def _empty(folder: Path) -> None:
    (folder / "model.pdb").write_text("HEADER    NOTHING\nEND\n")


def _flat_map(folder: Path) -> None:
    volume(folder / "map.mrc", np.zeros((32, 32, 32)))


def _no_job(folder: Path) -> None:
    (folder / "job").mkdir()


def _half_written(folder: Path) -> None:
    (folder / "job").mkdir()
    (folder / "job" / "job.json").write_text('{"schema": "cryoprism-job-1", "kind": ')


def _other_weights(folder: Path) -> None:
    (folder / "weights.json").write_text(json.dumps({"schema": "something-else"}))


def _text(name: str, content: str | bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def _map(change: Callable[[np.ndarray], np.ndarray], *, cut: bool = False) -> Callable[[Path], object]:
    """Return what writes a map with a ball about the model, changed."""

    def write(folder: Path) -> None:
        z, y, x = np.mgrid[-16:16, -16:16, -16:16]
        ball = np.exp(-(x**2 + y**2 + z**2) / 50).astype(np.float32)
        volume(folder / "map.mrc", change(ball))
        if cut:
            whole = (folder / "map.mrc").read_bytes()
            (folder / "map.mrc").write_bytes(whole[: len(whole) // 2])

    return write


def _one_nan(data: np.ndarray) -> np.ndarray:
    data[3, 3, 3] = np.nan
    return data


def _folder(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).mkdir()


def _twice(folder: Path) -> None:
    """Every atom in two alternative places."""
    rows = [row for row in (folder / "model.pdb").read_text().splitlines() if row.startswith("ATOM")]
    both = [f"{row[:16]}{label}{row[17:54]}  0.50{row[60:]}" for row in rows for label in "AB"]
    (folder / "model.pdb").write_text("\n".join([*both, "END"]))


def _several_models(folder: Path) -> None:
    rows = (folder / "model.pdb").read_text().removesuffix("END\n")
    (folder / "model.pdb").write_text("".join(f"MODEL {k:8d}\n{rows}ENDMDL\n" for k in (1, 2, 3)) + "END\n")


def _unknown_residues(folder: Path) -> None:
    (folder / "model.pdb").write_text((folder / "model.pdb").read_text().replace("ALA", "XYZ"))


def call(*arguments: str, more: Callable[[Path], object] = _nothing) -> Prepare:
    """Return a call of a command whose input is not a model; options stand before a program."""
    if "--" in arguments:
        arguments = ("--out", "run", *arguments)

    def prepare(folder: Path) -> tuple[str, ...]:
        more(folder)
        return arguments

    return prepare


_MAP = ("--map", "map.mrc")
_PROVE = (
    Case("no such model", given(model="none.cif"), words=("none.cif", "does not exist")),
    Case("a folder in place of a model", given(more=_folder("models"), model="models"), words=("is a folder",)),
    Case("text in place of a model", given(more=_text("model.pdb", "dear all\n")), words=("holds no atoms",)),
    Case(
        "random bytes in place of a model", given(more=_text("model.pdb", bytes(range(256)) * 9)), words=("model.pdb",)
    ),
    Case(
        "half of an mmCIF file",
        given(more=_text("half.cif", "data_x\nloop_\n_atom_site.id\n_atom_site.type_symbol\n1 C\n2"), model="half.cif"),
        words=("half.cif", "not a readable structure"),
    ),
    Case("coordinates that are no numbers", given(more=_nan), words=("not a finite number",)),
    Case("a map with NaN", given(*_MAP, more=_map(_one_nan)), words=("map.mrc", "NaN")),
    Case("half of a map", given(*_MAP, more=_map(lambda data: data, cut=True)), words=("map.mrc", "cut short")),
    Case("an empty map", given(*_MAP, more=_map(np.zeros_like)), words=("is empty",)),
    Case("a model in place of a map", given("--map", "model.pdb"), words=("model.pdb", "MRC header")),
    Case("a contour above the map", given(*_MAP, "--contour", "99", more=_map(np.copy)), words=("reaches 99",)),
    Case("a contour below the map", given(*_MAP, "--contour", "-9", more=_map(np.copy)), words=("bounds nothing",)),
    Case("a negative margin", given("--margin", "-1"), words=("--margin",)),
    Case("no such assembly", given("--assembly", "7"), words=("has no assembly",)),
    Case("a group that is none", given("--symmetry", "Q3"), words=("--symmetry",)),
    Case(
        "a map of another frame",
        given(*_MAP, more=_map(lambda data: np.roll(data, -14, 0))),
        code=1,
        words=("of the residues lie in the map",),
        kept=("consistency.json", "report.html"),
    ),
    Case("only Cα", given(), code=0, words=("is consistent",), kept=("consistency.json", "report.html")),
    Case("every atom in two places", given(more=_twice), code=0, words=("alternative locations",)),
    Case("three models in one file", given(more=_several_models), code=3, words=("holds 3 models",)),
    Case("residues of an unknown kind", given(more=_unknown_residues), code=0, words=("is consistent",)),
)
_SANDBOX = (
    Case("no such program", call("--", "no-such-program"), words=("not installed",)),
    Case("a file that is no program", call("--", "./x.txt", more=_text("x.txt", "hm")), words=("is no program",)),
    Case("an input that is not there", call("--input", "none", "--", "true"), words=("--input", "does not exist")),
    Case("the whole machine as input", call("--input", "/", "--", "true"), words=("--input",)),
    Case("no time at all", call("--cpu", "0", "--", "true"), words=("--cpu",)),
    Case("a program that fails", call("--", "false"), code=1, words=("exit code 1",), kept=("report.html",)),
    Case(
        "a program without end",
        call("--cpu", "1", "--", "yes"),
        code=1,
        words=("1 s of CPU time",),
        kept=("sandbox.json", "report.html"),
    ),
    Case("Python in place of a formula", call("--formula", "__import__('os').system('id')"), words=("may not stand",)),
    Case("a tower of powers", call("--formula", "9^9^9^9", "--cpu", "2"), code=1, words=("2 s of CPU time",)),
    Case("brackets five hundred deep", call("--formula", "(" * 500 + "1" + ")" * 500), words=("cannot be read",)),
    Case("a letter that only looks like e", call("--formula", "\u0435", "--variable", "e=1"), words=("is unknown",)),
    Case("metres and seconds", call("--formula", "a+b", "--variable", "a=1 Å", "--variable", "b=1 s"), words=("like",)),
    Case("an infinite value", call("--formula", "exp(1000000)"), words=("no finite real number",)),
)
_NOVELTY_BUILD = (
    Case("an empty folder", call("shapes", more=_folder("shapes")), words=("shapes",)),
    Case("a folder that is not there", call("shapes"), words=("shapes",)),
)
_NOVELTY_QUERY = (Case("an index that is not there", given("--index", "known"), words=("known", "novelty build")),)
_WEIGHTS = (
    Case("judgements that are not there", call("judged.jsonl"), words=("judged.jsonl",)),
    Case("a line that is no JSON", call("judged.jsonl", more=_text("judged.jsonl", "{\n")), words=("judged.jsonl",)),
    Case(
        "a verdict for neither",
        call("judged.jsonl", more=_text("judged.jsonl", '{"a": {"logic": 1}, "b": {"logic": 0}, "better": "c"}\n')),
        words=("judged.jsonl", "better"),
    ),
)
_IMPACT = (
    Case("a dump that is not there", call("works.jsonl"), words=("works.jsonl",)),
    Case("an empty dump", call("works.jsonl", more=_text("works.jsonl", "")), words=("works.jsonl",)),
)
_CASES = (
    Case("no such model", given(model="none.cif"), words=("none.cif", "does not exist")),
    Case("a model without atoms", given(more=_empty), words=("model.pdb",)),
    Case("coordinates that are no numbers", given(more=_nan), words=("model.pdb",)),
    Case("an empty map", given("--map", "map.mrc", more=_flat_map), words=("map",)),
    Case("a record without job.json", given("--record", "job", more=_no_job), words=("job", "holds no job.json")),
    Case("a half-written record", given("--record", "job", more=_half_written), words=("job.json", "half written")),
    Case("an index that is not there", given("--index", "known"), words=("known", "novelty build")),
    Case("forecasts that are not there", given("--impact", "cited"), words=("cited", "impact train")),
    Case(
        "weights of another kind",
        given("--score-weights", "weights.json", more=_other_weights),
        words=("weights.json", "weights learn"),
    ),
    Case("a time limit of 0", given("--time-limit", "0"), words=("--time-limit",)),
    Case(
        "only a model",
        given(),
        code=0,
        words=("--index", "--impact", "--record"),
        kept=("assessment.json", "report.html"),
    ),
)
CASES = (
    *(case.of("assess") for case in _CASES),
    *(case.of("prove") for case in _PROVE),
    *(case.of("sandbox run") for case in _SANDBOX),
    *(case.of("novelty build") for case in _NOVELTY_BUILD),
    *(case.of("novelty query") for case in _NOVELTY_QUERY),
    *(case.of("weights learn") for case in _WEIGHTS),
    *(case.of("impact build") for case in _IMPACT),
)
