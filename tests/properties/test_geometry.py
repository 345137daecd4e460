"""Balls, steps and streams of random numbers, whatever they are given."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advbench.bench.evaluate import check_perturbed
from advbench.methods.geometry import clip_to_budget, lengths, project, unit_step
from advbench.metrics import perturbation_sizes
from advbench.seeding import derive_seed, per_sample_uniform, seeded
from advbench.threat import Budget
from advbench.types import Norm

quick = settings(deadline=None, max_examples=50)
norms = st.sampled_from(Norm)
radii = st.floats(1e-3, 1.0)
seeds = st.integers(0, 2**32)
scales = st.sampled_from([0.0, 1e-20, 1e-6, 0.1, 1.0, 1e6])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestBalls:
    @quick
    @given(norms, radii, seeds, scales)
    def test_a_projection_lies_in_the_ball_and_stays_where_it_is(
        self, norm: Norm, radius: float, seed: int, scale: float
    ) -> None:
        delta = scale * drawn(seed, 3, 3, 5, 4)
        nearest = project(delta, norm, radius)
        assert (lengths(nearest, norm) <= radius * (1 + 1e-5)).all()
        assert torch.allclose(project(nearest, norm, radius), nearest, rtol=1e-4, atol=1e-7)
        inside = (lengths(delta, norm) < radius * (1 - 1e-5)).flatten()
        assert torch.allclose(nearest[inside], delta[inside], rtol=1e-5, atol=1e-9)
        assert (nearest * delta >= 0).all(), "a projection onto a ball around zero turns no sign"

    @quick
    @given(norms, st.lists(radii, min_size=3, max_size=3), seeds)
    def test_each_sample_may_have_a_radius_of_its_own(self, norm: Norm, radius: list[float], seed: int) -> None:
        delta = drawn(seed, 3, 3, 2, 2)
        together = project(delta, norm, torch.tensor(radius).view(3, 1, 1, 1))
        apart = [project(delta[i : i + 1], norm, radius[i]) for i in range(3)]
        assert torch.allclose(together, torch.cat(apart), atol=1e-6)

    @quick
    @given(norms, radii, seeds, scales, st.sampled_from([3, 32]))
    def test_a_clipped_image_keeps_range_and_budget_to_a_millionth(
        self, norm: Norm, radius: float, seed: int, scale: float, size: int
    ) -> None:
        """On pixels of 256 levels, of which many are alike and round alike."""
        levels = torch.randint(0, 4, (2, 3, size, size), generator=torch.Generator().manual_seed(seed))
        images = levels * 85 / 255
        budget = Budget(norm=norm, epsilon=radius if norm is Norm.LINF else 20 * radius)
        perturbed = clip_to_budget(images + scale * drawn(seed, 2, 3, size, size), images, budget)
        assert perturbed.min() >= 0
        assert perturbed.max() <= 1
        assert budget.epsilon is not None
        largest = getattr(perturbation_sizes(images, perturbed), norm).max().item()
        assert largest <= budget.epsilon * (1 + 1e-6) + 1e-6

    @pytest.mark.parametrize("norm", [Norm.L1, Norm.L2])
    @pytest.mark.parametrize(("size", "epsilon"), [(32, 5.0), (96, 5.0), (160, 3.0), (224, 10.0), (224, 60.0)])
    @pytest.mark.parametrize("values", [2, 255])
    def test_the_sum_of_a_photographs_many_small_moves_is_within(
        self, norm: Norm, size: int, epsilon: float, values: int
    ) -> None:
        """Of one size each, as gradient signs are, or of all sizes; from pixels of 256 levels that nothing stops."""
        generator = torch.Generator().manual_seed(size + values)
        images = torch.randint(60, 196, (2, 3, size, size), generator=generator) / 255
        moves = torch.randint(0, values, images.shape, generator=generator) / (values - 1) * 2 - 1
        budget = Budget(norm=norm, epsilon=epsilon)
        perturbed = clip_to_budget(images + epsilon * moves, images, budget)
        check_perturbed(perturbed, images, budget)
        sizes = getattr(perturbation_sizes(images, perturbed), norm)
        assert (sizes > 0.99 * epsilon).all(), "the budget was hardly used"

    @quick
    @given(norms, seeds, st.sampled_from([1e-30, 1e-18, 1e-6, 1.0, 1e6]))
    def test_a_unit_step_has_length_one_and_goes_uphill(self, norm: Norm, seed: int, scale: float) -> None:
        gradient = scale * drawn(seed, 2, 3, 4, 4)
        step = unit_step(gradient, norm)
        assert torch.allclose(lengths(step, norm), torch.ones(2, 1, 1, 1), rtol=1e-5)
        assert ((step.double() * gradient).flatten(1).sum(dim=1) > 0).all()

    @pytest.mark.parametrize("norm", Norm)
    def test_no_gradient_is_no_step(self, norm: Norm) -> None:
        assert torch.equal(unit_step(torch.zeros(2, 3, 4, 4), norm), torch.zeros(2, 3, 4, 4))
        assert unit_step(torch.zeros(0, 3, 4, 4), norm).shape == (0, 3, 4, 4)
        assert project(torch.zeros(0, 3, 4, 4), norm, 1.0).shape == (0, 3, 4, 4)


class TestSeeds:
    @quick
    @given(seeds, st.lists(st.integers(0, 10**6), max_size=6), st.data())
    def test_a_samples_numbers_are_its_own_in_any_batch(self, seed: int, rows: list[int], data: st.DataObject) -> None:
        positions = torch.tensor(rows, dtype=torch.long)
        whole = per_sample_uniform(torch.Size([len(rows), 2, 3]), positions, seed, "test")
        order = torch.tensor(data.draw(st.permutations(range(len(rows)))), dtype=torch.long)
        cut = data.draw(st.integers(0, len(rows)))
        parts = [
            per_sample_uniform(torch.Size([len(part), 2, 3]), positions[part], seed, "test")
            for part in (order[:cut], order[cut:])
        ]
        assert torch.equal(torch.cat(parts), whole[order])
        assert ((whole >= -1) & (whole < 1)).all()

    @quick
    @given(seeds, seeds, st.text(max_size=8), st.text(max_size=8))
    def test_seeds_differ_where_seed_or_purpose_do(self, first: int, second: int, purpose: str, other: str) -> None:
        assert derive_seed(first, purpose) == derive_seed(first, purpose) < 2**63
        assert (derive_seed(first, purpose) == derive_seed(second, purpose)) is (first == second)
        assert (derive_seed(first, purpose) == derive_seed(first, other)) is (purpose == other)

    @quick
    @given(seeds)
    def test_the_global_stream_goes_on_as_if_nothing_had_been_drawn(self, seed: int) -> None:
        before = torch.get_rng_state()
        with seeded(seed, "test") as generator:
            first, own = torch.rand(3), torch.rand(3, generator=generator)
        assert torch.equal(torch.get_rng_state(), before)
        with seeded(seed, "test"):
            assert torch.equal(torch.rand(3), first)
        assert torch.equal(own, first)

    def test_uniform_numbers_are_uniform(self) -> None:
        """Mean 0 and variance 1/3, each within five standard errors."""
        numbers = per_sample_uniform(torch.Size([100, 1000]), torch.arange(100), 0, "test")
        assert abs(numbers.mean()) < 5 * (1 / 3 / numbers.numel()) ** 0.5
        assert numbers.square().mean().item() == pytest.approx(1 / 3, abs=5 * (4 / 45 / numbers.numel()) ** 0.5)
