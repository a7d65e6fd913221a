"""A rank of `gdsec bench link` of PyTorch: DDP and its hooks, over gloo."""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from gdsec_experiments.benchmarks import _ranks as ranks

METHODS = ("DDP", "DDP, fp16", "DDP, PowerSGD, rank 4")
WARM_UPS = 3  # PowerSGD's first two rounds are dense


class Given(torch.nn.Module):
    """A matrix whose gradient is what it is given."""

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        """The inner product."""
        return (self.matrix * gradient).sum()


class Rank:
    """This process's model, and the hook that it was told to prepare."""

    def __init__(self, rank: int, number: int, where: str, shape: tuple[int, int]):
        meet = f"tcp://{where}"
        dist.init_process_group("gloo", meet, rank=rank, world_size=number)
        torch.manual_seed(rank)
        self.gradients = [torch.randn(shape) for _ in range(2)]
        self.shape, self.model = shape, None

    def prepare(self, name: str) -> dict[str, Any]:
        """A model with the hook, after the rounds in which it is not itself yet."""
        # One bucket: PowerSGD over several of them is not sure to end.
        self.model = DistributedDataParallel(Given(self.shape), bucket_cap_mb=1000)
        if name == "DDP, fp16":
            self.model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif name == "DDP, PowerSGD, rank 4":
            state = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=4, start_powerSGD_iter=2
            )
            self.model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        for _ in range(WARM_UPS):
            self.update()
        return {}

    def run(self, repeats: int) -> dict[str, Any]:
        """Times and bytes of some updates."""
        return ranks.timed(self.update, dist.barrier, repeats)

    def update(self) -> None:
        """The gradient of all, in each of them."""
        self.model.zero_grad(set_to_none=True)
        self.model(self.gradients[0]).backward()
        self.gradients.reverse()


if __name__ == "__main__":
    ranks.serve(Rank)
