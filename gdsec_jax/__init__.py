"""Communication-efficient distributed optimisation in JAX: GD-SEC and its rivals.

The names are those of `__init__.pyi`, and are loaded when they are first used.
"""

try:
    import lazy_loader

    _load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
except ModuleNotFoundError:  # NumPy is all there is: `numpy_worker` and `wire` are here

    def _load(name: str) -> object:
        raise AttributeError(
            f"gdsec_jax.{name} needs what gdsec_jax requires, which is not installed; "
            "with NumPy alone there are gdsec_jax.numpy_worker and gdsec_jax.wire."
        )


_RENAMED = {"Grouped": "WorkerBatches", "rounds": "clock"}


def __getattr__(name: str):
    if name not in _RENAMED:
        return _load(name)
    from gdsec_jax import _checks

    _checks.deprecated(f"gdsec_jax.{name}", f"gdsec_jax.{_RENAMED[name]}")
    return _load(_RENAMED[name])
