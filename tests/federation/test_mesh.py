"""Workers on the devices of a mesh do what workers on one device do."""

import pytest
from cases import METHODS
from meshes import WAYS, on_devices

# One of each kind of collective, so that every way has all of them between them.
QUICK = {
    "auto": ("gdsec", "power_sgd", "lag"),
    "explicit": ("gdsec", "low_rank", "marina"),
    "inside": ("sign_ef", "clag", "gd"),
    "unchecked": ("top_j", "natural"),
}


def test_every_kind_of_collective_is_quickly_looked_at():
    """Non-zeros, codes, factors and whole vectors."""
    assert set(QUICK) == set(WAYS)
    names = {name for chosen in QUICK.values() for name in chosen}
    assert names <= {method.name for method in METHODS}
    assert {"top_j", "sign_ef", "power_sgd", "gd"} <= names


EQUALS = """
    from cases import METHODS
    for method in METHODS:
        if method.name in {names}:
            one, many = (
                optax.chain(made(method, 4, axis), optax.sgd(0.01))
                for axis in (None, "data")
            )
            course = WAYS[{way!r}](many, 4, {rounds})
            course.agrees_with(alone(one, 4, {rounds}), method.name)
            print(method.name)
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_method_on_four_devices_is_that_on_one(way):
    on_devices(EQUALS.format(names=QUICK[way], way=way, rounds=20))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_for_three_hundred_rounds(method, way):
    on_devices(EQUALS.format(names=(method.name,), way=way, rounds=300))


@pytest.mark.slow
def test_eight_devices():
    on_devices(
        """
        from cases import METHODS
        for method in METHODS:
            if method.name not in ("gdsec", "ef21", "laq", "power_sgd"):
                continue
            one, many = (
                optax.chain(made(method, 8, axis), optax.sgd(0.01))
                for axis in (None, "data")
            )
            expected = alone(one, 8, 100)
            for kind in ("auto", "explicit"):
                course = spread(many, 8, 100, mesh_of(kind, data=8))
                course.agrees_with(expected, (method.name, kind))
            for check in (True, False):
                course = inside(many, 8, 100, mesh_of("auto", data=8), check=check)
                course.agrees_with(expected, (method.name, check))
        """,
        devices=8,
    )
