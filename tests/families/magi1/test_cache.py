import pytest
import torch

from videosdgx.families.magi1.network.cache import CacheMissing, KeyValueCache


def cache_of(slots: int) -> KeyValueCache:
    return KeyValueCache(2, slots, tokens=2, num_query_groups=1, attention_head_dim=4, dtype=torch.float32)


def write(cache: KeyValueCache, chunk: int, store: bool = True) -> None:
    cache.write(chunk, [torch.full((2, 1, 8), 10.0 * layer + chunk) for layer in range(2)], store)


def contents(cache: KeyValueCache, first: int, end: int) -> list[list[float]]:
    return [layer[:, 0, 0].tolist() for layer in cache.past(first, end)]


def test_the_newest_chunks_stay_and_memory_does_not_grow() -> None:
    cache = cache_of(3)
    size = cache.nbytes
    for chunk in range(20):
        cache.make_room(max(0, chunk - 2), chunk + 1)
        write(cache, chunk)
    assert cache.stored == {17, 18, 19}
    assert contents(cache, 17, 20) == [[17, 17, 18, 18, 19, 19], [27, 27, 28, 28, 29, 29]]
    assert cache.nbytes == size == 2 * 3 * 2 * 8 * 4
    with pytest.raises(CacheMissing, match="chunk 16"):
        cache.check(16, 18)


def test_going_back_keeps_what_still_fits() -> None:
    cache = cache_of(3)
    cache.make_room(4, 7)
    for chunk in (4, 5, 6):
        write(cache, chunk)
    cache.make_room(3, 4)
    assert cache.stored == {4, 5}
    write(cache, 3)
    assert contents(cache, 3, 6)[0] == [3, 3, 4, 4, 5, 5]


def test_chunks_of_one_evaluation_do_not_count_as_stored() -> None:
    cache = cache_of(2)
    write(cache, 0)
    write(cache, 0, store=False)
    with pytest.raises(CacheMissing, match="chunk 0"):
        cache.check(0, 1)


def test_more_chunks_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="need 3 slots, the cache has 2"):
        cache_of(2).make_room(1, 4)
