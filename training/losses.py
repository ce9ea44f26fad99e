"""How wrong was the network? Every part of the training loss, each a function of a step's output and its targets.

Shape letters as in `fusion.interface`; M targets, I ignored boxes, P matched pairs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.boxcode import CODE_AXIS, CODE_FACING, encode_boxes
from fusion.config import DepthConfig, ModelConfig
from fusion.denoising import DenoisingQueries
from fusion.grid import BevGrid
from fusion.interface import LayerOutput, StepInput, StepOutput
from perception.depth import DepthBins
from scenes.boxes import HEADLESS_CLASSES
from scenes.layers import OCCUPANCY_CLASS_OFFSET, OCCUPANCY_OTHER, OCCUPANCY_STATES, OCCUPANCY_UNKNOWN
from training.matching import FOCAL_ALPHA, FOCAL_GAMMA, Matches, code_of, code_weights, match, matching_cost, track_bonus
from training.recipes import LossConfig
from training.targets import StepTargets

QUALITY_SCALE_M = 1.5
"""A matched box is worth exp(-centre distance / this)."""
FACING_SHARPNESS = 3.0
"""The logit of "the front is at this end" is this often the facing's part along the true heading."""


def step_losses(
    output: StepOutput,
    inputs: StepInput,
    targets: StepTargets,
    model: ModelConfig,
    config: LossConfig,
    slot_track_BS: Tensor | None = None,
    denoising: DenoisingQueries | None = None,
) -> dict[str, Tensor]:
    """Weighted parts of the loss by name; their sum is what is minimised. Parts without targets are zero, never NaN."""
    parts = dense_losses(output, targets, model, config)
    for number, layer in enumerate(output.layers):
        ordinary = layer if not output.num_denoising else layer.map(lambda t: t[:, : -output.num_denoising])
        for name, value in query_losses(ordinary, targets, model.class_names, config, slot_track_BS).items():
            parts[f"{name}{number}"] = value
        if output.num_denoising and denoising is not None:
            extra = layer.map(lambda t: t[:, -output.num_denoising :])
            parts[f"denoising{number}"] = config.denoising * denoising_loss(extra, targets, denoising, model.class_names, config)
    if output.depth_BNDHW is not None:
        parts["depth"] = config.depth * depth_loss(output.depth_BNDHW, targets.depth_BNHW, inputs.alive_BN, model.depth)
    if output.occupancy_BOXYZ is not None:
        parts["occupancy"] = config.occupancy * occupancy_loss(output.occupancy_BOXYZ, targets.occupancy_BXYZ)
    if output.flow_B2XYZ is not None:
        parts["flow"] = config.flow * flow_loss(output.flow_B2XYZ, targets)
    return parts


def dense_losses(output: StepOutput, targets: StepTargets, model: ModelConfig, config: LossConfig) -> dict[str, Tensor]:
    """Heatmap and the boxes at its peaks."""
    grid = model.grid
    heat = heatmap_targets(targets, grid, output.heatmap_BKXY.shape[1])
    free = ~inside_ignored(grid.centers_ego(heat.device).reshape(1, -1, 2), targets).reshape(len(heat), 1, *grid.shape)
    weight = free * targets.labelled_B[:, None, None, None]
    return {
        "heatmap": config.heatmap * heatmap_loss(output.heatmap_BKXY.float(), heat, weight),
        "dense_box": config.dense_box * dense_box_loss(output.dense_box_BRXY.float(), targets, model, config),
    }


def heatmap_targets(targets: StepTargets, grid: BevGrid, num_classes: int) -> Tensor:
    """(B, K, X, Y) in [0, 1]: a Gaussian about the cell of each true centre (1 there), as wide as the box's footprint suggests."""
    index, inside = grid.index_of(targets.box_BM9)
    sigma = (0.15 * (targets.box_BM9[..., 3] + targets.box_BM9[..., 4]) / grid.cell_m).clamp(0.6, 2.5)
    axes = [torch.arange(n, device=index.device) for n in grid.shape]
    gauss = [
        torch.exp(-((axis - index[..., k, None]) ** 2) / (2 * sigma[..., None] ** 2)) for k, axis in enumerate(axes)
    ]  # B M X and B M Y
    present = (targets.valid_BM & inside).float()
    bump_BMXY = gauss[0][..., :, None] * gauss[1][..., None, :] * present[..., None, None]
    heat = torch.zeros(len(index), num_classes, *grid.shape, device=index.device)
    where = targets.class_BM[..., None, None].expand_as(bump_BMXY)
    return heat.scatter_reduce(1, where, bump_BMXY, "amax")


def heatmap_loss(logits: Tensor, heat: Tensor, weight: Tensor) -> Tensor:
    """The penalty-reduced focal loss of CenterNet (Zhou et al. 2019), a mean over true centres; `weight` 0 hides negatives."""
    positive = (heat == 1).float()
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    gain = positive * (1 - p) ** 2 * log_p
    rest = (1 - positive) * weight * (1 - heat) ** 4 * p**2 * log_not_p
    return -(gain.sum() + rest.sum()) / positive.sum().clamp(min=1.0)


def dense_box_loss(code_BRXY: Tensor, targets: StepTargets, model: ModelConfig, config: LossConfig) -> Tensor:
    """Loss of the codes at each true centre's cell and its eight neighbours (which count half)."""
    grid = model.grid
    centre, inside = grid.index_of(targets.box_BM9)
    step = torch.tensor([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)], device=centre.device)
    cell = centre[:, :, None] + step  # B M 9 2
    shape = torch.tensor(grid.shape, device=cell.device)
    good = ((cell >= 0) & (cell < shape)).all(-1) & (targets.valid_BM & inside)[..., None]
    flat = (cell.clamp(min=0).minimum(shape - 1) * torch.tensor([grid.shape[1], 1], device=cell.device)).sum(-1).flatten(1)
    codes = code_BRXY.flatten(2).gather(2, flat[:, None].expand(-1, code_BRXY.shape[1], -1)).transpose(1, 2)  # B 9M R
    reference = grid.references_ego(cell.device).reshape(-1, 3)[flat]
    truth = encode_boxes(targets.box_BM9.repeat_interleave(9, dim=1), reference)
    weight = good.float() * (1 - 0.5 * (step != 0).any(-1).float())
    classes = targets.class_BM.repeat_interleave(9, dim=1)
    weight = weight.flatten(1)
    box_part = _box_l1(codes, truth, config, weight) + config.facing * facing_loss(codes, truth, classes, model.class_names, weight)
    return box_part / weight.sum().clamp(min=1.0)


def facing_loss(code: Tensor, truth: Tensor, class_id: Tensor, class_names: tuple[str, ...], weight: Tensor) -> Tensor:
    """Summed cross-entropy of which end of the box is the front, of codes (..., 12) with weights (...).

    The logit is the said facing's part along the true heading, so there is no angle at which front and rear swap their names.
    Things without a front (`HEADLESS_CLASSES`) count nothing.
    """
    headed = torch.tensor([float(name not in HEADLESS_CLASSES) for name in class_names], device=code.device)[class_id]
    logit = FACING_SHARPNESS * (code[..., CODE_FACING] * truth[..., CODE_FACING]).sum(-1)
    return (F.softplus(-logit) * weight * headed).sum()


def said_code(layer: LayerOutput) -> Tensor:
    """(B, Q, 12) codes of a layer's boxes about the ego origin, with the heading as it was said: normalised, its differences would
    have resting points at wrong angles.
    """
    code = code_of(layer.box_BQ9)
    return torch.cat([code[..., : CODE_AXIS.start], layer.turn_BQ4, code[..., CODE_FACING.stop :]], dim=-1)


def _box_l1(code: Tensor, truth: Tensor, config: LossConfig, weight: Tensor | None = None) -> Tensor:
    """Sum of weighted absolute differences; NaN in the truth (unknown velocity) counts nothing."""
    known = torch.isfinite(truth)
    difference = (code - torch.where(known, truth, 0.0)).abs() * known
    difference = (difference * code_weights(config.velocity, config.size, config.heading, code.device)).sum(-1)
    return difference.sum() if weight is None else (difference * weight).sum()


def inside_ignored(points_BP2: Tensor, targets: StepTargets, margin_m: float = 1.0) -> Tensor:
    """(B, P) bool: within an ignored box widened by `margin_m`; points (1 or B, P, 2) in the ego frame."""
    box = targets.ignore_BI9[:, :, None]
    offset = points_BP2[:, None] - box[..., :2]  # B I P 2
    cos, sin = torch.cos(box[..., 6]), torch.sin(box[..., 6])
    along = (offset[..., 0] * cos + offset[..., 1] * sin).abs()
    across = (offset[..., 1] * cos - offset[..., 0] * sin).abs()
    hit = (along < box[..., 3] / 2 + margin_m) & (across < box[..., 4] / 2 + margin_m)
    return (hit & targets.ignore_valid_BI[:, :, None]).any(1)


def query_losses(
    layer: LayerOutput, targets: StepTargets, class_names: tuple[str, ...], config: LossConfig, slot_track_BS: Tensor | None
) -> dict[str, Tensor]:
    """Class, box, facing and quality loss of one decoder layer's ordinary queries."""
    layer = layer.map(lambda tensor: tensor.float())
    weights = code_weights(config.velocity, config.size, config.heading, layer.box_BQ9.device)
    bonus = None if slot_track_BS is None else track_bonus(slot_track_BS, targets, layer.box_BQ9.shape[1], config.track_bonus)
    cost = matching_cost(layer, targets, weights, config.box)
    pairs = match(cost, targets.valid_BM, bonus)
    free = ~inside_ignored(layer.box_BQ9[..., :2].detach(), targets) & (targets.labelled_B[:, None] > 0)
    truth = targets.box_BM9[pairs.clip_P, pairs.target_P]
    found, code = layer.box_BQ9[pairs.clip_P, pairs.query_P], said_code(layer)[pairs.clip_P, pairs.query_P]
    classes = targets.class_BM[pairs.clip_P, pairs.target_P]
    count = max(1, len(pairs))
    quality = torch.exp(-(found[:, :2].detach() - truth[:, :2]).norm(dim=-1) / QUALITY_SCALE_M)
    quality_loss = F.binary_cross_entropy_with_logits(layer.quality_BQ[pairs.clip_P, pairs.query_P], quality, reduction="sum")
    return {
        "class": config.classes * class_loss(layer.logits_BQK, pairs, targets, free) / count,
        "box": config.box * _box_l1(code, code_of(truth), config) / count,
        "facing": config.facing * facing_loss(code, code_of(truth), classes, class_names, torch.ones_like(quality)) / count,
        "quality": config.quality * quality_loss / count,
    }


def class_loss(logits_BQK: Tensor, pairs: Matches, targets: StepTargets, free_BQ: Tensor) -> Tensor:
    """Sum of sigmoid focal losses (Lin et al. 2017); unmatched queries that are not `free` count nothing."""
    truth = torch.zeros_like(logits_BQK)
    truth[pairs.clip_P, pairs.query_P, targets.class_BM[pairs.clip_P, pairs.target_P]] = 1.0
    weight = free_BQ.float()
    weight = weight.index_put((pairs.clip_P, pairs.query_P), torch.ones(len(pairs), device=weight.device))
    return (focal_loss(logits_BQK, truth) * weight[..., None]).sum()


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid focal loss of each logit."""
    p = logits.sigmoid()
    p_truth = p * truth + (1 - p) * (1 - truth)
    alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    return alpha * (1 - p_truth) ** FOCAL_GAMMA * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")


def denoising_loss(
    layer: LayerOutput, targets: StepTargets, denoising: DenoisingQueries, class_names: tuple[str, ...], config: LossConfig
) -> Tensor:
    """Class, box and facing loss of the denoising queries, each of which knows its true box (groups repeat the targets in order)."""
    groups = layer.box_BQ9.shape[1] // targets.box_BM9.shape[1]
    truth = targets.box_BM9.repeat(1, groups, 1)
    classes = targets.class_BM.repeat(1, groups)
    weight = denoising.mask_BM
    one_hot = F.one_hot(classes, layer.logits_BQK.shape[2]).float()
    class_part = (focal_loss(layer.logits_BQK.float(), one_hot) * weight[..., None]).sum()
    code, true_code = said_code(layer.map(lambda tensor: tensor.float())), code_of(torch.where(weight[..., None] > 0, truth, 1.0))
    box_part = config.box * _box_l1(code, true_code, config, weight)
    box_part = box_part + config.facing * facing_loss(code, true_code, classes, class_names, weight)
    return (config.classes * class_part + box_part) / weight.sum().clamp(min=1.0)


def draw_denoising(targets: StepTargets, config: LossConfig, num_classes: int, generator: torch.Generator) -> DenoisingQueries | None:
    """Noised copies of the true boxes, `denoising_groups` groups in the order of the targets; None if switched off."""
    if config.denoising <= 0 or config.denoising_groups == 0:
        return None
    groups = config.denoising_groups
    box = torch.nan_to_num(targets.box_BM9.cpu(), nan=0.0).repeat(1, groups, 1)
    classes, valid = targets.class_BM.cpu().repeat(1, groups), targets.valid_BM.cpu().repeat(1, groups)
    noise = torch.rand(*box.shape, generator=generator) * 2 - 1
    size = box[..., 3:6]
    center = box[..., :3] + noise[..., :3] * config.denoising_shift * size.clamp(min=1.0)
    log_noise = torch.exp(0.3 * noise[..., 3:6])
    turned = torch.pi * (torch.rand(classes.shape, generator=generator) < config.denoising_turned)[..., None]
    yaw = box[..., 6:7] + 0.5 * noise[..., 6:7] + turned
    noised = torch.cat([center, size * log_noise, yaw, box[..., 7:] + 2.0 * noise[..., 7:]], dim=-1)
    wrong = torch.rand(classes.shape, generator=generator) < config.denoising_class
    shown = torch.where(wrong, torch.randint(num_classes, classes.shape, generator=generator), classes)
    plain = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    queries = DenoisingQueries(
        box_BM9=torch.where(valid[..., None], noised, plain),
        class_BM=torch.where(valid, shown, 0),
        mask_BM=valid.float(),
        group_BM=torch.arange(groups).repeat_interleave(targets.box_BM9.shape[1])[None].expand(len(box), -1).contiguous(),
    )
    return queries.to(targets.box_BM9.device)


def depth_loss(logits_BNDHW: Tensor, depth_BNHW: Tensor, alive_BN: Tensor, config: DepthConfig) -> Tensor:
    """Cross-entropy against the two bins that a depth lies between (beyond the ends: the last bin); unknown depths and dead
    cameras count nothing.
    """
    known = (depth_BNHW > 0) & (alive_BN[..., None, None] > 0)
    if not known.any():
        return logits_BNDHW.sum() * 0.0
    logits = logits_BNDHW.movedim(2, -1)[known].float()
    place = DepthBins(config.bins, config.min_m, config.max_m).position(depth_BNHW[known])
    below = place.floor().long().clamp(max=config.bins - 2)
    share = place - below
    log_p = F.log_softmax(logits, dim=-1)
    picked = log_p.gather(1, torch.stack([below, below + 1], dim=1))
    return -((1 - share) * picked[:, 0] + share * picked[:, 1]).mean()


def occupancy_loss(logits_BOXYZ: Tensor, state_BXYZ: Tensor) -> Tensor:
    """Cross-entropy over voxel states, objects weighted up; unknown voxels count nothing."""
    weight = torch.ones(len(OCCUPANCY_STATES), device=logits_BOXYZ.device)
    weight[OCCUPANCY_OTHER] = 2.0
    weight[OCCUPANCY_CLASS_OFFSET:] = 5.0
    if not (state_BXYZ != OCCUPANCY_UNKNOWN).any():
        return logits_BOXYZ.sum() * 0.0
    return F.cross_entropy(logits_BOXYZ.float(), state_BXYZ.long(), weight, ignore_index=OCCUPANCY_UNKNOWN)


def flow_loss(flow_B2XYZ: Tensor, targets: StepTargets) -> Tensor:
    """L1 of the velocity of voxels that objects fill."""
    occupied = (targets.occupancy_BXYZ >= OCCUPANCY_CLASS_OFFSET) & (targets.occupancy_BXYZ != OCCUPANCY_UNKNOWN)
    difference = (flow_B2XYZ.float() - targets.flow_B2XYZ).abs().sum(1)
    return (difference * occupied).sum() / occupied.sum().clamp(min=1)
