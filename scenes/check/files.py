"""Is every file of a clip there and whole: pictures, tables, voxels, depth?"""

import hashlib

from scenes.check.findings import CameraReport, Finding, broken, warning
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.layers import LabelLayer

FROZEN_SHARE = 0.5
"""A camera with more than this share of pictures equal to the one before is called frozen."""


def check_pictures(clip: Clip) -> tuple[list[Finding], list[CameraReport]]:
    """Reads every picture once: missing, truncated, wrongly sized and frozen ones, and the counts per camera."""
    findings, reports = [], []
    for camera in clip.rig.names:
        report, repeats, last = CameraReport(camera), 0, b""
        for index, frame in enumerate(clip.frames):
            if not frame.views[camera].alive:
                continue
            report.num_pictures += 1
            try:
                image = clip.image(index, camera)
            except DataError as error:
                findings.append(broken("files", str(error), camera))
                continue
            report.num_readable += 1
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            repeats, last = repeats + (digest == last), digest
        findings += _judge_counts(clip, report, repeats)
        reports.append(report)
    return findings, reports


def _judge_counts(clip: Clip, report: CameraReport, repeats: int) -> list[Finding]:
    camera, total = report.camera, len(clip)
    if not report.num_pictures:
        return [warning("files", f"camera {camera!r} has no picture in any of {total} frames; drop it from the rig or restore it", camera)]
    if report.num_readable > 2 and repeats > FROZEN_SHARE * (report.num_readable - 1):
        text = f"camera {camera!r}: {repeats} of {report.num_readable} pictures equal the one before; the camera or its recording froze"
        return [warning("files", text, camera)]
    return []


def check_layers(clip: Clip) -> list[Finding]:
    """Reads every label layer with its voxels and dense pictures."""
    findings = []
    for name in clip.layer_names:
        try:
            layer = clip.layer(name)
        except DataError as error:
            findings.append(broken("files", str(error)))
            continue
        findings += _check_dense(clip, layer)
        strange = sorted(index for index in layer.boxes_world if not 0 <= index < len(clip))
        if strange:
            text = f"{layer.path}: labels for frame {strange[0]}, but the clip has frames 0 to {len(clip) - 1}; drop them"
            findings.append(broken("files", text))
    return findings


def _check_dense(clip: Clip, layer: LabelLayer) -> list[Finding]:
    findings = []
    for index in range(len(clip)):
        reads = [lambda i=index: layer.occupancy(i)]
        for camera in clip.rig.names:
            reads += [lambda i=index, c=camera: layer.depth_m(i, c), lambda i=index, c=camera: layer.instances(i, c)]
        for read in reads:
            try:
                read()
            except DataError as error:
                findings.append(broken("files", str(error)))
    return findings
