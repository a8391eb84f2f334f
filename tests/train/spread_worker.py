"""What two processes find when they share a model or a window; the first prints it as JSON. Started by test_parallel."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
warnings.filterwarnings("ignore")

import support  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from dualforce_model.config import ConfigError  # noqa: E402
from dualforce_model.diffusion import Batch, draw_each, generator_for, learned, terms_of  # noqa: E402
from dualforce_model.model import Conditions, DualForce  # noqa: E402
from dualforce_model.model.fresh import fresh_weights  # noqa: E402
from dualforce_model.train.parallel import Parallel, averaged, fill, whole  # noqa: E402

GLOBAL, STEPS, LIMIT = 4, 2, 0.5  # windows of a step, steps, largest gradient norm


def windows(config, F: int, H: int, W: int) -> Batch:
    """A global batch with every condition, one short clip and one from its clip's beginning; the second half is of clips
    without a text, so that one of two processes has none.
    """
    given = support.inputs(config, GLOBAL, F, H, W, start=3)
    given.conditions.text_mask[GLOBAL // 2 :] = False
    valid = torch.ones(GLOBAL, F, dtype=torch.bool)
    valid[1, F - 2 :] = False
    start = given.start.clone()
    start[2] = 0
    flame = torch.randn(GLOBAL, F, 4, config.flame_dim, generator=torch.Generator().manual_seed(3))
    return Batch(given.video, given.struct, given.conditions, start, valid, torch.ones(GLOBAL, F, 4).bool(), flame)


def some(batch: Batch, rows: slice) -> Batch:
    def cut(value):
        return None if value is None else value[rows]

    conditions = Conditions(**{f.name: cut(getattr(batch.conditions, f.name)) for f in fields(Conditions)})
    return Batch(
        conditions=conditions, **{f.name: cut(getattr(batch, f.name)) for f in fields(Batch) if f.name != "conditions"}
    )


class InOnePiece(TorchDispatchMode):
    """Counts what is exchanged in pieces of memory, which NCCL refuses and gloo does not."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanged = self.refused = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "c10d" in function.namespace:
            given = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            self.exchanged += 1
            self.refused += not all(x.is_contiguous() for x in given)
        return function(*args, **(kwargs or {}))


def exchanges(config, sizes) -> dict[str, int]:
    """What the forward and backward passes of shared windows hand to the process group."""
    os.environ.update(ACCELERATE_USE_FSDP="false")
    parallel = Parallel(Accelerator(cpu=True), 2)
    model = parallel.build(config)
    fill(model, ((n, p.detach()) for n, p in support.nudged(config).named_parameters()))
    batch = windows(config, *sizes)
    wrapped = parallel.wrap(model)
    with InOnePiece() as mode:
        one_step(wrapped, parallel, batch, 0, 1)
    return {"exchanged": mode.exchanged, "refused": mode.refused}


def one_step(model: nn.Module, parallel: Parallel | None, batch: Batch, step: int, pieces: int) -> Tensor:
    """Gradients of this process's share of the global batch, in pieces; gives the loss of all."""
    ranks, rank = (parallel.data_world, parallel.data_rank) if parallel else (1, 0)
    size = GLOBAL // ranks // pieces
    prepared = []
    for n in range(pieces):
        rows = slice((rank * pieces + n) * size, (rank * pieces + n + 1) * size)
        part = some(batch, rows)
        drawn = draw_each(part, [generator_for("noise", step, k) for k in range(rows.start, rows.stop)])
        prepared.append((part, drawn, {k: m.sum().float() for k, m in learned(part, drawn).items()}))
    counts = {k: sum(c[k] for _, _, c in prepared) for k in prepared[0][2]}
    if parallel:
        counts = {k: parallel.total(v) / ranks for k, v in counts.items()}
    loss = torch.zeros(())
    for n, (part, drawn, _) in enumerate(prepared):
        if parallel:
            with parallel.part_of_step(model, n + 1 == pieces):
                terms = terms_of(model, part, drawn, counts=counts)
                terms.total.backward()
        else:
            terms = terms_of(model, part, drawn, counts=counts)
            terms.total.backward()
        loss = loss + terms.total.detach()
    return parallel.total(loss) / ranks if parallel else loss


def compare(config, sizes, sequence: int, sharded: bool, reshard: bool, pieces: int) -> dict[str, float]:
    """Largest differences to one process alone, over a few steps of gradient descent with clipping."""
    os.environ.update(ACCELERATE_USE_FSDP=str(sharded).lower(), FSDP_RESHARD_AFTER_FORWARD=str(reshard).lower())
    alone = support.nudged(config).train()
    start = {name: p.detach().clone() for name, p in alone.named_parameters()}
    parallel = Parallel(Accelerator(cpu=True), sequence)
    model = parallel.build(config)
    fill(model, start.items())
    wrapped = parallel.wrap(model)
    batch = windows(config, *sizes)
    here, there = (torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, alone))
    found = {"loss": 0.0, "gradient": 0.0, "norm": 0.0, "weight": 0.0, "moved": 0.0}

    def further(what: str, a: Tensor, b: Tensor) -> None:
        found[what] = max(found[what], ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item())

    for step in range(STEPS):
        further("loss", one_step(wrapped, parallel, batch, step, pieces), one_step(alone, None, batch, step, 1))
        largest = max(p.grad.abs().max() for p in alone.parameters() if p.grad is not None)
        grads = whole({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, keep=True)
        assert grads.keys() == {n for n, p in alone.named_parameters() if p.grad is not None}
        for name, p in alone.named_parameters():
            if p.grad is not None:
                found["gradient"] = max(found["gradient"], ((grads[name] - p.grad).abs().max() / largest).item())
        further("norm", parallel.clip(model.parameters(), LIMIT), nn.utils.clip_grad_norm_(alone.parameters(), LIMIT))
        for optimiser in (here, there):
            optimiser.step()
            optimiser.zero_grad()
    weights = whole(dict(model.named_parameters()), keep=True)
    for name, p in alone.named_parameters():
        found["weight"] = max(found["weight"], (weights[name] - p).abs().max().item())
        found["moved"] = max(found["moved"], (start[name] - p).abs().max().item())
    return found


def meta_and_average(config) -> dict[str, bool]:
    """Fresh weights are those of one process alone; within `averaged` other weights compute, after it the own ones."""
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_RESHARD_AFTER_FORWARD="false")
    parallel = Parallel(Accelerator(cpu=True))
    model = parallel.build(config)
    fresh = dict(fresh_weights(model, lambda name: generator_for("weights", 0, name), "cpu"))
    fill(model, fresh.items())
    held = sum(p.to_local().numel() for p in model.parameters())
    got = whole(dict(model.named_parameters()), keep=True)
    given = support.inputs(config, 1, 2, 4, 4)
    other = support.nudged(config)
    spread = parallel.build(config)
    fill(spread, ((name, p.detach()) for name, p in other.named_parameters()))
    with torch.no_grad():
        before = given.through(model).video
        with averaged(model, dict(spread.named_parameters())):
            inside = given.through(model).video
        after = given.through(model).video
        expected = given.through(other).video
    return {
        "fresh": all(torch.equal(got[name], value) for name, value in fresh.items()),
        "held_in_part": held < 0.6 * sum(p.numel() for p in model.parameters()),
        "inside": torch.allclose(inside, expected, atol=1e-5),
        "differs": not torch.allclose(inside, before, atol=1e-3),
        "after": torch.equal(before, after),
    }


def syncs(config, pieces: int) -> int:
    """How often gradients are brought together in a step of so many pieces."""
    os.environ.update(ACCELERATE_USE_FSDP="true")
    parallel = Parallel(Accelerator(cpu=True))
    model = parallel.build(config)
    fill(model, ((n, p.detach()) for n, p in support.nudged(config).named_parameters()))
    with torch.profiler.profile() as profile:
        one_step(model, parallel, windows(config, 2, 4, 4), 0, pieces)
    return sum(event.count for event in profile.key_averages() if "c10d::" in event.key and "scatter" in event.key)


def refusal(sequence: int, config, sizes) -> str:
    try:
        parallel = Parallel(Accelerator(cpu=True), sequence)
        model: DualForce = parallel.build(config)
        fill(model, ((n, p.detach()) for n, p in support.nudged(config).named_parameters()))
        support.inputs(config, 1, *sizes).through(model)
    except (ConfigError, ValueError) as error:
        return str(error)
    return ""


def main() -> None:
    os.environ["FSDP_VERSION"] = "2"
    torch.use_deterministic_algorithms(True)
    tiny = support.tiny()
    # unequal towers and depths, odd frame count and grid; two heads each, so that two processes can share them
    odd = support.tiny(
        video={"width": 64, "layers": 3, "heads": 4, "ffn": 100, "audio_layers": 2},
        struct={"width": 40, "layers": 2, "heads": 2, "ffn": 56, "audio_layers": 1},
        bridge={"strategy": "full"},
        reference_spread=0.3,
    )
    three = support.tiny(video={"width": 72, "layers": 1, "heads": 3, "ffn": 64, "audio_layers": 1})
    found = {
        "shards": compare(tiny, (4, 8, 8), 1, True, False, 1),
        "shards, let go after forward": compare(odd, (3, 6, 4), 1, True, True, 1),
        "shards, in pieces": compare(tiny, (4, 8, 8), 1, True, False, 2),
        "copies": compare(tiny, (4, 8, 8), 1, False, False, 1),
        "copies, in pieces": compare(tiny, (4, 8, 8), 1, False, False, 2),
        "shared windows": compare(tiny, (4, 8, 8), 2, True, False, 1),
        "shared windows, odd": compare(odd, (7, 6, 4), 2, True, True, 2),
        "shared windows, copies": compare(odd, (5, 4, 4), 2, False, False, 1),
        "exchanges": exchanges(odd, (5, 4, 4)),
        "meta": meta_and_average(tiny),
        "syncs": [syncs(tiny, 1), syncs(tiny, 2)],
        "refused": [refusal(2, three, (2, 4, 4)), refusal(2, tiny, (2, 6, 6)), refusal(3, tiny, (2, 4, 4))],
    }
    if dist.get_rank() == 0:
        print("FOUND " + json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
