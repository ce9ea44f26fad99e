"""What do the tensors of a graph mean? The words of the manifest: every input, output and state tensor, frames, lenses, preprocessing."""

from dataclasses import dataclass
from typing import Any

from fusion.config import ModelConfig


@dataclass(frozen=True)
class InputMeaning:
    """What the manifest says of an input besides its shape."""

    units: str
    frame: str
    meaning: str


STEP_MEANINGS = {
    "images": InputMeaning("grey levels 0..255, RGB", "img", "pictures at network size; anything where not alive"),
    "intrinsics": InputMeaning("px", "img", "fx, fy, cx, cy of the network's picture; pixel (0, 0) is the centre of the first pixel"),
    "distortion": InputMeaning("", "cam", "pinhole: k1, k2, p1, p2, k3 (Brown-Conrady); fisheye: k1, k2, k3, k4, 0 (Kannala-Brandt)"),
    "lens": InputMeaning("", "", "0 pinhole, 1 fisheye"),
    "max_angle": InputMeaning("rad", "cam", "largest angle from the optical axis that the picture holds"),
    "cam_from_ego": InputMeaning("m", "cam, ego", "points of ego at reference time in the camera at its capture time (row-major 4x4)"),
    "alive": InputMeaning("", "", "1 where there is a picture, else 0"),
    "time_offset": InputMeaning("s", "", "capture time minus reference time"),
    "dt": InputMeaning("s", "", "reference time minus that of the step before; 0 at the first"),
    "prev_from_ego": InputMeaning("m", "ego", "points of this step's ego frame in the ego frame of the step before; identity at the first"),
}
"""The step inputs in the order of `StepInput`."""

ANSWER_MEANINGS = {
    "boxes": InputMeaning(
        "m, rad, m/s", "ego", "x, y, z of the centre, length, width, height, yaw about +z from +x to +y, vx, vy over ground"
    ),
    "scores": InputMeaning("probability", "", "falling; 0 marks an empty place"),
    "velocities": InputMeaning("m/s", "ego", "vx, vy over ground: the last two columns of boxes"),
    "classes": InputMeaning("", "", "index into class_names"),
    "ids": InputMeaning("", "", "persistent object id within a drive; -1 for none yet or an empty place"),
    "occupancy": InputMeaning("", "ego", "most likely state per voxel, index into occupancy.states"),
    "occupancy_confidence": InputMeaning("probability", "ego", "of that state"),
    "flow": InputMeaning("m/s", "ego", "velocity over ground of what fills the voxel: vx, vy in ego axes"),
}


STATE_MEANINGS = {
    "valid": InputMeaning("", "", "1 if there was a step before; set to 0 it makes the graph ignore the rest of the state"),
    "query": InputMeaning("", "", "embeddings of the remembered objects, a row each"),
    "box": InputMeaning("m, rad, m/s", "ego of the step that wrote it", "their boxes, columns as in boxes"),
    "score": InputMeaning("probability", "", "how sure the memory is of each; 0: empty row; what is being forgotten has little, and no id"),
    "id": InputMeaning("", "", "their persistent ids, -1 for none yet"),
    "age": InputMeaning("s", "", "since each was first seen"),
    "next_id": InputMeaning("", "", "the id that the next new object gets"),
    "bev": InputMeaning("", "ego of the step that wrote the state", "bird's-eye features of past steps, newest first; rows x, columns y"),
    "bev_age": InputMeaning("s", "", "between each of them and the step that wrote the state; negative: none"),
}
"""The state by plain name, as `state_X` and `next_X`."""

CONVENTIONS = {
    "units": "metres, radians, seconds, pixels; matrices row-major; dst_from_src maps points of src into dst",
    "ego": "x forward, y left, z up, right-handed, origin on the ground; where the training recordings have it (simulator: "
    "below the middle of the rear axle)",
    "cam": "x right, y down, z forward, origin at the centre of projection",
    "img": "u right, v down; (0, 0) is the centre of the first pixel, the picture reaches from -0.5 to size - 0.5",
    "camera motion": "cam_from_ego = cam_from_ego_mounted * inverse(world_from_ego_at_capture) * world_from_ego_at_reference",
    "ego motion": "prev_from_ego = inverse(world_from_ego_at_previous_reference) * world_from_ego_at_reference",
    "pinhole": "a = x/z; b = y/z; r = a*a + b*b; q = 1 + k1*r + k2*r*r + k3*r*r*r; "
    "u = fx*(a*q + 2*p1*a*b + p2*(r + 2*a*a)) + cx; v = fy*(b*q + p1*(r + 2*b*b) + 2*p2*a*b) + cy",
    "fisheye": "R = sqrt(x*x + y*y); t = atan2(R, z); q = t*(1 + k1*t**2 + k2*t**4 + k3*t**6 + k4*t**8)/R; "
    "u = fx*q*x + cx; v = fy*q*y + cy",
    "max_angle": "the largest angle between the z axis and the ray of any point on the border of the network's picture",
    "state": "feed next_X into state_X of the next step; start with the initial values at the first step of a drive, after the clock ran "
    "backwards or stood still, after a gap longer than thresholds.max_gap_s, and whenever a next_X is not finite",
    "voxels": "voxel (i, j, k) has its centre at occupancy.min_ego_m + ((i, j, k) + 0.5) * occupancy.voxel_m",
    "rows": "boxes are sorted by falling score; rows of about equal score may stand in either order; below thresholds.score is no object",
}
"""What the manifest says so that the file can be driven without this repository."""


def preprocessing(config: ModelConfig) -> dict[str, Any]:
    """The rule of `scenes.packing.resize_and_crop` and `scenes.cameras.network_camera`, in words and numbers."""
    height, width = config.input_hw
    return {
        "colour": "RGB",
        "layout": "NHWC uint8; normalisation is inside the graph",
        "resize": f"to width {width} keeping the aspect: rows = round(image rows * {width} / image columns), halves to even, at least 1",
        "resize_kernel": "cv2.INTER_AREA when the picture is at least as wide as the network's, else cv2.INTER_LINEAR; whole levels",
        "crop": f"keep the lowest {height} rows; where there are fewer, pad black rows at the top",
        "intrinsics": "scale s = new / old size: f' = f s, c' = (c + 0.5) s - 0.5; then subtract the cut rows from cy",
        "order": "resize, then crop or pad",
    }
