"""Can this clip be labelled at all, and what is odd about it? The first stage looks at cameras, clocks and ego motion."""

from pathlib import Path

import numpy as np

from labeling.stages import ClipWork, Stage
from scenes.atomic import write_json
from scenes.clips import Clip, View
from scenes.errors import DataError
from scenes.geometry import NS_PER_S

MOST_BEYOND_PATH_S = 0.3
"""Pictures may lie this far outside the known ego path (it is carried on with its last velocity)."""
MOST_BETWEEN_FRAME_AND_VIEW_S = 1.0
"""A picture that far from its frame's time (and further than two frames are apart) was taken by another clock."""
ODD_OFFSET_S = 0.3
"""A picture that far from its frame's time is worth a word: cameras of one rig fire within a turn of its lidar or less."""
MOST_POSE_GAP_M = 2.0
"""A frame's (or picture's) own pose and the ego path at its time may differ by this."""


def check_ego_motion(clip: Clip) -> None:
    """Refuses a clip whose ego path does not cover its frames, or contradicts their poses, with `DataError`."""
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    path = clip.path / "ego.parquet"
    begin, end = clip.trajectory.timestamps_ns[[0, -1]] / NS_PER_S
    early_s, late_s = begin - stamps[0] / NS_PER_S, stamps[-1] / NS_PER_S - end
    if len(clip) > 1 and len(clip.trajectory.timestamps_ns) < 2:
        raise DataError(f"{path}: expected the ego motion of {len(clip)} frames, got one pose; import the clip again with its poses")
    if max(early_s, late_s) > MOST_BEYOND_PATH_S:
        raise DataError(
            f"{path}: expected ego poses for all frames ({stamps[0]} to {stamps[-1]} ns), got {clip.trajectory.timestamps_ns[0]} to "
            f"{clip.trajectory.timestamps_ns[-1]} ns, {max(early_s, late_s):.1f} s too few; import the clip again with its whole path"
        )
    gap_m = np.linalg.norm(clip.trajectory.at(stamps)[:, :3, 3] - np.stack([f.world_from_ego for f in clip.frames])[:, :3, 3], axis=1)
    if gap_m.max() > MOST_POSE_GAP_M:
        raise DataError(
            f"{clip.path}, frame {int(gap_m.argmax())}: expected its pose on the ego path at its time, got {gap_m.max():.1f} m beside it; "
            "the clocks of frames.parquet and ego.parquet disagree, correct one"
        )


def check_clocks(clip: Clip) -> list[str]:
    """One sentence for each camera whose capture times are oddly far from its frames'.

    Refuses a clip in which they are another clock's, or contradict the ego path, with `DataError` naming the camera.
    """
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    step_s = float(np.median(np.diff(stamps))) / NS_PER_S if len(stamps) > 1 else 0.0
    most_s, where, odd = max(MOST_BETWEEN_FRAME_AND_VIEW_S, 2 * step_s), clip.path / "views.parquet", []
    for camera in clip.rig.names:
        views = {frame.timestamp_ns: frame.views[camera] for frame in clip.frames if frame.views[camera].alive}
        if not views:
            continue
        offset_s = float(np.median([view.timestamp_ns - stamp for stamp, view in views.items()])) / NS_PER_S
        if abs(offset_s) > most_s:
            raise DataError(
                f"{where}: expected pictures of camera {camera!r} within {most_s:g} s of their frames, got {offset_s:+.3f} s; "
                "its clock disagrees with the frames', correct its timestamp_ns"
            )
        gap_m = _beside_path_m(clip, list(views.values()))
        if gap_m > MOST_POSE_GAP_M:
            raise DataError(
                f"{where}: expected the ego poses of camera {camera!r} on the ego path at its capture times, got them {gap_m:.1f} m beside "
                "it (median); its clock or its poses disagree with ego.parquet, correct one"
            )
        if abs(offset_s) > ODD_OFFSET_S:
            beside = f"camera {camera!r} took its pictures {offset_s:+.2f} s from the times of their frames"
            odd.append(f"{clip.path}: {beside}; its clock may disagree, see `surround4d check`")
    return odd


def _beside_path_m(clip: Clip, views: list[View]) -> float:
    """How far views' ego poses lie from the ego path at their capture times (median)."""
    path = clip.trajectory.at(np.array([view.timestamp_ns for view in views], dtype=np.int64))
    own = np.stack([view.world_from_ego_at_cam for view in views])
    return float(np.median(np.linalg.norm(path[:, :3, 3] - own[:, :3, 3], axis=1)))


def check_cameras(clip: Clip, pictures_needed: bool) -> list[str]:
    """One sentence for each camera without any picture; a clip without any picture at all is refused if pictures are needed."""
    blind = [camera for camera in clip.rig.names if not any(frame.views[camera].alive for frame in clip.frames)]
    if len(blind) < len(clip.rig.names):
        return [f"{clip.path}: camera {camera!r} has no picture in the whole clip; labelled without it" for camera in blind]
    if pictures_needed:
        raise DataError(f"{clip.path / 'views.parquet'}: expected pictures, got none of any camera; restore them or label from --evidence")
    return [f"{clip.path}: no camera has a picture in the whole clip; labelled from the evidence alone"]


def _check(work: ClipWork, path: Path) -> dict[str, float]:
    clip = work.recorded
    check_ego_motion(clip)
    work.notes += check_clocks(clip)
    work.notes += check_cameras(clip, pictures_needed=work.settings.sources != ("evidence",))
    counts: dict[str, float] = {"frames": len(clip), "pictures": clip.num_pictures}
    write_json(path, {"counts": counts, "notes": work.notes})
    return counts


INPUTS = Stage("inputs", "inputs.json", _check, settings=lambda work: work.settings.sources == ("evidence",), version=2)
