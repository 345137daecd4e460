"""What a user asks for, and what that comes to: a target, images, a method and a threat model that fit together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from advbench.bench.content import by_content, foreign_code, hashes_of
from advbench.bench.diagnose import PROBED_IMAGES, target_flags
from advbench.bench.evaluate import Answers, clean_answers
from advbench.datasets import FIXED, Dataset, DatasetSpec, LabelledImages, check_dataset, load_dataset
from advbench.errors import InvalidConfig, StorageError
from advbench.files import code_digest, digest
from advbench.methods import Method, Setting, Transfer, build_method
from advbench.progress import Progress
from advbench.registry import ATTACKS
from advbench.results import CellRecord, CellSpec, DatasetIdentity, Flag, TargetIdentity
from advbench.runtime import Runtime
from advbench.targets import (
    ClassifierSpec,
    Fusion,
    ModuleTarget,
    Target,
    check_architecture,
    make_classifier,
    own_digest,
)
from advbench.threat import Budget, ThreatModel, threat_model
from advbench.types import Goal

__all__ = [
    "Prepared",
    "RunRequest",
    "Workshop",
    "check_names",
    "make_target",
    "prepare",
    "request_identity",
    "request_of_record",
    "why_incompatible",
]

USUAL_SIZE = 32
"""Stands in for a dataset's own image size where that is not looked up."""

FIT_SUBSET_SEED = 1
"""Not the seed of the target's subset: the two are drawn apart."""


class RunRequest(BaseModel):
    """One run, as asked for.

    Args:
        attack: A name of ``advbench list attacks``.
        options: The method's hyper-parameters, as text or values.
        baseline: The name of the cited configuration that attack and options came from; they stand here in full.
        via: Surrogates to perturb against, instead of the target.
        via_fusion: What of several surrogates is averaged.
        via_learns: What surrogates are trained on: the fit images' true classes, or the target's answers.
        target: The classifier to attack.
        dataset: The images.
        threat: A preset's name; None takes the one that grants least of those that suffice.
        true_labels: Whether the evaluation's true labels are granted as well.
        max_queries: The most queries for one image while perturbing.
        max_fit_queries: The most queries while fitting.
        goal: Degrade or enhance.
        budget: How far an image may be moved.
        seed: Of everything random.
        runtime: Where to compute.
        batch_size: Evaluation images at a time.
        results: The folder of results, or a URL.
        files: What is in the local files that all this names, as hashes: checkpoints, and the modules of factories; and
            what stands for a method that is not advbench's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: str
    options: dict[str, Any] = Field(default_factory=dict)
    baseline: str | None = None
    via: tuple[ClassifierSpec, ...] = ()
    via_fusion: Fusion = "logits"
    via_learns: Literal["truth", "answers"] = "truth"
    target: ClassifierSpec
    dataset: DatasetSpec = DatasetSpec()
    threat: str | None = None
    true_labels: bool = False
    max_queries: int | None = Field(default=None, ge=0)
    max_fit_queries: int | None = Field(default=None, ge=0)
    goal: Goal = Goal.DEGRADE
    budget: Budget = Budget()
    seed: int = 0
    runtime: Runtime = Runtime()
    batch_size: int = Field(default=128, ge=1)
    results: Annotated[str, BeforeValidator(str)] = "advbench-results"
    files: dict[str, str] = Field(default_factory=hashes_of)

    @field_validator("via", mode="before")
    @classmethod
    def _as_stored_before(cls, value: Any) -> Any:
        """Read what records held before there could be several: one surrogate or None."""
        return () if value is None else (value,) if isinstance(value, dict) else value


def request_of_record(record: CellRecord) -> RunRequest:
    """What was asked for when a result was made.

    Raises:
        StorageError: Another version asked for it, in words that this one does not have.
    """
    try:
        return RunRequest.model_validate(record.request)
    except ValidationError as error:
        first = error.errors()[0]
        raise StorageError(
            f"result {record.key[:12]} was asked for as this version cannot ask ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}): run it again, or use the version that made it"
        ) from error


def request_identity(request: Mapping[str, Any]) -> str:
    """What of a request, in its JSON form, decides its result: all but where things lie and where it is computed.

    Two that differ may still have one result, where one spells a default out: a run of the second finds that out.
    """
    kept = {name: value for name, value in request.items() if name not in ("results", "runtime", "batch_size")}
    unimportant = {"download"} | ({"folder"} if request["dataset"]["name"] in FIXED else set())
    kept["dataset"] = {name: value for name, value in kept["dataset"].items() if name not in unimportant}
    kept["precision"] = request["runtime"]["precision"]
    return json.dumps(kept, sort_keys=True)  # in whichever order a method's options were given


@dataclass(frozen=True)
class Prepared:
    """A request with everything in place.

    Args:
        request: What was asked for.
        dataset: Loaded and divided.
        fit: What the method is fitted on.
        target: Made, on its device.
        method: Resolved.
        threat: With its limits.
        spec: What decides the result.
        incompatible: Why the method cannot run under this threat model on this target, or None.
    """

    request: RunRequest
    dataset: Dataset
    fit: LabelledImages
    target: Target
    method: Method
    threat: ThreatModel
    spec: CellSpec
    incompatible: str | None


def make_target(spec: ClassifierSpec, dataset: Dataset, runtime: Runtime, progress: Progress) -> Target:
    """Make the target on its device, from the cache where it was made before.

    Raises:
        InvalidConfig: It does not fit the dataset.
        InvalidWeights: Its first weights are missing or do not fit.
    """
    made = make_classifier(spec, dataset, runtime, progress, role="target")
    target = made if isinstance(made, Target) else ModuleTarget(
        made, len(dataset.classes), spec.architecture, spec.architecture, runtime.inference_dtype,
        folds=not spec.is_own,
    )  # fmt: skip
    if spec.is_own:  # equal weights in another function are another target
        network = target.module() if isinstance(target, ModuleTarget) else None
        target.fingerprint = digest([target.fingerprint, own_digest(spec.architecture, network)])
    if target.num_classes != len(dataset.classes):
        raise InvalidConfig(
            f"target '{spec.architecture}' knows {target.num_classes} classes, and the dataset has "
            f"{len(dataset.classes)}: build it with the number that its factory is given"
        )
    return target.to(runtime.torch_device)


@dataclass(frozen=True)
class FirstLook:
    """What the harness sees of a target before anything attacks it.

    Args:
        target: Which was looked at.
        images: Which it was asked about.
        batch_size: How many at a time.
        answers: On the images as they are.
        flags: What makes any result on it doubtful.
    """

    target: Target
    images: LabelledImages
    batch_size: int
    answers: Answers
    flags: list[Flag]

    @property
    def accuracy(self) -> float:
        """On the images as they are, a fraction."""
        return (self.answers["clean_prediction"] == self.images.labels).double().mean().item()


class Workshop:
    """What several runs in one process share: the last dataset, the last target, and what was seen of it."""

    def __init__(self) -> None:
        self._dataset: tuple[DatasetSpec, Dataset] | None = None
        self._target: tuple[tuple[ClassifierSpec, Runtime, str], Target] | None = None
        self._look: FirstLook | None = None

    def dataset(self, spec: DatasetSpec) -> Dataset:
        """Load a dataset, unless it was loaded last."""
        if self._dataset is None or self._dataset[0] != spec:
            self._dataset = spec, load_dataset(spec)
        return self._dataset[1]

    def target(self, spec: ClassifierSpec, dataset: Dataset, runtime: Runtime, progress: Progress) -> Target:
        """Make a target, unless it was made last."""
        wanted = spec, runtime, dataset.digest
        if self._target is None or self._target[0] != wanted:
            self._target = wanted, make_target(spec, dataset, runtime, progress)
        return self._target[1]

    def first_look(self, target: Target, images: LabelledImages, batch_size: int) -> FirstLook:
        """Ask a target about clean images, unless it was asked last.

        Raises:
            InvalidData: It gave answers from which no class can be read.
        """
        last = self._look
        if last is None or last.target is not target or last.images is not images or last.batch_size != batch_size:
            answers = clean_answers(target, images, batch_size)
            flags = target_flags(target, images.images(slice(0, PROBED_IMAGES)))
            last = self._look = FirstLook(target, images, batch_size, answers, flags)
        return last


def _method_and_threat(request: RunRequest) -> tuple[Method, ThreatModel]:
    method = build_method(request.attack, dict(request.options))
    if request.via_learns == "answers" and not request.via:
        raise InvalidConfig("--via-learns answers trains surrogates: name them with --via", option="via-learns")
    if request.via:
        method = Transfer(inner=method, surrogates=request.via, fusion=request.via_fusion, learns=request.via_learns)
    threat = threat_model(request.threat, method.needs(request.goal))
    if request.true_labels:
        threat = threat.with_true_labels()
    limits = {"max_queries": request.max_queries, "max_fit_queries": request.max_fit_queries}
    return method, threat.model_copy(update=limits)


def check_names(request: RunRequest) -> None:
    """Refuse names that stand for nothing, before anything is loaded or trained.

    Raises:
        UnknownName: No dataset or classifier has this name.
    """
    check_dataset(request.dataset.name)
    check_architecture(request.target.architecture)
    for surrogate in request.via:
        check_architecture(surrogate.architecture, option="via")


def why_incompatible(request: RunRequest) -> str | None:
    """Say why a request cannot run on any target, before anything is loaded or trained; None where it can."""
    method, threat = _method_and_threat(request)
    served_by = method.inner if isinstance(method, Transfer) else method
    if request.goal not in served_by.goals:
        return f"{request.attack} does not serve the goal {request.goal}"
    if request.budget.norm not in served_by.norms:
        served = " or ".join(sorted(served_by.norms))
        return f"{request.attack} does not serve the norm {request.budget.norm}: use --norm {served}"
    lacking = threat.lacks(method.needs(request.goal))
    if lacking is not None:
        return lacking
    size = request.dataset.image_size or USUAL_SIZE
    try:
        method.resolve(Setting(request.goal, request.budget, size, request.target.architecture))
    except InvalidConfig as error:
        return str(error)
    return None


def prepare(request: RunRequest, progress: Progress, workshop: Workshop | None = None) -> Prepared:
    """Put everything in place; whatever cannot be meant is refused here, before time is spent on it."""
    workshop = workshop or Workshop()
    check_names(request)
    method, threat = _method_and_threat(request)
    dataset = workshop.dataset(request.dataset)
    method = method.resolve(Setting(request.goal, request.budget, dataset.image_size, request.target.architecture))
    fit = dataset.fit.first(request.dataset.fit_images, seed=FIT_SUBSET_SEED, what="--fit-images")
    target = workshop.target(request.target, dataset, request.runtime, progress)
    spec = CellSpec(
        attack=ATTACKS.canonical(request.attack),
        parameters=_parameters(method, request.attack),
        target=TargetIdentity(
            name=target.name,
            architecture=target.architecture,
            fingerprint=target.fingerprint,
            made_from=request.target.model_dump(mode="json"),
        ),
        dataset=_identity(dataset, fit),
        threat=threat,
        goal=request.goal,
        budget=request.budget,
        seed=request.seed,
        precision=request.runtime.precision,
        processes=request.runtime.devices,
        code=code_digest(),
    )
    return Prepared(request, dataset, fit, target, method, threat, spec, _incompatible(request, method, target))


def _parameters(method: Method, attack: str) -> dict[str, Any]:
    parameters = by_content(method.model_dump(mode="json", by_alias=True))
    foreign = foreign_code(attack)
    return parameters if foreign is None else {**parameters, "source": foreign}


def _identity(dataset: Dataset, fit: LabelledImages) -> DatasetIdentity:
    return DatasetIdentity(
        name=dataset.name,
        image_size=dataset.image_size,
        digest=dataset.digest,
        fit_images=len(fit),
        fit_digest=fit.digest,
        validation_images=len(dataset.validation),
        evaluation_images=len(dataset.evaluation),
    )


def _incompatible(request: RunRequest, method: Method, target: Target) -> str | None:
    needs = method.needs(request.goal)
    lacking = (needs.fit | needs.perturb) - target.offers
    if lacking:
        return f"target '{target.name}' does not offer {', '.join(sorted(lacking))}"
    return why_incompatible(request)
