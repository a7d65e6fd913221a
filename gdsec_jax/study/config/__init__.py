"""The config of a run: one schema for TOML files and for the command line."""

from gdsec_jax.study.config._build import load_data as load_data
from gdsec_jax.study.config._build import make_optimizer as make_optimizer
from gdsec_jax.study.config._build import make_problem as make_problem
from gdsec_jax.study.config._build import resolved as resolved
from gdsec_jax.study.config._build import varied as varied
from gdsec_jax.study.config._grid import Range as Range
from gdsec_jax.study.config._grid import joined as joined
from gdsec_jax.study.config._grid import values_of as values_of
from gdsec_jax.study.config._link import ChannelConfig as ChannelConfig
from gdsec_jax.study.config._link import around as around
from gdsec_jax.study.config._link import bound as bound
from gdsec_jax.study.config._link import make_channel as make_channel
from gdsec_jax.study.config._link import takes_part as takes_part
from gdsec_jax.study.config._read import load as load
from gdsec_jax.study.config._read import merged as merged
from gdsec_jax.study.config._read import validate as validate
from gdsec_jax.study.config._read import write_chosen as write_chosen
from gdsec_jax.study.config._schema import GENERATORS as GENERATORS
from gdsec_jax.study.config._schema import TRACED as TRACED
from gdsec_jax.study.config._schema import MethodConfig as MethodConfig
from gdsec_jax.study.config._schema import ProblemConfig as ProblemConfig
from gdsec_jax.study.config._schema import RunConfig as RunConfig
