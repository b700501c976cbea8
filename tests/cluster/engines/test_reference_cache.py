from __future__ import annotations

import numpy as np

from streamcap.cluster.engines.reference_cache import ReferenceCache

IMAGE = np.ones(8, np.float32)


def test_references_belong_to_one_final() -> None:
    cache = ReferenceCache()
    cache.put("door", "f1", [IMAGE])
    assert len(cache.get("door", "f1")) == 1
    assert cache.get("door", "f2") == [] and cache.get("gate", "f1") == []
    cache.put("door", "f2", [IMAGE, IMAGE])
    assert cache.get("door", "f1") == []
    assert cache.bytes == 2 * IMAGE.nbytes


def test_a_full_cache_forgets_the_oldest_stream() -> None:
    cache = ReferenceCache(max_bytes=3 * IMAGE.nbytes)
    for name in ("a", "b", "c"):
        cache.put(name, "f", [IMAGE])
    cache.put("a", "f", [IMAGE])
    cache.put("d", "f", [IMAGE])
    assert [name for name in "abcd" if cache.get(name, "f")] == ["a", "c", "d"]
    assert (cache.forgotten, len(cache), cache.bytes) == (1, 3, 3 * IMAGE.nbytes)


def test_what_the_gate_adds_does_not_change_the_cache() -> None:
    cache = ReferenceCache()
    cache.put("door", "f1", [IMAGE])
    cache.get("door", "f1").append(IMAGE)
    assert len(cache.get("door", "f1")) == 1
