"""Topaz-Denoise with its own pre-trained U-Net, in an environment of its own under .peers/."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from torch import Tensor

from cryoprism.formats import read_image

PEERS = Path(__file__).resolve().parents[2] / ".peers"


def topaz_python() -> Path:
    """Python of the environment with Topaz-Denoise; made on first use.

    Topaz asks for torchvision, which its denoiser does not use and which would bring a CUDA build of torch: left out.
    Its models are found through pkg_resources, which setuptools dropped in version 81.
    """
    python = PEERS / "topaz" / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import topaz.denoise"], capture_output=True).returncode == 0:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS / "topaz"], check=True)
    pip = [python, "-m", "pip", "install", "-q"]
    needed = [
        "numpy==2.4.6",
        "scipy==1.17.1",
        "setuptools<81",
        "future",
        "h5py",
        "pandas",
        "pillow",
        "psutil",
        "scikit-learn",
        "tqdm",
    ]
    subprocess.run([*pip, "torch==2.13.0", *needed], check=True)
    subprocess.run([*pip, "--no-deps", "topaz-em==0.3.20"], check=True)
    return python


def run_topaz(files: list[Path], out: Path) -> tuple[list[Tensor], float]:
    """Return denoised images, and CPU seconds per image with the start of the program shared among them."""
    python = topaz_python()
    out.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        python,
        "-m",
        "topaz.commands.denoise",
        "--device",
        "-1",
        "--arch",
        "unet",
        "--model",
        "unet",
        "-o",
        out,
        *files,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Topaz-Denoise failed: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [read_image(out / file.name).data for file in files], seconds / len(files)
