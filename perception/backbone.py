"""Which torchvision network looks at each picture? `Backbone`: features at the asked strides, pretrained on demand."""

from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from scenes.errors import ConfigError

BACKBONES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "resnet18",
    "resnet34",
    "resnet50",
    "regnet_y_400mf",
    "regnet_y_1_6gf",
    "convnext_tiny",
    "convnext_small",
)
"""Tried names; each must be a sequence of modules whose stride grows by factors of two."""


class FoldingConv(nn.Conv2d):
    """A convolution that does the frozen batch normalisation after it too, by scaled weights: one pass over the pixels less."""

    norm: "list[FoldedNorm]"
    """The one normalisation, in a list so that it is not registered twice."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv2d`, then the normalisation if that is frozen."""
        norm = self.norm[0]
        if not norm.is_folded:
            return super().forward(input)
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self._conv_forward(input, self.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale)


class FoldedNorm(nn.BatchNorm2d):
    """A batch normalisation that its convolution has already done, unless it is training or being exported."""

    @property
    def is_folded(self) -> bool:
        """Whether the convolution before does the work (an exporter folds by itself, into constants)."""
        return not self.training and not torch.compiler.is_exporting()

    def forward(self, input: Tensor) -> Tensor:
        """The input unchanged if folded."""
        return input if self.is_folded else super().forward(input)


def _fold_norms(module: nn.Module) -> None:
    """Turns every convolution and the batch normalisation that follows it into a folding pair; names and weights stay."""
    children = dict(module.named_children())
    for child in children.values():
        _fold_norms(child)
    for name, conv in children.items():
        following = str(int(name) + 1) if name.isdigit() else name.replace("conv", "bn")
        norm = children.get(following)
        if isinstance(conv, nn.Conv2d) and conv.bias is None and isinstance(norm, nn.BatchNorm2d):
            conv.__class__, norm.__class__ = FoldingConv, FoldedNorm
            conv.norm = [norm]  # type: ignore[assignment]


class Backbone(nn.Module):
    """A torchvision classifier cut into stages of one stride each; the classification part is left away."""

    def __init__(
        self,
        name: str,
        levels: tuple[int, ...],
        pretrained: str | None = None,
        freeze_bn: bool = True,
        frozen_stages: int = 0,
        dropped_blocks: int = 0,
    ) -> None:
        super().__init__()
        modules = _modules(load_classifier(name, pretrained), name)
        modules = modules[: len(modules) - dropped_blocks]
        self.stages, strides, channels = _cut_into_stages(modules, max(levels))
        missing = [level for level in levels if level not in strides]
        if missing:
            raise ConfigError(
                f"backbone {name!r}: no features at stride {missing}; it has {strides}; change backbone.levels or backbone.dropped_blocks"
            )
        _fold_norms(self.stages)
        self.level_index = [strides.index(level) for level in levels]
        self.channels = [channels[index] for index in self.level_index]
        self.freeze_bn, self.frozen_stages = freeze_bn, frozen_stages
        for parameter in self.stages[:frozen_stages].parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode, except for batch normalisation that keeps its statistics."""
        super().train(mode)
        for index, stage in enumerate(self.stages):
            for module in stage.modules():
                if isinstance(module, nn.BatchNorm2d) and (self.freeze_bn or index < self.frozen_stages):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (M, C_l, H/l, W/l) for every level l, of normalised pictures (M, 3, H, W)."""
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return [features[index] for index in self.level_index]


def load_classifier(name: str, pretrained: str | None) -> nn.Module:
    """The torchvision classifier `name` with weights: None (random), "imagenet" (torchvision downloads them), or a file's path."""
    if name not in BACKBONES:
        raise ConfigError(f"backbone: unknown name {name!r}; expected one of {', '.join(BACKBONES)}")
    if pretrained == "imagenet":
        try:
            return torchvision.models.get_model(name, weights="DEFAULT")
        except (URLError, OSError, RuntimeError) as error:
            raise ConfigError(
                f"backbone {name!r}: its ImageNet weights could not be downloaded ({error}); connect to the network once, "
                f"or give --model.backbone.pretrained a file of weights, or None to start from random ones"
            ) from error
    classifier = torchvision.models.get_model(name, weights=None)
    if pretrained is not None:
        _load_file(classifier, name, Path(pretrained))
    return classifier


def _load_file(classifier: nn.Module, name: str, path: Path) -> None:
    """Fills a classifier from a file: by tensor names where they agree, else by order where the shapes agree."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise ConfigError(f"{path}: expected a file of weights for {name!r}, got something unreadable ({error}); check the path") from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    own = classifier.state_dict()
    features = {key: value for key, value in own.items() if not key.startswith(("classifier.", "fc."))}
    by_name = all(key in weights and weights[key].shape == value.shape for key, value in features.items())
    by_order = len(features) == len(weights) and all(a.shape == b.shape for a, b in zip(features.values(), weights.values(), strict=True))
    if not by_name and not by_order:
        raise ConfigError(f"{path}: its {len(weights)} tensors do not fit {name!r} by name or by order; choose weights of this backbone")
    shared = {key: weights[key] for key in features} if by_name else dict(zip(features, weights.values(), strict=True))
    classifier.load_state_dict({**own, **shared})


def _modules(classifier: nn.Module, name: str) -> list[nn.Module]:
    """The convolutional part as a flat sequence."""
    if name.startswith("resnet"):
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return [getattr(classifier, part) for part in names]
    if name.startswith("regnet"):
        return [classifier.get_submodule("stem"), *classifier.get_submodule("trunk_output").children()]
    return list(classifier.get_submodule("features").children())


def _cut_into_stages(modules: list[nn.Module], coarsest: int) -> tuple[nn.ModuleList, list[int], list[int]]:
    """Groups the modules by the stride of their output; also the strides and channels of the groups.

    A 1x1 convolution to a wide classifier input at the end (MobileNet's 1280 channels) is left away.
    """
    groups: list[list[nn.Module]] = []
    strides: list[int] = []
    channels: list[int] = []
    size = 256
    value = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        for position, module in enumerate(modules):
            was_training = module.training
            value = module.eval()(value)
            module.train(was_training)
            stride = size // value.shape[-1]
            if position == len(modules) - 1 and strides[-1] == stride and value.shape[1] >= 3 * channels[-1]:
                break
            if stride > coarsest:
                break
            if strides and strides[-1] == stride:
                groups[-1].append(module)
                channels[-1] = value.shape[1]
            else:
                groups.append([module])
                strides.append(stride)
                channels.append(value.shape[1])
    return nn.ModuleList(nn.Sequential(*group) for group in groups), strides, channels
