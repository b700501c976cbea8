"""OpenMP's threads sleep between captions."""

from __future__ import annotations

import pytest

from streamcap.cli.service.process import OPENMP_SPINS, limit_openmp_spins


def test_threads_of_the_service_sleep_soon() -> None:
    environ: dict[str, str] = {}
    limit_openmp_spins(environ)
    assert environ == {"GOMP_SPINCOUNT": str(OPENMP_SPINS)}


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_choice_of_the_user_stays(name: str) -> None:
    environ = {name: "active"}
    limit_openmp_spins(environ)
    assert environ == {name: "active"}
