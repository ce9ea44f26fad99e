"""What is said about a clip's stored motion, and how is that kept? The artefact of the motion stage."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labeling.motion.adjustment import Sigmas
from labeling.motion.refine import Found, frame_step_s
from labeling.motion.settings import DecisionSettings, FeatureSettings, RefineMotion
from labeling.motion.state import MotionState, capture_stamps, frame_stamps, refined_clip, refined_ego_at
from labeling.stages import read_arrays, write_arrays
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid, rotvec_from_rotation

DEFAULT_FEATURES = FeatureSettings()


@dataclass(frozen=True)
class Verdict:
    """The motion to work with, and why."""

    state: MotionState
    refined: bool
    """Whether `state` differs from the stored motion."""
    reason: str
    """A sentence for people."""
    before_px: float = float("nan")
    after_px: float = float("nan")
    """Median reprojection error with the stored and the refined motion; NaN if nothing could be said."""
    scale_sigma: float = float("nan")
    num_tracks: int = 0
    num_crossings: int = 0


@dataclass(frozen=True)
class Findings:
    """How far refined motion is from the stored one."""

    scale: float
    """Stored step length over refined step length, minus one."""
    drift_rad_per_s: float
    """Turning that the stored motion has too much or too little, on average over the clip."""
    clock_s: np.ndarray
    """(N,) true minus stored capture time."""
    seconds: float
    """Length of the clip."""


def findings(clip: Clip, state: MotionState) -> Findings:
    """What is wrong with the stored motion if `state` is right."""
    ways = [invert_rigid(poses[0]) @ poses[-1] for poses in (MotionState.stored(clip).world_from_ego, state.world_from_ego)]
    turned = rotvec_from_rotation((invert_rigid(ways[0]) @ ways[1])[:3, :3])
    stamps = frame_stamps(clip)
    seconds = max(float(stamps[-1] - stamps[0]) / NS_PER_S, 1e-3)
    return Findings(1 / state.scale - 1, float(np.linalg.norm(turned)) / seconds, state.clock_s, seconds)


def is_rough(found: Findings, sigmas: Sigmas, settings: DecisionSettings) -> bool:
    """Whether the stored motion is worse than what pictures tell: what was found counts beyond its own uncertainty."""
    sure = settings.sure_sigmas
    clocks = np.abs(found.clock_s) > np.fmax(settings.rough_clock_s, sure * sigmas.clock_s)
    return bool(
        abs(found.scale) > np.fmax(settings.rough_scale, sure * sigmas.scale)
        or found.drift_rad_per_s > np.fmax(settings.rough_rotation_rad_per_s, sure * sigmas.turn_rad / found.seconds)
        or clocks.any()
    )


def why_unchecked(clip: Clip, features: FeatureSettings) -> str:
    """Why the pictures of a clip say nothing about its motion, in words."""
    if len(clip) < 3:
        return f"it has {len(clip)} frame(s) and three are needed"
    apart_s = frame_step_s(clip)
    if apart_s > features.longest_step_s:
        return (
            f"its frames are {apart_s:.2f} s apart and corners are followed over {features.longest_step_s:g} s at most "
            f"({1 / features.longest_step_s:.1f} frames a second; import the recording with all its pictures)"
        )
    return "its pictures show too few fixed points"


def decide(
    clip: Clip, found: Found | None, mode: RefineMotion, settings: DecisionSettings, features: FeatureSettings = DEFAULT_FEATURES
) -> Verdict:  # fmt: skip
    """The verdict; a clip that no motion explains is refused with `DataError` (quarantine)."""
    stored = MotionState.stored(clip)
    if found is None:
        return Verdict(stored, False, f"{clip.path}: ego motion not checked, {why_unchecked(clip, features)}; taken as it is")
    numbers = (found.before_px, found.after_px, found.sigmas.scale, found.num_tracks, found.num_crossings)
    if min(found.before_px, found.after_px) > settings.quarantine_px:
        raise DataError(
            f"{clip.path}: quarantined: expected fixed points within {settings.quarantine_px:g} pixel (median) of where ego motion and "
            f"calibration put them, got {found.after_px:.2f} after refinement ({found.before_px:.2f} before); calibrate the rig again, "
            "correct the poses, or label with --refine-motion off"
        )
    wrong = findings(clip, found.state)
    text = describe(clip, wrong)
    if found.after_px > found.before_px + 0.02:
        return Verdict(stored, False, f"{clip.path}: refined ego motion explains the pictures no better; taken as it is", *numbers)
    if mode is RefineMotion.AUTO and not is_rough(wrong, found.sigmas, settings):
        return Verdict(stored, False, f"{clip.path}: ego motion agrees with the pictures ({text}); taken as it is", *numbers)
    if mode is RefineMotion.AUTO and found.gain < settings.least_gain:
        little = f"explains only {100 * found.gain:.0f} % more of the pictures ({text})"
        return Verdict(stored, False, f"{clip.path}: refined ego motion {little}; taken as it is", *numbers)
    return Verdict(found.state, True, f"{clip.path}: ego motion refined from {found.num_tracks} fixed points ({text})", *numbers)


def describe(clip: Clip, wrong: Findings) -> str:
    """The findings in words."""
    parts = [f"steps {100 * wrong.scale:+.2f} % too long", f"{np.rad2deg(wrong.drift_rad_per_s) * 10:.2f} degrees of drift in 10 s"]
    worst = int(np.abs(wrong.clock_s).argmax())
    return ", ".join([*parts, f"clock of camera {clip.rig.names[worst]!r} {-1e3 * wrong.clock_s[worst]:+.1f} ms"])


def write_verdict(path: Path, clip: Clip, verdict: Verdict) -> None:
    """The verdict as arrays, with the refined ego pose of every frame and at every capture, atomically."""
    shift_ns = np.round(verdict.state.clock_s * NS_PER_S).astype(np.int64)
    arrays = {
        **vars(verdict.state),
        "timestamps_ns": frame_stamps(clip),
        "capture_ns": capture_stamps(clip) + shift_ns,
        "world_from_ego_at_cam": refined_ego_at(clip, verdict.state, capture_stamps(clip) + shift_ns),
        "cameras": np.array(clip.rig.names),
    }
    numbers = {name: value for name, value in vars(verdict).items() if name != "state"}
    write_arrays(path, {name: np.asarray(value) for name, value in {**arrays, **numbers}.items()})


def read_verdict(path: Path) -> Verdict:
    """What `write_verdict` wrote; a broken file is refused with the remedy."""
    arrays = read_arrays(path)
    try:
        state = MotionState(arrays["world_from_ego"], float(arrays["scale"]), arrays["clock_s"], arrays["rotvec_cam"])
        numbers = [float(arrays[name]) for name in ("before_px", "after_px", "scale_sigma")]
        counts = [int(arrays[name]) for name in ("num_tracks", "num_crossings")]
        return Verdict(state, bool(arrays["refined"]), str(arrays["reason"]), *numbers, *counts)  # type: ignore[arg-type]
    except KeyError as error:
        raise DataError(
            f"{path}: expected the array {error}, got none; remove the folder {path.parent} and label the clip again"
        ) from error


def corrected_clip(clip: Clip, verdict: Verdict) -> Clip:
    """The clip to work with: with refined poses, capture times and mounts, or the stored one."""
    return refined_clip(clip, verdict.state) if verdict.refined else clip
