"""Which parts of the pictures may show something that moves? Rectangles that a detector or people drew, and boxes of a label layer."""

import numpy as np

from labeling.lifting.image_boxes import ImageBoxes
from scenes.boxes import CLASS_NAMES
from scenes.clips import Clip
from scenes.geometry import invert_rigid
from scenes.layers import LabelLayer
from scenes.show.outlines import box_rectangles

FIXTURES = [CLASS_NAMES.index(name) for name in ("traffic_cone", "barrier")]


def rectangles_of_boxes2d(boxes: ImageBoxes) -> dict[tuple[int, int], np.ndarray]:
    """(frame, camera index) -> (R, 4) rectangles of road users."""
    boxes = boxes.select(np.flatnonzero(~np.isin(boxes.class_id, FIXTURES)))
    return {(int(boxes.frame[rows[0]]), int(boxes.camera[rows[0]])): boxes.box_xyxy_px[rows] for rows in boxes.by_picture()}


def rectangles_of_layer(clip: Clip, layer: LabelLayer) -> dict[tuple[int, int], np.ndarray]:
    """(frame, camera index) -> (R, 4) rectangles around the layer's road users, where the stored motion sees them."""
    found = {}
    for frame, boxes_world in layer.boxes_world.items():
        users = boxes_world.select(~np.isin(boxes_world.class_id, FIXTURES))
        if not len(users) or not 0 <= frame < len(clip):  # the stage that takes the layer as evidence says what is wrong with it
            continue
        boxes_ego = users.transform(invert_rigid(clip.frames[frame].world_from_ego))
        for index, camera in enumerate(clip.rig.cameras):
            rectangle, seen = box_rectangles(camera, clip.cam_from_ego_at_ref(frame, camera.name), boxes_ego, points_per_edge=3)
            found[frame, index] = rectangle[seen]
    return found
