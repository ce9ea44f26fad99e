"""Is the simulator's truth the truth of its pictures, the same for every number of workers, and safe to stop?"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Box3D, box_corners
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import NS_PER_S, rotation_from_yaw, transform_points
from scenes.layers import OCCUPANCY_CLASS_OFFSET, OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD, LaneType
from scenes.rigs import default_rig
from scenes.simulator.bodies import make_body
from scenes.simulator.command import is_done, prepare_folder, run_jobs, simulate
from scenes.simulator.config import SCENARIOS, WEATHERS, SimulationConfig, parse_size
from scenes.simulator.meshes import box as box_mesh
from scenes.simulator.paths import Path2D, straight
from scenes.simulator.rays import camera_rays, truth_camera
from scenes.simulator.renderer import Moment, Renderer, enclosing_balls, ray_table
from scenes.simulator.replay import recorded_tracks, replayed_world
from scenes.simulator.roads import Route
from scenes.simulator.simulate import clip_name, clip_prefix, simulate_clip
from scenes.simulator.weather import make_light
from scenes.simulator.world import LEAD_S, World, build_world

TINY = {"seconds": 1.0, "size_hw": (32, 80), "weather": "day"}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    """Two frames at a busy intersection."""
    path = tmp_path_factory.mktemp("sim") / "clip"
    simulate_clip(path, SimulationConfig(seconds=1, seed=3, size_hw=(64, 160), scenario="intersection", weather="day"), 0)
    return Clip.open(path)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """One world of every scenario, without pictures."""
    config = SimulationConfig(seconds=4, seed=11)
    return [build_world(config, np.random.default_rng([11, k]), k) for k in range(len(SCENARIOS))]


# ---- settings


@pytest.mark.parametrize("text", ["", "96", "96x", "ax256", "96x256x3", "-96x256", "96.5x256"])
def test_size_nonsense_is_refused(text):
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"seconds": 0.0}, "--seconds"),
        ({"hz": -1.0}, "--hz"),
        ({"size_hw": (4, 256)}, "--size"),
        ({"scenario": "moon"}, "moon"),
        ({"weather": "x"}, "--weather"),
    ],
)
def test_impossible_settings_are_refused_by_name(setting, word):
    with pytest.raises(ConfigError, match=word):
        SimulationConfig(**setting)


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        simulate(tmp_path / "file" / "out", clips=1)


# ---- parts


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_bodies_fill_their_boxes(name):
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(6):
        body = make_body(name, rng)
        low, high = body.mesh.corners.min(axis=(0, 1)), body.mesh.corners.max(axis=(0, 1))
        length, width, height = body.size_m
        np.testing.assert_allclose(low, [-length / 2, -width / 2, 0], atol=1e-4)
        np.testing.assert_allclose(high, [length / 2, width / 2, height], atol=1e-4)
        shapes.add(round(float(body.mesh.color.sum() + length + 7 * width), 4))
    assert len(shapes) == 6


def test_mesh_faces_look_outwards():
    mesh = box_mesh(1, 3, 2, 5, 0, 1, (1, 1, 1))
    outward = mesh.corners.mean(axis=1) - np.array([2, 3.5, 0.5])
    assert ((outward * mesh.normals()).sum(axis=1) > 0).all()


def test_path_by_hand():
    # 10 m east, then 10 m north:   s = 15 is 5 m up the second leg, heading north; left of it is west
    path = Path2D(np.array([[0.0, 0], [10, 0], [10, 10]]))
    np.testing.assert_allclose(path.at(15.0), [10, 5])
    np.testing.assert_allclose(path.at(25.0), [10 + 0, 15], atol=1e-6)
    x, y, yaw = path.pose_at(15.0, 2.0, left_m=1.0)
    np.testing.assert_allclose((x, y, yaw), (9, 5, np.pi / 2), atol=1e-9)
    np.testing.assert_allclose(straight((0, 0), (4, 0)).offset(-1.5).points_world[:, 1], -1.5)


def test_speed_limit_falls_ahead_of_a_bend():
    route = Route(straight((0, 0), (100, 0)), 10.0, slow_spans=((50.0, 60.0, 4.0),))
    assert route.limit_mps(0.0) == 10.0
    assert 4.0 < route.limit_mps(45.0) < 6.0
    assert route.limit_mps(55.0) == 4.0
    assert route.limit_mps(61.0) == 10.0


def test_tiles_never_lose_an_object():
    rng = np.random.default_rng(1)
    for camera in default_rig(48, 120).cameras[1:4]:
        rays = camera_rays(camera)
        centers, radii = rng.uniform(-30, 30, (40, 3)), rng.uniform(0.3, 4, 40)
        offset = centers[None] - rays.origin_ego
        along = np.einsum("ni,nmi->nm", rays.rays_ego, np.broadcast_to(offset, (len(rays.rays_ego), 40, 3)))
        missed_by = np.linalg.norm(offset - along[..., None] * rays.rays_ego[:, None], axis=2)
        meets = (missed_by < radii) & (along > 0)
        assert not (meets & ~rays.tiles_seeing(centers, radii)[:, rays.tile].T).any()


def test_balls_hold_their_boxes():
    rng = np.random.default_rng(2)
    box = np.concatenate([rng.uniform(-20, 20, (30, 3)), rng.uniform(0.3, 9, (30, 3)), rng.uniform(-3, 3, (30, 3))], axis=1)
    centers, radii = enclosing_balls(box)
    corner_to_ball = np.linalg.norm(box_corners(box)[:, :, None] - centers[:, None], axis=3).min(axis=2)
    assert (corner_to_ball <= radii[:, None]).all() and (corner_to_ball > 0.9 * radii[:, None] - 0.02).all()


def test_lamps_and_plates_face_outwards():
    mesh = make_body("car", np.random.default_rng(0)).mesh
    flat = mesh.glow > 0.5
    assert flat.sum() >= 8
    assert (np.sign(mesh.normals()[flat, 0]) == np.sign(mesh.corners[flat][:, 0, 0])).all()


def test_unhidden_pixels_are_those_of_each_object_alone():
    config = SimulationConfig(seconds=1, seed=5, size_hw=(48, 120), scenario="parking", weather="day")
    rng = np.random.default_rng(0)
    cameras = [camera_rays(camera) for camera in default_rig(48, 120).cameras[:3]]
    renderer = Renderer(build_world(config, rng, 0), cameras, rng)
    moment = Moment(renderer, 0.1)
    assert moment.scene is not None
    for rays in cameras:
        table = ray_table(rays, moment.world_from_ego)[: rays.num_pixels]
        found = moment.scene.list_intersections(renderer.o3d.core.Tensor.from_numpy(table))
        met = np.stack([found["ray_ids"].numpy(), moment.row_of_triangle[found["primitive_ids"].numpy()]])
        expected = np.bincount(np.unique(met, axis=1)[1].astype(np.int64), minlength=len(moment))
        view = renderer.render(rays, moment)
        assert expected.sum() > view.visible_px.sum() > 500
        np.testing.assert_allclose(view.unhidden_px, expected, atol=1)  # a ray along an edge may fall on either side
        assert (view.visible_px <= view.unhidden_px).all()


def test_weathers_look_different():
    lights = {name: make_light(name, np.random.default_rng(0)) for name in WEATHERS}
    assert lights["night"].ambient_rgb.mean() < 0.4 * lights["day"].ambient_rgb.mean()
    assert lights["fog"].haze_per_m > 5 * lights["day"].haze_per_m
    assert lights["rain"].wet and lights["dusk"].sun_direction[2] < lights["day"].sun_direction[2]


# ---- traffic


def test_every_class_is_on_the_road(worlds):
    seen = {CLASS_NAMES[k] for world in worlds for k in world.boxes_at(1.0)[0].class_id}
    assert seen == set(CLASS_NAMES)


def test_vehicles_dominate_and_move(worlds):
    boxes = [world.boxes_at(1.0)[0] for world in worlds]
    vehicles = sum(int(np.isin(b.class_id, [CLASS_NAMES.index(n) for n in VEHICLE_CLASSES]).sum()) for b in boxes)
    assert vehicles > 0.4 * sum(map(len, boxes))
    assert all((np.hypot(b.box[:, Box3D.VX], b.box[:, Box3D.VY]) > 0.5).any() for b in boxes)


def test_vehicles_do_not_collide(worlds):
    for world in worlds:
        for time_s in np.arange(0.0, 4.0, 0.4):
            boxes, _ = world.boxes_at(float(time_s))
            box = boxes.box[boxes.class_id < 5]
            assert not _overlapping(box * np.array([1, 1, 1, 0.93, 0.93, 1, 1, 1, 1])).any(), (world.scenario, time_s)


def _overlapping(box: np.ndarray) -> np.ndarray:
    """(M, M) bool by separating axes of the footprints."""
    corners = box_corners(box)[:, :4, :2]
    axes = np.stack([np.cos(box[:, Box3D.YAW]), np.sin(box[:, Box3D.YAW])], axis=1)
    axes = np.stack([axes, np.stack([-axes[:, 1], axes[:, 0]], axis=1)], axis=1)  # (M, 2, xy)
    apart = np.zeros((len(box), len(box)), dtype=bool)
    for k in range(2):
        shadow = np.einsum("mi,nci->mnc", axes[:, k], corners)  # n's corners on m's axis
        own = np.diagonal(shadow, axis1=0, axis2=1).T  # (M, 4)
        gap = (shadow.min(axis=2) > own.max(axis=1)[:, None]) | (shadow.max(axis=2) < own.min(axis=1)[:, None])
        apart |= gap | gap.T
    overlap = ~apart
    np.fill_diagonal(overlap, False)
    return overlap


def test_velocity_is_the_derivative_of_position(worlds):
    world = worlds[0]
    before, rows = world.boxes_at(1.01)
    after, rows_after = world.boxes_at(1.03)
    _, i, j = np.intersect1d(rows, rows_after, return_indices=True)
    np.testing.assert_allclose((after.box[j, :2] - before.box[i, :2]) / 0.02, before.box[i, Box3D.VX :], atol=1e-6)


# ---- the written clip


def test_clip_reads_back_with_its_own_capture_times(clip):
    assert len(clip) == 2 and clip.rig.names == default_rig(64, 160).names
    offsets = {name: {frame.views[name].timestamp_ns - frame.timestamp_ns for frame in clip.frames} for name in clip.rig.names}
    assert all(len(offset) == 1 and abs(next(iter(offset))) <= 30e6 for offset in offsets.values())
    assert len({next(iter(offset)) for offset in offsets.values()}) >= 3
    assert clip.image(0, "front").std() > 10
    for view in clip.frames[1].views.values():
        np.testing.assert_allclose(clip.trajectory.at(view.timestamp_ns), view.world_from_ego_at_cam, atol=1e-3)


def test_instance_pixels_lie_in_their_boxes(clip):
    """Lens, pose at capture, depth, instance, box and velocity all meet in one equation."""
    layer = clip.layer("truth")
    tested = 0
    for frame in clip.frames:
        boxes = layer.boxes_world[frame.index]
        for camera in clip.rig.cameras:
            view, small = frame.views[camera.name], truth_camera(camera)
            instance, depth = layer.instances(frame.index, camera.name), layer.depth_m(frame.index, camera.name)
            assert instance is not None and depth is not None and instance.shape == (small.height_px, small.width_px)
            v, u = np.nonzero(instance >= 0)
            points_cam = small.unproject(np.stack([u, v], axis=1)) * depth[v, u][:, None]
            points_world = transform_points(view.world_from_ego_at_cam @ small.ego_from_cam, points_cam)
            row = {int(t): k for k, t in enumerate(boxes.track_id)}
            for track_id, point in zip(instance[v, u], points_world, strict=True):
                box = boxes.box[row[int(track_id)]]
                moved = box[:3] + np.array([*box[7:9], 0]) * (view.timestamp_ns - frame.timestamp_ns) / NS_PER_S
                local = (point - moved) @ rotation_from_yaw(box[Box3D.YAW])
                assert (np.abs(local) <= box[3:6] / 2 + 0.12).all(), (camera.name, track_id, local, box)
                tested += 1
    assert tested > 100


def test_visibility_counts_pixels(clip):
    layer = clip.layer("truth")
    boxes = layer.boxes_world[0]
    assert ((boxes.visibility >= 0) & (boxes.visibility <= 1)).all()
    np.testing.assert_array_equal(boxes.visibility > 0, boxes.num_points > 0)
    assert (boxes.visibility == 0).any() and (boxes.visibility > 0.9).any()
    pixels = np.zeros(int(boxes.track_id.max()) + 1)
    for name in clip.rig.names:
        instance = layer.instances(0, name)
        pixels += np.bincount(instance[instance >= 0], minlength=len(pixels))
    large = boxes.num_points > 500
    np.testing.assert_allclose(16 * pixels[boxes.track_id[large]], boxes.num_points[large], rtol=0.3)


def test_occupancy_agrees_with_boxes_depth_and_road(clip):
    layer, frame = clip.layer("truth"), clip.frames[0]
    occupancy = layer.occupancy(0)
    assert occupancy is not None and set(np.unique(occupancy.state)) >= {OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD}
    boxes = clip.boxes_ego(layer, 0)
    assert boxes is not None
    index, inside = occupancy.grid.index_of(boxes.box[:, :3])
    i, j, k = index[inside].T
    state = occupancy.state[i, j, k]
    assert (state == OCCUPANCY_CLASS_OFFSET + boxes.class_id[inside]).mean() > 0.9  # crowded voxels belong to one of two
    clear = state == OCCUPANCY_CLASS_OFFSET + boxes.class_id[inside]
    speed = np.hypot(*boxes.box[inside, Box3D.VX :].T)
    moving = clear & (speed > 1) & (boxes.class_id[inside] < 5)
    np.testing.assert_allclose(occupancy.flow_mps[i, j, k][moving], boxes.box[inside][moving, Box3D.VX :], atol=0.02)
    under = occupancy.grid.index_of(np.array([[-1.0, 0.0, -0.2]]))[0][0]
    assert occupancy.state[tuple(under)] == OCCUPANCY_ROAD
    depth, camera = layer.depth_m(0, "front"), truth_camera(clip.rig["front"])
    instance = layer.instances(0, "front")
    v, u = np.nonzero((depth > 0) & (instance < 0))
    world_from_cam = frame.views["front"].world_from_ego_at_cam @ camera.ego_from_cam
    points = transform_points(world_from_cam, camera.unproject(np.stack([u, v], 1)) * depth[v, u][:, None])
    on_ground = np.abs(points[:, 2]) < 0.05
    points[on_ground, 2] = -0.2
    ego_from_world = np.linalg.inv(frame.world_from_ego)
    index, inside = occupancy.grid.index_of(transform_points(ego_from_world, points))
    filled = occupancy.state[tuple(index[inside].T)] != OCCUPANCY_FREE
    assert inside.sum() > 100 and filled.mean() > 0.9


def test_lanes_of_every_type_and_centrelines_under_traffic(clip):
    lanes = clip.layer("truth").lanes
    assert {lane.type for lane in lanes} == set(LaneType)
    points = np.concatenate([lane.points_world[:, :2] for lane in lanes if lane.type is LaneType.CENTRELINE])
    ego_xy = clip.frames[0].world_from_ego[:2, 3]
    assert np.linalg.norm(points - ego_xy, axis=1).min() < 1.0


# ---- whole runs


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    for workers, name in ((1, "one"), (2, "two")):
        simulate(tmp_path / name, clips=2, seconds=0.5, seed=7, size="32x80", workers=workers)
    first, second = hashes(tmp_path / "one"), hashes(tmp_path / "two")
    assert first == second and len(first) > 2 * 8 * 3
    images = {key.split("/", 1)[1]: value for key, value in first.items() if key.endswith(".jpg")}
    assert len(set(first.values())) > len(images), "two clips of one seed must differ"


def test_finished_clips_are_kept_and_leftovers_cleared(tmp_path, monkeypatch):
    config = SimulationConfig(seed=2, **TINY)
    done = tmp_path / clip_name(config, 0)
    simulate_clip(done, config, 0)
    before = (done / "clip.json").stat().st_mtime_ns
    (tmp_path / f".{clip_prefix(config)}00001.abcd.tmp").mkdir()
    prepare_folder(tmp_path, clip_prefix(config))
    assert [p.name for p in tmp_path.iterdir()] == [done.name]
    assert is_done(done, config) and not is_done(tmp_path / clip_name(config, 1), config)
    assert (done / "clip.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="another seconds"):
        is_done(done, SimulationConfig(seed=2, **{**TINY, "seconds": 9.0}))


def test_a_clip_that_fails_names_itself_and_the_others_go_on(tmp_path, monkeypatch):
    made = []

    def failing(path, config, index, threads):
        if index == 1:
            raise DataError("clip 1: broken")
        made.append(index)

    monkeypatch.setattr("scenes.simulator.command.simulate_clip", failing)
    assert run_jobs(tmp_path, SimulationConfig(), [0, 1, 2], 1) == ["clip 1: broken"]
    assert made == [0, 2]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_9_loses_and_repeats_nothing(tmp_path):
    arguments = ["--clips", "4", "--seconds", "0.5", "--seed", "4", "--size", "32x80", "--workers", "2"]
    command = [sys.executable, "-m", "surround4d", "sim", str(tmp_path / "killed"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parent.parent)
    deadline = time.monotonic() + 400
    while not (done := list(tmp_path.glob("killed/sim_*/clip.json"))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # returns once the last worker has let go of the pipe: none lives on
    assert done
    first, before = done[0], done[0].stat().st_mtime_ns
    simulate(tmp_path / "killed", clips=4, seconds=0.5, seed=4, size="32x80")
    assert first.stat().st_mtime_ns == before
    simulate(tmp_path / "whole", clips=4, seconds=0.5, seed=4, size="32x80")
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


# ---- replay


def test_replay_drives_the_recorded_boxes(tiny_clip):
    path = tiny_clip.path if isinstance(tiny_clip, Clip) else Path(tiny_clip)
    recorded = Clip.open(path)
    config = SimulationConfig(seconds=0.5, seed=1, replay=path, weather="day")
    world = replayed_world(config, np.random.default_rng(0), 0)
    boxes, _ = world.boxes_at(LEAD_S)
    truth = recorded.layer("truth").boxes_world[0]
    origin = recorded.trajectory.at(recorded.frames[0].timestamp_ns)[:2, 3]
    assert len(boxes) == len(truth)
    for box in boxes.box:
        nearest = np.linalg.norm(truth.box[:, :2] - origin - box[:2], axis=1)
        same = truth.box[np.argmin(nearest)]
        assert nearest.min() < 0.3
        np.testing.assert_allclose(box[3:6], same[3:6], atol=0.05)
        assert box[2] == box[5] / 2
    np.testing.assert_allclose(world.ego_at(LEAD_S)[:2, 3], 0, atol=1e-6)


def test_replay_without_tracks_is_refused(tiny_clip, tmp_path):
    path = tiny_clip.path if isinstance(tiny_clip, Clip) else Path(tiny_clip)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    shutil.rmtree(copy / "layers")
    with pytest.raises(DataError, match="no label layer"):
        simulate(tmp_path / "out", clips=1, replay=copy)
    assert not (tmp_path / "out").exists()


def test_recorded_tracks_are_continuous(tiny_clip):
    path = tiny_clip.path if isinstance(tiny_clip, Clip) else Path(tiny_clip)
    clip = Clip.open(path)
    for track in recorded_tracks(clip, clip.layer("truth"), clip.frames[0].timestamp_ns, np.zeros(2)):
        assert (np.diff(track.times_s) > 0).all() and (np.abs(np.diff(track.poses[:, 2])) < np.pi).all()
