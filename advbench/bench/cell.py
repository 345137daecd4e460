"""One cell: one method against one target on one dataset, run, checked and stored."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pyarrow as pa
import torch

from advbench.access import QueryLedger, fit_access, perturb_access
from advbench.bench.diagnose import flags_that_concern, loss_flags
from advbench.bench.evaluate import Evaluation, evaluate
from advbench.bench.request import FirstLook, Prepared, RunRequest, Workshop, prepare
from advbench.bench.summary import phase, summarise
from advbench.errors import AdvbenchError, BudgetSpent, FitDiverged, InvalidState, StorageError
from advbench.files import digest, home
from advbench.kept import kept_folder
from advbench.methods import Context, Perturber, TrainingImages, Transfer
from advbench.progress import Progress
from advbench.results import CellRecord, Flag, Metrics, ResultStore, environment
from advbench.seeding import seeded_everywhere
from advbench.targets import Classifier, ClassifierSpec, make_classifier
from advbench.tensors import Images, Rows
from advbench.types import Status

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Outcome", "context_of", "run_cell"]


@dataclass(frozen=True)
class Outcome:
    """How a request was answered.

    Args:
        record: The result.
        from_store: Whether it was there already.
        folder: Where it lies.
    """

    record: CellRecord
    from_store: bool
    folder: Path


def run_cell(
    request: RunRequest, progress: Progress, workshop: Workshop | None = None, *, wait: bool = True
) -> Outcome | None:
    """Run a request, or answer it from the store.

    A method that fails, asks for too much or does not fit is contained: the record says so, and has no metrics. A fit
    that failed for what may not come again, such as too little memory or a target out of reach, goes on from its last
    epoch when it is run again. In a run over several processes, all but the first help to fit and return None.

    Args:
        request: What to run.
        progress: Told what is going on.
        workshop: Keeps the dataset and the target for the next run of this process.
        wait: For another process that is making this very result.

    Raises:
        ResultClaimed: There is such a process, and ``wait`` is false.
        AdvbenchError: The request itself cannot be met: an unknown name, missing data, a folder that is not writable.
    """
    store = ResultStore(request.results)
    store.check_writable()
    workshop = workshop or Workshop()
    prepared = prepare(request, progress, workshop)
    key = prepared.spec.key
    if not request.runtime.is_main:
        if request.runtime.fabric.broadcast(None):
            _fit(prepared, progress, store.work_folder(key))
        return None
    with _Helpers(request.runtime.fabric) as helpers, store.working(key, wait=wait) as scratch:
        found = store.finished(key)
        if found is not None:
            return Outcome(found, True, store.folder(key))
        attempt = _run(prepared, progress, scratch.path, workshop, helpers)
        scratch.is_kept = attempt.may_go_on
        tensors = {"state": attempt.state or {}, "perturbed": attempt.perturbed, "examples": attempt.examples}
        samples = attempt.evaluation.samples if attempt.evaluation else None
        record = store.save(attempt.record, samples, tensors)
    return Outcome(record, False, store.folder(key))


@dataclass(frozen=True)
class _Attempt:
    record: CellRecord
    evaluation: Evaluation | None = None
    state: dict[str, torch.Tensor] | None = None
    may_go_on: bool = False

    @property
    def perturbed(self) -> dict[str, torch.Tensor]:
        """What to check the result by, where no state can make it again, or only to the sign of a rounded gradient."""
        asks_substitutes = self.record.spec.parameters.get("learns") == "answers"
        if self.evaluation is None or self.evaluation.perturbed is None or (self.state and not asks_substitutes):
            return {}
        return {"perturbed": self.evaluation.perturbed}

    @property
    def examples(self) -> dict[str, torch.Tensor]:
        return self.evaluation.examples if self.evaluation else {}


class _Helpers:
    """The other processes of a run, which wait until they are called to fit, or until there is nothing to fit."""

    def __init__(self, fabric: "Fabric") -> None:
        self._fabric, self._wait = fabric, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._wait:
            self._fabric.broadcast(False)

    def call(self) -> None:
        self._wait = False
        self._fabric.broadcast(True)


def _run(prepared: Prepared, progress: Progress, work: Path, workshop: Workshop, helpers: _Helpers) -> _Attempt:
    if prepared.incompatible is not None:
        return _Attempt(_record(prepared, Status.INCOMPATIBLE, prepared.incompatible))
    look = None
    try:
        look = workshop.first_look(prepared.target, prepared.dataset.evaluation, prepared.request.batch_size)
        progress.say(f"the target's clean accuracy is {look.accuracy:.1%} on {len(look.images)} images")
        for flag in _known_flags(prepared, look):
            progress.say(f"warning: {flag.in_words}")
        return _measure(prepared, progress, work, look, helpers)
    except BudgetSpent as error:
        return _Attempt(_record(prepared, Status.BUDGET_SPENT, str(error), look))
    except FitDiverged as error:
        return _Attempt(_record(prepared, Status.FAILED, f"FitDiverged: {error}", look))
    except StorageError:
        raise
    except Exception as error:  # whatever a method or a target raises is its failure, never robustness
        message = str(error) if isinstance(error, AdvbenchError) else (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {message}"
        return _Attempt(_record(prepared, Status.FAILED, reason, look), may_go_on=True)


def _known_flags(prepared: Prepared, look: FirstLook) -> list[Flag]:
    """What the target's first look has against this method's result."""
    return flags_that_concern(look.flags, prepared.method.needs(prepared.request.goal))


def _result_flags(prepared: Prepared, evaluation: Evaluation) -> list[Flag]:
    """What the outcome has against it; a control, which looks at nothing, does not try to move the loss."""
    method, goal = prepared.method, prepared.request.goal
    needs = method.needs(goal)
    if not needs.fit | needs.perturb:
        return []
    moving = method.inner if isinstance(method, Transfer) else method
    return loss_flags(evaluation.samples, goal, only_changed=moving.returns_failures_clean)


def context_of(prepared: Prepared, progress: Progress, work: Path | None) -> Context:
    """The circumstances that a method is fitted and restored in."""
    request = prepared.request

    def train_classifier(spec: ClassifierSpec) -> Classifier:
        if spec.architecture == request.target.architecture:
            spec = spec.apart("surrogate")  # trained alike, it would be the target itself, weight for weight
        own_images = replace(prepared.dataset, fit=prepared.fit)  # the attacker's, where --fit-images gives fewer
        made = make_classifier(spec, own_images, request.runtime, progress, role="surrogate")
        if not isinstance(made, Classifier):
            raise StorageError(f"a surrogate must be a torch module, and {spec.architecture} gives none")
        return made

    return Context(
        goal=request.goal,
        budget=request.budget,
        seed=request.seed,
        image_size=prepared.dataset.image_size,
        num_classes=len(prepared.dataset.classes),
        runtime=request.runtime,
        progress=progress,
        work=work,
        identity=prepared.spec.key,
        train_classifier=train_classifier,
        shared_work=partial(_shared_work, prepared),
    )


@contextmanager
def _shared_work(prepared: Prepared, part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """A folder for what all fits of this target with this seed, on these images, have in common.

    Of several processes that share a fit, the first holds the folder's lock, and the others wait until it does.
    """
    spec, fabric = prepared.spec, prepared.request.runtime.fabric
    circumstances = {
        "target": spec.target.fingerprint,
        "fit": spec.dataset.fit_digest,
        "seed": spec.seed,
        "precision": spec.precision,
        "processes": spec.processes,
        "code": spec.code,
    }
    identity = digest({"part": dict(part), **circumstances})
    name = f"shared/{identity}"
    folder = home() / name
    with ExitStack() as held:
        if fabric.is_global_zero:
            held.enter_context(kept_folder(name))
            folder.mkdir(parents=True, exist_ok=True)
        fabric.barrier()
        yield folder, identity


def _measure(prepared: Prepared, progress: Progress, work: Path, look: FirstLook, helpers: _Helpers) -> _Attempt:
    dataset, threat = prepared.dataset, prepared.threat
    helpers.call()
    perturber, fit_ledger = _fit(prepared, progress, work)
    fit_seconds = fit_ledger.seconds()
    state = _state_of(perturber)
    perturb_ledger = QueryLedger(len(dataset.evaluation), max_each=threat.max_queries)
    evaluation = _evaluate(prepared, perturber, perturb_ledger, progress, look)
    for name, counts in zip(("queries", "gradients"), perturb_ledger.counts().numpy(), strict=True):
        evaluation.samples = evaluation.samples.append_column(name, pa.array(counts))
    if (perturb_ledger.sought >= 0).any():
        evaluation.samples = evaluation.samples.append_column("sought", pa.array(perturb_ledger.sought.numpy()))
    metrics = summarise(
        evaluation.samples,
        values_per_image=3 * dataset.image_size**2,
        fit=phase(fit_ledger),
        perturb=phase(perturb_ledger),
        fit_seconds=fit_seconds,
        seconds=evaluation.seconds,
    )
    record = _record(
        prepared,
        Status.OK,
        None,
        look,
        metrics=metrics,
        flags=_result_flags(prepared, evaluation),
        notes=list(perturber.notes()),
        history=[dict(epoch) for epoch in perturber.history()],
    )
    return _Attempt(record, evaluation, state)


def _fit(prepared: Prepared, progress: Progress, work: Path) -> tuple[Perturber, QueryLedger]:
    """Fit the method; where several processes share it, each is held to its share of the queries."""
    fabric, limit = prepared.request.runtime.fabric, prepared.threat.max_fit_queries
    train = TrainingImages(prepared.fit, prepared.dataset.validation)
    own_labels = torch.cat([train.fit.labels, train.validation.labels])
    ledger = QueryLedger(len(own_labels), max_total=None if limit is None else limit // fabric.world_size)
    access = fit_access(prepared.target, prepared.threat, ledger, own_labels)
    with seeded_everywhere(prepared.request.seed, "fit"):
        perturber = prepared.method.fit(access, train, context_of(prepared, progress, work))
    if fabric.world_size > 1:
        counts = torch.stack([ledger.queries, ledger.gradients]).to(fabric.device)
        ledger.queries, ledger.gradients = cast(torch.Tensor, fabric.all_reduce(counts, reduce_op="sum")).cpu()
    return perturber, ledger


def _state_of(perturber: Perturber) -> dict[str, torch.Tensor]:
    """What was learnt, each tensor in memory of its own, as it is stored; found out before the evaluation is paid for.

    Raises:
        InvalidState: It is no dictionary of tensors.
    """
    state, expected = perturber.state(), "state() must be a dictionary of tensors"
    if not isinstance(state, dict):
        raise InvalidState(f"{expected}, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str):
            raise InvalidState(f"{expected} by their names; the name {name!r} is {type(name).__name__}")
        if not isinstance(value, torch.Tensor):
            raise InvalidState(f"{expected}; '{name}' is {type(value).__name__}")
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def _evaluate(
    prepared: Prepared, perturber: Perturber, ledger: QueryLedger, progress: Progress, look: FirstLook
) -> Evaluation:
    images, request = prepared.dataset.evaluation, prepared.request

    def perturb(batch: Images, rows: Rows) -> Images:
        access = perturb_access(prepared.target, prepared.threat, ledger, rows, images.labels[rows])
        return perturber.perturb(batch, access)

    with progress.task("perturbing and checking", total=len(images)) as task:
        return evaluate(
            prepared.target,
            images,
            perturb,
            budget=request.budget,
            goal=request.goal,
            batch_size=request.batch_size,
            seed=request.seed,
            clean_answers=look.answers,
            advance=task.advance,
        )


def _record(
    prepared: Prepared,
    status: Status,
    reason: str | None,
    look: FirstLook | None = None,
    *,
    metrics: Metrics | None = None,
    flags: Sequence[Flag] = (),
    notes: list[str] | None = None,
    history: list[dict[str, Any]] | None = None,
) -> CellRecord:
    return CellRecord(
        key=prepared.spec.key,
        status=status,
        reason=reason,
        spec=prepared.spec,
        request=prepared.request.model_dump(mode="json"),
        environment=environment(prepared.request.runtime.torch_device),
        clean_accuracy=None if look is None else look.accuracy,
        metrics=metrics,
        flags=(*(() if look is None else _known_flags(prepared, look)), *flags),
        notes=notes or [],
        history=history or [],
        classes=list(prepared.dataset.classes),
        files={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
