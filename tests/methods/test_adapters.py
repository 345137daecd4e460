"""Other libraries' attacks: held to the threat model, counted for the right image, and refused with a reason."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.bench.evaluate import check_perturbed
from advbench.cli import main
from advbench.errors import AccessDenied, BudgetSpent, InvalidConfig, InvalidPerturbation, UnknownName
from advbench.methods import Context, Setting
from advbench.methods.adapters import RESERVED, Adapter, Proxy
from advbench.registry import ATTACKS
from advbench.targets import FunctionTarget, ModuleTarget
from advbench.threat import THREATS, Budget, threat_model
from advbench.types import Capability, Goal, Norm

# What the peers warn about themselves is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONAL = {"torchattacks": "torchattacks", "adv-lib": "adv_lib"}
CLEAN = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1) + 0.02 * torch.rand(
    5, 3, 8, 8, generator=torch.Generator().manual_seed(0)
)
"""Images far apart, so that whose query it is can be told from where it lies."""
ROWS = torch.tensor([3, 1, 6, 0, 4])
LINF = Budget(norm=Norm.LINF, epsilon=0.03)
L2 = Budget(norm=Norm.L2, epsilon=0.3)
SHORTEST = Budget(norm=Norm.L2)

RUNS: list[tuple[str, dict[str, Any], Budget]] = [
    ("adv-lib:alma", {"num_steps": 5}, SHORTEST),
    ("adv-lib:ddn", {"steps": 5}, SHORTEST),
    ("adv-lib:df", {}, SHORTEST),
    ("adv-lib:pgd_linf", {"steps": 3}, LINF),
    ("art:CarliniL2Method", {"max_iter": 3, "binary_search_steps": 2}, SHORTEST),
    ("art:DeepFool", {"max_iter": 5}, SHORTEST),
    ("art:FastGradientMethod", {}, L2),
    ("art:HopSkipJump", {"max_iter": 1, "max_eval": 20, "init_eval": 5, "init_size": 10}, SHORTEST),
    ("art:ProjectedGradientDescent", {"max_iter": 3, "eps_step": 0.01}, LINF),
    ("art:SimBA", {"max_iter": 5}, SHORTEST),
    ("art:SquareAttack", {"max_iter": 5}, LINF),
    ("foolbox:HopSkipJumpAttack", {"steps": 1, "max_gradient_eval_steps": 10}, SHORTEST),
    ("foolbox:DDNAttack", {"steps": 5}, SHORTEST),
    ("foolbox:L2DeepFoolAttack", {}, L2),
    ("foolbox:LinfAdditiveUniformNoiseAttack", {}, LINF),
    ("foolbox:LinfPGD", {"steps": 3}, LINF),
    ("torchattacks:DeepFool", {"steps": 5}, SHORTEST),
    ("torchattacks:MIFGSM", {"steps": 3}, LINF),
    ("torchattacks:Square", {"n_queries": 5}, LINF),
    ("torchattacks:VMIFGSM", {"steps": 2, "N": 2}, LINF),
]


class Watched:
    """A small network, and what it was asked about."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4))
            self.network = nn.Sequential(*layers)
        self.seen: list[Tensor] = []
        self.target = ModuleTarget(self.network, 4, "small", "small")
        self.network.register_forward_pre_hook(lambda module, inputs: self.seen.append(inputs[0].detach().clone()))
        self.target._fast = self.network
        self.ledger = QueryLedger(8)

    def nearest(self) -> Tensor:
        """Queries of each row, told by the nearest clean image."""
        asked = torch.cat(self.seen).flatten(1)
        rows = ROWS[torch.cdist(asked, CLEAN.flatten(1)).argmin(dim=1)]
        return torch.bincount(rows, minlength=8)


def load(name: str) -> type[Adapter]:
    library = name.partition(":")[0]
    if library in OPTIONAL:
        pytest.importorskip(OPTIONAL[library], exc_type=ImportError) if library != "adv-lib" else _adv_lib()
    found: type[Adapter] = ATTACKS.load(name)
    return found


def _adv_lib() -> None:
    try:
        ATTACKS.load("adv-lib:ddn")
    except InvalidConfig as error:
        pytest.skip(str(error))


def run(name: str, options: dict[str, Any], budget: Budget, watched: Watched, **changes: Any) -> Tensor:
    load(name)
    method = build_method(name, options).resolve(Setting(Goal.DEGRADE, budget, 8, "small"))
    threat = changes.pop("threat", None) or threat_model(None, method.needs(Goal.DEGRADE))
    part = changes.pop("part", slice(None))
    truth = torch.zeros(5, dtype=torch.long)
    door = perturb_access(watched.target, threat, watched.ledger, ROWS[part], truth[part])
    context = replace(Context(Goal.DEGRADE, budget, 0, 8, 4), **changes)
    return method.restore({}, context).perturb(CLEAN[part].clone(), door)


@pytest.fixture(params=RUNS, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], Budget]:
    chosen: tuple[str, dict[str, Any], Budget] = request.param
    return chosen


class TestEveryPeer:
    def test_runs_within_its_budget_and_is_counted_as_the_network_was_asked(
        self, case: tuple[str, dict[str, Any], Budget]
    ) -> None:
        name, options, budget = case
        watched = Watched()
        perturbed = run(name, options, budget, watched)
        check_perturbed(perturbed, CLEAN, budget)
        assert perturbed.min() >= 0
        assert perturbed.max() <= 1
        assert not perturbed.requires_grad
        assert int(watched.ledger.queries.sum()) == sum(map(len, watched.seen))
        assert watched.ledger.queries[ROWS].min() > 0

    def test_queries_are_of_the_image_that_they_lie_at(self, case: tuple[str, dict[str, Any], Budget]) -> None:
        name, options, budget = case
        if budget is SHORTEST and load(name).peer.reach is Capability.LABELS:
            pytest.skip("starts from far away, where the nearest image tells nothing")
        watched = Watched()
        run(name, options, budget, watched)
        assert torch.equal(watched.ledger.queries, watched.nearest())

    def test_gives_the_same_again_and_leaves_the_global_generators_alone(
        self, case: tuple[str, dict[str, Any], Budget]
    ) -> None:
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        expected = torch.rand(1), np.random.rand(), random.random()
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        first = run(*case, Watched())
        after = torch.rand(1), np.random.rand(), random.random()
        assert after == expected
        assert torch.equal(run(*case, Watched()), first)

    def test_an_image_by_image_peer_does_not_depend_on_the_batch(
        self, case: tuple[str, dict[str, Any], Budget]
    ) -> None:
        if load(case[0]).peer.whole:
            pytest.skip("keeps batches together")
        whole = run(*case, Watched())
        assert torch.equal(run(*case, Watched(), part=slice(1, 3)), whole[1:3])


class TestThreats:
    @pytest.mark.parametrize(
        ("name", "threat"),
        [
            ("foolbox:LinfPGD", "white-box"),
            ("foolbox:BoundaryAttack", "black-box-labels"),
            ("foolbox:L2AdditiveGaussianNoiseAttack", "black-box-labels"),
            ("art:DeepFool", "white-box"),
            ("art:HopSkipJump", "black-box-labels"),
            ("art:SquareAttack", "black-box-scores"),
            ("torchattacks:FGSM", "white-box"),
            ("torchattacks:Square", "black-box-scores"),
            ("adv-lib:ddn", "white-box"),
        ],
    )
    def test_a_peer_gets_the_threat_model_that_it_needs(self, name: str, threat: str) -> None:
        load(name)
        assert threat_model(None, build_method(name, {}).needs(Goal.DEGRADE)).name == threat

    def test_a_gradient_peer_is_refused_under_a_black_box(self) -> None:
        watched = Watched()
        with pytest.raises(AccessDenied, match="does not grant"):
            run("foolbox:LinfPGD", {}, LINF, watched, threat=THREATS["black-box-scores"])
        assert not watched.ledger.gradients.any()

    @pytest.mark.parametrize("name", ["art:HopSkipJump", "foolbox:HopSkipJumpAttack"])
    def test_a_decision_peer_sees_labels_alone_whatever_is_granted(self, name: str) -> None:
        from advbench.methods.adapters.proxy import Proxy

        answers = []
        inner = Proxy._ask

        class Seen(Proxy):
            def forward(self, images: Tensor) -> Tensor:
                answers.append(inner(self, images))
                return answers[-1]

        options = next(options for known, options, _ in RUNS if known == name)
        method = build_method(name, options)
        assert isinstance(method, Adapter)
        door = perturb_access(Watched().target, THREATS["white-box"], QueryLedger(8), ROWS[:1], ROWS[:1])
        seen = Seen(door, ROWS[:1], method.peer.reach, torch.device("cpu"), name)
        method.attack(seen, CLEAN[:1], torch.tensor([0]), Context(Goal.DEGRADE, SHORTEST, 0, 8, 4), 0)
        assert answers
        assert all(torch.isin(answer, torch.tensor([0.0, 1.0])).all() for answer in answers)

    def test_a_function_behind_an_api_can_be_attacked_by_decisions(self) -> None:
        watched = Watched()
        target = FunctionTarget(lambda images: watched.network(images).argmax(1), 4)
        ledger = QueryLedger(8)
        door = perturb_access(target, THREATS["black-box-labels"], ledger, ROWS, ROWS)
        name, options, budget = next(case for case in RUNS if case[0] == "foolbox:HopSkipJumpAttack")
        build_method(name, options).restore({}, Context(Goal.DEGRADE, budget, 0, 8, 4)).perturb(CLEAN, door)
        assert int(ledger.queries.sum()) == sum(map(len, watched.seen))

    def test_spent_queries_end_a_peer_even_if_it_swallows_the_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = load("foolbox:LinfPGD")

        def swallows(self: Adapter, proxy: Proxy, images: Tensor, *rest: object) -> Tensor:
            for _ in range(9):
                try:
                    proxy(images)
                except BudgetSpent:
                    break
            return images

        monkeypatch.setattr(kind, "attack", swallows)
        watched = Watched()
        watched.ledger = QueryLedger(8, max_each=4)
        with pytest.raises(BudgetSpent):
            run("foolbox:LinfPGD", {}, LINF, watched)
        assert watched.ledger.queries.max() == 4


class TestProxy:
    def proxy(self, count: int = 5) -> tuple[Proxy, Watched]:
        watched = Watched()
        door = perturb_access(watched.target, THREATS["white-box"], watched.ledger, ROWS[:count], ROWS[:count])
        return Proxy(door, ROWS[:count], Capability.INPUT_GRADIENTS, torch.device("cpu"), "peer"), watched

    def test_its_gradients_are_the_networks_at_one_query_and_one_gradient_each(self) -> None:
        proxy, watched = self.proxy()
        images, same = CLEAN.clone().requires_grad_(), CLEAN.clone().requires_grad_()
        scores = proxy(images)
        (scores.logsumexp(1) + scores[:, 2] ** 2).sum().backward()
        plain = watched.network(same)
        (plain.logsumexp(1) + plain[:, 2] ** 2).sum().backward()
        assert images.grad is not None
        assert same.grad is not None
        assert torch.allclose(images.grad, same.grad, atol=1e-6)
        assert watched.ledger.queries[ROWS].tolist() == [1] * 5
        assert watched.ledger.gradients[ROWS].tolist() == [1] * 5

    def test_several_gradients_share_a_query(self) -> None:
        proxy, watched = self.proxy()
        images = CLEAN.clone().requires_grad_()
        scores = proxy(images)
        for label in range(4):
            torch.autograd.grad(scores[:, label].sum(), images, retain_graph=True)
        assert watched.ledger.queries[ROWS].tolist() == [1] * 5
        assert watched.ledger.gradients[ROWS].tolist() == [4] * 5

    def test_no_second_derivative_and_no_parameters_are_given(self) -> None:
        proxy, _ = self.proxy()
        images = CLEAN.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(proxy(images).square().sum(), images, create_graph=True)
        with pytest.raises(RuntimeError):
            gradient.sum().backward()
        assert sum(parameter.numel() for parameter in proxy.parameters()) == 0

    def test_whose_queries_they_are_is_never_guessed(self) -> None:
        proxy, watched = self.proxy()
        with pytest.raises(InvalidConfig, match="asked about 3 images while 5 are at hand.*--batch 1"):
            proxy(CLEAN[:3])
        assert not watched.ledger.queries.any()
        single, watched = self.proxy(1)
        single(CLEAN[:3])
        assert watched.ledger.queries[ROWS[0]] == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("foolbox:L2DeepFool", "L2DeepFoolAttack"),
            ("art:HopSkipJmp", "HopSkipJump"),
            ("torchattacks:mifgsm", "MIFGSM"),
            ("adv-lib:dnn", "ddn"),
        ],
    )
    def test_unknown_attacks_suggest_the_librarys_own(self, name: str, suggestion: str) -> None:
        load(next(known for known, _, _ in RUNS if known.startswith(name.partition(":")[0])))
        with pytest.raises(UnknownName, match=f"did you mean '{suggestion}'"):
            ATTACKS.load(name)

    def test_unknown_options_suggest_the_peers_own(self) -> None:
        with pytest.raises(UnknownName, match="did you mean 'steps'"):
            build_method("foolbox:LinfPGD", {"step": 3})

    def test_values_are_read_by_the_peers_signature(self) -> None:
        method = build_method("foolbox:L2DeepFoolAttack", {"steps": "7", "overshoot": "0.1", "loss": "crossentropy"})
        assert isinstance(method, Adapter)
        assert method.given() == {"steps": 7, "candidates": 10, "overshoot": 0.1, "loss": "crossentropy"}
        with pytest.raises(InvalidConfig, match="--steps of foolbox:L2DeepFoolAttack"):
            build_method("foolbox:L2DeepFoolAttack", {"steps": "many"})
        with pytest.raises(InvalidConfig, match="--loss"):
            build_method("foolbox:L2DeepFoolAttack", {"loss": "hinge"})

    def test_a_parameter_never_hides_an_option_of_the_command(self) -> None:
        run_command = main.commands["run"]
        assert {option.name for option in run_command.params if option.name} <= RESERVED
        method = build_method("art:DeepFool", {"peer_epsilon": "0.02"})
        assert isinstance(method, Adapter)
        assert method.given()["epsilon"] == 0.02

    @pytest.mark.parametrize(
        ("name", "budget", "message"),
        [
            ("foolbox:L2DeepFoolAttack", LINF, "does not work in linf: give --norm l2"),
            ("foolbox:LinfPGD", Budget(), "needs a budget: give --epsilon"),
            ("foolbox:L0FMNAttack", LINF, "none of linf, l2, l1: leave --epsilon out"),
            ("art:HopSkipJump", Budget(norm=Norm.L1), "give --norm l2 or --norm linf"),
        ],
    )
    def test_another_norm_or_no_budget_is_refused(self, name: str, budget: Budget, message: str) -> None:
        with pytest.raises(InvalidConfig, match=message):
            build_method(name, {}).resolve(Setting(Goal.DEGRADE, budget, 8, "small"))

    @pytest.mark.parametrize("modules", [("torchattacks",), ("adv_lib", "adv_lib.attacks")])
    def test_an_absent_library_says_what_to_install(
        self, modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InvalidConfig, match="is not installed.*pip install"):
            ATTACKS.load(f"{modules[0].replace('_', '-')}:Unheard")


class TestFailures:
    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
        def with_answer(answer: Callable[[Tensor], Tensor]) -> Tensor:
            kind = load("foolbox:LinfPGD")
            monkeypatch.setattr(kind, "attack", lambda self, proxy, images, *rest: answer(images))
            return run("foolbox:LinfPGD", {}, LINF, Watched())

        return with_answer

    cases: ClassVar = {
        "nan": (lambda images: images * torch.nan, "NaN"),
        "over its budget": (lambda images: (images + 0.05).clamp(0, 1), "over epsilon"),
    }

    @pytest.mark.parametrize("kind", cases)
    def test_what_breaks_the_rules_is_found_and_never_mended(
        self, kind: str, broken: Callable[[Callable[[Tensor], Tensor]], Tensor]
    ) -> None:
        answer, message = self.cases[kind]
        with pytest.raises(InvalidPerturbation, match=message):
            check_perturbed(broken(answer), CLEAN, LINF)

    def test_pixels_out_of_range_are_found(self, broken: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> None:
        with pytest.raises(InvalidPerturbation, match="left the pixel range"):
            broken(lambda images: images - 0.2)

    def test_rounding_is_forgiven(self, broken: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> None:
        check_perturbed(broken(lambda images: images + 0.03 + 1e-5), CLEAN, LINF)


class TestTheCommand:
    TARGET: ClassVar = ["--target", "resnet18", "--target-images", "200", "--target-epochs", "2", "--limit", "20",
                        "--device", "cpu", "--json"]  # fmt: skip

    def record(self, *arguments: str) -> dict[str, Any]:
        with CliRunner().isolated_filesystem():
            done = CliRunner().invoke(main, ["run", *arguments, *self.TARGET])
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    def test_a_peers_result_is_a_result_like_any_other(self) -> None:
        record = self.record("--attack", "foolbox:LinfPGD", "--steps", "3", "--epsilon", "0.1")
        assert record["status"] == "ok"
        assert record["spec"]["attack"] == "foolbox:LinfPGD"
        assert record["spec"]["parameters"]["steps"] == 3
        assert record["metrics"]["perturb"]["gradients"] == 60

    def test_a_gradient_peer_is_incompatible_with_a_black_box_before_anything_is_spent(self) -> None:
        record = self.record("--attack", "foolbox:LinfPGD", "--epsilon", "0.1", "--threat", "black-box-labels")
        assert record["status"] == "incompatible"
        assert "input-gradients" in record["reason"]

    def test_a_peers_exception_is_a_status_with_its_reason(self) -> None:
        record = self.record("--attack", "art:ProjectedGradientDescent", "--epsilon", "0.01", "--max-iter", "-3")
        assert record["status"] == "failed"
        assert record["reason"].startswith("ValueError: ")
        assert record["metrics"] is None

    def test_listing_names_the_prefixes_and_describing_shows_the_peers_options(self) -> None:
        listed = CliRunner().invoke(main, ["list", "attacks"]).stdout
        assert all(f"{prefix}:NAME" in listed for prefix in ATTACKS.families)
        described = CliRunner().invoke(main, ["describe", "foolbox:L2DeepFoolAttack"]).stdout
        assert "--overshoot" in described
        assert "0.02" in described
