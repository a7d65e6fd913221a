"""The room that knows the axis of workers: a round of all of them, and what it cost."""

from gdsec_jax.federation._adaptive import adaptive_xi as adaptive_xi
from gdsec_jax.federation._attendance import Absent as Absent
from gdsec_jax.federation._attendance import Grant as Grant
from gdsec_jax.federation._attendance import Offers as Offers
from gdsec_jax.federation._attendance import Rule as Rule
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
from gdsec_jax.federation._federate import OnNonfinite as OnNonfinite
from gdsec_jax.federation._federate import OnStandstill as OnStandstill
from gdsec_jax.federation._federate import Reduction as Reduction
from gdsec_jax.federation._federate import federate as federate
from gdsec_jax.federation._one_round import FederationState as FederationState
