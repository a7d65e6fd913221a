"""The config of a run: one schema for TOML files and for the command line."""

from gdsec_jax.study.config._fields import Range as Range
from gdsec_jax.study.config._fields import axes_of as axes_of
from gdsec_jax.study.config._fields import joined as joined
from gdsec_jax.study.config._fields import of_method as of_method
from gdsec_jax.study.config._fields import values_of as values_of
from gdsec_jax.study.config._method import TRACED as TRACED
from gdsec_jax.study.config._method import MethodConfig as MethodConfig
from gdsec_jax.study.config._method import with_values as with_values
from gdsec_jax.study.config._problem import GENERATORS as GENERATORS
from gdsec_jax.study.config._problem import ProblemConfig as ProblemConfig
from gdsec_jax.study.config._problem import load_data as load_data
from gdsec_jax.study.config._problem import make_problem as make_problem
from gdsec_jax.study.config._run import RunConfig as RunConfig
from gdsec_jax.study.config._run import load as load
from gdsec_jax.study.config._run import make_optimizer as make_optimizer
from gdsec_jax.study.config._run import merged as merged
from gdsec_jax.study.config._run import recommended as recommended
from gdsec_jax.study.config._run import resolved as resolved
from gdsec_jax.study.config._run import validate as validate
from gdsec_jax.study.config._run import varied as varied
from gdsec_jax.study.config._run import with_local_steps as with_local_steps
from gdsec_jax.study.config._run import write_chosen as write_chosen
from gdsec_jax.study.config._uplink import ChannelConfig as ChannelConfig
from gdsec_jax.study.config._uplink import make_channel as make_channel
from gdsec_jax.study.config._uplink import make_uplink as make_uplink
