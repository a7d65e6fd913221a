"""Two processes of PyTorch's DDP over gloo, and what a hook hands to collectives."""

import multiprocessing
import os
import queue
import sys
import tempfile
import warnings
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    quantization_hooks,
)
from torch.nn.parallel import DistributedDataParallel

from gdsec_experiments.neighbours import _public
from gdsec_experiments.neighbours._matrix import DENSE, RANK, ROUNDS, SHAPE

PATIENCE = 30.0  # seconds
OWN = "DeMo"  # which is no hook: an optimizer that calls collectives itself


class Seen(NamedTuple):
    """What rank 0 saw of a hook."""

    error: str  # empty where it ran
    bytes: float  # handed to collectives, a round; of the last one
    all_bytes: float  # of all rounds together
    far: float  # of the mean of both gradients, relative
    said: float  # the compression that its own statistics report, or 0


def hooks() -> dict[str, Any]:
    """A function a hook, which registers it with a model."""
    power = powerSGD_hook

    def ready(hook, state=None):
        return lambda model: model.register_comm_hook(state, hook)

    def low_rank(hook, wrap=lambda hook: hook):
        def register(model):
            state = power.PowerSGDState(
                None,
                matrix_approximation_rank=RANK,
                start_powerSGD_iter=DENSE,
                min_compression_rate=1,
            )
            model.register_comm_hook(state, wrap(hook))
            return state

        return register

    def local(model):
        state = post_localSGD_hook.PostLocalSGDState(
            None, dist.new_subgroups(group_size=2)[0], DENSE
        )
        model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)

    quantised = quantization_hooks
    return {
        "none": lambda model: None,
        "allreduce_hook": ready(default_hooks.allreduce_hook),
        "fp16_compress_hook": ready(default_hooks.fp16_compress_hook),
        "bf16_compress_hook": ready(default_hooks.bf16_compress_hook),
        "powerSGD_hook": low_rank(power.powerSGD_hook),
        "fp16_compress_wrapper(powerSGD_hook)": low_rank(
            power.powerSGD_hook, default_hooks.fp16_compress_wrapper
        ),
        "batched_powerSGD_hook": low_rank(power.batched_powerSGD_hook),
        "quantization_pertensor_hook": ready(
            quantised.quantization_pertensor_hook, dist.group.WORLD
        ),
        "quantization_perchannel_hook": ready(
            quantised.quantization_perchannel_hook, dist.group.WORLD
        ),
        "post_localSGD_hook": local,
    }


class _Given(torch.nn.Module):
    """A matrix whose gradient is what it is given."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.zeros(SHAPE))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        return (self.matrix * gradient).sum()


def _counting(handed: list[int]) -> None:
    """Have the collectives that hooks call count what they are handed."""

    def counted(call):
        def collective(*args, **kwargs):
            given = args[1] if call.__name__ == "all_gather" else args[0]
            handed[-1] += given.numel() * given.element_size()
            return call(*args, **kwargs)

        return collective

    for name in ("all_reduce", "all_gather"):
        setattr(dist, name, counted(getattr(dist, name)))


def _rank(rank: int, name: str, folder: str, answers: Any) -> None:
    try:
        answers.put((rank, _seen(rank, name, folder)))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        text = "".join([type(error).__name__, *f": {error}".strip().splitlines()[:1]])
        answers.put((rank, Seen(text, 0, 0, 0, 0)))
    answers.close()
    answers.join_thread()
    os._exit(0)  # a rank that failed leaves the other one waiting


def _seen(rank: int, name: str, folder: str) -> Seen:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    handed = [0]
    _counting(handed)
    torch.manual_seed(0)
    gradients = torch.randn((2, *SHAPE))
    play = _demo if name == OWN else _hooked
    gradient, said = play(name, gradients[rank], handed)
    mean = gradients.mean(0)
    far = (gradient - mean).norm() / mean.norm()
    return Seen("", handed[-1], sum(handed), float(far), float(said))


def _hooked(name: str, gradient: torch.Tensor, handed: list[int]) -> tuple[Any, float]:
    """What a hook makes of a worker's gradient in the end, and says of itself."""
    model = DistributedDataParallel(_Given(), bucket_cap_mb=1000)
    state = hooks()[name](model)
    for _ in range(ROUNDS):
        handed.append(0)
        model.zero_grad(set_to_none=True)
        model(gradient).backward()
    said = state.compression_stats()[0] if state is not None else 0
    return model.module.matrix.grad, said


def _demo(_: str, gradient: torch.Tensor, handed: list[int]) -> tuple[Any, float]:
    """The same of DeMo's public code, which says how many bytes it sent."""
    matrix = torch.nn.Parameter(torch.zeros(SHAPE))
    made = _public.module(_public.DEMO, "demo.py").DeMo([matrix], lr=0.1)
    for _ in range(ROUNDS):
        handed.append(0)
        matrix.grad = gradient.clone()
        made.step()
    return matrix.grad, 4 * matrix.numel() / made.data_transmit


def seen(name: str) -> Seen:
    """Of a hook, in processes of its own; the error of any rank counts."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(rank, name, folder, answers))
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        try:
            rank, first = answers.get(timeout=PATIENCE)
            if not first.error and rank != 0:
                _, first = answers.get(timeout=PATIENCE)
        except queue.Empty:
            first = Seen("no answer", 0, 0, 0, 0)
        for process in ranks:
            process.kill()
            process.join()
    return first


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import json

    names = sys.argv[1:] or list(hooks())
    print(json.dumps({name: seen(name)._asdict() for name in names}))
