"""Parts of the sandbox by themselves: the filter on every processor, the stream of outputs, formulas and units."""

import io
import json
import math
import re
import struct
from pathlib import Path

import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import (
    FUNCTIONS,
    Execution,
    Limits,
    parse_formula,
    parse_unit,
    parse_variable,
    seccomp_filter,
)
from cryoprism.evaluation.sandbox._outputs import receive
from cryoprism.evaluation.sandbox.seccomp import ARCHITECTURES, REFUSED
from programs import require_walls

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, EACCES, ENOSYS = 1, 13, 38


def judged(program, number, arguments=(), audit=None, machine="x86_64"):
    """What a filter says to a call: a small interpreter of classic BPF."""
    data = struct.pack("<IIQ6Q", number, ARCHITECTURES[machine].audit if audit is None else audit, 0,
                       *[*arguments, *[0] * (6 - len(arguments))])  # fmt: skip
    instructions = list(struct.iter_unpack("HBBI", program))
    place = accumulator = 0
    while True:
        code, on_true, on_false, operand = instructions[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            place += on_true if holds[code] else on_false


def refused(error):
    return 0x50000 | error


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_names_and_nothing_else(machine):
    program, column = seccomp_filter(machine), ARCHITECTURES[machine].column
    named = {values[column]: values[2] for values in REFUSED.values() if values[column] is not None}
    judges = {"x86_64": {56, 41, 302, 16, 53, 54, 72}, "aarch64": {220, 198, 261, 29, 199, 208, 25}}[machine]
    for number in set(range(470)) - judges:
        expected = refused(named[number]) if number in named else ALLOW
        assert judged(program, number, machine=machine) == expected, number


@pytest.mark.parametrize(
    ("machine", "clone", "socket", "limit", "control"), [("x86_64", 56, 41, 302, 16), ("aarch64", 220, 198, 261, 29)]
)
def test_calls_are_judged_by_their_arguments(machine, clone, socket, limit, control):
    def says(number, *arguments):
        return judged(seccomp_filter(machine), number, arguments, machine=machine)

    assert says(clone, 0x3D0F00) == ALLOW  # a thread
    assert says(clone, 17) == ALLOW  # a fork
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert says(clone, flag | 17) == refused(EPERM)
    assert says(socket, 1) == ALLOW
    for family in (0, 2, 10, 16, 17, 38, 40, (1 << 32) + 2):
        assert says(socket, family) == refused(EACCES)
    assert says(limit, 0, 7) == ALLOW
    assert says(limit, 1, 7) == refused(EPERM)
    assert says(control, 0, 0x5401) == ALLOW
    assert says(control, 0, 0x5412) == refused(EPERM)
    assert says(control, 0, 0x541C) == refused(EPERM)


@pytest.mark.parametrize(("machine", "pair", "option", "control"), [("x86_64", 53, 54, 72), ("aarch64", 199, 208, 25)])
def test_sockets_come_in_pairs_of_one_family_and_buffers_stay_as_they_are(machine, pair, option, control):
    def says(number, *arguments):
        return judged(seccomp_filter(machine), number, arguments, machine=machine)

    assert says(pair, 1, 1) == ALLOW
    for family in (2, 16, 30, (1 << 32) + 30):
        assert says(pair, family, 1) == refused(EACCES)
    for name in (7, 32, (1 << 32) + 7):
        assert says(option, 3, 1, name) == refused(EPERM)
    assert says(option, 3, 1, 8) == ALLOW  # SO_RCVBUF: what waits is bounded by the sender
    assert says(control, 3, 1031, 1 << 20) == refused(EPERM)
    assert says(control, 3, 1030) == ALLOW  # F_DUPFD_CLOEXEC


def test_calls_of_another_processor_mode_end_the_program():
    program = seccomp_filter("x86_64")
    assert judged(program, 0, audit=0x40000003) == KILL  # i386
    assert judged(program, 0x40000000 | 39) == refused(ENOSYS)  # x32
    assert judged(program, 39) == ALLOW


def test_an_unknown_processor_is_said():
    with pytest.raises(InputError, match="mips"):
        seccomp_filter("mips")


@pytest.mark.parametrize(
    ("header", "machine"),
    [("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "x86_64"), ("/usr/include/asm-generic/unistd.h", "aarch64")],
)
def test_the_numbers_are_those_of_the_kernel(header, machine):
    if not Path(header).exists():
        pytest.skip(f"{header} (linux-libc-dev) is not installed")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    compared = 0
    for name, values in REFUSED.items():
        number = values[ARCHITECTURES[machine].column]
        if name in known:
            assert number == int(known[name]), name
            compared += 1
    assert compared > 45


def stream_of(files, contents, **header):
    text = json.dumps({"report": {}, "files": files, "left_out": {}, **header}).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + contents)


@pytest.mark.parametrize("path", ["../out", "/abs", "a/../../b", "", ".", "a/./b", "a\0b"])
def test_a_path_that_leads_out_is_not_written(tmp_path, path):
    folder = tmp_path / "folder"
    folder.mkdir()
    received = receive(stream_of([[path, 3, False], ["good", 2, False]], b"badok"), folder, 100)
    assert received.files == ("good",)
    assert received.left_out == {path: "leads out of the folder"}
    assert (folder / "good").read_bytes() == b"ok"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_stream_that_lies_about_its_size_leaves_nothing(tmp_path):
    received = receive(stream_of([["a", 2, False], ["b", 50, False], ["c", 1, False]], b"aabbb"), tmp_path, 100)
    assert received.files == ("a",)
    assert set(received.left_out) == {"b", "c"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    received = receive(stream_of([["x", 200, False]], bytes(200)), tmp_path, 100)
    assert "limit" in received.left_out["x"]
    assert receive(io.BytesIO(b""), tmp_path, 100) is None
    assert receive(io.BytesIO((5).to_bytes(8, "little") + b"abcde"), tmp_path, 100) is None


@pytest.mark.parametrize(
    ("text", "factor", "shown"),
    [
        ("e/Å²", 1.0, "e/Å²"),
        ("e/A^2", 1.0, "e/Å²"),
        ("1/nm", 0.1, "1/Å"),
        ("nm^-1", 0.1, "1/Å"),
        ("mm", 1e7, "Å"),
        ("µm", 1e4, "Å"),
        ("kV", 1.0, "kV"),
        ("°", math.pi / 180, "dimensionless"),
        ("Å·px^-1", 1.0, "Å/px"),
        ("e/px/s", 1.0, "e/px/s"),
        ("", 1.0, "dimensionless"),
        ("dimensionless", 1.0, "dimensionless"),
        ("%", 0.01, "dimensionless"),
    ],
)
def test_units_are_read(text, factor, shown):
    unit = parse_unit(text)
    assert unit.factor == pytest.approx(factor, rel=1e-12)
    assert str(unit) == shown or set(str(unit)) == set(shown)


@pytest.mark.parametrize("text", ["furlong", "e/", "Å^^2", "e//Å", "kV^99", "Å;import os"])
def test_unknown_units_are_said(text):
    with pytest.raises(InputError):
        parse_unit(text)


GIVEN = [parse_variable(text) for text in ("B = 100±10 Å²", "k=0.2 1/Å", "dose=40±2 e/Å^2", "tilt=30 °", "nothing=0")]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "B.real", "unknown + 1", "sin(B)", "B + k", "[1]", "lambda: 1", "B^k",
        "(1).__class__", "exp(1, 2)", "exp(x=1)", "exp(*B)", "'a' * 3", "True", "1 if B else 2", "B < 2", "B and k",
        "f'{B}'", "open('x')", "1j", "x := 1", "", "B +", "-" * 100 + "1", "1e400",
        "B ** 0.5 ** B", "k ** 100", "B % 2", "B // 2", "B @ B", "~1", "exp", "1" * 3000,
    ],
)  # fmt: skip
def test_what_may_not_stand_in_a_formula_is_refused(text):
    with pytest.raises(InputError):
        parse_formula(text, GIVEN)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("exp(-B*k^2/4)", "dimensionless"),
        ("dose*B", "e"),
        ("sqrt(B)", "Å"),
        ("B^(1/2)*k", "dimensionless"),
        ("B^-1 + k²", "1/Å²"),
        ("sin(tilt) + 2*π", "dimensionless"),
        ("abs(-k)", "1/Å"),
    ],
)
def test_units_go_through_a_formula(text, unit):
    assert str(parse_formula(text, GIVEN).unit) == unit


@pytest.mark.parametrize("text", ["a", "a=", "a=x", "=1", "1a=1", "a=1 furlong", "exp=1", "pi=3", "a=1..2", "a=1±x"])
def test_unreadable_variables_are_said(text):
    with pytest.raises(InputError):
        parse_variable(text)


def test_a_variable_with_deviation():
    variable = parse_variable("cs=2.7±0.1mm")
    assert (variable.value, variable.deviation, variable.unit.factor) == (2.7, 0.1, 1e7)
    with pytest.raises(InputError, match="given twice"):
        parse_formula("a", [parse_variable("a=1"), parse_variable("a=2")])


@pytest.fixture(params=["bubblewrap", "none"])
def isolation(request):
    pytest.importorskip("sympy")
    if request.param == "bubblewrap":
        require_walls()
    return request.param


def test_value_derivatives_and_deviation(isolation):
    value = parse_formula("dose*exp(-B*k^2/4)", GIVEN[:3]).evaluate(isolation=isolation)
    weight = math.exp(-1)
    assert value.value == pytest.approx(40 * weight, rel=1e-12)
    assert value.unit == "e/Å²"
    assert value.derivatives["dose"].value == pytest.approx(weight, rel=1e-12)
    assert value.derivatives["B"].value == pytest.approx(-40 * 0.01 * weight, rel=1e-12)
    assert value.derivatives["B"].unit == "e/Å⁴"
    assert value.deviation == pytest.approx(weight * math.hypot(2, 40 * 0.01 * 10), rel=1e-12)
    assert value.derivatives["B"].share_of_variance == pytest.approx(0.8)
    assert value.derivatives["k"].share_of_variance == 0.0


@pytest.mark.parametrize(
    ("text", "variables", "low", "high"),
    [
        ("sin(x)", ["x=90±20 °"], math.cos(math.radians(2.24 * 20)), 1.0),
        ("x^2", ["x=0±1"], 0.001, 5.02),
        ("a/b", ["a=1", "b=0.1±0.1"], -50.0, 100.0),
    ],
)
def test_where_first_order_fails_the_draws_say_so(isolation, text, variables, low, high):
    value = parse_formula(text, [parse_variable(one) for one in variables]).evaluate(isolation=isolation)
    assert not value.first_order_holds
    assert value.to_json()["standard_deviation"] is None
    found_low, found_high = value.drawn.interval
    if text == "a/b":  # heavy tails: only that they are seen
        assert found_low < -10
        assert found_high > 50
    else:
        assert found_low == pytest.approx(low, abs=0.05)
        assert found_high == pytest.approx(high, rel=0.07)


def test_where_first_order_holds_it_is_said(isolation):
    value = parse_formula("dose*exp(-B*k^2/4)", GIVEN[:3]).evaluate(isolation=isolation)
    assert value.first_order_holds
    assert value.drawn.deviation == pytest.approx(value.deviation, rel=0.1)
    assert value.to_json()["standard_deviation"] == value.deviation


def test_draws_without_a_value_are_counted(isolation):
    value = parse_formula("sqrt(x)", [parse_variable("x=1±1")]).evaluate(isolation=isolation)
    assert value.drawn.share_finite == pytest.approx(0.841, abs=0.02)
    assert not value.first_order_holds


def test_draws_are_those_of_every_function(isolation):
    text = " + ".join(f"{name}(x)" for name in sorted(FUNCTIONS))
    value = parse_formula(text, [parse_variable("x=0.5±0.0001")]).evaluate(isolation=isolation)
    assert value.first_order_holds
    assert sum(value.drawn.interval) / 2 == pytest.approx(value.value, abs=1e-3)


def test_the_value_comes_in_the_unit_asked_for():
    pytest.importorskip("sympy")
    formula = parse_formula("sqrt(B)", GIVEN)
    value = formula.evaluate(unit="nm", isolation="none")
    assert (value.value, value.unit) == (pytest.approx(1.0), "nm")
    assert value.deviation == pytest.approx(0.05)
    with pytest.raises(InputError, match="gives Å, not kV"):
        formula.evaluate(unit="kV")


@pytest.mark.parametrize("text", ["1/nothing", "log(nothing)", "sqrt(-1)", "acos(2)", "exp(exp(10))^100"])
def test_no_number_is_said(text):
    pytest.importorskip("sympy")
    with pytest.raises(InputError, match="no finite real number"):
        parse_formula(text, GIVEN).evaluate(isolation="none")


def test_a_formula_that_takes_for_ever_is_stopped(isolation):
    result = parse_formula("9^9^9^9", []).evaluate(limits=Limits(cpu_seconds=1.5), isolation=isolation)
    assert isinstance(result, Execution)
    assert result.verdict in {"stopped", "failed"}
