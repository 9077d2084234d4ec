"""Functions that worker processes can import."""

import os
import time
import warnings

import torch

from cryoprism.core import CryoPrismWarning, InputError, OutputError, generator_for


def noise(name):
    return torch.randn(4, generator=generator_for(3, name)).tolist()


def fail_on_c(name):
    if name == "c":
        raise InputError("header", "mode 99 is unknown", "Convert it to mode 2.")
    return name


def full_on_b(name):
    if name == "b":
        raise OutputError("b.mrc", "cannot be written (No space left on device)", "Free some.")
    return name


def divide(value):
    return 1 / value


def warn(name):
    warnings.warn(f"{name}: no pixel size", CryoPrismWarning, stacklevel=1)
    return name


def die(name):
    if name == "b":
        os._exit(9)
    return name


def slow(name):
    time.sleep(0 if name == "a" else 60)
    return name


def give_back(value):
    return value
