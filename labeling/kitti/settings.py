"""With which numbers are KITTI's cars, pedestrians and cyclists tracked from lidar detections at 10 Hz?"""

from dataclasses import dataclass, replace

from labeling.tracks.settings import (
    CompletionSettings,
    ConfidenceSettings,
    GroupSettings,
    LinkSettings,
    MotionSettings,
    NoiseSettings,
)

TUNED_ON = ("0000", "0004", "0007", "0009", "0017")
"""The sequences whose labels these numbers were chosen with; the others were only measured on."""


RECORD = ("local", "side", "own", "best", "length", "unseen", "range")
"""Features of a track's record of detections, see `labeling.tracks.confidence`."""


@dataclass(frozen=True)
class KittiClass:
    """One class of the KITTI tracking benchmark and how PointRCNN's raw scores become probabilities."""

    name: str
    """As in KITTI's files."""
    class_name: str
    """Ours."""
    score_bias: float
    score_slope: float
    """Probability = logistic(bias + slope * raw score)."""
    right_iou: tuple[float, ...]
    """A box is as right as the share of these 3D IoUs that it reaches; the confidences are fitted to that."""
    fitted: tuple[str, ...]
    """Features that the confidences may use: few for rare classes, no `hidden` for people (those in a crowd are labelled too)."""
    settings: GroupSettings


LIDAR_NOISE = NoiseSettings(
    radial_m=0.1, radial_per_m=0.004, lateral_m=0.12, lateral_per_m=0.003, height_m=0.25, yaw_rad=0.15, weak_factor=4.0
)


CAR_NOISE = replace(LIDAR_NOISE, radial_m=0.06, lateral_m=0.08, height_m=0.3)
PEOPLE_NOISE = replace(LIDAR_NOISE, weak_factor=2.0)


def kitti_car() -> KittiClass:
    """Cars."""
    motion = MotionSettings(
        speed_mps=9.0,
        side_speed_mps=1.5,
        acceleration_mps2=4.0,
        smooth_acceleration_mps2=1.5,
        smooth_jerk_mps3=3.0,
        pose_error=0.02,
        static_drift_mps=0.1,
    )
    link = LinkSettings(
        high_score=0.4,
        low_score=0.02,
        birth_score=0.05,
        gate_m=4.0,
        coast_s=2.0,
        coast_std_m=2.5,
        stitch_s=5.0,
        standing_s=20.0,
        stitch_std_m=5.0,
        stitch_score=0.3,
    )
    confidence = ConfidenceSettings(
        bias=-5.942,
        local_weight=1.284,
        side_weight=0.584,
        own_weight=-0.017,
        best_weight=0.791,
        length_weight=-0.317,
        unseen_weight=0.498,
        range_weight=1.259,
        hidden_weight=-1.897,
        keep_share=0.1,
    )
    group = GroupSettings(
        ("car",),
        CAR_NOISE,
        motion,
        link,
        CompletionSettings(extend_s=0.5, fill_s=20.0, fill_score=0.5, bridge_s=1.0),
        confidence,
        duplicate_iou=0.15,
        keep_near_face=0.8,
        keep_bottom=0.0,
    )
    return KittiClass("Car", "car", -2.6, 0.8, (0.25, 0.5, 0.7), (*RECORD, "hidden"), group)


def kitti_pedestrian() -> KittiClass:
    """Pedestrians."""
    motion = MotionSettings(
        speed_mps=1.2,
        side_speed_mps=1.2,
        acceleration_mps2=1.0,
        smooth_acceleration_mps2=0.6,
        smooth_jerk_mps3=1.5,
        static_spread_m=0.4,
        static_speed_mps=0.2,
        pose_error=0.02,
        static_drift_mps=0.05,
        heading_speed_mps=0.5,
        turn_radius_m=0.0,
        heading_slip_mps=0.3,
    )
    link = LinkSettings(
        high_score=0.4,
        low_score=0.004,
        birth_score=0.02,
        gate_m=1.5,
        coast_s=1.5,
        coast_std_m=1.2,
        stitch_s=4.0,
        standing_s=20.0,
        stitch_std_m=4.0,
        stitch_score=0.1,
        yaw_weight=0.0,
    )
    confidence = ConfidenceSettings(
        bias=-2.107,
        local_weight=0.442,
        side_weight=0.335,
        own_weight=-0.011,
        best_weight=0.909,
        length_weight=-0.664,
        unseen_weight=-0.01,
        moving_weight=2.915,
        range_weight=0.896,
        keep_share=0.2,
    )
    group = GroupSettings(
        ("pedestrian",),
        PEOPLE_NOISE,
        motion,
        link,
        CompletionSettings(extend_s=0.5, fill_s=20.0, fill_score=0.5, bridge_s=1.0),
        confidence,
        duplicate_iou=0.15,
    )
    return KittiClass("Pedestrian", "pedestrian", -4.7, 1.45, (0.25,), (*RECORD, "moving"), group)


def kitti_cyclist() -> KittiClass:
    """Cyclists."""
    motion = MotionSettings(
        speed_mps=5.0,
        side_speed_mps=1.0,
        acceleration_mps2=2.0,
        smooth_acceleration_mps2=0.8,
        smooth_jerk_mps3=2.0,
        pose_error=0.02,
        static_drift_mps=0.05,
    )
    link = LinkSettings(
        high_score=0.4,
        low_score=0.004,
        birth_score=0.02,
        gate_m=3.0,
        coast_s=2.0,
        coast_std_m=1.5,
        stitch_s=5.0,
        standing_s=20.0,
        stitch_std_m=4.0,
        stitch_score=0.1,
    )
    confidence = ConfidenceSettings(
        bias=-4.487,
        local_weight=0.744,
        side_weight=0.259,
        own_weight=0.178,
        best_weight=-0.085,
        length_weight=1.484,
        unseen_weight=0.041,
        moving_weight=2.596,
        range_weight=0.041,
        keep_share=0.1,
    )
    group = GroupSettings(
        ("bicycle",),
        PEOPLE_NOISE,
        motion,
        link,
        CompletionSettings(extend_s=1.0, fill_s=20.0, fill_score=0.5, bridge_s=1.0),
        confidence,
        duplicate_iou=0.15,
    )
    return KittiClass("Cyclist", "bicycle", -4.9, 1.1, (0.25,), (*RECORD, "moving"), group)


def kitti_classes() -> tuple[KittiClass, ...]:
    """The three classes of the published tables."""
    return (kitti_car(), kitti_pedestrian(), kitti_cyclist())
