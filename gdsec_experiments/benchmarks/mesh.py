"""What travels between four devices, read off the compiled programs.

One worker a device, one update, its state donated. What counts are the bytes that a
device receives in all collectives of the program, by ring algorithms, in percent of
those of a dense all-reduce in float32, which are 6 a component.
"""

import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rich.table
from jax.sharding import AxisType, NamedSharding

import gdsec_jax
from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings
from gdsec_jax import server, worker
from gdsec_jax.simulation import _hlo as hlo

DEVICES, AXIS = 4, "data"
FULL, SMALL = 12_500_000, 1_000_000
SHARE = 0.01  # of the entries that the sparse methods send
# In percent of a dense all-reduce: must, goal. `narrow` and `two shots` are ways of the
# same methods.
ASKED = {
    "top_j": (4.5, 2.2),
    "ef21": (4.5, 2.2),
    "gdsec": (4.5, 2.2),
    "sign_ef": (6.5, 3.3),
    "qgd": (26, 13),
    "laq": (26, 13),
    "power_sgd": (1, 0.8),
}


class Way(NamedTuple):
    """A method, and how its messages travel."""

    method: str
    how: str
    algorithm: Any
    shape: tuple[int, ...]


def bench(settings: Settings) -> list[Measure]:
    """Every method's collectives."""
    length = SMALL if settings.small else FULL
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    said = benchmarks.fresh(
        "-c",
        "from gdsec_experiments.benchmarks import mesh; "
        f"mesh.say({length}, {settings.small})",
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        JAX_PLATFORMS="cpu",
    )
    rows = json.loads(said.splitlines()[-1])
    settings.console.print(table(rows))
    return [_measure(row) for row in rows]


def say(length: int, few: bool = False) -> None:
    """Print what each way, or every third, receives, on so many devices."""
    chosen = ways(length)[:: 3 if few else 1]
    print(json.dumps([_row(way) for way in chosen]))


def ways(length: int) -> list[Way]:
    """The methods, as they are compared."""
    over, vector, square = {"axis": AXIS}, (length,), (1024, 1024)
    few = round(SHARE * length)
    capacity = server.sparse(few)
    narrow = worker.chain(worker.top_k(SHARE), worker.cast("bfloat16"))

    def two_shot(compressor):
        return {"server": server.two_shot(compressor, DEVICES)} | over

    def way(method, how, algorithm, shape=vector):
        return Way(method, how, algorithm, shape)

    n = DEVICES
    codes, places = "codes", "values, 16-bit places"
    shots = "codes in two shots"
    return [
        way("gd", "all entries", gdsec_jax.gd(n, **over)),
        way("top_j", places, gdsec_jax.top_j(n, SHARE, **over)),
        way(
            "top_j",
            "bfloat16 values, 16-bit places",
            gdsec_jax.federate(worker.error_feedback(narrow), n, **over),
        ),
        way("ef21", places, gdsec_jax.ef21(n, SHARE, **over)),
        way("gdsec", places, gdsec_jax.gdsec(n, 1.0, server=capacity, **over)),
        way("clag", places, gdsec_jax.clag(n, SHARE, **over)),
        way("rand_k", places, gdsec_jax.rand_k(n, SHARE, **over)),
        way("sign_ef", codes, gdsec_jax.sign_ef(n, **over)),
        way("sign_ef", shots, gdsec_jax.sign_ef(n, **two_shot(worker.sign()))),
        way("terngrad", codes, gdsec_jax.terngrad(n, **over)),
        way("natural", codes, gdsec_jax.natural(n, **over)),
        way("qgd", codes, gdsec_jax.qgd(n, levels=7, **over)),
        way("qgd", shots, gdsec_jax.qgd(n, levels=7, **two_shot(worker.grid(4)))),
        way("laq", codes, gdsec_jax.laq(n, 0.1, bits=4, **over)),
        way("laq", shots, gdsec_jax.laq(n, 0.1, bits=4, **two_shot(worker.grid(4)))),
        way("power_sgd", "factors, rank 4", gdsec_jax.power_sgd(n, 4, **over), square),
        way("low_rank", "factors, rank 4", gdsec_jax.low_rank(n, 4, **over), square),
    ]


def _row(way: Way) -> dict[str, Any]:
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))

    def shapes(tree, specs):
        def one(spec, part):
            lies = NamedSharding(mesh, spec)
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), part
            )

        return jax.tree.map(one, specs, tree, is_leaf=lambda x: isinstance(x, jax.P))

    algorithm = way.algorithm
    params = shapes(jax.ShapeDtypeStruct(way.shape, jnp.float32), jax.P())
    stacked = jax.ShapeDtypeStruct((DEVICES, *way.shape), jnp.float32)
    state = jax.eval_shape(algorithm.init, params)
    state = shapes(state, gdsec_jax.state_specs(state, AXIS))
    update = jax.jit(algorithm.update, donate_argnums=1)
    compiled = update.lower(shapes(stacked, jax.P(AXIS)), state, params).compile()
    bytes = hlo.received(compiled.as_text(), DEVICES)
    least = 2 * (DEVICES - 1) / DEVICES * 4 * params.size
    return {
        "method": way.method,
        "how": way.how,
        "regular": 100 * bytes.regular / least,
        "dearest": 100 * bytes.dearest / least,
    }


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """A line a way."""
    made = rich.table.Table(
        title=f"{DEVICES} devices: what one receives, % of a dense all-reduce; "
        f"k = {SHARE:.0%} of the entries, qgd of 7 levels, laq of 4 bits",
        title_justify="left",
    )
    for column in ("method", "what travels"):
        made.add_column(column)
    for column in ("a round", "a round of whole messages"):
        made.add_column(column, justify="right")
    for row in rows:
        whole = row["dearest"] > row["regular"]
        last = f"{row['dearest']:.3g}" if whole else "-"
        made.add_row(row["method"], row["how"], f"{row['regular']:.3g}", last)
    return made


def _measure(row: dict[str, Any]) -> Measure:
    must, goal = ASKED.get(row["method"], (None, None))
    whole = row["dearest"] > row["regular"]
    return Measure(
        f"{row['method']}, {row['how']}: received / a dense all-reduce",
        row["regular"],
        unit="%",
        must=must,
        goal=goal,
        note=f"{row['dearest']:.3g} % where messages are whole." if whole else "",
    )
