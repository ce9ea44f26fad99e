"""What can be drawn? The functions that reports, labeling and the command line use, in one place."""

from scenes.show.bev import bev_view
from scenes.show.paint import box_colors, draw_boxes, draw_lanes, draw_segments, put_text
from scenes.show.sheet import camera_sheet
from scenes.show.voxels import occupancy_view

__all__ = ["bev_view", "box_colors", "camera_sheet", "draw_boxes", "draw_lanes", "draw_segments", "occupancy_view", "put_text"]
