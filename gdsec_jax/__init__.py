"""Communication-efficient distributed optimisation in JAX: GD-SEC and its rivals."""

from gdsec_jax import _checks
from gdsec_jax import channel as channel
from gdsec_jax import data as data
from gdsec_jax import logs as logs
from gdsec_jax import participation as participation
from gdsec_jax import problems as problems
from gdsec_jax import robust as robust
from gdsec_jax import server as server
from gdsec_jax import wire as wire
from gdsec_jax import worker as worker
from gdsec_jax._devices import DEVICE_AXIS as DEVICE_AXIS
from gdsec_jax._theory import Theory as Theory
from gdsec_jax._theory import theory as theory
from gdsec_jax.algorithms import METHODS as METHODS
from gdsec_jax.algorithms import STATIC_ARGS as STATIC_ARGS
from gdsec_jax.algorithms import Method as Method
from gdsec_jax.algorithms import cgd as cgd
from gdsec_jax.algorithms import clag as clag
from gdsec_jax.algorithms import diana as diana
from gdsec_jax.algorithms import ef21 as ef21
from gdsec_jax.algorithms import ef21_sgdm as ef21_sgdm
from gdsec_jax.algorithms import gd as gd
from gdsec_jax.algorithms import gdsec as gdsec
from gdsec_jax.algorithms import gdsoec as gdsoec
from gdsec_jax.algorithms import iag as iag
from gdsec_jax.algorithms import lag as lag
from gdsec_jax.algorithms import laq as laq
from gdsec_jax.algorithms import low_rank as low_rank
from gdsec_jax.algorithms import marina as marina
from gdsec_jax.algorithms import natural as natural
from gdsec_jax.algorithms import power_sgd as power_sgd
from gdsec_jax.algorithms import qgd as qgd
from gdsec_jax.algorithms import qsgdsec as qsgdsec
from gdsec_jax.algorithms import rand_k as rand_k
from gdsec_jax.algorithms import sign_ef as sign_ef
from gdsec_jax.algorithms import terngrad as terngrad
from gdsec_jax.algorithms import top_j as top_j
from gdsec_jax.federation import federate as federate
from gdsec_jax.federation._adaptive import adaptive_xi as adaptive_xi
from gdsec_jax.federation._batches import WorkerBatches as WorkerBatches
from gdsec_jax.federation._broadcast import LastBroadcast as LastBroadcast
from gdsec_jax.federation._broadcast import broadcast as broadcast
from gdsec_jax.federation._broadcast import last_broadcast as last_broadcast
from gdsec_jax.federation._check import check as check
from gdsec_jax.federation._clock import clock as clock
from gdsec_jax.federation._controller import Controller as Controller
from gdsec_jax.federation._controller import last_xi as last_xi
from gdsec_jax.federation._counts import LastRound as LastRound
from gdsec_jax.federation._counts import last_round as last_round
from gdsec_jax.server import gradient_estimate as gradient_estimate
from gdsec_jax.server import late_messages as late_messages
from gdsec_jax.server import server_memory as server_memory
from gdsec_jax.simulation._checkpoint import Checkpoints as Checkpoints
from gdsec_jax.simulation._grid import Static as Static
from gdsec_jax.simulation._history import Cost as Cost
from gdsec_jax.simulation._history import History as History
from gdsec_jax.simulation._observe import Round as Round
from gdsec_jax.simulation._observe import norms as norms
from gdsec_jax.simulation._run import Stop as Stop
from gdsec_jax.simulation._simulate import simulate as simulate
from gdsec_jax.simulation._store import SweepFile as SweepFile
from gdsec_jax.simulation._sweep import sweep as sweep
from gdsec_jax.uplink import Uplink as Uplink

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
    "Method",
    "Round",
    "Static",
    "Stop",
    "SweepFile",
    "Theory",
    "Uplink",
    "WorkerBatches",
    "adaptive_xi",
    "broadcast",
    "cgd",
    "channel",
    "check",
    "clag",
    "clock",
    "data",
    "diana",
    "ef21",
    "ef21_sgdm",
    "federate",
    "gd",
    "gdsec",
    "gdsoec",
    "gradient_estimate",
    "iag",
    "lag",
    "laq",
    "last_broadcast",
    "last_round",
    "last_xi",
    "late_messages",
    "logs",
    "low_rank",
    "marina",
    "natural",
    "norms",
    "participation",
    "power_sgd",
    "problems",
    "qgd",
    "qsgdsec",
    "rand_k",
    "robust",
    "server",
    "server_memory",
    "sign_ef",
    "simulate",
    "sweep",
    "terngrad",
    "theory",
    "top_j",
    "wire",
    "worker",
]


def __getattr__(name: str):
    renamed = {"Grouped": "WorkerBatches", "rounds": "clock"}
    if name not in renamed:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _checks.deprecated(f"gdsec_jax.{name}", f"gdsec_jax.{renamed[name]}")
    return globals()[renamed[name]]
