"""What the pages of all methods have in common, written once."""

import inspect
import re
import textwrap
from collections.abc import Callable

_ARGUMENTS = {
    "num_workers": "M, a Python int.",
    "k": "how many, an int of at least 1, or a fraction of D in (0, 1], a float.",
    "rank": "r, at least 1.",
    "compressor": "C, unbiased: `worker.random_k`, `qsgd`, `natural`, `terngrad`, "
    "`whole`, or another `worker.Piece` that declares its variance.",
    "scope": '"message" compresses all entries as one vector; "leaf" each leaf by '
    "itself, with a k, norm or scale of its own.",
    "key": "an int or a random key, for what is drawn; may be traced.",
    "reduction": '"sum": f is the sum of the workers\' f_m. "mean": it is their mean; '
    "xi, beta and the like mean the same in both, which give the same iterates.",
    "weights": "[M], the weight of each f_m in f; see `federate`.",
    "wire": "the bit format that `last_round` reports; see `gdsec_jax.wire`.",
    "on_nonfinite": '"drop" or "propagate"; see `federate`.',
    "on_standstill": '"send" or "hold"; see `federate`.',
    "noise": "what makes each worker's gradient private before anything is made of it: "
    "`worker.gaussian_noise`, with a key; see `federate`.",
    "within": "the axes that the devices of one worker lie on; see `federate`.",
    "axis": "the axis of a device mesh that the workers lie on; see `federate`.",
    "state_dtype": "dtype of the memories; by default the parameter's, but at least "
    "float32.",
    "server": "how the server makes one direction of the messages; see "
    "`gdsec_jax.server`. By default their sum, with the workers' memories added where "
    "they keep some.",
}
_FIRST = ("num_workers", "k", "rank", "compressor")  # stand before a method's own
_RETURNS = (
    "An Aggregator, which stands first in an optax chain. Its update takes gradients, "
    "leaves [M, *param], with the parameters, and returns leaves [*param]:"
)
_RAISES = (
    "ValueError: an argument is out of range or has another shape than expected, and "
    "as `federate`."
)
_SECTIONS = ("Args", "Returns", "Raises", "Examples", "References")


def page(factory: Callable) -> str:
    """The docstring of a method, with what the table above says of its arguments.

    What the method's docstring describes itself stays.
    """
    heading = re.compile(rf"^({'|'.join(_SECTIONS)}):\n", re.MULTILINE)
    start, *rest = heading.split(inspect.cleandoc(factory.__doc__ or ""))
    own = {
        name: text.rstrip() for name, text in zip(rest[::2], rest[1::2], strict=True)
    }
    described = own.get("Args", "")
    shared = [
        (name in _FIRST, _entry(f"{name}: {_ARGUMENTS[name]}"))
        for name in inspect.signature(factory).parameters
        if name in _ARGUMENTS and not re.search(rf"^  {name}:", described, re.MULTILINE)
    ]
    first, last = ([x for leads, x in shared if leads == of] for of in (True, False))
    own["Args"] = "\n".join([*first, *filter(None, [described]), *last])
    own["Returns"] = "\n".join([_entry(_RETURNS, 2), own.get("Returns", "").rstrip()])
    own["Raises"] = "\n".join([_entry(_RAISES), own.get("Raises", "")]).rstrip()
    sections = [f"{name}:\n{own[name]}" for name in _SECTIONS if name in own]
    return "\n\n".join([start.rstrip(), *sections]) + "\n"


def _entry(text: str, indent: int = 4) -> str:
    return textwrap.fill(text, 84, initial_indent="  ", subsequent_indent=" " * indent)
