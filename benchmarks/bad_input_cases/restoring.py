"""What goes wrong with micrographs, and with folders: cases of ``cryoprism restore``."""

from __future__ import annotations

import os

import numpy as np
import torch

from .making import (
    LENS,
    SMALL_DISK,
    WRAPPED,
    Case,
    can_drop_rights,
    can_mount,
    folder_of,
    good,
    header_pixel,
    held,
    mrc,
    nan,
    one,
    one_bad,
    png,
    star,
    star_with_bad,
    steps,
    text,
    truncate,
    twins,
    unreadable,
    unwritable,
    volume,
    zipped_and_cut,
)

CASES = (
    # The file itself.
    Case("micrograph cut short", one(truncate), words=("a.mrc", "holds 524", "cut short")),
    Case("empty file", one(lambda p: os.truncate(p, 0)), words=("a.mrc", "holds 0 bytes")),
    Case("not an image (text named .mrc)", one(text), words=("a.mrc", "not an MRC file")),
    Case("gzip file cut short", one(zipped_and_cut), words=("a.mrc", "cut short")),
    Case("a NaN among the pixels", one(data=nan), words=("a.mrc", "1 of 262144 pixels are NaN", "(3, 5)")),
    Case("three-dimensional volume", one(volume), words=("a.mrc", "130 x 130 x 130", "map")),
    Case("constant image", one(data=lambda: np.full((512, 512), 7.0, np.float32)), words=("a.mrc", "every pixel is 7")),
    Case("image of 64 × 64 pixels", one(data=lambda: good()[:64, :64]), words=("a.mrc", "64")),
    Case(
        "unknown suffix",
        lambda f: (f / "a.doc").write_text("x") and ["a.doc", *LENS],
        words=("a.doc", "'.doc'", ".mrc"),
    ),
    # Pixel size.
    Case("header pixel size 0", one(lambda p: header_pixel(p, 0.0)), words=("a.mrc", "pixel size", "--pixel-size")),
    Case(
        "header pixel size exactly 1 Å",
        one(lambda p: header_pixel(p, 512.0)),
        code=0,
        words=("a.mrc", "exactly 1 Å", "--pixel-size"),
    ),
    Case("header pixel size 100 Å", one(lambda p: header_pixel(p, 51200.0)), words=("100", "--pixel-size")),
    Case(
        "--pixel-size 100 (nothing left to fit)",
        one(lambda p: None, "--pixel-size", "100"),
        words=("--pixel-size", "100"),
    ),
    Case("--pixel-size 20 (nothing left to fit)", one(lambda p: None, "--pixel-size", "20"), words=("20", "30")),
    Case("--pixel-size -1", one(lambda p: None, "--pixel-size", "-1"), words=("--pixel-size", "-1", "0.05")),
    Case(
        "PNG folder without pixel size",
        steps(png, then=["pictures", *LENS]),
        words=("p0.png", "pixel size", "--pixel-size"),
    ),
    Case(
        "PNG folder with pixel size",
        steps(png, then=["pictures", *LENS, "--pixel-size", "1.5"]),
        code=0,
        words=("2 of 2",),
        kept=("views/p1.mrc",),
    ),
    Case("no voltage anywhere", lambda f: [mrc(f / "a.mrc")], words=("a.mrc", "voltage", "--voltage")),
    # STAR files.
    Case("empty STAR file", lambda f: (f / "e.star").touch() or ["e.star"], words=("e.star",)),
    Case("STAR file without rows", lambda f: [star(f / "e.star", [])], words=("e.star", "no rows")),
    Case(
        "STAR file names missing micrographs",
        lambda f: [star(f / "m.star", ["no/a.mrc", "no/b.mrc"])],
        words=("m.star", "2 of 2", "no/a.mrc"),
    ),
    Case(
        "STAR file without optics table",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], optics=""), then=["m.star"]),
        words=("m.star", "data_optics"),
    ),
    Case(
        "STAR row with an unknown optics group",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], group="7"), then=["m.star"]),
        words=("m.star", "group 7", "rlnOpticsGroup"),
    ),
    Case(
        "STAR optics pixel size is no number",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], pixel="wide"), then=["m.star"]),
        words=("m.star", "rlnMicrographPixelSize", "'wide'"),
    ),
    Case(
        "same micrograph listed twice",
        steps(lambda f: mrc(f / "a.mrc"), then=["a.mrc", "./a.mrc", *LENS]),
        words=("a.mrc", "listed 2 times"),
    ),
    Case(
        "same name in two folders",
        steps(twins, then=["one/a.mrc", "two/a.mrc", *LENS]),
        code=0,
        words=("2 of 2",),
        kept=("views/one_a.mrc", "views/two_a.mrc"),
    ),
    # Where things are.
    Case("input does not exist", lambda f: ["nowhere", *LENS], words=("nowhere", "does not exist")),
    Case("glob that fits nothing", lambda f: ["x*.mrc", *LENS], words=("x*.mrc", "matches nothing")),
    Case("empty folder", lambda f: (f / "mics").mkdir() or ["mics", *LENS], words=("mics", "empty folder")),
    Case(
        "folder that may not be read",
        steps(unreadable, then=["locked", *LENS]),
        words=("locked", "ermission"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "output where nothing may be written",
        steps(unwritable, then=["a.mrc", *LENS, "--out", "shelf/run"]),
        words=("shelf/run", "permission", "--out"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "output folder is a file",
        lambda f: (f / "run").touch() or [mrc(f / "a.mrc"), *LENS],
        words=("run", "is a file", "--out"),
    ),
    Case(
        "output folder holds something",
        steps(held, then=["a.mrc", *LENS]),
        words=("run", "already holds", "--only-do-unfinished"),
    ),
    Case(
        "--overwrite on a folder that is no job",
        steps(held, then=["a.mrc", *LENS, "--overwrite"]),
        words=("run", "no CryoPrism job"),
        kept=("thesis.tex",),
    ),
    Case(
        "disk full",
        lambda f: (f / "disk").mkdir() or [folder_of(4, f), *LENS, "--out", "disk/run"],
        words=("disk/run", "pace", "--only-do-unfinished"),
        kept=("views/m0.mrc",),
        wrapper=SMALL_DISK,
        possible=can_mount,
    ),
    Case(
        "file larger than allowed",
        lambda f: [folder_of(2, f), *LENS],
        words=("views/m0.mrc", "arge"),
        limit_in_bytes=400_000,
    ),
    # One among many.
    Case(
        "one cut short in a folder of three",
        steps(one_bad, then=["mics", *LENS]),
        code=1,
        words=("2 of 3", "m1", "cut short"),
        kept=("views/m0.mrc", "views/m2.mrc", "micrographs.star"),
    ),
    Case(
        "one cut short of three in a STAR file",
        steps(star_with_bad, then=["mics.star"]),
        code=1,
        words=("2 of 3", "m1", "cut short"),
        kept=("views/m0.mrc", "views/m2.mrc"),
    ),
    # Options.
    Case("--workers 0", one(lambda p: None, "--workers", "0"), words=("--workers", "0")),
    Case(
        "--device cuda without a GPU",
        one(lambda p: None, "--device", "cuda"),
        words=("--device", "cuda", "cpu"),
        possible=lambda: not torch.cuda.is_available(),
    ),
    Case("unknown option", one(lambda p: None, "--pixelsize", "1"), words=("--pixelsize", "--pixel-size")),
    Case("--voltage 300000", one(lambda p: None, "--voltage", "300000"), words=("--voltage", "300000", "1500")),
    Case(
        "--mtf that does not exist",
        one(lambda p: None, "--mtf", "k4.star"),
        words=("k4.star", "does not exist", "--mtf"),
    ),
    Case(
        "--gain of another shape",
        lambda f: [mrc(f / "a.mrc", np.stack([good(0), good(1)])), "--gain", mrc(f / "g.mrc", good()[:100]), *LENS],
        words=("g.mrc", "100"),
    ),
    Case("--max-memory too small", one(lambda p: None, "--max-memory", "0.1"), words=("512", "0.1 GB", "--max-memory")),
)
