"""Do the clocks and the ego poses of a clip make sense together?"""

import numpy as np

from scenes.check.findings import CameraReport, Finding, broken, warning
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, invert_rigid, rotvec_from_rotation

MAX_SPEED_MPS = 70.0
MAX_ACCELERATION_MPS2 = 20.0
MAX_TURN_RATE_RADPS = 2.5
MIN_SPACING_S = 0.09
"""Accelerations are taken over at least this time."""
GAP_FACTOR = 1.75
"""A frame interval longer than this many usual ones is a gap."""
POSE_TOLERANCE_M, POSE_TOLERANCE_RAD = 0.3, 0.02
"""How far a view's or frame's own pose may lie from the ego path at its time."""


def check_clocks(clip: Clip, reports: list[CameraReport]) -> list[Finding]:
    """Gaps between frames, capture times far from the frame or running backwards, times outside the ego path."""
    stamps = np.array([frame.timestamp_ns for frame in clip.frames])
    usual_s = float(np.median(np.diff(stamps))) / NS_PER_S if len(stamps) > 1 else 0.1
    findings = _check_gaps(clip, stamps, usual_s)
    if len(stamps) == 1:
        findings.append(warning("clocks", f"{clip.path}: a single frame has no duration; nothing over time can be learned from it"))
    for report in reports:
        findings += _check_camera_clock(clip, report, usual_s)
    first, last = clip.trajectory.timestamps_ns[[0, -1]]
    outside_s = max(first - stamps[0], stamps[-1] - last, 0) / NS_PER_S
    if outside_s > max(0.1, usual_s):
        text = f"{clip.path / 'ego.parquet'}: frames lie up to {outside_s:.2f} s outside the ego path; extend the path or drop the frames"
        findings.append(warning("clocks", text))
    return findings


def _check_gaps(clip: Clip, stamps: np.ndarray, usual_s: float) -> list[Finding]:
    gaps_s = np.diff(stamps) / NS_PER_S
    findings = []
    for row in np.flatnonzero(gaps_s > GAP_FACTOR * usual_s):
        text = f"{clip.path / 'frames.parquet'}, row {row + 1}: {gaps_s[row]:.2f} s after the frame before, usual are {usual_s:.2f} s"
        findings.append(warning("clocks", text + "; frames are missing, split the clip there if they are many"))
    return findings


def _check_camera_clock(clip: Clip, report: CameraReport, usual_s: float) -> list[Finding]:
    camera, findings = report.camera, []
    alive = [(frame.index, frame.timestamp_ns, frame.views[camera].timestamp_ns) for frame in clip.frames if frame.views[camera].alive]
    if not alive:
        return []
    index, frame_ns, view_ns = (np.array(column) for column in zip(*alive, strict=True))
    offset_s = (view_ns - frame_ns) / NS_PER_S
    report.offset_ms = (float(offset_s.min()) * 1e3, float(np.median(offset_s)) * 1e3, float(offset_s.max()) * 1e3)
    backwards = np.flatnonzero(np.diff(view_ns) <= 0)
    if len(backwards):
        row = int(backwards[0]) + 1
        text = (
            f"{clip.path / 'views.parquet'}, frame {index[row]}, camera {camera!r}: captured at {view_ns[row]} ns, "
            f"not after the picture before ({view_ns[row - 1]} ns); the camera's clock stands or runs backwards, correct it"
        )
        findings.append(broken("clocks", text, camera))
    limit_s = max(0.06, 0.6 * usual_s)
    worst = int(np.argmax(np.abs(offset_s)))
    if abs(offset_s[worst]) > limit_s:
        text = (
            f"{clip.path / 'views.parquet'}, frame {index[worst]}, camera {camera!r}: captured {offset_s[worst] * 1000:+.0f} ms "
            f"from the frame's time, expected within {limit_s * 1000:.0f} ms; match pictures to frames again"
        )
        findings.append(warning("clocks", text, camera))
    return findings


def check_poses(clip: Clip) -> list[Finding]:
    """Jumps of the ego path, and frames or views whose own pose contradicts it."""
    return _check_jumps(clip) + _check_frame_poses(clip) + _check_view_poses(clip)


def _check_jumps(clip: Clip) -> list[Finding]:
    """Impossible speed, turn rate or acceleration between neighbouring poses; the first of each kind is named."""
    stamps, poses = clip.trajectory.timestamps_ns, clip.trajectory.world_from_ego
    if len(stamps) < 2:
        return []
    path, findings = clip.path / "ego.parquet", []
    seconds = np.diff(stamps) / NS_PER_S
    velocity = np.diff(poses[:, :3, 3], axis=0) / seconds[:, None]
    speed = np.linalg.norm(velocity, axis=1)
    turn = np.linalg.norm(rotvec_from_rotation(np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3]), axis=1)
    everything = np.arange(1, len(stamps))
    spaced, acceleration = _accelerations(stamps / NS_PER_S, poses[:, :3, 3])
    kinds = (
        (everything, speed, MAX_SPEED_MPS, "m/s", "speed"),
        (everything, turn / np.maximum(seconds, 0.05), MAX_TURN_RATE_RADPS, "rad/s", "turn rate"),
        (spaced, acceleration, MAX_ACCELERATION_MPS2, "m/s2", "acceleration"),
    )
    for rows, value, limit, unit, what in kinds:
        wrong = np.flatnonzero(value > limit)
        if len(wrong):
            row = rows[wrong[0]]
            text = (
                f"{path}, row {row}: the ego path jumps: {what} {value[wrong[0]]:.1f} {unit}, expected at most {limit:g} "
                f"({len(wrong)} such places); correct or drop these poses"
            )
            findings.append(broken("poses", text))
            break  # a jump shows in all three; one sentence is enough
    return findings


def _accelerations(times_s: np.ndarray, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (A,) of a path and the acceleration (A,) at each, between poses at least `MIN_SPACING_S` apart.

    Recordings hold poses milliseconds apart, where the noise of a millimetre is an acceleration of hundreds of m/s2.
    """
    rows = [0]
    for row, time_s in enumerate(times_s):
        if time_s - times_s[rows[-1]] >= MIN_SPACING_S:
            rows.append(row)
    seconds = np.diff(times_s[rows])
    velocity = np.diff(points_world[rows], axis=0) / seconds[:, None]
    return np.array(rows[1:-1], dtype=np.int64), np.linalg.norm(np.diff(velocity, axis=0), axis=1) / ((seconds[1:] + seconds[:-1]) / 2)


def _pose_error(world_from_a: np.ndarray, world_from_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in metres and angle in radians between poses (R, 4, 4)."""
    a_from_b = invert_rigid(world_from_a) @ world_from_b
    return np.linalg.norm(a_from_b[:, :3, 3], axis=1), np.linalg.norm(rotvec_from_rotation(a_from_b[:, :3, :3]), axis=1)


def _check_frame_poses(clip: Clip) -> list[Finding]:
    stamps = np.array([frame.timestamp_ns for frame in clip.frames])
    distance, angle = _pose_error(np.stack([frame.world_from_ego for frame in clip.frames]), clip.trajectory.at(stamps))
    wrong = np.flatnonzero((distance > POSE_TOLERANCE_M) | (angle > POSE_TOLERANCE_RAD))
    if not len(wrong):
        return []
    row = int(wrong[0])
    text = (
        f"{clip.path / 'frames.parquet'}, row {row}: the pose lies {distance[row]:.2f} m and {np.rad2deg(angle[row]):.2f} degrees from "
        f"the ego path at that time ({len(wrong)} such frames); use one source of poses and one clock"
    )
    return [broken("poses", text)]


def _check_view_poses(clip: Clip) -> list[Finding]:
    findings = []
    for camera in clip.rig.names:
        views = [frame.views[camera] for frame in clip.frames if frame.views[camera].alive]
        if not views:
            continue
        at_cam = np.stack([view.world_from_ego_at_cam for view in views])
        distance, angle = _pose_error(at_cam, clip.trajectory.at(np.array([view.timestamp_ns for view in views])))
        wrong = np.flatnonzero((distance > POSE_TOLERANCE_M) | (angle > POSE_TOLERANCE_RAD))
        if len(wrong):
            row = int(wrong[0])
            text = (
                f"{clip.path / 'views.parquet'}, camera {camera!r}, picture {views[row].image!r}: its ego pose lies "
                f"{distance[row]:.2f} m and {np.rad2deg(angle[row]):.2f} degrees from the ego path at its capture time "
                f"({len(wrong)} such views); take the pose from the path"
            )
            findings.append(broken("poses", text, camera))
    return findings
