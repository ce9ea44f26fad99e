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
    settings: GroupSettings


LIDAR_NOISE = NoiseSettings(
    radial_m=0.1, radial_per_m=0.004, lateral_m=0.12, lateral_per_m=0.003, height_m=0.25, yaw_rad=0.15, weak_factor=4.0
)


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
        bias=-5.61,
        local_weight=1.23,
        side_weight=0.495,
        own_weight=0.028,
        best_weight=0.661,
        length_weight=-0.262,
        unseen_weight=0.417,
        range_weight=1.134,
        hidden_weight=-1.04,
        keep_share=0.1,
    )
    group = GroupSettings(
        ("car",),
        LIDAR_NOISE,
        motion,
        link,
        CompletionSettings(extend_s=0.5, fill_s=20.0, fill_score=0.5, bridge_s=1.0),
        confidence,
        duplicate_iou=0.15,
    )
    return KittiClass("Car", "car", -2.6, 0.8, group)


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
        bias=-2.229,
        local_weight=0.404,
        side_weight=0.304,
        own_weight=0.013,
        best_weight=0.865,
        length_weight=-0.389,
        unseen_weight=0.003,
        range_weight=0.83,
        moving_weight=1.989,
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
    return KittiClass("Pedestrian", "pedestrian", -4.7, 1.45, group)


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
        bias=-4.532,
        local_weight=0.63,
        side_weight=0.238,
        own_weight=0.145,
        best_weight=-0.143,
        length_weight=1.624,
        unseen_weight=0.046,
        range_weight=0.039,
        moving_weight=1.422,
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
    return KittiClass("Cyclist", "bicycle", -4.9, 1.1, group)


def kitti_classes() -> tuple[KittiClass, ...]:
    """The three classes of the published tables."""
    return (kitti_car(), kitti_pedestrian(), kitti_cyclist())
