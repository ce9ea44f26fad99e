"""Which of a recording's ego poses make the clip's path?"""

from scenes.geometry import Trajectory

MIN_POSE_STEP_NS = 1_000_000
"""Pose tables hold rows nanoseconds apart (one a sensor reading); extrapolating from two such rows would run wild."""


def thinned(trajectory: Trajectory, min_step_ns: int = MIN_POSE_STEP_NS) -> Trajectory:
    """The trajectory without the poses that follow the last kept one within less than `min_step_ns`."""
    kept = [0]
    for row, stamp in enumerate(trajectory.timestamps_ns.tolist()):
        if stamp - trajectory.timestamps_ns[kept[-1]] >= min_step_ns:
            kept.append(row)
    return Trajectory(trajectory.timestamps_ns[kept], trajectory.world_from_ego[kept])
