"""A search's lattice and its points, against all points of it."""

import itertools
import math

import numpy as np
import pytest

from gdsec_jax.study import search

SETTINGS, BATCH = 32, 8


def brute_force(best, done, sizes, settings, batch):
    """`following` by the sorted list of all points."""
    ends = []
    for axis in range(len(sizes)):
        for step in (-1, 1):
            point = list(best)
            point[axis] += step
            if 0 <= point[axis] < sizes[axis]:
                ends.append(tuple(point) not in done)
    if len(done) < settings:
        room = settings - len(done)
    else:
        room = 3 * settings - len(done) if any(ends) else 0

    def far(point):
        apart = np.abs(np.subtract(point, best))
        return apart.max(), apart.sum(), point

    left = set(itertools.product(*map(range, sizes))) - set(done)
    return sorted(left, key=far)[: max(0, min(room, batch))]


@pytest.mark.parametrize("sizes", [(9,), (2, 7), (5, 6), (4, 3, 5), (2, 2, 3, 2)])
def test_the_nearest_come_first(sizes):
    rng = np.random.default_rng(len(sizes))
    whole = list(itertools.product(*map(range, sizes)))
    for _ in range(60):
        done = {whole[i] for i in rng.integers(len(whole), size=rng.integers(1, 30))}
        best = sorted(done)[rng.integers(len(done))]
        settings, batch = (int(x) for x in rng.integers(1, 20, 2))
        expected = brute_force(best, done, sizes, settings, batch)
        limits = {"settings": settings, "batch": batch}
        assert search.following(best, done, sizes, **limits) == expected


def searched(cost, sizes, start):
    """All points in the order they were evaluated, and the best of them."""
    points, best = [], start
    limits = {"settings": SETTINGS, "batch": BATCH}
    while new := search.following(best, set(points), sizes, **limits):
        assert len(new) <= BATCH
        points += new
        best = min(points, key=cost)  # the first of equals, as the rule takes it
    assert len(points) == len(set(points))
    assert len(points) >= min(SETTINGS, math.prod(sizes))
    assert len(points) <= 3 * SETTINGS
    return points, best


def is_surrounded(best, points, sizes):
    return all(
        neighbour in points
        for axis, size in enumerate(sizes)
        for neighbour in (
            (*best[:axis], place, *best[axis + 1 :])
            for place in (best[axis] - 1, best[axis] + 1)
            if 0 <= place < size
        )
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_of_separable_costs_it_finds_the_least_of_all(dimensions):
    rng = np.random.default_rng(dimensions)
    sizes = (17,) * dimensions
    for _ in range(20):
        least = rng.integers(2, 15, dimensions)
        weights, power = rng.uniform(0.2, 5, dimensions), rng.choice([0.5, 1, 2])

        def cost(point, least=least, weights=weights, power=power):
            return float(weights @ np.abs(np.subtract(point, least)) ** power)

        points, best = searched(cost, sizes, (8,) * dimensions)
        whole = itertools.product(*map(range, sizes))
        if is_surrounded(best, points, sizes):
            assert best == min(whole, key=cost) == tuple(least)
        else:  # far away, in many dimensions
            assert dimensions == 3 and len(points) == 3 * SETTINGS


def test_along_a_valley_it_goes_until_it_has_no_better_neighbour():
    sizes, start = (41, 41), (20, 20)

    def cost(point):
        x, y = np.subtract(point, start)
        return 5 * (x - y) ** 2 + (x + y - 24) ** 2  # least at (12, 12) from the start

    points, best = searched(cost, sizes, start)
    assert is_surrounded(best, points, sizes) and len(points) > SETTINGS
    least = min(itertools.product(*map(range, sizes)), key=cost)
    # The valley is oblique: a rung before its end all neighbours are worse.
    assert least == (32, 32) and best == (31, 31)
    assert min(cost((30, 31)), cost((31, 30)), cost((32, 31))) > cost(best)


@pytest.mark.parametrize("far", [-29, -17, 12, 29])
def test_an_optimum_far_beyond_the_first_settings_is_found(far):
    points, best = searched(lambda p: abs(p[0] - 32 - far), (65,), (32,))
    assert best == (32 + far,) and is_surrounded(best, points, (65,))


def test_where_it_meets_the_cap_its_best_is_at_the_edge():
    sizes = (65, 65, 65)
    points, best = searched(lambda p: -float(sum(p)), sizes, (32, 32, 32))
    assert len(points) == 3 * SETTINGS
    assert not is_surrounded(best, points, sizes)
    assert not search.surrounded(best, set(points), sizes)


@pytest.mark.parametrize("sizes", [(1,), (3, 4), (31,), (2, 2, 2, 2)])
def test_a_lattice_that_is_smaller_is_evaluated_whole(sizes):
    rng = np.random.default_rng(0)
    costs = rng.random(sizes)
    points, best = searched(lambda p: costs[p], sizes, tuple(x // 2 for x in sizes))
    assert sorted(points) == list(itertools.product(*map(range, sizes)))
    assert costs[best] == costs.min()


@pytest.mark.parametrize("sizes", [(65,), (65, 65), (65, 7, 65)])
def test_where_nothing_reaches_the_target_all_are_given_the_same_number(sizes):
    start = tuple(x // 2 for x in sizes)
    points, best = searched(lambda p: math.inf, sizes, start)
    assert len(points) == SETTINGS and best == start
    assert points == brute_force(start, set(), sizes, SETTINGS, SETTINGS)


def test_costs_without_any_order_end_surrounded_or_at_the_cap():
    rng = np.random.default_rng(3)
    for sizes in [(40,), (12, 12), (7, 7, 7)]:
        for _ in range(20):
            costs = rng.random(sizes)
            costs[rng.random(sizes) < 0.3] = np.inf
            start = tuple(x // 2 for x in sizes)
            points, best = searched(lambda p, costs=costs: costs[p], sizes, start)
            over = len(points) == 3 * SETTINGS
            assert over or is_surrounded(best, points, sizes)


def test_ladders():
    step = search.ladder(0.3, doubles=True)
    assert step.values[step.start] == 0.3 and len(step.values) == 65
    np.testing.assert_array_equal(np.divide(step.values[1:], step.values[:-1]), 2)
    xi = search.ladder(1000.0)
    assert xi.values[xi.start - 3 : xi.start + 4] == (30, 100, 300, 1e3, 3e3, 1e4, 3e4)
    below = search.ladder(2e-4)
    near = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    assert below.values[below.start - 2 : below.start + 3] == near
    assert below.ends_at(0) and below.ends_at(64) and not below.ends_at(32)
    for start, near in ((1, 1), (3, 4), (5, 4), (12, 16), (48, 64)):
        k = search.ladder(start, allowed=lambda k: 1 <= k <= 100)
        assert k.values == (1, 2, 4, 8, 16, 32, 64) and k.values[k.start] == near
    k = search.ladder(48, allowed=lambda k: 1 <= k <= 50)
    assert k.values == (1, 2, 4, 8, 16, 32) and k.values[k.start] == 32
    one = search.ladder(1.0, allowed=lambda beta: 0.3 <= beta <= 1)
    assert one == search.Ladder((0.3, 1.0), 1)


@pytest.mark.parametrize("start", [0, -1.0, math.inf, math.nan, "xi"])
def test_a_start_is_a_number_above_0(start):
    with pytest.raises(ValueError, match=f"start is {start!r}, expected a number abo"):
        search.ladder(start)
    with pytest.raises(ValueError, match="start is 3.0, expected a value that can be"):
        search.ladder(3.0, allowed=lambda value: value < 1)
