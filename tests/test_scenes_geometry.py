"""Do rigid transforms, angles and the ego path give the answers worked out by hand?"""

import numpy as np
import pytest

from scenes.errors import DataError
from scenes.geometry import (
    NS_PER_S,
    Trajectory,
    ground_speeds,
    interpolate_rigid,
    invert_rigid,
    pose_from_rigid,
    quaternion_from_rotation,
    rigid_from_parts,
    rigid_from_pose,
    rotation_from_quaternion,
    rotation_from_rotvec,
    rotation_from_yaw,
    rotvec_from_rotation,
    transform_points,
    validate_rigid,
    wrap_angle,
    yaw_from_rotation,
)


def random_rotations(count: int, seed: int = 0) -> np.ndarray:
    quaternion = np.random.default_rng(seed).normal(size=(count, 4))
    return rotation_from_quaternion(quaternion)


@pytest.mark.parametrize(
    ("angle", "wrapped"), [(np.pi, np.pi), (-np.pi, np.pi), (3 * np.pi, np.pi), (1.5 * np.pi, -0.5 * np.pi), (0.0, 0.0)]
)
def test_angles_wrap_into_the_half_open_interval(angle, wrapped):
    assert wrap_angle(angle) == pytest.approx(wrapped)


def test_a_car_that_turned_left_sees_what_was_ahead_on_its_right():
    # The ego stands at (10, 5) and looks along world +y; (13, 5) is 3 m to its right, (10, 9) is 4 m ahead.
    world_from_ego = rigid_from_parts(rotation_from_yaw(np.pi / 2), [10, 5, 0])
    ego_from_world = invert_rigid(world_from_ego)
    points_ego = transform_points(ego_from_world, np.array([[13.0, 5, 0], [10, 9, 1]]))
    np.testing.assert_allclose(points_ego, [[0, -3, 0], [4, 0, 1]], atol=1e-12)


def test_yaw_turns_x_towards_y():
    np.testing.assert_allclose(rotation_from_yaw(np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    assert yaw_from_rotation(rotation_from_yaw(0.3)) == pytest.approx(0.3)


def test_quaternion_of_a_quarter_turn_about_z_is_known():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rotation_from_quaternion([half, 0, 0, half]), rotation_from_yaw(np.pi / 2), atol=1e-12)


def test_quaternions_come_back_with_positive_w():
    rotations = random_rotations(200)
    quaternion = quaternion_from_rotation(rotations)
    assert (quaternion[:, 0] >= 0).all()
    np.testing.assert_allclose(rotation_from_quaternion(quaternion), rotations, atol=1e-12)


def test_rotation_vectors_come_back_up_to_half_a_turn():
    rotvec = np.random.default_rng(1).normal(size=(100, 3))
    rotvec *= np.minimum(1, 3.1 / np.linalg.norm(rotvec, axis=1, keepdims=True))
    np.testing.assert_allclose(rotvec_from_rotation(rotation_from_rotvec(rotvec)), rotvec, atol=1e-9)
    np.testing.assert_array_equal(rotation_from_rotvec(np.zeros(3)), np.eye(3))


def test_inverse_of_many_transforms_at_once():
    world_from_ego = rigid_from_parts(random_rotations(5), np.arange(15.0).reshape(5, 3))
    np.testing.assert_allclose(invert_rigid(world_from_ego) @ world_from_ego, np.broadcast_to(np.eye(4), (5, 4, 4)), atol=1e-12)


def test_pose_rows_round_trip():
    world_from_ego = rigid_from_parts(random_rotations(50), np.random.default_rng(2).normal(size=(50, 3)) * 100)
    np.testing.assert_allclose(rigid_from_pose(pose_from_rigid(world_from_ego)), world_from_ego, atol=1e-9)


def test_interpolation_halves_the_way_and_the_turn():
    start, end = np.eye(4), rigid_from_parts(rotation_from_yaw(0.4), [2, 0, 0])
    middle = interpolate_rigid(start, end, 0.5)
    np.testing.assert_allclose(middle, rigid_from_parts(rotation_from_yaw(0.2), [1, 0, 0]), atol=1e-12)


def driven_path() -> Trajectory:
    """10 m/s along x while turning left by 0.1 rad/s, one pose a second."""
    stamps = np.arange(4, dtype=np.int64) * NS_PER_S
    poses = rigid_from_parts(rotation_from_yaw(0.1 * np.arange(4.0)), np.stack([10.0 * np.arange(4), np.zeros(4), np.zeros(4)], 1))
    return Trajectory(stamps, poses)


@pytest.mark.parametrize(
    ("seconds", "x_m", "yaw"), [(0.0, 0.0, 0.0), (1.5, 15.0, 0.15), (3.0, 30.0, 0.3), (-0.5, -5.0, -0.05), (3.2, 32.0, 0.32)]
)
def test_the_ego_path_between_and_beyond_its_poses(seconds, x_m, yaw):
    world_from_ego = driven_path().at(round(seconds * NS_PER_S))
    assert world_from_ego[0, 3] == pytest.approx(x_m)
    assert yaw_from_rotation(world_from_ego[:3, :3]) == pytest.approx(yaw)


def test_the_ego_path_answers_for_many_instants():
    path = driven_path()
    stamps = np.array([0, NS_PER_S // 2, 2 * NS_PER_S])
    np.testing.assert_allclose(path.at(stamps)[:, 0, 3], [0, 5, 20])
    np.testing.assert_allclose(path.velocity_at(NS_PER_S), [10, 0, 0], atol=1e-6)


def test_a_path_of_one_pose_stands_still():
    path = Trajectory(np.array([5]), np.eye(4)[None])
    np.testing.assert_array_equal(path.at(10**10), np.eye(4))


def test_a_path_whose_clock_runs_backwards_is_refused_with_its_row():
    with pytest.raises(DataError, match=r"row 2.*clock"):
        Trajectory(np.array([0, 10, 5]), np.broadcast_to(np.eye(4), (3, 4, 4)))
    with pytest.raises(DataError, match="at least one"):
        Trajectory(np.zeros(0, dtype=np.int64), np.zeros((0, 4, 4)))


@pytest.mark.parametrize("spoil", ["nan", "stretched", "mirrored", "shape"])
def test_a_transform_that_is_not_rigid_is_refused(spoil):
    matrix = np.eye(4)
    if spoil == "nan":
        matrix[0, 3] = np.nan
    elif spoil == "stretched":
        matrix[:3, :3] *= 1.01
    elif spoil == "mirrored":
        matrix[0, 0] = -1
    else:
        matrix = np.eye(3)
    with pytest.raises(DataError, match="here: expected"):
        validate_rigid(matrix, "here")


def test_speeds_are_differences_over_the_neighbours():
    world_from_ego = np.tile(np.eye(4), (3, 1, 1))
    world_from_ego[:, :3, 3] = [[0, 0, 0], [3, 4, 9], [3, 4, 9]]  # 5 m on the ground within the first half second, then it stands
    stamps = 7 * NS_PER_S + np.array([0, 1, 2]) * NS_PER_S // 2
    assert ground_speeds(world_from_ego, stamps) == pytest.approx([10.0, 5.0, 0.0])
    assert ground_speeds(world_from_ego[:1], stamps[:1]).tolist() == [0.0]
