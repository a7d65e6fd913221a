"""The methods, by what each leaves out of one formula: memories and compressor."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from gdsec_jax import _checks, _plain
from gdsec_jax.numpy_worker import _trees
from gdsec_jax.numpy_worker._compressors import censor, norm, qsgd, top_k
from gdsec_jax.wire import Code, Message

Scope = Literal["message", "leaf"]


class Memory(NamedTuple):
    """What a worker keeps from round to round; () of what its method has no use for."""

    h: Any = ()  # what the server knows of its gradient: a leaf a parameter
    e: Any = ()  # what was left unsent: a leaf a parameter
    begun: bool = False  # whether a message has arrived that was not zero


class Told(NamedTuple):
    """What a compressor is told beside its vector."""

    params_change: Any
    round: int
    uniforms: Any
    begun: bool


def _init(self: Any, params: Any) -> Memory:
    """What a worker keeps before the first round."""
    self._check(params)
    return Memory(**{name: _trees.zeros(params) for name in self._memories})


def _update(
    self: Any,
    gradient: Any,
    memory: Memory,
    params_change: Any = None,
    *,
    round: int = 0,
    uniforms: Any = None,
    delivered: bool = True,
) -> tuple[Message, Memory]:
    """v = g - h + e; u = C(v); h <- h + beta u; e <- v - u."""
    told = Told(params_change, round, uniforms, memory.begun)
    v, message = _said(self, gradient, memory, told)
    if delivered:
        return message, _if_heard(self, memory, v, message)
    return message, _if_lost(self, memory, v)


def both(
    method: Any, gradient: Any, memory: Memory, told: Told
) -> tuple[Message, Memory, Memory]:
    """A message, and what the worker keeps if it is delivered, and if it is not."""
    v, message = _said(method, gradient, memory, told)
    return message, _if_heard(method, memory, v, message), _if_lost(method, memory, v)


def _said(self: Any, gradient: Any, memory: Memory, told: Told) -> tuple[Any, Message]:
    """v, and the message that is made of it."""
    v = gradient
    if "h" in self._memories:
        _checks.same_shapes("gradient", gradient, memory.h)
        v = _plain.map(np.subtract, v, memory.h)
    if "e" in self._memories:
        _checks.same_shapes("gradient", gradient, memory.e)
        v = _plain.map(np.add, v, memory.e)
    said = self._compress(v, told)
    u = _plain.map(_trees.as_it_travels, said.values, gradient)
    return v, dataclasses.replace(said, values=u)


def _if_heard(self: Any, memory: Memory, v: Any, message: Message) -> Memory:
    """What the worker keeps if its message is delivered."""
    (h, e, begun), u = memory, message.values
    if "h" in self._memories:
        beta = getattr(self, "beta", 1.0)
        h = _plain.map(lambda h, u: _trees.moved(h, beta, u), h, u)
    if "e" in self._memories:
        e = _plain.map(lambda e, v, u: (v - u).astype(e.dtype, copy=False), e, v, u)
    return Memory(h, e, begun or any(map(np.any, _plain.leaves(u))))


def _if_lost(self: Any, memory: Memory, v: Any) -> Memory:
    """The same if it is not: as if it had been zero."""
    if "e" not in self._memories:
        return memory
    e = _plain.map(lambda e, v: v.astype(e.dtype, copy=False), memory.e, v)
    return memory._replace(e=e)


class GD(NamedTuple):
    r"""Gradient descent: :math:`u = \nabla f_m(\theta^k)`, every entry of it.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.GD(), np.zeros(2)
      >>> message, _ = method.update(np.array([1.0, 0.0]), method.init(params))
      >>> message.values
      array([1., 0.])
    """

    _memories = ""
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """Nothing can be wrong."""

    def _compress(self, v: Any, told: Told) -> Message:
        """All of it, densely."""
        return Message(v, Code(dense=True))


class GDSEC(NamedTuple):
    r"""GD-SEC: what changed enough of the gradient is sent, the rest remembered.

    .. math:: v = \nabla f_m(\theta^k) - h + e, \quad u_i = 0 \text{ if } |v_i| \le
       (\xi_i / M) |\theta^k_i - \theta^{k-1}_i|, \text{ else } v_i; \quad
       h \leftarrow h + \beta u, \quad e \leftarrow v - u

    Attributes:
      num_workers: M.
      xi: :math:`\xi_i \ge 0`, a number, a prefix of the parameters' tree whose leaves
        broadcast against theirs, or a schedule of the round.
      beta: :math:`\beta` in [0, 1].

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.GDSEC(num_workers=2, xi=4.0), np.zeros(2)
      >>> gradient, change = np.array([1.0, 0.3]), np.array([0.1, 0.2])
      >>> message, memory = method.update(gradient, method.init(params), change)
      >>> message.values, memory.e
      (array([1., 0.]), array([0. , 0.3]))

    References:
      Chen, Blum, Takáč, Sadler, Distributed Learning With Sparsified Gradient
      Differences, 2022, https://doi.org/10.1109/JSTSP.2022.3162989
    """

    num_workers: int
    xi: Any
    beta: float = 0.01

    _memories = "he"
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """The numbers' ranges."""
        _check_censoring(self)

    def _compress(self, v: Any, told: Told) -> Message:
        """Its large entries."""
        return Message(_censored(self, v, told))


class GDSOEC(NamedTuple):
    r"""GD-SOEC: GD-SEC without error correction, its ablation.

    .. math:: v = \nabla f_m(\theta^k) - h, \quad u = \text{censor}(v), \quad
       h \leftarrow h + \beta u

    with the censoring, and the numbers, of `GDSEC`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.GDSOEC(num_workers=2, xi=4.0), np.zeros(2)
      >>> gradient, change = np.array([1.0, 0.3]), np.array([0.1, 0.2])
      >>> message, memory = method.update(gradient, method.init(params), change)
      >>> message.values, memory.e
      (array([1., 0.]), ())
    """

    num_workers: int
    xi: Any
    beta: float = 0.01

    _memories = "h"
    init, update = _init, _update
    _check, _compress = GDSEC._check, GDSEC._compress


class QSGDSEC(NamedTuple):
    r"""QSGD-SEC: GD-SEC whose surviving entries are rounded at random to s levels.

    .. math:: v = \nabla f_m(\theta^k) - h + e, \quad u = Q(\text{censor}(v)), \quad
       h \leftarrow h + \beta u, \quad e \leftarrow v - u

    with the censoring, and the numbers, of `GDSEC`, and Q of `qsgd`. Its update needs
    `uniforms`.

    Attributes:
      levels: s, from 1 to as many as the parameters' dtype tells apart.
      scope: "message", one norm, or "leaf", a norm for each leaf.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.QSGDSEC(2, xi=4.0, levels=1), np.zeros(2)
      >>> message, memory = method.update(
      ...     np.array([3.0, 4.0]), method.init(params), np.zeros(2),
      ...     uniforms=np.array([0.7, 0.1]))
      >>> message.values, message.scales, memory.e
      (array([0., 5.]), array([5.], dtype=float32), array([ 3., -1.]))
    """

    num_workers: int
    xi: Any
    beta: float = 0.01
    levels: int = 127
    scope: Scope = "message"

    _memories = "he"
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """The numbers' ranges."""
        _check_censoring(self)
        _check_levels(self, params)

    def _compress(self, v: Any, told: Told) -> Message:
        """Its large entries, rounded."""
        return _rounded(self, _censored(self, v, told), told)


class CGD(NamedTuple):
    r"""Censored gradient descent: the whole difference is sent, or nothing.

    .. math:: v = \nabla f_m(\theta^k) - h, \quad u = 0 \text{ if } \|v\|_2 \le
       (\xi / M) \|\theta^k - \theta^{k-1}\|_2, \text{ else } v; \quad
       h \leftarrow h + u

    Attributes:
      num_workers: M.
      xi: :math:`\xi \ge 0`, a number or a schedule of the round.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.CGD(num_workers=2, xi=4.0), np.zeros(2)
      >>> gradient, change = np.array([3.0, 4.0]), np.array([0.0, 3.0])
      >>> message, memory = method.update(gradient, method.init(params), change)
      >>> message.values, memory.h
      (array([0., 0.]), array([0., 0.]))
    """

    num_workers: int
    xi: Any

    _memories = "h"
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """The numbers' ranges."""
        _checks.number_of_workers(self.num_workers)
        if not callable(self.xi):
            _checks.number_in_range("xi", self.xi, 0.0, _checks.LARGEST)

    def _compress(self, v: Any, told: Told) -> Message:
        """All of it, or nothing; no vector is small against no movement."""
        moved = norm(_trees.joined(_needed(told, "params_change")))
        limit = moved.dtype.type(_share(self, told)) * moved
        small = norm(_trees.joined(v)) <= limit and limit >= np.finfo(limit.dtype).tiny
        return Message(_plain.map(np.zeros_like, v) if small else v, Code(dense=True))


class TopJ(NamedTuple):
    r"""Top-j: the k largest entries of gradient and error memory.

    .. math:: v = \nabla f_m(\theta^k) + e, \quad u = \text{top}_k(v), \quad
       e \leftarrow v - u

    Attributes:
      k: how many, an int; or a fraction in (0, 1], a float, rounded up.
      scope: "message", of all leaves together, or "leaf", of every leaf.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.TopJ(k=1), np.zeros(2)
      >>> message, memory = method.update(np.array([3.0, -4.0]), method.init(params))
      >>> message.values, memory.e
      (array([ 0., -4.]), array([3., 0.]))

    References: Stich, Cordonnier, Jaggi, 2018, https://arxiv.org/abs/1809.07599
    """

    k: float
    scope: Scope = "message"

    _memories = "e"
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """The numbers' ranges."""
        _checks.number_or_share(self.k)
        _checks.one_of("scope", self.scope, ("message", "leaf"))

    def _compress(self, v: Any, told: Told) -> Message:
        """The largest entries, of all or of each leaf."""
        return Message(_largest(self, v))


class EF21(NamedTuple):
    r"""EF21: the k largest entries of the difference; the first message is whole.

    .. math:: v = \nabla f_m(\theta^k) - h, \quad u = \text{top}_k(v), \quad
       h \leftarrow h + u

    Until a message has arrived that is not zero, u is all of v, and travels densely.
    The numbers are those of `TopJ`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.EF21(k=1), np.zeros(2)
      >>> message, memory = method.update(np.array([3.0, 4.0]), method.init(params))
      >>> message.whole, method.update(np.array([3.5, 6.0]), memory)[0].values
      (True, array([0., 2.]))

    References: Richtárik, Sokolov, Fatkhullin, 2021, https://arxiv.org/abs/2106.05203
    """

    k: float
    scope: Scope = "message"

    _memories = "h"
    init, update = _init, _update
    _check = TopJ._check

    def _compress(self, v: Any, told: Told) -> Message:
        """All of it at first, and then its largest entries."""
        return Message(_largest(self, v)) if told.begun else Message(v, whole=True)


class QGD(NamedTuple):
    r"""QGD, or QSGD on minibatches: :math:`u = Q(\nabla f_m(\theta^k))`, Q of `qsgd`.

    Its update needs `uniforms`; the numbers are as in `QSGDSEC`.

    Examples:
      >>> import numpy as np
      >>> from gdsec_jax import numpy_worker
      >>> method, params = numpy_worker.QGD(levels=1), np.zeros(2)
      >>> message, _ = method.update(
      ...     np.array([3.0, -4.0]), method.init(params), uniforms=np.array([0.7, 0.1]))
      >>> message.values, message.scales
      (array([ 0., -5.]), array([5.], dtype=float32))
    """

    levels: int = 15
    scope: Scope = "message"

    _memories = ""
    init, update = _init, _update

    def _check(self, params: Any) -> None:
        """The numbers' ranges."""
        _check_levels(self, params)

    def _compress(self, v: Any, told: Told) -> Message:
        """Its entries, rounded."""
        return _rounded(self, v, told)


METHODS = {  # by the names of the package's functions
    "cgd": CGD,
    "ef21": EF21,
    "gd": GD,
    "gdsec": GDSEC,
    "gdsoec": GDSOEC,
    "qgd": QGD,
    "qsgdsec": QSGDSEC,
    "top_j": TopJ,
}


def _censored(method: Any, v: Any, told: Told) -> Any:
    """Its entries above xi / M times the parameters' last change."""
    change = _needed(told, "params_change")
    _checks.same_shapes("params_change", change, v)

    try:
        xi = _plain.filled(_share(method, told), v)
    except ValueError as error:
        raise ValueError(
            f"xi is {_checks.shown(method.xi)}, expected a number or a prefix of the "
            "params' tree."
        ) from error

    def one(v, change, xi):
        if not _trees.fits(np.shape(xi), v.shape):
            raise ValueError(
                f"xi has shape {np.shape(xi)}, expected one that broadcasts to the "
                f"parameter's {v.shape}."
            )
        dtype = np.promote_types(v.dtype, change.dtype)
        return censor(v, np.asarray(xi, dtype) * np.abs(change.astype(dtype)))

    return _plain.map(one, v, change, xi)


def _share(method: Any, told: Told) -> Any:
    """xi / M."""
    xi = method.xi(told.round) if callable(method.xi) else method.xi
    return _plain.map(lambda x: x / method.num_workers, xi)


def _largest(method: Any, v: Any) -> Any:
    """Its k largest entries, of all or of each leaf."""
    vectors = _trees.vectors(v, method.scope)
    found = [top_k(x, _checks.number_of(method.k, x.size)) for x in vectors]
    return _trees.tree_of(found, v)


def _rounded(method: Any, v: Any, told: Told) -> Message:
    """Its entries rounded at random, by the norm of all or of each leaf."""
    vectors = _trees.vectors(v, method.scope)
    draws = np.asarray(_needed(told, "uniforms"))
    lengths = [x.size for x in vectors]
    if draws.shape != (sum(lengths),):
        raise ValueError(
            f"uniforms has shape {draws.shape}, expected ({sum(lengths)},): a draw "
            "from [0, 1) for every entry."
        )
    own = np.split(draws, np.cumsum(lengths)[:-1])
    made = [qsgd(x, method.levels, u) for x, u in zip(vectors, own, strict=False)]
    code = Code("levels", method.levels, num_scales=len(made))
    scales = np.array([scale for _, scale in made], np.float32)
    return Message(_trees.tree_of([x for x, _ in made], v), code, scales)


def _needed(told: Told, name: str) -> Any:
    value = getattr(told, name)
    if value is None:
        raise ValueError(f"{name} is None, expected it: this method's update needs it.")
    return value


def _check_censoring(method: Any) -> None:
    _checks.number_of_workers(method.num_workers)
    _checks.in_range("xi", method.xi, 0.0, _checks.LARGEST)
    _checks.number_in_range("beta", method.beta, 0.0, 1.0)


def _check_levels(method: Any, params: Any) -> None:
    digits = [_plain.finfo(np.result_type(x)).nmant for x in _plain.leaves(params)]
    _checks.integer("levels", method.levels, 1, 2 ** min([30, *digits]))
    _checks.one_of("scope", method.scope, ("message", "leaf"))
