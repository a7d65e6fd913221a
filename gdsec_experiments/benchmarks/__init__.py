"""Benchmarks: timing side by side, the machine's own speed, results and their table.

A bench is a module of this package with

    def bench(settings: benchmarks.Settings) -> list[benchmarks.Measure]

which times with `interleaved`, or raises `Skipped` where it cannot run. Measures are
ratios within one run where they can be: to a rival, or to what the machine's memory
bandwidth allows. A module whose name begins with _ is shared by benches, and none.
"""

from gdsec_experiments.benchmarks._results import Measure as Measure
from gdsec_experiments.benchmarks._results import Report as Report
from gdsec_experiments.benchmarks._results import Result as Result
from gdsec_experiments.benchmarks._results import Settings as Settings
from gdsec_experiments.benchmarks._results import Skipped as Skipped
from gdsec_experiments.benchmarks._results import append as append
from gdsec_experiments.benchmarks._results import as_json as as_json
from gdsec_experiments.benchmarks._results import from_json as from_json
from gdsec_experiments.benchmarks._results import load as load
from gdsec_experiments.benchmarks._results import save as save
from gdsec_experiments.benchmarks._run import about as about
from gdsec_experiments.benchmarks._run import available as available
from gdsec_experiments.benchmarks._run import chosen as chosen
from gdsec_experiments.benchmarks._run import fresh as fresh
from gdsec_experiments.benchmarks._run import module as module
from gdsec_experiments.benchmarks._run import run as run
from gdsec_experiments.benchmarks._tables import change as change
from gdsec_experiments.benchmarks._tables import compare as compare
from gdsec_experiments.benchmarks._tables import differences as differences
from gdsec_experiments.benchmarks._tables import machine as machine
from gdsec_experiments.benchmarks._tables import show as show
from gdsec_experiments.benchmarks._tables import verdict as verdict
from gdsec_experiments.benchmarks._timing import Times as Times
from gdsec_experiments.benchmarks._timing import exponent as exponent
from gdsec_experiments.benchmarks._timing import interleaved as interleaved
from gdsec_experiments.benchmarks._timing import ratio as ratio
from gdsec_experiments.benchmarks._timing import roofline as roofline
from gdsec_experiments.benchmarks._timing import speed as speed
from gdsec_experiments.benchmarks._timing import summary as summary
from gdsec_experiments.benchmarks._timing import threaded as threaded
from gdsec_experiments.benchmarks._timing import triad as triad
from gdsec_experiments.benchmarks._timing import triad_size as triad_size
