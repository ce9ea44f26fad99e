"""Which surface do all depth maps together describe? A truncated distance field, read out as points and as a mesh."""

from pathlib import Path

import numpy as np

from labeling.reconstruction.settings import FusionSettings
from labeling.reconstruction.sweep import DepthMap
from scenes.errors import DataError
from scenes.open3d_loader import load_open3d

TRUNCATION_VOXELS = 4.0
TOUCH_STRIDE = 4
"""Open3D looks at every fourth row and column for the blocks that a depth map touches, and refuses a map in which it finds none."""


class SurfaceFusion:
    """Open3D's sparse voxel blocks; depth maps go in one by one. Everything is in the clip's world frame, shifted near the origin."""

    def __init__(self, settings: FusionSettings, origin_world: np.ndarray) -> None:
        self.settings, self.origin_world = settings, np.asarray(origin_world, dtype=np.float64)
        self.o3d = load_open3d()
        core = self.o3d.core
        self.grid = self.o3d.t.geometry.VoxelBlockGrid(
            attr_names=("tsdf", "weight", "color"),
            attr_dtypes=(core.float32, core.float32, core.float32),
            attr_channels=[core.SizeVector([channels]) for channels in (1, 1, 3)],
            voxel_size=settings.voxel_m,
            block_resolution=8,
            block_count=20000,
            device=core.Device("CPU:0"),
        )

    def add(self, depth_map: DepthMap, filled_m: np.ndarray) -> None:
        """Integrates the depths of one view: confirmed ones, and nearer by also those that were filled in (`filled_m`)."""
        confirmed = np.where(depth_map.depth_m < self.settings.far_m, depth_map.depth_m, 0)
        nearby = np.where((filled_m < self.settings.filled_far_m) & depth_map.view.usable, filled_m, 0)
        depth = np.where(confirmed > 0, confirmed, nearby).astype(np.float32)
        rows, columns = (length // TOUCH_STRIDE * TOUCH_STRIDE for length in depth.shape)
        seen = depth[:rows:TOUCH_STRIDE, :columns:TOUCH_STRIDE]
        if not ((seen > 0) & (seen < self.settings.far_m)).any():
            return
        core, image_of = self.o3d.core, self.o3d.t.geometry.Image
        pin_from_world = depth_map.view.pin_from_world.copy()
        pin_from_world[:3, 3] += pin_from_world[:3, :3] @ self.origin_world
        matrix, pose = core.Tensor(depth_map.view.camera.matrix), core.Tensor(pin_from_world)
        depth_image = image_of(core.Tensor(np.ascontiguousarray(depth)))
        color = image_of(core.Tensor(np.ascontiguousarray(depth_map.view.image_rgb.astype(np.float32) / 255)))
        far = float(self.settings.far_m)
        blocks = self.grid.compute_unique_block_coordinates(depth_image, matrix, pose, 1.0, far, TRUNCATION_VOXELS)
        self.grid.integrate(blocks, depth_image, color, matrix, matrix, pose, 1.0, far, TRUNCATION_VOXELS)

    @property
    def is_empty(self) -> bool:
        """Whether no depth map held anything so far; Open3D refuses to read an empty grid."""
        return self.grid.hashmap().size() == 0

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, 3) float64 in the world and colours (P, 3) in [0, 1]; none if nothing was fused."""
        if self.is_empty:
            return np.zeros((0, 3)), np.zeros((0, 3))
        cloud = self.grid.extract_point_cloud(weight_threshold=self.settings.min_weight)
        if cloud.is_empty():
            return np.zeros((0, 3)), np.zeros((0, 3))
        return cloud.point.positions.numpy() + self.origin_world, cloud.point.colors.numpy().clip(0, 1)

    def write(self, folder: Path) -> dict[str, float]:
        """Writes `cloud.ply`, `cloud.pcd` and `mesh.ply` (world frame); returns the numbers of points and triangles.

        `DataError` if no depth map held anything, or a file cannot be written.
        """
        if self.is_empty:
            raise DataError(
                f"{folder}: no depth was confirmed by several pictures, so there is no surface; give a clip that drives further"
            )
        geometry, utility = self.o3d.geometry, self.o3d.utility
        positions, colors = self.points()
        cloud = geometry.PointCloud(utility.Vector3dVector(positions))
        cloud.colors = utility.Vector3dVector(colors.astype(np.float64))
        mesh = self.grid.extract_triangle_mesh(weight_threshold=self.settings.min_weight).to_legacy()
        mesh.translate(self.origin_world)
        written = [self.o3d.io.write_point_cloud(folder / f"cloud.{kind}", cloud) for kind in ("ply", "pcd")]
        written.append(self.o3d.io.write_triangle_mesh(folder / "mesh.ply", mesh))
        if not all(written):
            raise DataError(f"{folder}: point cloud or mesh could not be written; free space or choose another folder")
        return {"points": len(positions), "triangles": len(mesh.triangles)}
