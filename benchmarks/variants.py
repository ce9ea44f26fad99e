"""How large are the networks? Parameters, and the multiplications and additions of one step of eight cameras in torch, a row a variant.

    python -m benchmarks.variants            # nano, edge, base, teacher: half a minute, 2 GB

Convolutions and matrix products are counted (`torch.utils.flop_counter`), a multiplication and an addition as two.
"""

import resource
from collections.abc import Sequence

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fusion_cost import step_of
from fusion.config import VARIANTS, ModelConfig
from fusion.model import Surround

CAMERAS = 8


def variants(names: Sequence[str] = tuple(VARIANTS)) -> None:
    """Prints the table.

    Args:
        names: Which of the variants.
    """
    columns = (
        "variant",
        "backbone",
        "pictures",
        "grid",
        "layers",
        "queries new + remembered",
        "M parameters",
        "GFLOP a step",
        "cameras' share",
    )
    print("| " + " | ".join(columns) + " |\n| --- | --- | --- | ---" + " | ---:" * 5 + " |")
    for name in names:
        print(row(VARIANTS[name]()), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


def row(config: ModelConfig) -> str:
    """A variant's line."""
    torch.manual_seed(0)
    model = Surround(config).eval()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(step_of(CAMERAS, config.input_hw), model.empty_state(1))
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    total = counter.get_total_flops()
    cameras = by_module["Surround.cameras"] / total
    height, width = config.input_hw
    grid, query = config.grid, config.query
    where = f"{grid.cells_x}x{grid.cells_y} of {grid.cell_m:g} m"
    return (
        f"| {config.name} | {config.backbone.name} | {height}x{width} | {where} | {config.num_layers} "
        f"| {query.new_queries} + {query.memory_slots} | {millions:.1f} | {total / 1e9:.1f} | {cameras:.0%} |"
    )


if __name__ == "__main__":
    tyro.cli(variants)
