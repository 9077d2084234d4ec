"""Bad input gets one line that names it, its value and the remedy; nothing half-written; and the others go on."""

import gzip
import hashlib
import importlib.util
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoprism.cli import main
from cryoprism.formats import write_mrc
from cryoprism.workflow import Job

ROOT = Path(__file__).resolve().parents[1]
LENS = ("--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1")
SIZE = 256


def picture(index=0):
    noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(index))
    smooth = torch.nn.functional.avg_pool2d(noise[None, None], 5, 1, 2)[0, 0]
    return (50 + 7 * noise + 10 * smooth).numpy()


def mrc(path, data=None, pixel=1.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, picture() if data is None else data, pixel)
    return path


def star(path, names, group="1", optics=True, pixel="1.5"):
    head = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n"
        f"1 one 300 2.7 0.1 {pixel}\n\n"
    )
    rows = "".join(f"{name} {group}\n" for name in names)
    table = f"data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}\n"
    path.write_text((head if optics else "") + table)
    return path.name


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["restore", *arguments, *(() if "--out" in arguments else ("--out", "run"))])
    return caught.value.code


def leftovers(out="run"):
    return [p.name for p in Path(out).rglob("*") if p.name.startswith(".cryoprism-tmp-") or p.name.endswith(".tmp")]


def refused(capsys, *arguments):
    """Run what must fail as a whole; the line of its error."""
    assert run(*arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert not Path("run/RELION_JOB_EXIT_SUCCESS").exists()
    assert leftovers() == []
    return errors[0]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_gzip(path):
    packed = gzip.compress(path.read_bytes(), 1)
    path.write_bytes(packed[: len(packed) // 2])


def no_number(path):
    data = picture()
    data[3, 5] = np.nan
    mrc(path, data)


def no_pixel_size(path):
    with path.open("r+b") as stream:
        stream.seek(40)
        stream.write(bytes(12))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, ["cut short", "holds 131584 bytes"]),
        (lambda p: os.truncate(p, 0), ["holds 0 bytes"]),
        (lambda p: p.write_text("notes\n" * 500), ["not an MRC file"]),
        (cut_gzip, ["compressed", "cut short"]),
        (no_number, [f"1 of {SIZE * SIZE} pixels are NaN", "(3, 5)"]),
        (no_pixel_size, ["gives no pixel size", "--pixel-size"]),
        (lambda p: mrc(p, np.full((SIZE, SIZE), 7.0, np.float32)), ["every pixel is 7", "leave this micrograph out"]),
        (lambda p: mrc(p, picture()[:64, :64]), ["64", "128"]),
        (
            lambda p: write_mrc(p, np.random.default_rng(0).random((40, 40, 40)), 1.5, volume=True),
            ["40 x 40 x 40", "map"],
        ),
    ],
    ids=["cut short", "empty", "text", "gzip", "nan", "pixel size", "constant", "tiny", "volume"],
)
def test_a_bad_micrograph_is_named_with_what_is_wrong(capsys, change, words):
    path = mrc(Path("bad.mrc"))
    change(path)
    line = refused(capsys, "bad.mrc", *LENS)
    for word in ["bad.mrc", *words]:
        assert word in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pixel-size", "-1"], ["--pixel-size", "-1"]),
        (["--pixel-size", "100"], ["--pixel-size", "100", "50"]),
        (["--pixel-size", "20"], ["pixel size"]),
        (["--workers", "0"], ["--workers", "0"]),
        (["--mtf", "k4.star"], ["k4.star", "does not exist", "--mtf"]),
        (["--gain", "g.mrc"], ["g.mrc", "does not exist", "--gain"]),
        (["--max-memory", "0.1"], ["0.1 GB", "--max-memory"]),
        (["--pixelsize", "1"], ["--pixelsize", "--pixel-size"]),
    ],
)
def test_a_bad_option_is_named_with_its_value(capsys, options, words):
    mrc(Path("a.mrc"))
    line = refused(capsys, "a.mrc", *LENS, *options)
    for word in words:
        assert word in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_an_error_and_never_another_device(capsys):
    mrc(Path("a.mrc"))
    line = refused(capsys, "a.mrc", *LENS, "--device", "cuda")
    assert "--device" in line
    assert "cpu" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"names": ["no/a.mrc", "no/b.mrc"]}, ["m.star", "2 of 2", "no/a.mrc"]),
        ({"names": []}, ["m.star", "no rows"]),
        ({"names": ["a.mrc"], "optics": False}, ["m.star", "data_optics"]),
        ({"names": ["a.mrc"], "group": "7"}, ["m.star", "group 7", "rlnOpticsGroup"]),
        ({"names": ["a.mrc"], "pixel": "wide"}, ["m.star", "rlnMicrographPixelSize", "'wide'"]),
    ],
)
def test_a_star_file_that_cannot_be_is_named_with_its_field(capsys, content, words):
    mrc(Path("a.mrc"))
    line = refused(capsys, star(Path("m.star"), **content))
    for word in words:
        assert word in line


def test_a_star_file_without_anything(capsys):
    Path("e.star").touch()
    assert "e.star" in refused(capsys, "e.star")


@pytest.mark.parametrize("name", ["nowhere", "x*.mrc", "empty"])
def test_an_input_that_is_not_there(capsys, name):
    Path("empty").mkdir()
    assert name in refused(capsys, name, *LENS)


def test_a_png_folder_needs_a_pixel_size(capsys):
    imagecodecs = pytest.importorskip("imagecodecs")
    Path("pictures").mkdir()
    Path("pictures/p.png").write_bytes(imagecodecs.png_encode(picture().clip(0, 255).astype(np.uint8)))
    assert "--pixel-size" in refused(capsys, "pictures", *LENS)
    assert run("pictures", *LENS, "--pixel-size", "1.5", "--overwrite") == 0
    assert Path("run/views/p.mrc").exists()


@pytest.mark.parametrize("kind", ["folder", "star"])
@pytest.mark.parametrize("bad", [0, 1])
def test_one_bad_micrograph_leaves_the_others(capsys, kind, bad):
    for index in range(3):
        mrc(Path(f"mics/m{index}.mrc"), picture(index))
    cut(Path(f"mics/m{bad}.mrc"))
    given = ["mics", *LENS] if kind == "folder" else [star(Path("m.star"), [f"mics/m{i}.mrc" for i in range(3)])]
    assert run(*given) == 1
    out, err = capsys.readouterr()
    assert "2 of 3 micrographs restored" in out
    (line,) = [line for line in err.splitlines() if line.startswith("Not restored:")]
    assert f"m{bad}" in line
    assert "cut short" in line
    table = Path("run/micrographs.star").read_text()
    assert [f"m{i}.mrc" in table for i in range(3)] == [i != bad for i in range(3)]
    assert sorted(p.stem for p in Path("run/views").iterdir()) == [f"m{i}" for i in range(3) if i != bad]
    assert leftovers() == []


def test_equal_names_in_two_folders_do_not_overwrite_each_other(capsys):
    mrc(Path("one/a.mrc"), picture(1))
    mrc(Path("two/a.mrc"), picture(2))
    assert run("one/a.mrc", "two/a.mrc", *LENS) == 0
    assert len(list(Path("run/views").iterdir())) == 2
    assert "listed 2 times" in refused_again(capsys, "one/a.mrc", "./one/a.mrc")


def refused_again(capsys, *arguments, out="other"):
    capsys.readouterr()
    assert run(*arguments, *LENS, "--out", out) == 2
    return capsys.readouterr().err


def test_what_is_in_the_output_folder_is_never_lost(capsys):
    mrc(Path("a.mrc"))
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("mine")
    assert "--only-do-unfinished" in refused(capsys, "a.mrc", *LENS)
    assert "no CryoPrism job" in refused(capsys, "a.mrc", *LENS, "--overwrite")
    assert Path("run/thesis.tex").read_text() == "mine"
    Path("file").touch()
    assert "file: is a file" in refused_again(capsys, "a.mrc", out="file")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_disk_that_takes_no_more_keeps_what_is_finished(capsys):
    for index in range(2):
        mrc(Path(f"mics/m{index}.mrc"), picture(index))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        line = refused(capsys, "mics", *LENS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run/views/m0.mrc" in line
    assert "--only-do-unfinished" in line
    assert list(Path("run/views").iterdir()) == []
    assert run("mics", *LENS, "--only-do-unfinished") == 0


def products(out):
    names = [p for kind in ("views", "residuals", "deviations", "masks") for p in sorted(Path(out, kind).iterdir())]
    names += [Path(out, "micrographs.star"), Path(out, "causes.json")]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def test_a_run_that_was_stopped_continues_to_the_same_files(capsys, monkeypatch):
    for index in range(3):
        mrc(Path(f"mics/m{index}.mrc"), picture(index))
    assert run("mics", *LENS, "--out", "whole") == 0
    mark, marked = Job.mark_done, []

    def stop_after_one(self, name, **values):
        if marked:
            raise KeyboardInterrupt
        marked.append(name)
        mark(self, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "mark_done", stop_after_one)
        assert run("mics", *LENS) == 130
    assert "--only-do-unfinished" in capsys.readouterr().err
    assert Path("run/RELION_JOB_EXIT_FAILURE").exists()
    assert not Path("run/RELION_JOB_EXIT_SUCCESS").exists()
    # What a killed process leaves behind goes when the run is continued.
    Path("run/views/.cryoprism-tmp-0123abcd-m1.mrc").write_bytes(b"half")
    assert run("mics", *LENS, "--only-do-unfinished") == 0
    assert "(1 were done before)" in capsys.readouterr().out
    assert leftovers() == []
    assert products("run") == products("whole")


def test_every_case_of_the_table_is_in_the_documents():
    path = ROOT / "benchmarks" / "bad_input.py"
    spec = importlib.util.spec_from_file_location("bad_input_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
    always = [case.name for case in module.CASES if not (case.wrapper or "cuda" in case.title)]
    assert [title for title in always if f"| {title.replace('*', chr(92) + '*')} |" not in page] == []
