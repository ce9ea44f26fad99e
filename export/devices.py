"""How fast is a device at best? `DEVICES`: dense peak rates of the makers' data sheets, each with its source; a user adds a device
with one line or a JSON file of the same fields."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from scenes.errors import ConfigError, DataError


@dataclass(frozen=True)
class Device:
    """Peak rates: dense TFLOP/s (int8: TOP/s) without sparsity, of the graphics processor alone; memory bandwidth in GB/s.

    fp32 is that of the ordinary cores: TensorRT computes fp32 convolutions in TF32 on the tensor cores unless told not to, at half of fp16.
    """

    fp32_tflops: float
    fp16_tflops: float
    int8_tops: float
    memory_gbps: float
    source: str

    def __post_init__(self) -> None:
        for name in ("fp32_tflops", "fp16_tflops", "int8_tops", "memory_gbps"):
            rate = getattr(self, name)
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
                raise ConfigError(f"{name}: expected a rate above zero, got {rate!r}; correct it")


DEVICES = {
    "orin-nx": Device(1.88, 15.0, 30.0, 102.4, "Jetson Orin NX 16GB: half of AGX Orin's GPU at 918 MHz, without DLAs"),
    "orin-agx": Device(5.3, 42.5, 85.0, 204.8, "Jetson AGX Orin 64GB brief: GPU 170 of 275 sparse INT8 TOPS, 5.3 TFLOPS fp32"),
    "thor": Device(8.0, 258.0, 517.0, 273.0, "Jetson T5000 data sheet: 2070 sparse FP4 TFLOPS, halved for dense and each wider type"),
    "h200": Device(67.0, 989.0, 1979.0, 4800.0, "H200 SXM data sheet, dense"),
    "cpu": Device(0.58, 0.58, 2.3, 100.0, "two Zen 5 server cores: 64 fp32 FLOP a cycle each at 4.5 GHz, VNNI x4; maps stay in the caches"),
}
"""This table is the only place where rates stand; `--devices FILE.json` adds to it."""


def read_devices(path: Path | None) -> dict[str, Device]:
    """The table, with a user's JSON file of `{name: {fp32_tflops, fp16_tflops, int8_tops, memory_gbps, source}}` added."""
    if path is None:
        return DEVICES
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a JSON file of devices")
    try:
        added = {name: Device(**values) for name, values in json.loads(path.read_text()).items()}
    except (OSError, TypeError, AttributeError, ValueError) as error:  # ValueError: no JSON, no text, or a rate that is none
        wanted = ", ".join(f.name for f in fields(Device))
        raise DataError(f"{path}: expected JSON of devices, each a name and {wanted} ({error}); correct it") from error
    return {**DEVICES, **added}


def device_of(name: str, devices: Mapping[str, Device]) -> Device:
    """A device by name; an unknown one is refused with the names there are."""
    if name not in devices:
        raise ConfigError(f"device {name!r}: not in the table ({', '.join(devices)}); add it with --devices FILE.json")
    return devices[name]
