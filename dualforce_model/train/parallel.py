"""How a training is spread over processes: whole copies of the model or shards of it, and groups that share a window.

accelerate's launcher says which (its YAML, through the environment): without `use_fsdp` every process holds the whole
model (DistributedDataParallel); with it, weights, gradients, moments and averages are spread over all processes, layer
by layer (FSDP2, `fully_shard`). `sequence` neighbouring processes share each window (`train.sequence`); all others see
windows of their own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dualforce_model.config import ConfigError
from dualforce_model.configs.shape import ModelConfig
from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce
from dualforce_model.train.sequence import Ulysses

COPIES, SHARDS = "whole copies", "shards"
Found = TypeVar("Found")


def shards_wanted() -> bool:
    """Whether the launcher asked for FSDP2. Raises ConfigError for FSDP1 and for offloading, which is not done here."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(f"fsdp_version is 2 here, the launcher's file says {version}")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false") == "true":
        raise ConfigError("fsdp_offload_params: weights are not moved to the host here; set it to false")
    return True


class Parallel:
    """The processes of one training, and this one's place among them."""

    def __init__(self, accelerator: Accelerator, sequence: int = 1, bf16: bool = False):
        self.accelerator, self.bf16 = accelerator, bf16
        self.device = accelerator.device
        self.rank, self.world, self.main = (
            accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
        )  # fmt: skip
        self.sharded = shards_wanted()
        self.reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "false") == "true"
        if self.world % sequence:
            raise ConfigError(f"{self.world} processes can't be divided into groups of {sequence} that share a window")
        self.sequence = sequence
        # neighbours share a window: they are on one machine, and exchange in every layer
        self.data_rank, self.data_world = self.rank // sequence, self.world // sequence
        if self.sharded and not dist.is_initialized():  # one process alone
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        kind = self.device.type
        self.mesh: DeviceMesh | None = init_device_mesh(kind, (self.world,)) if self.sharded else None
        self.exchange: Ulysses | None = None
        if sequence > 1:
            names = ("data", "sequence")
            groups = init_device_mesh(kind, (self.data_world, sequence), mesh_dim_names=names)
            self.exchange = Ulysses(groups["sequence"].get_group())

    def __str__(self) -> str:
        shared = f", {self.sequence} to a window" if self.sequence > 1 else ""
        how = f", {SHARDS if self.sharded else COPIES} of the model" if self.world > 1 or self.sharded else ""
        return f"{self.world} process(es){how}{shared}, {self.device.type}"

    # -- the model ---------------------------------------------------------------------------------------------------

    def build(self, shape: ModelConfig, compiled: bool = False) -> DualForce:
        """A model whose weights are this process's part, in memory once and not yet set: `fill` them.

        Raises ConfigError when the processes can't share its heads.
        """
        with torch.device("meta"):
            model = DualForce(shape)
        if self.exchange is not None:
            try:
                model.spread(self.exchange)
            except ValueError as error:
                raise ConfigError(f"sequence: {error}") from error
        if compiled:
            model.compile_blocks()
        if self.mesh is not None:
            self._shard(model, self.mesh)
        return model.to_empty(device=self.device).train()

    def _shard(self, model: DualForce, mesh: DeviceMesh) -> None:
        # a warning against changing outputs in place, which nothing here does
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
        exact = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if self.bf16 else exact
        for tower in (model.video, model.struct):
            if tower is None:
                continue
            # neighbouring noise levels must stay apart
            fully_shard(tower.noise, mesh=mesh, mp_policy=exact, reshard_after_forward=self.reshard)
            for block in tower.layers():
                fully_shard(block, mesh=mesh, mp_policy=half, reshard_after_forward=self.reshard)
                register_fsdp_forward_method(block, "window")
        fully_shard(model, mesh=mesh, mp_policy=half, reshard_after_forward=self.reshard)

    def wrap(self, model: DualForce) -> nn.Module:
        """What the loss calls: the model itself, or with whole copies on several processes a wrapper that agrees."""
        if self.sharded or self.world == 1:
            return model
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def autocast(self) -> AbstractContextManager:
        """Arithmetic in bf16 where the training asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    # -- a step ------------------------------------------------------------------------------------------------------

    @contextmanager
    def part_of_step(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Around forward and backward of one of a step's batches: gradients are brought together at the last alone."""
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
        if isinstance(wrapped, DistributedDataParallel) and not last:
            with wrapped.no_sync():
                yield
        else:
            yield

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        """Norm of everybody's gradient, which is scaled down to `limit` where it is above."""
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def total(self, mine: Tensor) -> Tensor:
        """The sum over all data-parallel processes; processes that share a window count once."""
        if self.world == 1:
            return mine
        summed = mine.clone()
        dist.all_reduce(summed)
        return summed / self.sequence

    def gathered(self, thing: object) -> list:
        """One thing of every process, in order of rank."""
        if self.world == 1:
            return [thing]
        found: list = [None] * self.world
        dist.all_gather_object(found, thing)
        return found

    def first(self, look: Callable[[], Found]) -> Found:
        """What the first process finds, or the BadInput that it meets, on all: they agree, and files are read once."""
        found: Found | BadInput | None = None
        if self.main:
            try:
                found = look()
            except BadInput as error:
                found = error
        found = self.gathered(found)[0]
        if isinstance(found, BadInput):
            raise found
        return found  # type: ignore[return-value]

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()


# -- weights that may be spread --------------------------------------------------------------------------------------


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor that may be spread: the same memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def first_row(x: Tensor) -> int | None:
    """Where this process's rows of a spread tensor begin; None when the whole is here."""
    if not isinstance(x, DTensor) or x.device_mesh.size() == 1:
        return None
    assert x.placements == (Shard(0),)
    return min(x.shape[0], x.device_mesh.get_local_rank() * -(-x.shape[0] // x.device_mesh.size()))


@torch.no_grad()
def fill(model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> None:
    """Put whole tensors into the parameters of these names, of which this process may hold a part."""
    parameters = dict(model.named_parameters())
    for name, value in named:
        parameter = parameters[name]
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        local(parameter.data).copy_(local(value))


@contextmanager
def averaged(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Within the block the model computes with other weights (the moving average). All processes must enter.

    Memory stays where it is, and gathered copies of either weights are dropped, so that none of them is computed with
    later.
    """

    def let_go() -> None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    let_go()
    named = dict(model.named_parameters())
    own = {name: local(parameter.data).clone() for name, parameter in named.items()}

    def put(values: dict[str, Tensor]) -> None:
        let_go()
        with torch.no_grad():
            for name, parameter in named.items():
                local(parameter.data).copy_(local(values[name]))

    put(weights)
    try:
        yield
    finally:
        put(own)


def whole(named: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The whole tensors on the CPU, where `keep`. All processes must call."""
    found = {}
    for name, tensor in named.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full.detach().cpu()
    return found
