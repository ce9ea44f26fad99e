"""Do colours say what an eye would say, and do they decide where geometry cannot?"""

import numpy as np
import pytest

from labeling.appearance import BINS, look_of, picture_looks
from labeling.tracks.association import associate
from labeling.tracks.evidence import Evidence
from labeling.tracks.likeness import LIMITS, log_ratio, mean_looks
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import vehicles
from labeling.tracks.stitching import stitch
from scenes.geometry import NS_PER_S

RED, BLUE = (255, 0, 0), (0, 0, 255)
WHOLE = np.array([-0.5, -0.5, 39.5, 39.5])


def picture(upper, lower=None) -> np.ndarray:
    """40 x 40 pixels of two colours, one above the other."""
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:20], image[20:] = upper, upper if lower is None else lower
    return image


def test_a_look_counts_lightness_and_colour_of_both_halves():
    look = look_of(picture(RED, BLUE), WHOLE).reshape(6, BINS)
    assert (look**2).sum(axis=1) == pytest.approx(1.0)
    # red has L* 53.2: 8 * 0.532 - 0.5 = 3.76 lies between the centres of bins 3 and 4; blue has 32.3: 2.08
    assert look[0] ** 2 == pytest.approx([0, 0, 0, 0.24, 0.76, 0, 0, 0], abs=0.01)
    assert look[1] ** 2 == pytest.approx([0, 0, 0.92, 0.08, 0, 0, 0, 0], abs=0.01)
    assert look[5].argmax() == 0  # blue: b* is far below -40


def test_one_colour_is_alike_two_are_not_and_a_missing_picture_says_nothing():
    red, blue = look_of(picture(RED), WHOLE), look_of(picture(BLUE), WHOLE)
    a, b = np.stack([red, red, red]), np.stack([red, blue, np.full_like(red, np.nan)])
    assert log_ratio(a, b).tolist() == [LIMITS[1], LIMITS[0], 0.0]  # 2.7 is more than the largest


def test_looks_are_averaged_over_the_frames_that_show_the_object():
    red, blue = look_of(picture(RED), WHOLE), look_of(picture(BLUE), WHOLE)
    nothing = np.full_like(red, np.nan)
    mean, known = mean_looks(np.stack([red, nothing, red, blue, nothing]), TrackRows(np.array([2, 2, 1])))
    assert mean[0] == pytest.approx(red)
    assert mean[1] == pytest.approx(np.sqrt((red**2 + blue**2) / 2))
    assert np.isnan(mean[2]).all()
    assert known.tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("side", [1, -1])
def test_the_follower_of_the_same_colour_is_taken_where_two_fit_alike(side):
    """A car drives along y = 0 and is hidden for two seconds; then there is one at y = 1.5 and one at y = -1.5, one of them red."""
    rows = [(frame, 0.0) for frame in range(7)] + [(frame, y) for frame in range(11, 20) for y in (1.5, -1.5)]
    frame = np.array([index for index, _ in rows])
    box = np.array([[4.0 * index, y, 0.9, 4.5, 1.9, 1.6, 0.0, np.nan, np.nan] for index, y in rows])
    stamps = (np.arange(20) * NS_PER_S // 2).astype(np.int64)
    evidence = Evidence(stamps, np.tile(np.eye(4), (20, 1, 1)), frame, box, np.zeros(len(box), dtype=np.int64), np.full(len(box), 0.9))

    def looks(frames, boxes):
        red, blue = look_of(picture(RED), WHOLE), look_of(picture(BLUE), WHOLE)
        return np.where((boxes[:, 1:2] * side > -1.0), red, blue)

    chains = stitch(associate(evidence, vehicles()), evidence, vehicles(), looks)
    (joined,) = [chain for chain in chains if evidence.frame[chain[0]] == 0]
    assert set(evidence.box_world[joined, 1].tolist()) == {0.0, 1.5 * side}


def test_boxes_out_of_sight_and_lost_pictures_have_no_look(tiny_clip):
    looks = picture_looks(tiny_clip)
    boxes = np.array([[8.0, 1.0, 0.8, 4.5, 1.9, 1.6, 0, 0, 0], [-20.0, 0, 0.8, 4.5, 1.9, 1.6, 0, 0, 0]])
    found = looks(np.array([0, 0]), boxes)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    for name in ("front", "front_fisheye"):
        (tiny_clip.path / tiny_clip.frames[1].views[name].image).unlink()
    assert np.isnan(looks(np.array([1]), boxes[:1])).all()
