"""What `import gdsec_jax` offers; each name is loaded when it is first used."""

from . import channel as channel
from . import data as data
from . import flower as flower
from . import logs as logs
from . import numpy_worker as numpy_worker
from . import participation as participation
from . import plot as plot
from . import privacy as privacy
from . import problems as problems
from . import robust as robust
from . import server as server
from . import wire as wire
from . import worker as worker
from ._devices import DEVICE_AXIS as DEVICE_AXIS
from ._native import native_kernels as native_kernels
from ._theory import Theory as Theory
from ._theory import theory as theory
from .algorithms import METHODS as METHODS
from .algorithms import STATIC_ARGS as STATIC_ARGS
from .algorithms import Method as Method
from .algorithms import adiana as adiana
from .algorithms import cgd as cgd
from .algorithms import clag as clag
from .algorithms import dasha as dasha
from .algorithms import dasha_pp as dasha_pp
from .algorithms import demo as demo
from .algorithms import diana as diana
from .algorithms import diloco as diloco
from .algorithms import econtrol as econtrol
from .algorithms import ef21 as ef21
from .algorithms import ef21_muon as ef21_muon
from .algorithms import ef21_p as ef21_p
from .algorithms import ef21_sgdm as ef21_sgdm
from .algorithms import ef_bv as ef_bv
from .algorithms import gd as gd
from .algorithms import gdsec as gdsec
from .algorithms import gdsoec as gdsoec
from .algorithms import iag as iag
from .algorithms import lag as lag
from .algorithms import laq as laq
from .algorithms import locodl as locodl
from .algorithms import low_rank as low_rank
from .algorithms import marina as marina
from .algorithms import marina_p as marina_p
from .algorithms import natural as natural
from .algorithms import one_bit_adam as one_bit_adam
from .algorithms import power_sgd as power_sgd
from .algorithms import qgd as qgd
from .algorithms import qsgdsec as qsgdsec
from .algorithms import rand_k as rand_k
from .algorithms import scaffnew as scaffnew
from .algorithms import scaffold as scaffold
from .algorithms import sign_ef as sign_ef
from .algorithms import sign_majority as sign_majority
from .algorithms import sparse_loco as sparse_loco
from .algorithms import streaming_diloco as streaming_diloco
from .algorithms import tamuna as tamuna
from .algorithms import terngrad as terngrad
from .algorithms import threepc as threepc
from .algorithms import top_j as top_j
from .federation import federate as federate
from .federation._adaptive import adaptive_xi as adaptive_xi
from .federation._batches import WorkerBatches as WorkerBatches
from .federation._broadcast import LastBroadcast as LastBroadcast
from .federation._broadcast import broadcast as broadcast
from .federation._broadcast import last_broadcast as last_broadcast
from .federation._check import check as check
from .federation._clock import clock as clock
from .federation._controller import Controller as Controller
from .federation._controller import last_xi as last_xi
from .federation._counts import LastRound as LastRound
from .federation._counts import last_round as last_round
from .federation._local import in_fragments as in_fragments
from .federation._local import local as local
from .federation._specs import state_specs as state_specs
from .federation._train import WorkerLosses as WorkerLosses
from .server import gradient_estimate as gradient_estimate
from .server import late_messages as late_messages
from .server import server_memory as server_memory
from .simulation._checkpoint import Checkpoints as Checkpoints
from .simulation._grid import Static as Static
from .simulation._history import Cost as Cost
from .simulation._history import History as History
from .simulation._lower import Lowered as Lowered
from .simulation._lower import lower as lower
from .simulation._records import Round as Round
from .simulation._records import norms as norms
from .simulation._run import Stop as Stop
from .simulation._simulate import simulate as simulate
from .simulation._store import SweepFile as SweepFile
from .simulation._sweep import sweep as sweep
from .uplink import Uplink as Uplink

__all__ = [
    "DEVICE_AXIS",
    "METHODS",
    "STATIC_ARGS",
    "Checkpoints",
    "Controller",
    "Cost",
    "History",
    "LastBroadcast",
    "LastRound",
    "Lowered",
    "Method",
    "Round",
    "Static",
    "Stop",
    "SweepFile",
    "Theory",
    "Uplink",
    "WorkerBatches",
    "WorkerLosses",
    "adaptive_xi",
    "adiana",
    "broadcast",
    "cgd",
    "channel",
    "check",
    "clag",
    "clock",
    "dasha",
    "dasha_pp",
    "data",
    "demo",
    "diana",
    "diloco",
    "econtrol",
    "ef21",
    "ef21_muon",
    "ef21_p",
    "ef21_sgdm",
    "ef_bv",
    "federate",
    "flower",
    "gd",
    "gdsec",
    "gdsoec",
    "gradient_estimate",
    "iag",
    "in_fragments",
    "lag",
    "laq",
    "last_broadcast",
    "last_round",
    "last_xi",
    "late_messages",
    "local",
    "locodl",
    "logs",
    "low_rank",
    "lower",
    "marina",
    "marina_p",
    "native_kernels",
    "natural",
    "norms",
    "numpy_worker",
    "one_bit_adam",
    "participation",
    "plot",
    "power_sgd",
    "privacy",
    "problems",
    "qgd",
    "qsgdsec",
    "rand_k",
    "robust",
    "scaffnew",
    "scaffold",
    "server",
    "server_memory",
    "sign_ef",
    "sign_majority",
    "simulate",
    "sparse_loco",
    "state_specs",
    "streaming_diloco",
    "sweep",
    "tamuna",
    "terngrad",
    "theory",
    "threepc",
    "top_j",
    "wire",
    "worker",
]
