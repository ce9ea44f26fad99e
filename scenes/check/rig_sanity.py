"""Is a rig's calibration plausible by itself: places, directions, lenses?"""

import numpy as np

from scenes.cameras import Camera
from scenes.check.findings import Finding, broken, warning
from scenes.rigs import Rig

HEIGHT_RANGE_M = (0.1, 5.0)
MAX_DISTANCE_M = 15.0
FOV_RANGE_DEG = (5.0, 230.0)


def check_rig(rig: Rig, where: str) -> list[Finding]:
    """Findings about every camera, and about two cameras that are the same; `where` names the file."""
    findings = [finding for camera in rig.cameras for finding in _check_camera(camera, where)]
    for i, first in enumerate(rig.cameras):
        for second in rig.cameras[i + 1 :]:
            same_place = np.allclose(first.ego_from_cam, second.ego_from_cam, atol=1e-9)
            if same_place and (first.fx_px, first.lens) == (second.fx_px, second.lens):
                text = f"{where}: cameras {first.name!r} and {second.name!r} have the same place and lens; one was copied"
                findings.append(warning("calibration", text, second.name))
    return findings


def _check_camera(camera: Camera, where: str) -> list[Finding]:
    name, findings = camera.name, []

    def suspect(text: str) -> None:
        findings.append(warning("calibration", f"{where}, camera {name!r}: {text}", name))

    position, axes = camera.ego_from_cam[:3, 3], camera.ego_from_cam[:3, :3]
    if np.linalg.norm(position[:2]) > MAX_DISTANCE_M or not HEIGHT_RANGE_M[0] <= position[2] <= HEIGHT_RANGE_M[1]:
        place = ", ".join(f"{v:.2f}" for v in position)
        suspect(f"stands at ({place}) m of the ego frame, expected on the vehicle, its origin on the ground; check frame and units")
    if axes[2, 1] > -0.5:
        suspect("its down axis does not point down; is ego_from_cam inverted, or the axis convention another one?")
    if not (0 <= camera.cx_px < camera.width_px and 0 <= camera.cy_px < camera.height_px):
        suspect(f"principal point ({camera.cx_px:.0f}, {camera.cy_px:.0f}) lies outside the image; scale intrinsics with the picture")
    elif max(abs(camera.cx_px / camera.width_px - 0.5), abs(camera.cy_px / camera.height_px - 0.5)) > 0.2:
        suspect(f"principal point ({camera.cx_px:.0f}, {camera.cy_px:.0f}) lies far from the middle; scale intrinsics with the picture")
    if abs(camera.fx_px / camera.fy_px - 1) > 0.1:
        suspect(f"fx {camera.fx_px:.1f} and fy {camera.fy_px:.1f} differ by more than a tenth; check the calibration")
    fov_deg = 2 * np.rad2deg(camera.max_angle_rad)
    if not FOV_RANGE_DEG[0] <= fov_deg <= FOV_RANGE_DEG[1]:
        suspect(f"sees {fov_deg:.0f} degrees from corner to corner; check focal length and lens model")
    if not _lens_is_invertible(camera):
        text = f"{where}, camera {name!r}: the distortion folds back inside the image, a pixel has no single ray; refit the lens"
        findings.append(broken("calibration", text, name))
    return findings


def _lens_is_invertible(camera: Camera) -> bool:
    """Whether pixels over the whole image come back from their own rays to a fifth of a pixel."""
    u, v = np.meshgrid(np.linspace(0, camera.width_px - 1, 9), np.linspace(0, camera.height_px - 1, 9))
    pixels = np.stack([u, v], axis=-1)
    back, _ = camera.project(camera.unproject(pixels))
    return bool((np.linalg.norm(back - pixels, axis=-1) < 0.2).all())
