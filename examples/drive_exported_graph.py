"""How does a program that knows nothing of this repository drive with an exported file? docs/EDGE.md, line by line, in numpy.

python examples/drive_exported_graph.py FILE.onnx CLIP      prints what the graph sees; the whole reader needs numpy and onnxruntime alone

What stands here in Python is what a reader in C++ writes. A test holds it to the runner's outputs, tensor for tensor.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import onnxruntime


def shrunk(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 3) uint8: means of what each target pixel covers, or between two pixels where the picture is narrower."""
    area, values = image.shape[1] >= columns, image.astype(np.float64)
    for axis, target in ((0, rows), (1, columns)):
        source = image.shape[axis]
        at = np.arange(source)[None]
        if area:
            left, right = (np.arange(target)[:, None] + end for end in (0, 1))
            weights = np.clip(np.minimum(right * source / target, at + 1) - np.maximum(left * source / target, at), 0, None)
        else:
            centre = np.clip((np.arange(target)[:, None] + 0.5) * source / target - 0.5, 0, source - 1)
            weights = np.clip(1 - np.abs(centre - at), 0, None)
        values = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), values, (1, axis)), 0, axis)
    return np.rint(values).astype(np.uint8)


def plane_of(camera: dict) -> Callable[[np.ndarray], np.ndarray]:
    """The lens without its intrinsics: (..., 2) of pinholes a, b to where it images them, of fisheyes t to its distance."""
    if camera["lens"] == "fisheye":
        k1, k2, k3, k4 = (*camera["distortion"], 0, 0, 0, 0)[:4]
        return lambda t: t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8)
    k1, k2, p1, p2, k3 = (*camera["distortion"], 0, 0, 0, 0, 0)[:5]

    def pinhole(ab: np.ndarray) -> np.ndarray:
        a, b = ab[..., 0], ab[..., 1]
        r = a * a + b * b
        q = 1 + k1 * r + k2 * r * r + k3 * r * r * r
        return np.stack([a * q + 2 * p1 * a * b + p2 * (r + 2 * a * a), b * q + p1 * (r + 2 * b * b) + 2 * p2 * a * b], -1)

    return pinhole


def largest_angle(camera: dict, fx: float, fy: float, cx: float, cy: float, height: int, width: int) -> float:
    """The largest angle between the optical axis and the rays through the border of the network's picture, 17 points a side."""
    u, v = np.linspace(-0.5, width - 0.5, 17), np.linspace(-0.5, height - 0.5, 17)
    border = [(x, y) for x in u for y in (v[0], v[-1])] + [(x, y) for x in (u[0], u[-1]) for y in v]
    wanted = (np.array(border) - (cx, cy)) / (fx, fy)
    image = plane_of(camera)
    if camera["lens"] == "fisheye":
        wanted = np.hypot(*wanted.T)
        t = np.minimum(wanted, np.pi)
        for _ in range(20):  # Newton
            slope = (image(t + 1e-6) - image(t - 1e-6)) / 2e-6
            t = np.clip(t - (image(t) - wanted) / np.where(np.abs(slope) > 1e-3, slope, 1e-3), 0, np.pi)
        return float(t.max())
    ab = wanted.copy()
    for _ in range(12):  # Newton in two dimensions
        miss = image(ab) - wanted
        columns = [(image(ab + np.eye(2)[k] * 1e-6) - image(ab)) / 1e-6 for k in (0, 1)]
        ab = ab - np.linalg.solve(np.stack(columns, -1), miss[..., None])[..., 0]
    return float(np.arctan(np.hypot(*ab.T)).max())


def inverse(rigid: np.ndarray) -> np.ndarray:
    """Of a rotation and a shift, by transposing."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rigid[:3, :3].T, -rigid[:3, :3].T @ rigid[:3, 3]
    return result


class Reader:
    """A file, the cameras of a car, and what is remembered of its drive."""

    def __init__(self, path: str, cameras: list[dict], threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.manifest = json.loads(self.session.get_modelmeta().custom_metadata_map["surround4d_manifest"])
        if self.manifest["version"] != 1:
            raise SystemExit(f"{path}: manifest version {self.manifest['version']}, this reader knows 1")
        self.cameras, (self.height, self.width) = cameras, self.manifest["input_hw"]
        self.rows = self.manifest["num_cameras"] or max(len(cameras), 2)
        self.shapes = {spec["name"]: spec for spec in self.manifest["inputs"]}
        self.calibration = {name: self.empty(name) for name in ("intrinsics", "distortion", "lens", "max_angle")}
        self.intrinsics = [self.scaled(camera) for camera in cameras]
        for row, (camera, numbers) in enumerate(zip(cameras, self.intrinsics, strict=True)):
            self.calibration["intrinsics"][0, row] = numbers
            self.calibration["distortion"][0, row, : len(camera["distortion"])] = camera["distortion"]
            self.calibration["lens"][0, row] = camera["lens"] == "fisheye"
            self.calibration["max_angle"][0, row] = largest_angle(camera, *numbers, self.height, self.width)
        self.forget()

    def empty(self, name: str) -> np.ndarray:
        """Zeros of an input's type and shape."""
        spec = self.shapes[name]
        return np.zeros([self.rows if axis == "cameras" else axis for axis in spec["shape"]], spec["dtype"])

    def resized_rows(self, camera: dict) -> int:
        """Rows of the whole picture at the network's width; Python rounds halves to the even number."""
        return max(1, round(camera["height_px"] * self.width / camera["width_px"]))

    def scaled(self, camera: dict) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy of the network's picture."""
        rows = self.resized_rows(camera)
        sx, sy = self.width / camera["width_px"], rows / camera["height_px"]
        cy = (camera["cy_px"] + 0.5) * sy - 0.5 - (rows - self.height)
        return camera["fx_px"] * sx, camera["fy_px"] * sy, (camera["cx_px"] + 0.5) * sx - 0.5, cy

    def forget(self) -> None:
        """A drive starts."""
        self.state = {s["input"]: self.empty(s["input"]) + np.array(s["initial"], self.shapes[s["input"]]["dtype"]) for s in self.paired}
        self.before: tuple[int, np.ndarray] | None = None

    @property
    def paired(self) -> list[dict]:
        """Which output is fed into which input."""
        return self.manifest["state"]

    def picture(self, camera: dict, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) at the network's size: the lowest rows, black above where there are too few."""
        rows = self.resized_rows(camera)
        small = image if image.shape[:2] == (rows, self.width) else shrunk(image, rows, self.width)
        black = np.zeros((max(0, self.height - rows), self.width, 3), np.uint8)
        return np.concatenate([black, small[max(0, rows - self.height) :]])

    def step(self, stamp_ns: int, pictures: dict, world_from_ego: np.ndarray) -> dict[str, np.ndarray]:
        """What the graph says at `stamp_ns`; pictures by camera name: (capture time in ns, RGB image, world_from_ego at capture)."""
        gap_s = (stamp_ns - self.before[0]) * 1e-9 if self.before else 0.0
        if self.before and not 0 < gap_s <= self.manifest["thresholds"]["max_gap_s"]:
            self.forget()
        dt, prev_from_ego = self.empty("dt"), np.eye(4)
        if self.before:
            dt[0], prev_from_ego = gap_s, inverse(self.before[1]) @ world_from_ego
        inputs = {**self.calibration, "dt": dt, "prev_from_ego": prev_from_ego[None].astype(np.float32)}
        inputs |= {name: self.empty(name) for name in ("images", "cam_from_ego", "alive", "time_offset")}
        for row, camera in enumerate(self.cameras):
            if camera["name"] not in pictures:
                continue
            captured_ns, image, world_from_ego_at_cam = pictures[camera["name"]]
            cam_from_ego = inverse(np.array(camera["ego_from_cam"])) @ inverse(world_from_ego_at_cam) @ world_from_ego  # in float64
            inputs["cam_from_ego"][0, row], inputs["alive"][0, row] = cam_from_ego, 1.0
            inputs["time_offset"][0, row] = (captured_ns - stamp_ns) * 1e-9
            inputs["images"][0, row] = self.picture(camera, image)
        names = [spec["name"] for spec in self.manifest["outputs"]]
        outputs = dict(zip(names, self.session.run(names, {**inputs, **self.state}), strict=True))
        self.before = (stamp_ns, world_from_ego)
        self.state = {s["input"]: outputs[s["output"]] for s in self.paired}
        if not all(np.isfinite(value).all() for value in (outputs["scores"], *self.state.values())):
            self.forget()
        return outputs


def drive(file: str, folder: str) -> None:
    """Streams a clip of this repository through the file and prints its objects."""
    from scenes.clips import Clip  # only to have pictures and poses to drive with

    clip = Clip.open(folder)
    reader = Reader(file, [camera.to_json() for camera in clip.rig.cameras])
    for frame in clip.frames:
        alive = {name: view for name, view in frame.views.items() if view.alive}
        pictures = {name: (view.timestamp_ns, clip.image(frame.index, name), view.world_from_ego_at_cam) for name, view in alive.items()}
        found = reader.step(frame.timestamp_ns, pictures, frame.world_from_ego)
        for row in np.flatnonzero(found["scores"][0] >= reader.manifest["thresholds"]["score"]):
            (x, y), name = found["boxes"][0, row, :2], reader.manifest["class_names"][found["classes"][0, row]]
            score, number = found["scores"][0, row], found["ids"][0, row]
            print(f"frame {frame.index}: {name} {number} at {x:.1f} m ahead, {y:.1f} m left, score {score:.2f}")


if __name__ == "__main__":
    drive(*sys.argv[1:3])
