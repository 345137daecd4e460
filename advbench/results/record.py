"""What one run is and what it found. The JSON form is the interface: documented field by field, versioned.

``schema_version`` is raised when a field changes its meaning or goes; new fields may come without, and a store leaves
out those that it does not know.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from advbench.files import digest
from advbench.results.diagnostics import Flag
from advbench.threat import Budget, ThreatModel
from advbench.types import Goal, Status

__all__ = ["SCHEMA_VERSION", "CellRecord", "CellSpec", "DatasetIdentity", "Metrics", "Phase", "TargetIdentity"]

SCHEMA_VERSION = 1

Interval = tuple[float, float]
"""The lower and upper end of a 95% interval."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetIdentity(_Model):
    """Which classifier was attacked.

    Args:
        name: As on the command line.
        architecture: Of the network.
        fingerprint: A hash of the weights and of everything else that decides its answers.
        made_from: The specification it was made from: initial weights, training, images seen.
    """

    name: str
    architecture: str
    fingerprint: str
    made_from: dict[str, Any]


class DatasetIdentity(_Model):
    """Which images were used.

    Args:
        name: As on the command line.
        image_size: Height and width in pixels.
        digest: A hash of every part's sample ids and labels.
        fit_images: How many the method was fitted on, with ``fit_digest``.
        fit_digest: A hash of their ids.
        validation_images: How many it chose by.
        evaluation_images: How many the metrics are over.
    """

    name: str
    image_size: int
    digest: str
    fit_images: int
    fit_digest: str
    validation_images: int
    evaluation_images: int


class CellSpec(_Model):
    """Everything that decides a result. Two runs of equal specifications are one result.

    Args:
        attack: The method's registered name.
        parameters: All of its hyper-parameters, resolved.
        target: Which classifier.
        dataset: Which images.
        threat: What was granted.
        goal: Degrade or enhance.
        budget: How far an image might be moved.
        seed: Of everything random.
        precision: Of fitting.
        processes: How many shared each batch of the fit.
        code: A hash of the code that computes.
    """

    attack: str
    parameters: dict[str, Any]
    target: TargetIdentity
    dataset: DatasetIdentity
    threat: ThreatModel
    goal: Goal
    budget: Budget
    seed: int
    precision: str
    processes: int
    code: str

    @property
    def key(self) -> str:
        """The specification's hash, which names the result."""
        return digest(self.model_dump(mode="json"))


class Phase(_Model):
    """What one phase asked of the target.

    Args:
        queries: Images put through it, in all.
        gradients: Vectors of derivatives by the pixels that were asked for; one query may give several.
        queries_per_image: ``queries`` over the number of the phase's images.
        gradients_per_image: ``gradients`` over the same.
    """

    queries: int
    gradients: int
    queries_per_image: float
    gradients_per_image: float


class Metrics(_Model):
    """What was found. Accuracies and rates are fractions; intervals are Wilson's at 95%.

    ``raw`` is what the method returned, ``valid`` the same clipped to [0, 1], ``uint8`` that rounded to 8 bits. Each
    was scored in a pass of its own by the target in float32.

    Args:
        clean_accuracy: On the images as they are.
        raw_accuracy: On what the method returned, as the paper reports.
        valid_accuracy: After clipping.
        uint8_accuracy: After rounding as well.
        clean_accuracy_interval: Interval of ``clean_accuracy``; the others' likewise.
        raw_accuracy_interval: Of ``raw_accuracy``.
        valid_accuracy_interval: Of ``valid_accuracy``.
        uint8_accuracy_interval: Of ``uint8_accuracy``.
        clean_map: The paper's mAP on clean images; None where the target gives no scores. The others likewise.
        raw_map: On raw images.
        valid_map: On valid images.
        uint8_map: On 8-bit images.
        fooling_rate: Share of all images whose predicted class differs between clean and valid.
        fooling_rate_interval: Its interval.
        fooling_rate_of_correct: Share of the images that were right when clean and are wrong when valid.
        fooling_rate_of_correct_interval: Its interval.
        targeted_success_rate: Share of all images that are of the class that the method was to reach, when valid; None
            where any other class will do.
        targeted_success_rate_interval: Its interval.
        wrong_to_right: Images that were wrong when clean and are right when valid.
        right_to_wrong: The reverse.
        mean_l1: Mean over images of the raw perturbation's sum of absolute values.
        mean_l1_per_pixel: The same over the number of values: the paper's L_r.
        mean_l2: Mean Euclidean norm.
        mean_linf: Mean largest absolute value.
        max_linf: The largest of all.
        mean_rmsd: Mean root mean square deviation.
        mean_psnr: Mean peak signal-to-noise ratio, dB, over the images that moved; None where none did.
        mean_ssim: Mean structural similarity of valid and clean images.
        fit: Queries and gradients while fitting.
        perturb: Queries and gradients while perturbing.
        fit_seconds: Wall time of fitting, the training of surrogates that were not cached included.
        ms_per_image: Wall time of perturbing one image, milliseconds.
    """

    clean_accuracy: float
    raw_accuracy: float
    valid_accuracy: float
    uint8_accuracy: float
    clean_accuracy_interval: Interval
    raw_accuracy_interval: Interval
    valid_accuracy_interval: Interval
    uint8_accuracy_interval: Interval
    clean_map: float | None
    raw_map: float | None
    valid_map: float | None
    uint8_map: float | None
    fooling_rate: float
    fooling_rate_interval: Interval
    fooling_rate_of_correct: float | None
    fooling_rate_of_correct_interval: Interval | None
    targeted_success_rate: float | None = None
    targeted_success_rate_interval: Interval | None = None
    wrong_to_right: int
    right_to_wrong: int
    mean_l1: float
    mean_l1_per_pixel: float
    mean_l2: float
    mean_linf: float
    max_linf: float
    mean_rmsd: float
    mean_psnr: float | None
    mean_ssim: float
    fit: Phase
    perturb: Phase
    fit_seconds: float
    ms_per_image: float


class CellRecord(_Model):
    """One run: what it was, how it ended, what it found.

    Args:
        schema_version: Of this layout.
        key: The specification's hash, the result's name.
        status: ``ok``, ``incompatible``, ``budget-spent`` or ``failed``; only ``ok`` has metrics.
        reason: Why it is not ``ok``.
        spec: What was run.
        request: What was asked for, from which ``advbench verify`` starts: options as given, where data lay.
        environment: Versions, device, threads, and the revision of the checkout it was run in.
        clean_accuracy: The target's, measured before it was attacked; also where the attack then failed. None where
            nothing was run.
        metrics: What was found.
        flags: What makes the result doubtful, as far as this run alone shows it; see ``DIAGNOSTICS``.
        notes: What a reader has to know beside the numbers: what stood in for what.
        history: Figures by epoch, for methods that are trained.
        classes: Names of the dataset's classes.
        files: The sha256 of every other file of the result.
        created: When, UTC, ISO 8601.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, le=SCHEMA_VERSION)
    key: str
    status: Status
    reason: str | None
    spec: CellSpec
    request: dict[str, Any]
    environment: dict[str, Any]
    clean_accuracy: float | None = None
    metrics: Metrics | None
    flags: tuple[Flag, ...] = ()
    notes: list[str]
    history: list[dict[str, float]]
    classes: list[str]
    files: dict[str, str]
    created: str

    def with_files(self, files: dict[str, str]) -> Self:
        """The same record, with the hashes of its files."""
        return self.model_copy(update={"files": files})
