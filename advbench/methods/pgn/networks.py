"""PGN's two networks: the generator (an encoder and a decoder of transposed convolutions) and the discriminator."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.errors import InvalidConfig
from advbench.methods.geometry import lengths
from advbench.targets import Classifier
from advbench.tensors import Images, Labels, Scores
from advbench.threat import Budget
from advbench.types import Goal, Norm

__all__ = [
    "DECODER_CHANNELS",
    "STRIDE",
    "Discriminator",
    "Generator",
    "decoder_channels",
    "encoder_of",
    "put_layer_norms",
]

DECODER_CHANNELS = (2048, 1024, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64, 3)
"""Outputs of the 13 transposed convolutions (section 3.4); the first one's input is the encoder's 2048."""

STRIDE = 32
"""Five doublings: the decoder's output is this many times as large as its input."""

SKIPPED = (16, 8, 4, 2)
"""The strides of the maps that later doublings start from."""


def decoder_channels(width: float) -> tuple[int, ...]:
    """The 13 layers' outputs, the first 12 scaled by ``width``."""
    return (*(max(4, round(width * channels)) for channels in DECODER_CHANNELS[:-1]), DECODER_CHANNELS[-1])


class Generator(nn.Module):
    """Maps an image I to a perturbation M = G(I) of the same size (equation 2).

    Images whose sides are no multiple of 32 are extended by reflection at the bottom and right, and M is cut back.

    The paper scales every image to 224 pixels, STL-10's 96 too. Where images stay smaller than that, the encoder would
    see less than it was made for, and the decoder start from a grid of three cells by three; ``size`` gives both their
    resolution back: the image is scaled up before the encoder, and the decoder's output down to the image.

    The decoder sees the image through the encoder's last map alone, whose cells are 32 pixels wide, and can hardly lay
    a perturbation along the edges of what is in it. With ``skips`` every doubling after the first also sees the
    encoder's map of that size, as in a U-Net (Ronneberger, Fischer, Brox 2015, https://arxiv.org/abs/1505.04597).

    Args:
        encoder: From normalised or raw images to a feature map.
        width: Scales the decoder's channels; 1 is the paper's.
        budget: With an epsilon, M stays within it by construction: epsilon tanh(m) under linf, and
            m / sqrt(1 + ||m||^2 / epsilon^2) under l2 and l1, m being the decoder's output. The paper has no bound.
        initial_scale: Multiplies the last layer's first weights: small starts near the clean image, large does not.
        size: The shorter side, in pixels, that the encoder sees at least; None takes images as they are.
        trained: ``all`` that the encoder does not hold fixed, or ``decoder``, which keeps the encoder in eval mode.
        skips: Whether the decoder sees the encoder's earlier maps too; the paper's does not.
    """

    def __init__(
        self, encoder: nn.Module, width: float, budget: Budget, initial_scale: float, *,
        size: int | None = None, trained: str = "all", skips: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = encoder if trained == "all" else encoder.requires_grad_(False)
        self.budget, self.size, self.is_encoder_frozen = budget, size, trained == "decoder"
        encoder.eval()
        self.taps = _taps(encoder) if skips else {}
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE))
        seen = {stride: maps[stride].shape[1] for stride in self.taps.values()}
        inputs, at = maps[STRIDE].shape[1], STRIDE
        layers: list[nn.Module] = []
        *hidden, last = decoder_channels(width)
        for position, channels in enumerate(hidden):
            # Each block of three doubles the size in its first layer.
            kernel, stride = (4, 2) if position % 3 == 0 else (3, 1)
            if stride == 2:
                inputs, at = inputs + seen.get(at, 0), at // 2
            doubling = FirstDoubling if position == 0 else nn.ConvTranspose2d
            layers += [
                doubling(inputs, channels, kernel, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            inputs = channels
        final = nn.ConvTranspose2d(inputs + seen.get(at, 0), last, 4, 2, padding=1)
        with torch.no_grad():
            final.weight.mul_(initial_scale)
            nn.init.zeros_(final.bias)  # type: ignore[arg-type]
        self.decoder = nn.Sequential(*layers, final)

    def forward(self, images: Images) -> Images:
        """Give M for ``(batch, 3, height, width)``."""
        return self.perturbation(self.maps(images), images)

    def maps(self, images: Images) -> dict[int, Tensor]:
        """What the encoder makes of images, ``(batch, channels, rows, columns)``, by stride: 32 and what skips want."""
        return self._maps(self._scaled(images))

    def perturbation(self, maps: Mapping[int, Tensor], images: Images) -> Images:
        """Give M for ``(batch, 3, height, width)`` whose maps are known."""
        own, (height, width) = (images.shape[-2], images.shape[-1]), self._sides(images)
        decoded = self._decoded(maps)[..., :height, :width].float()
        return self._bound(decoded if (height, width) == own else F.adaptive_avg_pool2d(decoded, own))

    def _sides(self, images: Images) -> tuple[int, int]:
        """Height and width that the encoder sees images in."""
        height, width = images.shape[-2:]
        shorter = min(height, width)
        size = max(shorter, self.size or 0)
        return round(height * size / shorter), round(width * size / shorter)

    def _scaled(self, images: Images) -> Images:
        sides = self._sides(images)
        if sides == images.shape[-2:]:
            return images
        return F.interpolate(images, size=sides, mode="bilinear", align_corners=False)

    def _maps(self, images: Images) -> dict[int, Tensor]:
        """What the encoder makes of images, by stride: what it ends with under 32, and what skips want beside it.

        A map of another size than its stride makes of the image is brought to it.
        """
        height, width = images.shape[-2:]
        hidden = padded = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
        maps = {}
        if self.taps:
            for position, layer in enumerate(_layers(self.encoder)):
                hidden = layer(hidden)
                if position in self.taps:
                    maps[self.taps[position]] = hidden
        maps[STRIDE] = hidden if self.taps else self.encoder(padded)
        for stride, features in maps.items():
            grid = (padded.shape[-2] // stride, padded.shape[-1] // stride)
            if features.shape[-2:] != grid:
                maps[stride] = F.adaptive_avg_pool2d(features, grid)
        return maps

    def _decoded(self, maps: Mapping[int, Tensor]) -> Tensor:
        hidden, stride = maps[STRIDE], STRIDE
        for layer in self.decoder:
            if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (2, 2):
                if stride < STRIDE and stride in maps:
                    hidden = torch.cat([hidden, maps[stride]], dim=1)
                stride //= 2
            hidden = layer(hidden)
        return hidden

    def train(self, mode: bool = True) -> Self:
        """Switch all but a frozen encoder."""
        super().train(mode)
        if self.is_encoder_frozen:
            self.encoder.eval()
        return self

    def _bound(self, decoded: Tensor) -> Images:
        epsilon = self.budget.epsilon
        if epsilon is None:
            return decoded
        if self.budget.norm is Norm.LINF:
            return epsilon * torch.tanh(decoded)
        return decoded * epsilon / torch.sqrt(epsilon**2 + lengths(decoded, self.budget.norm).square())


class FirstDoubling(nn.ConvTranspose2d):
    """The decoder's first layer: on a CPU a matrix product, whose columns are laid over each other.

    It has most of the decoder's weights and the fewest positions, for which CPU kernels of transposed convolutions were
    not made: they take 1.3 to 2.6 times as long (``benchmarks/speed/doubling.py``).
    """

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(batch, channels, rows, columns)``, doubled in rows and columns."""
        if maps.device.type != "cpu":
            return super().forward(maps, output_size)
        batch, channels, height, width = maps.shape
        weights = self.weight.permute(0, 2, 3, 1).reshape(channels, -1)  # no copy where channels are last
        columns = maps.permute(0, 2, 3, 1).reshape(-1, channels) @ weights
        area, places = self.kernel_size[0] * self.kernel_size[1], height * width
        columns = columns.reshape(batch, places, area, self.out_channels).permute(0, 3, 2, 1)
        columns = columns.reshape(batch, self.out_channels * area, places)
        return F.fold(columns, (2 * height, 2 * width), self.kernel_size, stride=self.stride, padding=self.padding)  # type: ignore[arg-type]


class Discriminator(nn.Module):
    """Judges from J alone whether the target's answer to J met the goal: a network with one sigmoid unit (equation 3).

    Its batch norm and dropout stay in eval mode: a batch of perturbed images has other statistics than clean ones, and
    they would drift with the generator.

    Args:
        classifier: The backbone, with its normalisation; its last layer is replaced.
        classes: 0 for the paper's single unit; else one unit a class, for a judge that is told the true label l: it
            judges by the softmax probability of l to enhance, and by that of all other classes to degrade.
        goal: Degrade or enhance; a single unit learns it, a label-aware judge starts from it.
        trained: ``head`` freezes all but the new layer, as in the paper; ``all`` trains everything.
    """

    def __init__(self, classifier: Classifier, *, classes: int, goal: Goal, trained: str) -> None:
        super().__init__()
        last_name, last = _last_layer(classifier.network)
        inputs = last.in_features if isinstance(last, nn.Linear) else last.in_channels
        self.label_aware, self.goal = classes > 0, goal
        self.head = nn.Linear(inputs, max(1, classes))
        if self.label_aware and isinstance(last, nn.Linear) and last.out_features == classes:
            self.head.load_state_dict(last.state_dict())  # a classifier of these very classes starts informed
        else:
            nn.init.zeros_(self.head.bias)
        parent, _, attribute = last_name.rpartition(".")
        setattr(classifier.network.get_submodule(parent), attribute, nn.Identity())
        self.body = classifier
        self.body.requires_grad_(trained == "all")
        self.eval()

    def features(self, images: Images) -> Tensor:
        """What the last layer sees, ``(batch, features)``."""
        features: Tensor = self.body(images)
        return features

    def scores(self, features: Tensor) -> Scores:
        """The last layer's units, ``(batch, units)``: a label-aware judge's are its guess of what the target scores."""
        scores: Scores = self.head(features)
        return scores

    def judge(self, features: Tensor, labels: Labels) -> Tensor:
        """The sigmoid unit's logit, ``(batch,)``; ``labels`` matter only to a label-aware judge."""
        logits = self.scores(features)
        if not self.label_aware:
            return logits[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
        margin = logits.gather(1, labels[:, None])[:, 0] - others  # the logit of the softmax probability of l
        return margin if self.goal is Goal.ENHANCE else -margin

    def forward(self, images: Images, labels: Labels) -> Tensor:
        """The logit of D(J), ``(batch,)``."""
        return self.judge(self.features(images), labels)

    @property
    def is_body_frozen(self) -> bool:
        """Whether only the last layer learns."""
        return not any(parameter.requires_grad for parameter in self.body.parameters())


def _layers(encoder: nn.Module) -> Iterator[nn.Module]:
    """An encoder's layers in their order; a stage of blocks counts as its blocks."""
    for part in encoder.children():
        yield from part if isinstance(part, nn.Sequential) else (part,)


def _taps(encoder: nn.Module) -> dict[int, int]:
    """By position, the layers that end with the last map of a stride that skips want, and that stride.

    Convolutions that do not pad make maps a little smaller than their stride says: the nearest power of two counts.
    """
    side, last = 2 * STRIDE, {}
    hidden = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        for position, layer in enumerate(_layers(encoder)):
            hidden = layer(hidden)
            last[2 ** round(math.log2(side / hidden.shape[-1]))] = position
    return {position: stride for stride, position in last.items() if stride in SKIPPED}


def put_layer_norms(network: nn.Module) -> None:
    """Replace each batch norm by a layer norm over an image's channels, rows and columns, as for a WGAN-GP critic.

    Its penalty is on each image by itself, so that images must not be normalised together, and a layer norm is what the
    paper has in its place (Gulrajani et al. 2017, section 4). A fresh batch norm in eval mode would normalise nothing.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, nn.GroupNorm(1, layer.num_features))


def _last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InvalidConfig(f"{type(network).__name__} has no linear or convolutional layer to put a judge on")
    return layers[-1]


def encoder_of(classifier: Classifier) -> nn.Module:
    """A classifier without its head: from images to a feature map ``(batch, channels, height, width)``.

    Raises:
        InvalidConfig: The architecture has no single feature map to hand on.
    """
    network = classifier.network
    for parts in _FEATURE_PARTS:
        if all(hasattr(network, part) for part in parts):
            body: list[nn.Module] = [getattr(network, part) for part in parts]
            break
    else:
        raise InvalidConfig(
            f"{type(network).__name__} cannot serve as an encoder: choose a convolutional network, such as a ResNet"
        )
    if type(network).__name__ == "DenseNet":
        body.append(nn.ReLU())  # torchvision applies it outside of the module list
    encoder = nn.Sequential(classifier.normalise, *body)
    with torch.no_grad():
        features = encoder.eval()(torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE))
    if features.ndim != 4 or features.shape[-1] > features.shape[1]:
        raise InvalidConfig(f"{type(network).__name__} gives no feature map to decode: choose a convolutional network")
    return encoder.train()


_FEATURE_PARTS: Sequence[Sequence[str]] = (
    ("features",),
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    ("stem", "trunk_output"),
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    ("layers",),
)
"""Where torchvision's families keep what comes before the pooling: VGG and kin, ResNet, RegNet, ShuffleNet, MNASNet."""
