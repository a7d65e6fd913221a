"""What a TPU would do with every method, a run and a sweep, asked of its compiler.

No TPU is needed, but the PyPI package libtpu (extra `tpu-aot`): it compiles for chips
that are named, not present. `gdsec_jax.lower` reads off each compiled program what it
moves between a chip and its memory (HBM), against the least there can be: every
argument read once and every result written once. Arrays that the compiler keeps in the
chip's own memory (VMEM) move nothing, however often they are read.

The bytes are logical: what tiles are padded by comes on top. Times and the rounding of
emulated float64 only a chip can say: `python -m gdsec_experiments.tpu_check`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rich.box
import rich.table

import gdsec_jax
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_jax import data, problems, server, worker
from gdsec_jax.simulation import _chunks

SHARE = 0.01  # of the entries, that sparsifiers send
TREE = ((1024, 1024), (1024, 1024), (1024, 512), (512, 1024), (768, 768), (384, 768))
TREES = (  # of those without an aim
    *("top_j", "ef21", "rand_k", "sign_ef", "laq", "gd", "gdsoec", "qsgdsec", "cgd"),
    *("lag", "iag", "low_rank", "power_sgd", "natural", "terngrad", "clag"),
    *("gdsec, capacity", "gdsec, bfloat16", "diana, qsgd"),
)
COMPILES = ("top_j", "ef21")  # whose compiling has an aim, on a vector
SETTINGS = 64  # of the sweep


class Setup(NamedTuple):
    """How large the problems are, and on which chips."""

    length: int  # of the vector
    tree: tuple[tuple[int, ...], ...]
    chips: tuple[str, ...]
    step: str  # the chips that a step of GD-SEC is spread over
    num_workers: int  # of that step
    names: tuple[str, ...] | None = None  # of methods; None for all


FULL = Setup(4_000_000, TREE, ("v5e", "v6e"), "v5e:4x4", 64)
SMALL = Setup(2**19, ((512, 512), (256, 256)), ("v5e",), "v5e:2x2", 8, ("gd", "top_j"))


class Row(NamedTuple):
    """A program, and what was read off it."""

    method: str
    parameters: str  # vector or tree
    num_workers: int
    read: gdsec_jax.Lowered


def methods(num_workers: int, length: int) -> dict[str, Any]:
    """Every method, and some in a second guise, with arguments of their own."""
    censored, top = {"xi": 4.0}, {"k": SHARE}
    lazy, thin = {"learning_rate": 0.1}, {"rank": 4}
    some: dict[str, dict[str, Any]] = {
        **{"gdsec": censored, "gdsoec": censored, "qsgdsec": censored, "cgd": censored},
        **{"top_j": top, "rand_k": top, "ef21": top, "ef21_sgdm": top, "clag": top},
        **{"lag": lazy, "laq": lazy, "low_rank": thin, "power_sgd": thin},
        "diana": {"compressor": worker.random_k(SHARE)},
        "marina": {"compressor": worker.random_k(SHARE)},
        **{x: {"compressor": worker.random_k(SHARE)} for x in ("ef_bv", "dasha")},
        **{x: top for x in ("threepc", "econtrol", "ef21_p", "ef21_muon")},
        "one_bit_adam": {"warmup": 10},
    }
    capacity = server.sparse(max(1, int(SHARE * length)))
    made = {
        name: method.factory(num_workers, **some.get(name, {}))
        for name, method in gdsec_jax.METHODS.items()
        if not method.trains
    }
    return made | {
        "gdsec, capacity": gdsec_jax.gdsec(num_workers, 4.0, server=capacity),
        "gdsec, bfloat16": gdsec_jax.gdsec(num_workers, 4.0, state_dtype=jnp.bfloat16),
        "diana, qsgd": gdsec_jax.diana(num_workers, worker.qsgd(15)),
    }


def params_of(setup: Setup, kind: str, dtype: Any = jnp.float32) -> Any:
    """Shapes of the parameters: a vector, or a tree of matrices."""
    if kind == "vector":
        return jax.ShapeDtypeStruct((setup.length,), dtype)
    return {f"w{n}": jax.ShapeDtypeStruct(x, dtype) for n, x in enumerate(setup.tree)}


def update(name: str, params: Any, num_workers: int, on: Any) -> gdsec_jax.Lowered:
    """An update of a method, compiled.

    Raises:
      Skipped: libtpu is absent.
    """
    length = sum(x.size for x in jax.tree.leaves(params))
    return lowered(methods(num_workers, length)[name], params, num_workers, on)


def lowered(algorithm, params: Any, num_workers: int, on: Any) -> gdsec_jax.Lowered:
    """An update of an algorithm, compiled.

    Raises:
      Skipped: libtpu is absent.
    """
    state = jax.eval_shape(algorithm.init, params)
    gradients = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num_workers, *x.shape), x.dtype), params
    )
    return _of_compiler(algorithm.update, gradients, state, params, on=on)


def _of_compiler(*call, **options) -> gdsec_jax.Lowered:
    try:
        return gdsec_jax.lower(*call, **options)
    except ImportError as error:
        raise Skipped(str(error)) from error


def bench(settings: Settings) -> list[Measure]:
    """Compile all of it and read what it moves; the whole table is printed.

    Of the first chip every method on a vector; of the others the programs that have an
    aim.

    Raises:
      Skipped: libtpu is absent.
    """
    setup, measures = SMALL if settings.small else FULL, []
    first, *_ = setup.chips
    for chip in setup.chips:
        rows = []
        for name, kind, number in _asked(setup, all_methods=chip == first):
            read = update(name, params_of(setup, kind), number, chip)
            rows.append(Row(name, kind, number, read))
            settings.console.print(
                f"{chip}, {name}, {kind}, {number}: {read.ratio:.2f}"
            )
        settings.console.print(table(rows, f"One update on one {chip}, float32"))
        found = [*_musts(rows), *_loops(settings, chip), _in_float64(setup, chip)]
        measures += [each._replace(name=f"{chip}: {each.name}") for each in found]
    return [*measures, *_step(setup)]


def _asked(setup: Setup, *, all_methods: bool) -> list[tuple[str, str, int]]:
    """Method, parameters, workers."""
    aims = [x for x in _RATIOS if setup.names is None or x[0] in setup.names]
    if not all_methods:
        return aims
    names = setup.names or methods(8, setup.length)
    vectors = [(name, "vector", 8) for name in names]
    trees = [(name, "tree", 8) for name in TREES if name in names]
    return [*vectors, *(x for x in [*aims, *trees] if x not in vectors)]


def _in_float64(setup: Setup, chip: str) -> Measure:
    """How many methods compile in 64 bits, on a small matrix; another one raises."""
    with jax.enable_x64():
        params = {"w": jax.ShapeDtypeStruct((100, 20), jnp.float64)}
        names = setup.names or methods(8, 2000)
        done = [update(name, params, 8, chip).kernels > 0 for name in names]
    return Measure("methods that compile in float64", sum(done), must=len(done))


def table(rows: list[Row], title: str) -> rich.table.Table:
    """One line a program, in 80 columns."""
    caption = "MB; held besides, and poor: sorts, scatters, products in bfloat16"
    look = {"box": rich.box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}
    shown = rich.table.Table(title=title, caption=caption, **look)
    shown.add_column("method, workers", no_wrap=True)
    names = ("moved", "least", "ratio", "held", "kernels", "poor", "CPU s")
    for column in names:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        read = row.read
        shown.add_row(
            f"{row.method}, {row.num_workers}" + ", tree" * (row.parameters == "tree"),
            f"{read.bytes_moved / 1e6:.0f}",
            f"{(read.bytes_least or 0) / 1e6:.0f}",
            f"{read.ratio:.2f}",
            f"{read.temporaries / 1e6:.0f}",
            str(read.kernels),
            f"{read.sorts} {read.scatters} {read.rough_products}",
            f"{read.seconds:.1f}",
        )
    return shown


# Method, parameters, workers: must, goal.
_RATIOS = {
    ("gdsec", "vector", 8): (1.3, 1.1),
    ("gdsec", "tree", 8): (1.5, 1.2),
    ("gdsec", "vector", 5): (1.5, 1.3),
    ("gdsec", "vector", 10): (1.5, 1.3),
    ("top_j", "vector", 8): (2.0, 1.4),
    ("ef21", "vector", 8): (2.0, 1.4),
    ("rand_k", "vector", 8): (2.5, 1.5),
    ("gdsec, capacity", "vector", 8): (2.5, 1.5),
    ("qgd", "vector", 8): (3.0, 2.0),
    ("qgd", "tree", 8): (3.0, 2.0),
    ("laq", "vector", 8): (2.5, 1.8),
    ("sign_ef", "vector", 8): (2.0, 1.5),
    ("gd", "vector", 8): (1.8, 1.3),
}


def _musts(found: list[Row]) -> list[Measure]:
    rows, measures = {row[:3]: row for row in found}, []
    for (name, kind, number), (must, goal) in _RATIOS.items():
        if (name, kind, number) not in rows:
            continue
        read = rows[name, kind, number].read
        measures.append(
            Measure(
                f"{name}, {kind}, {number} workers: bytes moved / least",
                read.ratio,
                must=must,
                goal=goal,
                note=f"{read.bytes_moved / 1e6:.0f} MB; {read.sorts} sorts, "
                f"{read.scatters} scatters, {read.seconds:.0f} CPU seconds to compile",
            )
        )
    reads = [row.read for row in found]
    return [
        *measures,
        Measure("sorts in all updates", sum(x.sorts for x in reads), must=0),
        Measure("scatters in all updates", sum(x.scatters for x in reads), must=0),
        Measure(
            "products in bfloat16", sum(x.rough_products for x in reads), must=0, goal=0
        ),
        *_compiling(found),
    ]


def _compiling(found: list[Row]) -> Iterator[Measure]:
    """CPU seconds that the compiler takes."""
    aims = [
        row.read.seconds
        for row in found
        if row.method in COMPILES and row.parameters == "vector"
    ]
    if aims:
        name = f"CPU seconds to compile {' or '.join(COMPILES)} of a vector"
        yield Measure(name, max(aims), "s", must=15, goal=8)
    longest = max(found, key=lambda row: row.read.seconds)
    name = f"{longest.method}, {longest.parameters}"
    yield Measure(
        "CPU seconds to compile an update, at most",
        longest.read.seconds,
        "s",
        note=name,
    )


def _loops(settings: Settings, chip: str) -> Iterator[Measure]:
    """A round of a run in both precisions, and of a sweep."""
    for dtype, must, goal in ((jnp.float32, 60, 40), (jnp.float64, 200, 113)):
        with jax.enable_x64(dtype == jnp.float64):
            problem, optimizer = _ridge(dtype)
            read = _of_compiler(gdsec_jax.simulate, problem, optimizer(4.0), on=chip)
        yield Measure(
            f"ridge, gdsec, {jnp.dtype(dtype)}: kernels a round",
            read.kernels,
            must=must,
            goal=goal,
            note=f"{read.bytes_moved:,} bytes a round, {read.seconds:.0f} CPU seconds "
            "to compile",
        )
        if dtype == jnp.float32:
            held, numbers = records(read)
            yield Measure(
                "record buffers of a run / their numbers",
                held / numbers,
                must=3,
                goal=1.5,
                note=f"{held / 1e6:.1f} MB for {numbers / 1e6:.1f} MB",
            )
    if settings.small:
        return
    problem, optimizer = _ridge(jnp.float32)
    grid = {"xi": [float(n) for n in range(SETTINGS)]}
    read = _of_compiler(gdsec_jax.sweep, problem, optimizer, grid, on=chip)
    yield Measure(
        f"sweep of {SETTINGS}: HBM bytes a round and setting",
        read.bytes_moved / SETTINGS,
        must=84,
        goal=60,
    )
    yield Measure(f"sweep of {SETTINGS}: kernels a round", read.kernels)


def _ridge(dtype):
    digits = data.load("digits")
    problem = problems.ridge(digits.features, digits.targets, 5, dtype=dtype)

    def optimizer(xi):
        return optax.chain(gdsec_jax.gdsec(5, xi), optax.sgd(1 / problem.smoothness))

    return problem, optimizer


def records(read: gdsec_jax.Lowered) -> tuple[int, int]:
    """Bytes that a run's record buffers take on a chip, and those of their numbers."""
    compiled, held, numbers = read.compiled, 0, 0
    arguments = zip(
        jax.tree.leaves(compiled.in_avals),
        jax.tree.leaves(compiled.input_formats),
        strict=True,
    )
    for array, form in arguments:
        if array.ndim and array.shape[0] % _chunks.MOST_ROUNDS == 0:
            lengths = [array.shape[axis] for axis in form.layout.major_to_minor]
            tile = form.layout.tiling[0][-len(lengths) :]
            padded = [-(-n // t) * t for n, t in zip(lengths[-len(tile) :], tile)]  # noqa: B905
            whole = math.prod([*lengths[: -len(tile)], *padded])
            held += whole * array.dtype.itemsize
            numbers += array.size * array.dtype.itemsize
    return held, numbers


def _step(setup: Setup) -> list[Measure]:
    """A step of GD-SEC, each chip with its workers' gradients and memories."""
    params = jax.ShapeDtypeStruct((50_000_000,), jnp.float32)
    algorithm = gdsec_jax.gdsec(setup.num_workers, xi=4.0, beta=0.01)
    read = lowered(algorithm, params, setup.num_workers, setup.step)
    return [
        Measure(
            "a step over chips: bytes moved / least",
            read.ratio,
            must=1.5,
            goal=1.1,
            note=f"{setup.step}, {setup.num_workers} workers x 50 M float32; a chip "
            f"moves {read.bytes_moved / 1e9:.2f} GB",
        ),
        *(
            Measure(f"a step over chips: {kind}", times, note=f"{size / 1e9:.3f} GB")
            for kind, (times, size) in read.collectives.items()
        ),
    ]
