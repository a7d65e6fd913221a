"""What a run over Flower leaves behind, as `simulate` does."""

from typing import Any

import numpy as np

from gdsec_jax.files import _environment
from gdsec_jax.flower._server import ServerState
from gdsec_jax.simulation._history import History, outcome_of
from gdsec_jax.wire import Format


def history_of(
    state: ServerState, *, initial_error: float, error_name: str, wire: Format
) -> History:
    """The course of a run; the bytes that the protocol adds stand among `observed`.

    Args:
      state: the server's.
      initial_error: at the parameters of the first round.
      error_name: what the error is called.
      wire: the format of the messages.
    """
    rows = state.rows
    numbers = np.arange(1, len(rows) + 1)
    errors = [np.nan if row.error is None else row.error for row in rows]
    num_workers = len(state.known)

    def of(name: str, dtype: Any = np.int64, *more: int) -> np.ndarray:
        values = [getattr(row, name) for row in rows]
        return np.array(values, dtype).reshape(len(rows), *more)

    participants = of("participants", bool, num_workers)
    return History(
        initial_error=initial_error,
        eval_rounds=numbers,
        objective_error=np.array(errors, float),
        entries=of("entries", np.int64, num_workers),
        bits=of("bits", np.int64, num_workers),
        broadcast_bits=of("broadcast_bits"),
        gradient_evaluations=participants.sum(1).astype(np.int64),
        participants=participants,
        dropped=of("dropped"),
        params=state.params,
        outcome=outcome_of(0, errors[-1], initial_error, 0.0) if rows else "completed",
        attributes={
            "problem": "over Flower",
            "error_name": error_name,
            "wire": [wire._asdict()],
            "seconds": float(np.nansum(of("seconds", float))),
            "versions": _environment.everything(),
        },
        observed={
            "payload_bytes": of("payload", np.int64, num_workers),
            "reply_bytes": of("received", np.int64, num_workers),
            "instruction_bytes": of("sent", np.int64, num_workers),
            "taken_back": of("taken_back"),
            "forgotten": of("forgotten"),
        },
        lost=of("missing"),
        time_s=of("seconds", float),
    )
