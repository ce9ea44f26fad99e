"""Does `check` trust a good calibration and name a camera that is turned by 3 degrees? Measured on PandaSet 002 with YOLOX-nano.

python -m benchmarks.pandaset_check ../shared/realdata/pandaset --detector ../shared/weights/yolox_nano.onnx

Imports the sequence, compares every camera as calibrated, then each camera turned by 3 degrees to the left, to the right, upwards
and downwards, one at a time. Prints the tables and, with --out, writes them as Markdown.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from scenes.atomic import atomic_file
from scenes.check.agreement import check_agreement
from scenes.check.findings import Agreement
from scenes.clips import Clip, find_clips
from scenes.detector2d import Detections2D, YoloxDetector
from scenes.geometry import rigid_from_parts, rotation_from_rotvec
from scenes.layers import LabelLayer
from scenes.readers.command import import_dataset
from scenes.rigs import Rig

TURNS = {"left": (0.0, -1.0, 0.0), "right": (0.0, 1.0, 0.0), "up": (1.0, 0.0, 0.0), "down": (-1.0, 0.0, 0.0)}
"""Axis, in the camera's frame, about which a camera turns that way."""


class RememberingDetector(YoloxDetector):
    """Looks at every picture once: a calibration changes nothing of what is seen in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, score_threshold=0.5)
        self._seen: dict[bytes, Detections2D] = {}

    def detect(self, image_rgb: np.ndarray) -> Detections2D:
        """The objects of a picture, remembered."""
        key = hashlib.blake2b(image_rgb.tobytes(), digest_size=16).digest()
        if key not in self._seen:
            self._seen[key] = super().detect(image_rgb)
        return self._seen[key]


@dataclass(frozen=True)
class TurnedCamera:
    """What was measured of one camera with a wrong extrinsic."""

    camera: str
    direction: str
    agreement: Agreement
    named: list[str]
    """Cameras that the check called off."""


def turned_rig(rig: Rig, name: str, direction: str, angle_deg: float) -> Rig:
    """The rig with one camera turned about its own axes."""
    rotation = rotation_from_rotvec(np.deg2rad(angle_deg) * np.array(TURNS[direction]))
    cam_from_turned = rigid_from_parts(rotation, np.zeros(3))  # the calibration will say `turned` where the camera is `cam`
    return Rig(tuple(replace(c, ego_from_cam=c.ego_from_cam @ cam_from_turned) if c.name == name else c for c in rig.cameras))


def measure_turned(clip: Clip, layer: LabelLayer, detector: YoloxDetector, frames: int, angle_deg: float) -> list[TurnedCamera]:
    """Turns each camera each way, one at a time; only that camera is compared again, the others have not changed."""
    rig, results = clip.rig, []
    for name in rig.names:
        for direction in TURNS:
            wrong = turned_rig(rig, name, direction, angle_deg)
            clip.rig = Rig((wrong[name],))
            agreements, findings = check_agreement(clip, layer, detector, frames)
            results.append(TurnedCamera(name, direction, agreements[name], [finding.camera for finding in findings]))
    clip.rig = rig
    return results


def tables(agreements: dict[str, Agreement], turned: list[TurnedCamera], angle_deg: float) -> str:
    """Both tables as Markdown."""
    num, met = (sum(getattr(a, field) for a in agreements.values()) for field in ("num_detections", "num_met"))
    lines = [
        "| camera, as calibrated | detections | meet a box | turn that fits best: left, up, clockwise | called off |",
        "| --- | ---: | ---: | --- | --- |",
        *(
            f"| {name} | {a.num_detections} | {a.share:.1%} | {_turn(a)} | {'yes' if a.is_off else 'no'} |"
            for name, a in agreements.items()
        ),
        f"| **all** | {num} | **{met / max(num, 1):.1%}** | | {sum(a.is_off for a in agreements.values())} |",
        "",
        f"| camera turned by {angle_deg:g} degrees | to the | meet a box | correction found: left, up, clockwise | named |",
        "| --- | --- | ---: | --- | --- |",
        *(
            f"| {t.camera} | {t.direction} | {t.agreement.share:.1%} | {_turn(t.agreement)} | {', '.join(t.named) or 'no'} |"
            for t in turned
        ),
    ]
    named = sum(t.named == [t.camera] for t in turned)
    return "\n".join(
        [*lines, "", f"Named: {named} of {len(turned)} turned cameras; falsely: {sum(a.is_off for a in agreements.values())}."]
    )


def _turn(agreement: Agreement) -> str:
    if agreement.turn_deg is None:
        return "too few to judge"
    return " ".join(f"{angle:+.2f}" for angle in agreement.turn_deg) + f" deg (+-{agreement.error_deg:.2f})"


def main(
    source: tyro.conf.Positional[Path],
    detector: Path,
    work: Path = Path("out/benchmarks/pandaset_check"),
    frames: int = 50,
    angle_deg: float = 3.0,
    out: Path | None = None,
) -> None:
    """Prints both tables.

    Args:
        source: The PandaSet folder.
        detector: YOLOX as ONNX.
        work: Where the imported clips are kept.
        frames: At most this many frames are looked at.
        angle_deg: By how much each camera is turned.
        out: Write the tables here as Markdown as well.
    """
    import_dataset("pandaset", source, work)
    clip = Clip.open(find_clips(work)[0])
    model, layer = RememberingDetector(detector), clip.layer("truth")
    agreements, _ = check_agreement(clip, layer, model, frames)
    text = tables(agreements, measure_turned(clip, layer, model, frames, angle_deg), angle_deg)
    print(text)
    if out is not None:
        head = f"## Calibration check on {clip.name}\n\n`python -m benchmarks.pandaset_check` (YOLOX-nano, {frames} frames, 6 cameras)\n\n"
        with atomic_file(out) as temporary:
            temporary.write_text(head + text + "\n")


if __name__ == "__main__":
    tyro.cli(main)
