"""How is each of several layers told apart when they are drawn together?"""

from collections.abc import Sequence
from dataclasses import dataclass

from scenes.boxes import CLASS_NAMES, Boxes
from scenes.layers import LabelLayer
from scenes.show.paint import box_colors
from scenes.show.palette import LAYER_RGB, TEXT_RGB, Rgb


@dataclass(frozen=True)
class LayerStyle:
    """How one layer is drawn."""

    name: str
    color: Rgb
    """The layer's own colour, used for its boxes when several layers are drawn."""
    color_by: str
    """"class", "track" or "layer"."""
    dashed: bool
    """Every layer but the first is dashed."""
    thickness_px: int

    def colors(self, boxes: Boxes) -> list[Rgb]:
        """One RGB per box; objects that no camera sees and those to be ignored are dimmed."""
        colors = [self.color] * len(boxes) if self.color_by == "layer" else box_colors(boxes, self.color_by)
        dim = (boxes.visibility == 0) | boxes.ignore
        return [(r * 2 // 5, g * 2 // 5, b * 2 // 5) if faint else (r, g, b) for (r, g, b), faint in zip(colors, dim, strict=True)]


def layer_styles(layers: Sequence[LabelLayer], color_by: str | None = None) -> list[LayerStyle]:
    """One style a layer: a single layer is coloured by class, several by layer, unless `color_by` says otherwise."""
    chosen = color_by or ("class" if len(layers) <= 1 else "layer")
    return [
        LayerStyle(
            name=layer.name,
            color=LAYER_RGB[row % len(LAYER_RGB)] if len(layers) > 1 else TEXT_RGB,
            color_by=chosen,
            dashed=row > 0,
            thickness_px=1,
        )
        for row, layer in enumerate(layers)
    ]


def box_labels(boxes: Boxes) -> list[str]:
    """Short text per box: class, track and, for what is not certain, the score."""
    texts = []
    for class_id, track, score in zip(boxes.class_id, boxes.track_id, boxes.score, strict=True):
        text = CLASS_NAMES[class_id] + (f" {track}" if track >= 0 else "")
        texts.append(text if score >= 1 else f"{text} {score:.2f}")
    return texts
