"""Updates over links of 50 Mbit/s to 1 Gbit/s: seconds, bytes on the interface.

Processes of one worker each, in network namespaces of their own that veth pairs join
and tc shapes to a rate. What is timed is one compiled update of the optimizer, its
state donated, the gradient given: not the gradient. Beside the seconds stand three
counts of one update's bytes, for one worker:

- counted: the bits that `last_round` says it sent, by the method's wire format;
- program: what the compiled program's collectives bring it, by ring algorithms;
- interface: what its link's own counters say that it received.

They differ for reasons that have names. A program's length is fixed: there is room for
as many entries as may be sent, and codes are padded to words. Among M devices a ring
brings each one what the M - 1 others sent; an all-reduce, whose sums are as long as
what is summed, 2 (M - 1) / M times that. On the interface each segment of 1,448 bytes
has 66 bytes of headers, 4.6 %, and what no data acknowledge that go the other way takes
packets of its own.

It needs root and Linux; PyTorch's rows need torch.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rich.table

from gdsec_experiments import benchmarks
from gdsec_experiments.benchmarks import Measure, Settings, Skipped
from gdsec_experiments.benchmarks import _ranks as ranks
from gdsec_experiments.benchmarks import _veth as veth
from gdsec_jax.study import experiment


class Setup(NamedTuple):
    """How many processes, how fast links, how large a matrix of parameters."""

    numbers: tuple[int, ...] = (2, 4)
    rates: tuple[int, ...] = (50, 200, 1000)  # Mbit/s
    shape: tuple[int, int] = (2_500, 5_000)


class Row(NamedTuple):
    """What was measured of a method, for one worker and one update."""

    name: str
    counted: float  # bytes, in the last round
    program: dict[str, float]  # bytes: regular, dearest
    interface: float  # bytes
    seconds: dict[int, tuple[float, ...]]  # by rate: the slowest rank's, each repeat

    @property
    def excess(self) -> float:
        """Bytes on the interface for one of the program, in a regular round."""
        return self.interface / self.program.get("regular", math.nan)


SMALL = Setup((2,), (200,), (1_000, 1_000))
DENSE, SPARSE = "dense", "top_j 1 %"
# Of dense / top_j, by rate: must, goal.
ASKED = {50: (10, 18), 200: (2.5, 5), 1000: (0.9, 1.5)}


def bench(settings: Settings) -> list[Measure]:
    """Every method over every link.

    Raises:
      Skipped: there can be no such links here.
    """
    if reason := veth.unable():
        raise Skipped(reason)
    setup = SMALL if settings.small else Setup()
    measures = []
    for number in setup.numbers:
        rows = over_links(setup, number, settings.repeats)
        experiment.say(settings.console, f"  tc tbf, burst {veth.BURST}")
        for table in tables(rows, setup, number):
            settings.console.print(table)
        measures += _measures(rows, setup, number)
    if importlib.util.find_spec("torch") is None:
        why = "PyTorch is not installed: pip install 'gdsec-jax[bench]'."
        measures.append(Measure("PyTorch's DDP", math.nan, note=why))
    return measures


def over_links(setup: Setup, number: int, repeats: int) -> list[Row]:
    """The rows of so many processes."""
    from gdsec_experiments.benchmarks import _link_jax

    names = {"_link_jax": tuple(_link_jax.methods(number, math.prod(setup.shape)))}
    if importlib.util.find_spec("torch") is not None:
        from gdsec_experiments.benchmarks import _link_torch

        names["_link_torch"] = _link_torch.METHODS
    rows = []
    with veth.joined(number) as network:
        for module, methods in names.items():
            with ranks.started(network, module, setup.shape) as own:
                for name in methods:
                    rows.append(_row(name, own, network, setup.rates, repeats))
    return rows


def _row(name: str, own: ranks.Ranks, network, rates: Sequence[int], repeats) -> Row:
    network.shape(10_000)
    prepared = own.ask("prepare", name)[0]
    seconds, received, bits = {}, [], math.nan
    for rate in rates:
        network.shape(rate)
        answers = own.ask("run", repeats)
        slowest = np.max([answer["seconds"] for answer in answers], axis=0)
        seconds[rate] = tuple(slowest.tolist())
        received.append(np.mean([answer["received"] for answer in answers]))
        bits = np.mean([answer.get("bits", math.nan) for answer in answers])
    program = prepared.get("program", {})
    return Row(name, float(bits) / 8, program, float(np.median(received)), seconds)


def tables(rows: Sequence[Row], setup: Setup, number: int) -> list[rich.table.Table]:
    """What was measured, a method a line: bytes, and seconds; both fit a terminal."""
    who = f"{number} processes, {math.prod(setup.shape):,} float32"
    columns = ("counted", "program", "interface", "/ program")
    traffic = _empty(f"{who}: MB of an update", columns)
    rates = [f"{rate} Mbit/s" for rate in setup.rates]
    taken = _empty(f"{who}: seconds of an update (dense / method)", rates)
    dense = {row.name: row for row in rows}[DENSE]
    for row in rows:
        program = sorted({f"{b / 1e6:.3g}" for b in row.program.values()}, key=float)
        traffic.add_row(
            row.name,
            _megabytes(row.counted),
            " or ".join(program) or "-",
            _megabytes(row.interface),
            "-" if math.isnan(row.excess) else f"{row.excess:.3f}",
        )
        seconds = {rate: min(each) for rate, each in row.seconds.items()}
        taken.add_row(
            row.name,
            *(f"{t:.3g} ({min(dense.seconds[r]) / t:.1f})" for r, t in seconds.items()),
        )
    return [traffic, taken]


def _empty(title: str, columns: Sequence[str]) -> rich.table.Table:
    made = rich.table.Table(title=title, title_justify="left")
    made.add_column("method", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    return made


def _megabytes(bytes: float) -> str:
    return "-" if math.isnan(bytes) else f"{bytes / 1e6:.3g}"


def _measures(rows: Sequence[Row], setup: Setup, number: int) -> list[Measure]:
    dense = {row.name: row for row in rows}[DENSE]
    measures = []
    for row in rows:
        who = f"{row.name}, {number} processes"
        told = {"told": True}
        on_it = Measure(f"{who}: on the interface", row.interface / 1e6, "MB", **told)
        measures.append(on_it)
        if row.program:
            said = " or ".join(f"{bytes / 1e6:.4g}" for bytes in row.program.values())
            note = f"counted {row.counted / 1e6:.4g} MB, by the program {said}"
            name = f"{who}: interface / program"
            measures.append(Measure(name, row.excess, note=note, **told))
        for rate, taken in row.seconds.items():
            here = f"{who}, {rate} Mbit/s"
            measures.append(
                Measure(here, **benchmarks.summary(taken), unit="s", **told)
            )
            if row is not dense:
                asked = (row.name, number) == (SPARSE, 2)
                must, goal = ASKED[rate] if asked else (None, None)
                # The shortest of each: others on the machine only add to it.
                times = min(dense.seconds[rate]) / min(taken)
                measures.append(
                    Measure(
                        *(f"dense / {here}", times),
                        must=must,
                        goal=goal,
                        larger_is_better=True,
                        told=not asked,
                    )
                )
    return measures
