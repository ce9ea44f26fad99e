"""How good is the network so far? A few validation clips streamed and measured during a run, as `surround4d eval` does."""

from dataclasses import replace

from evaluation.compare import CompareSettings, compare_layers
from evaluation.detection import DetectionSettings
from fusion.model import Surround
from scenes.clips import Clip, find_clips
from training.dataset import first_layer
from training.recipes import TrainConfig
from training.streaming import run_clip


def validate(model: Surround, config: TrainConfig, memory: bool = True) -> dict[str, float]:
    """Vehicle AP within 30 m (mean over 0.5, 1, 2, 4 m) and velocity error of moving vehicles, over `run.val_clips` clips."""
    clips = [Clip.open(path) for path in find_clips(list(config.data.val))[: config.run.val_clips]]
    settings = CompareSettings(replace(DetectionSettings(), min_visibility=config.data.min_visibility))
    items = ((clip, run_clip(model, clip, memory=memory), first_layer(clip, config.data.layer_names)) for clip in clips)
    vehicles = compare_layers(items, settings).vehicles["30 m"]
    scores = {f"ap_{threshold:g}": value for threshold, value in vehicles.ap.items()}
    return {"vehicle_map": vehicles.mean_ap, **scores, "velocity_error": vehicles.velocity_error_mps}
