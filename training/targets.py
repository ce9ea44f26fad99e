"""What should the network have said about a step? `StepTargets`, made from a label layer and moved with the augmentation."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fusion.grid import BevGrid
from fusion.interface import _TensorStruct
from perception.augmentation import RigChange, SceneChange, change_boxes
from scenes.boxes import Box3D, Boxes
from scenes.layers import OCCUPANCY_UNKNOWN, Occupancy, VoxelGrid


@dataclass
class StepTargets(_TensorStruct):
    """B clips' truth of one step, padded; all in the ego frame the network sees. M targets, I ignored, A stored depth rows."""

    labelled_B: Tensor
    """float32, 0 where the frame has no box labels at all."""
    box_BM9: Tensor
    """float32 boxes; a velocity may be NaN."""
    class_BM: Tensor
    """int64."""
    track_BM: Tensor
    """int64, -1 where unknown."""
    valid_BM: Tensor
    """bool, False in padding."""
    ignore_BI9: Tensor
    """float32 boxes that are neither object nor background."""
    ignore_valid_BI: Tensor
    """bool."""
    depth_BNHW: Tensor
    """float32 metres along the ray at the centres of the feature cells; 0 unknown."""
    occupancy_BXYZ: Tensor
    """uint8 states, `OCCUPANCY_UNKNOWN` where nothing is known."""
    flow_B2XYZ: Tensor
    """float32 m/s."""


@dataclass(frozen=True)
class FrameTargets:
    """One clip's truth of one step before padding; fields as in `StepTargets`."""

    labelled: bool
    boxes: Boxes
    """Targets."""
    ignored: np.ndarray
    """(I, 9)."""
    depth_NHW: np.ndarray
    occupancy_XYZ: np.ndarray
    flow_2XYZ: np.ndarray

    @classmethod
    def stack(cls, parts: "list[FrameTargets]") -> StepTargets:
        """Several clips' targets, padded to the longest."""
        box, valid = _pad([part.boxes.box for part in parts])
        ignore, ignore_valid = _pad([part.ignored for part in parts])
        return StepTargets(
            labelled_B=torch.tensor([float(part.labelled) for part in parts]),
            box_BM9=box,
            class_BM=_pad([part.boxes.class_id[:, None] for part in parts], torch.int64)[0][..., 0],
            track_BM=_pad([part.boxes.track_id[:, None] for part in parts], torch.int64)[0][..., 0],
            valid_BM=valid,
            ignore_BI9=ignore,
            ignore_valid_BI=ignore_valid,
            depth_BNHW=torch.from_numpy(np.stack([part.depth_NHW for part in parts])),
            occupancy_BXYZ=torch.from_numpy(np.stack([part.occupancy_XYZ for part in parts])),
            flow_B2XYZ=torch.from_numpy(np.stack([part.flow_2XYZ for part in parts])),
        )


def _pad(rows: list[np.ndarray], dtype=torch.float32) -> tuple[Tensor, Tensor]:
    longest = max(1, *(len(row) for row in rows))
    padded = torch.zeros(len(rows), longest, *rows[0].shape[1:], dtype=dtype)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.from_numpy(np.ascontiguousarray(row)).to(dtype)
        valid[index, : len(row)] = True
    return padded, valid


def split_boxes(boxes_ego: Boxes, scene: SceneChange, grid: BevGrid, min_visibility: float, min_points: int) -> tuple[Boxes, np.ndarray]:
    """Targets and ignored boxes (I, 9) on the grid, both in the `aug` frame.

    Ignored are boxes flagged so, and those that the cameras hardly see; unknown visibility (NaN) or points (-1) count as seen.
    """
    box = change_boxes(boxes_ego.box, scene)
    inside = (box[:, Box3D.X] > grid.min_x_m) & (box[:, Box3D.X] < grid.max_x_m)
    inside &= (box[:, Box3D.Y] > grid.min_y_m) & (box[:, Box3D.Y] < grid.max_y_m)
    hidden = (boxes_ego.visibility <= 0) | (boxes_ego.visibility < min_visibility)
    hidden |= (boxes_ego.num_points >= 0) & (boxes_ego.num_points < min_points)
    ignored = boxes_ego.ignore | hidden
    keep = inside & ~ignored
    return replace(boxes_ego.select(keep), box=box[keep]), box[inside & ignored]


def depth_at_cells(
    depth_m: np.ndarray, plan: tuple[int, int, int, int], affine: np.ndarray, size_hw: tuple[int, int], stride: int, scale: float
) -> np.ndarray:
    """(H / stride, W / stride) float32 depth at the centres of feature cells, 0 where unknown or outside the picture.

    `depth_m` covers the whole camera image at any resolution; `plan` is `network_camera`'s, `affine` the picture's change.
    """
    rows = (np.arange(size_hw[0] // stride) + 0.5) * stride - 0.5
    columns = (np.arange(size_hw[1] // stride) + 0.5) * stride - 0.5
    ax, bx, ay, by = affine
    resized_width, resized_height, left, top = plan
    u = ((columns - bx) / ax + left + 0.5) / resized_width * depth_m.shape[1]
    v = ((rows - by) / ay + top + 0.5) / resized_height * depth_m.shape[0]
    i, j = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
    good = ((i >= 0) & (i < depth_m.shape[0]))[:, None] & ((j >= 0) & (j < depth_m.shape[1]))[None]
    picked = depth_m[np.clip(i, 0, depth_m.shape[0] - 1)][:, np.clip(j, 0, depth_m.shape[1] - 1)]
    return np.where(good, picked * scale, 0).astype(np.float32)


def occupancy_on_grid(occupancy: Occupancy | None, scene: SceneChange, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """States (X, Y, Z) uint8 and flow (2, X, Y, Z) float32 of the nearest stored voxels, in the `aug` frame."""
    if occupancy is None:
        return np.full(grid.shape, OCCUPANCY_UNKNOWN, dtype=np.uint8), np.zeros((2, *grid.shape), dtype=np.float32)
    if occupancy.grid == grid and (scene.aug_from_ego == np.eye(4)).all():
        return occupancy.state, np.moveaxis(occupancy.flow_mps, -1, 0).astype(np.float32)
    linear = scene.aug_from_ego[:3, :3]
    ego_from_aug = np.linalg.inv(scene.aug_from_ego)
    index, inside = occupancy.grid.index_of(grid.centers_ego() @ ego_from_aug[:3, :3].T + ego_from_aug[:3, 3])
    index = np.where(inside[..., None], index, 0)
    cell = tuple(np.moveaxis(index, -1, 0))
    state = np.where(inside, occupancy.state[cell], OCCUPANCY_UNKNOWN).astype(np.uint8)
    flow = np.where(inside[..., None], occupancy.flow_mps[cell], 0.0) @ linear[:2, :2].T
    return state, np.ascontiguousarray(np.moveaxis(flow, -1, 0), dtype=np.float32)


def identity_rig(num_cameras: int) -> RigChange:
    """The rig as it is."""
    return RigChange(np.tile([1.0, 0.0, 1.0, 0.0], (num_cameras, 1)), np.tile(np.eye(4), (num_cameras, 1, 1)))
