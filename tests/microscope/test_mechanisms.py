"""Every property that every registered mechanism owes, over all of them."""

from __future__ import annotations

import json

import pytest
import torch

from cryoprism.core import generator_for
from cryoprism.microscope import Mechanism, all_mechanisms, mechanism_named

MECHANISMS = all_mechanisms()
SHAPES = {
    "image": (16, 18),
    "wave": (16, 18),
    "movie": (3, 12, 14),
    "volume": (12, 12, 12),
    "spectrum": (16, 10),
}


def select(**flags: bool) -> list[Mechanism]:
    return [m for m in MECHANISMS.values() if all(getattr(m, name) == value for name, value in flags.items())]


def names(mechanisms: list[Mechanism]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mechanism", mechanisms, ids=lambda m: m.name)


def sample_input(
    mechanism: Mechanism, key: object = 0, batch: int = 2, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    generator = generator_for(11, mechanism.name, key)
    shape = (batch, *SHAPES[mechanism.input_kind])
    values = 5 + torch.rand(shape, generator=generator, dtype=dtype)
    if mechanism.input_kind == "wave":
        return torch.complex(values, torch.rand(shape, generator=generator, dtype=dtype))
    return values


def parameters_of(mechanism: Mechanism, key: object = 0) -> dict[str, float]:
    return mechanism.sample_parameters(generator_for(7, mechanism.name, key))


def run(mechanism: Mechanism, value: torch.Tensor, parameters: dict, seed: int = 3) -> torch.Tensor:
    return mechanism.apply(value, parameters, generator_for(seed, "noise") if mechanism.random else None)


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.conj() * b).real.sum()


def test_the_registry_holds_every_stage_that_damages_an_image():
    assert {"ice", "dose", "motion", "optics", "detector", "contamination"} <= {m.stage for m in MECHANISMS.values()}
    assert mechanism_named("linear_drift").cause == "drift"
    with pytest.raises(KeyError, match="linear_drift"):
        mechanism_named("gremlins")


@names(list(MECHANISMS.values()))
def test_the_record_is_complete_and_serialisable(mechanism: Mechanism):
    parameters = parameters_of(mechanism)
    assert json.loads(json.dumps(parameters)) == parameters
    assert set(mechanism.ideal) <= set(parameters), "an ideal names a parameter that is never sampled"
    assert set(mechanism.gradient_parameters) <= set(parameters)
    for name, (low, high) in mechanism.bounds.items():
        assert low < high
        for values in (parameters, mechanism.ideal):
            if name in values:
                assert low <= float(values[name]) <= high, name
    for name in mechanism.ideal:
        assert name in mechanism.units, f"{name} has no unit"
    assert mechanism.ideal_is_identity or mechanism.ideal_note
    assert mechanism.sample_parameters(generator_for(1)) == mechanism.sample_parameters(generator_for(1))


@names(list(MECHANISMS.values()))
def test_the_input_stays_as_it_was_and_the_output_is_new_and_finite(mechanism: Mechanism):
    value = sample_input(mechanism)
    before = value.clone()
    out = run(mechanism, value, parameters_of(mechanism))
    assert torch.equal(value, before)
    assert bool(torch.isfinite(torch.view_as_real(out) if out.is_complex() else out).all())
    assert out.real.dtype == value.real.dtype
    out += 1
    assert torch.equal(value, before), "the output shares memory with the input"


@names(list(MECHANISMS.values()))
def test_the_mechanism_does_something(mechanism: Mechanism):
    value = sample_input(mechanism)
    out = run(mechanism, value, parameters_of(mechanism))
    assert out.shape != value.shape or not torch.allclose(out, value.to(out.dtype), rtol=1e-4)


@names(list(MECHANISMS.values()))
def test_the_ideal_does_no_harm(mechanism: Mechanism):
    if not mechanism.ideal_is_identity:
        pytest.skip(mechanism.ideal_note)
    value = sample_input(mechanism)
    ideal = mechanism.with_ideal(parameters_of(mechanism))
    torch.testing.assert_close(run(mechanism, value, ideal), value, rtol=2e-5, atol=2e-5)


@names(list(MECHANISMS.values()))
def test_the_same_seed_gives_the_same_result(mechanism: Mechanism):
    value, parameters = sample_input(mechanism), parameters_of(mechanism)
    first = run(mechanism, value, parameters)
    assert torch.equal(first, run(mechanism, value, parameters))
    if mechanism.random:
        assert not torch.equal(first, run(mechanism, value, parameters, seed=4))


@names(select(random=False))
def test_an_item_does_not_see_the_rest_of_its_batch(mechanism: Mechanism):
    value, parameters = sample_input(mechanism, batch=3), parameters_of(mechanism)
    together = run(mechanism, value, parameters)
    for item in range(3):
        torch.testing.assert_close(run(mechanism, value[item], parameters), together[item], rtol=1e-5, atol=1e-5)


@names(select(random=False))
def test_parameters_may_differ_within_a_batch(mechanism: Mechanism):
    if not mechanism.gradient_parameters:
        pytest.skip("all parameters belong to the whole batch")
    value = sample_input(mechanism, batch=2)
    sets = [parameters_of(mechanism, key) for key in (0, 1)]
    sets[1] = {**sets[0], **{name: sets[1][name] for name in mechanism.gradient_parameters}}
    batched = {**sets[0], **{n: torch.tensor([s[n] for s in sets]) for n in mechanism.gradient_parameters}}
    together = run(mechanism, value, batched)
    for item, single in enumerate(sets):
        torch.testing.assert_close(run(mechanism, value[item], single), together[item], rtol=1e-4, atol=1e-4)


@names(select(random=True))
def test_random_draws_are_independent_within_a_batch(mechanism: Mechanism):
    one = sample_input(mechanism, batch=1)
    out = run(mechanism, one.expand(3, *one.shape[1:]).clone(), parameters_of(mechanism))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        differing = (out[i] != out[j]).double().mean()
        assert float(differing) > 0.02, f"items {i} and {j} got the same random numbers"


@names(select(linear=True))
def test_linear_mechanisms_are_linear_and_have_their_adjoint(mechanism: Mechanism):
    x, y = (sample_input(mechanism, key, dtype=torch.float64) - 5.5 for key in (1, 2))
    parameters = parameters_of(mechanism)
    fx, fy = run(mechanism, x, parameters), run(mechanism, y, parameters)
    torch.testing.assert_close(run(mechanism, 2 * x - 3 * y, parameters), 2 * fx - 3 * fy, rtol=1e-6, atol=1e-6)
    x.requires_grad_(True)
    z = sample_input(mechanism, 3, dtype=torch.float64)[..., : fx.shape[-2], : fx.shape[-1]]
    if z.shape != fx.shape:
        z = torch.ones_like(fx)
    (adjoint,) = torch.autograd.grad(run(mechanism, x, parameters), x, grad_outputs=z)
    torch.testing.assert_close(inner(adjoint, y), inner(z, fy), rtol=1e-6, atol=1e-6)


@names(select(differentiable=True))
def test_gradients_reach_the_input_and_the_parameters(mechanism: Mechanism):
    value = sample_input(mechanism).requires_grad_(True)
    parameters: dict = parameters_of(mechanism)
    leaves = {name: torch.tensor(parameters[name], requires_grad=True) for name in mechanism.gradient_parameters}
    out = run(mechanism, value, {**parameters, **leaves})
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    loss = (out.abs() * weights).sum()
    gradients = torch.autograd.grad(loss, [value, *leaves.values()])
    for name, gradient in zip(["input", *leaves], gradients, strict=True):
        real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
        assert bool(torch.isfinite(real).all()), name
        assert float(real.abs().max()) > 0, f"no gradient reaches {name}"


@names(select(differentiable=True, random=False))
def test_parameter_gradients_agree_with_finite_differences(mechanism: Mechanism):
    if not mechanism.gradient_parameters:
        pytest.skip("no parameter has a gradient")
    small = tuple(min(n, 6) for n in SHAPES[mechanism.input_kind])
    full = sample_input(mechanism, batch=1, dtype=torch.float64)[0]
    value = full[tuple(slice(0, n) for n in small)].clone()
    parameters = parameters_of(mechanism)
    for name in mechanism.gradient_parameters:
        leaf = torch.tensor(parameters[name], dtype=torch.float64, requires_grad=True)
        step = 1e-6 * max(1.0, abs(parameters[name]))

        def function(p: torch.Tensor, name: str = name) -> torch.Tensor:
            out = run(mechanism, value, {**parameters, name: p})
            return torch.view_as_real(out) if out.is_complex() else out

        assert torch.autograd.gradcheck(function, (leaf,), eps=step, atol=1e-4, rtol=1e-3), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@names(list(MECHANISMS.values()))
def test_the_output_lives_where_the_input_lives(mechanism: Mechanism):
    value, parameters = sample_input(mechanism), parameters_of(mechanism)
    generator = generator_for(3, "noise", device="cuda") if mechanism.random else None
    out = mechanism.apply(value.cuda(), parameters, generator)
    assert out.device.type == "cuda"
    if not mechanism.random:
        torch.testing.assert_close(out.cpu(), run(mechanism, value, parameters), rtol=1e-3, atol=1e-3)
