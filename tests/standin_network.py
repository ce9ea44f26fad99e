"""What is the smallest network with the interface of `fusion.model.Surround`? For tests of export that need not wait for a real one."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fusion.config import ModelConfig, nano
from fusion.interface import Detections, LayerOutput, StepInput, StepOutput, WorldState

SLOTS, CHANNELS, PLACES = 6, 8, 10


def standin_config() -> ModelConfig:
    """Pictures of 32x64."""
    return replace(nano(), name="standin", input_hw=(32, 64), sampler="gridsample")


class StandIn(nn.Module):
    """Samples the pictures at a few fixed 3D points, mixes that with its memory, answers with the best of them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        stem, middle = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.cameras = nn.Sequential(stem, nn.ReLU(), middle, nn.ReLU())
        self.box = nn.Linear(CHANNELS, 9)
        self.logits = nn.Linear(CHANNELS, 10)
        self.voxels = nn.Linear(CHANNELS, 13)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        points = torch.rand((PLACES, 3), generator=generator) * torch.tensor([40.0, 40.0, 2.0]) - torch.tensor([20.0, 20.0, 0.0])
        self.points: Tensor
        self.register_buffer("points", points)

    def empty_state(self, batch: int, device) -> WorldState:
        zeros = torch.zeros(batch, SLOTS, device=device)
        return WorldState(
            torch.zeros(batch, device=device),
            zeros[..., None].repeat(1, 1, CHANNELS),
            zeros[..., None].repeat(1, 1, 9),
            zeros,
            zeros.long() - 1,
            zeros.clone(),
            torch.zeros(batch, dtype=torch.int64, device=device),
            torch.zeros(batch, 1, CHANNELS, 4, 4, device=device),
            torch.full((batch, 1), -1.0, device=device),
        )

    def forward(self, step: StepInput, state: WorldState, denoising=None) -> tuple[StepOutput, WorldState]:
        sampled_BPC = self._sample(step)
        memory_BPC = state.query_BSC.mean(1, keepdim=True) * state.valid_B[:, None, None]
        token_BPC = torch.tanh(sampled_BPC + 0.5 * memory_BPC * torch.exp(-step.dt_B)[:, None, None])
        raw = self.box(token_BPC)
        box = torch.cat([raw[..., :3] + self.points, raw[..., 3:6].abs() + 0.1, raw[..., 6:]], dim=-1)
        logits = self.logits(token_BPC)
        voxels = self.voxels(token_BPC[:, :8]).transpose(1, 2).reshape(-1, 13, 2, 2, 2)
        layers = [LayerOutput(logits, box, logits[..., 0], box[..., :4])]
        empty = logits.new_zeros(logits.shape[0], 1, 4, 4)
        output = StepOutput(
            layers, 0, empty, empty, voxels, voxels[:, :2], None, {"lane_points": box[:, :4, :2], "lane_types": logits[:, :4].argmax(-1)}
        )
        score, index = torch.sigmoid(logits.amax(-1)).topk(SLOTS, dim=1)
        row = index[..., None]
        ids = state.next_id_B[:, None] + torch.arange(SLOTS)
        age = state.age_BS + step.dt_B[:, None]
        bev = state.bev_BMCXY * 0.5 + token_BPC.mean(1)[:, None, :, None, None]
        next_state = WorldState(
            torch.ones_like(state.valid_B),
            token_BPC.gather(1, row.expand(-1, -1, CHANNELS)),
            box.gather(1, row.expand(-1, -1, 9)),
            score,
            ids,
            age,
            state.next_id_B + SLOTS,
            bev,
            torch.zeros_like(state.bev_age_BM),
        )
        return output, next_state

    def _sample(self, step: StepInput) -> Tensor:
        B, N, H, W, _ = step.images_BNHW3.shape
        images = step.images_BNHW3.float().permute(0, 1, 4, 2, 3).flatten(0, 1) / 255
        feat = self.cameras(images).unflatten(0, (B, N))
        feat = torch.where(step.alive_BN[:, :, None, None, None] > 0, feat, 0.0)
        cam_from_ego_BN44 = step.cam_from_ego_BN44
        points_cam = torch.einsum("bnij,pj->bnpi", cam_from_ego_BN44[..., :3, :3], self.points) + cam_from_ego_BN44[:, :, None, :3, 3]
        depth = points_cam[..., 2:].clamp(min=0.1)
        pixel = points_cam[..., :2] / depth * step.intrinsics_BN4[:, :, None, :2] + step.intrinsics_BN4[:, :, None, 2:]
        grid = (pixel + 0.5) / torch.tensor([W, H]) * 2 - 1
        grid = grid.clamp(-3, 3)
        values = nn.functional.grid_sample(feat.flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False)
        return values[:, :, 0].unflatten(0, (B, N)).mean(1).transpose(1, 2)

    def detections(self, output: StepOutput, state: WorldState) -> Detections:
        classes = output.layers[-1].logits_BQK.argmax(-1)
        return Detections(state.box_BS9, state.score_BS, classes[:, :SLOTS], state.id_BS)
