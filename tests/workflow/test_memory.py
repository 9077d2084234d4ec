import pytest

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.workflow import available_memory_in_bytes, estimate_memory_in_bytes, plan_memory

K3 = (4092, 5760)


def test_the_estimate_grows_with_everything_that_costs_memory():
    base = estimate_memory_in_bytes((1024, 1024))
    assert estimate_memory_in_bytes(K3) > base
    assert estimate_memory_in_bytes((1024, 1024), frames=40) == base + 39 * 4 * 1024**2
    assert estimate_memory_in_bytes((1024, 1024), views=False) < base
    assert estimate_memory_in_bytes(K3, tile=(1024, 1024)) < estimate_memory_in_bytes(K3)


def test_what_fits_is_left_alone():
    plan = plan_memory(K3, workers=3, limit_in_bytes=10**12)
    assert (plan.workers, plan.tile) == (3, None)
    assert plan.total_bytes == 3 * plan.bytes_per_worker
    assert "GB" in str(plan)


def test_fewer_workers_before_tiles_and_never_silently():
    need = estimate_memory_in_bytes(K3)
    with pytest.warns(CryoPrismWarning, match=r"--workers: 8 would need"):
        plan = plan_memory(K3, workers=8, limit_in_bytes=2 * need)
    assert (plan.workers, plan.tile) == (2, None)


def test_tiles_before_giving_up():
    need = estimate_memory_in_bytes(K3)
    plan = plan_memory(K3, workers=2, limit_in_bytes=need - 1)
    assert plan.workers == 1
    assert plan.tile is not None
    assert plan.tile[0] % 256 == 0
    assert plan.total_bytes <= need - 1
    assert "tiles" in str(plan)


def test_what_cannot_fit_is_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"5760×4092.*needs about .* GB .*--max-memory"):
        plan_memory(K3, limit_in_bytes=500_000_000)


def test_the_machine_has_memory():
    assert available_memory_in_bytes() > 10_000_000
