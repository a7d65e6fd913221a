"""The room that knows the axis of workers: a round of all of them, and what it cost."""

from gdsec_jax.federation._federate import OnStandstill as OnStandstill
from gdsec_jax.federation._federate import Reduction as Reduction
from gdsec_jax.federation._federate import federate as federate
from gdsec_jax.federation._finite import OnNonfinite as OnNonfinite
from gdsec_jax.federation._one_round import FederationState as FederationState
from gdsec_jax.federation._spread import Axis as Axis
