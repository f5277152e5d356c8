"""SPO: the spec's exact checks."""

import pytest
import torch
from polopt.agents.on_policy.ppo import surrogate
from polopt.agents.on_policy.r2vpo import lagrangian
from polopt.agents.on_policy.spo import simple_objective
from torch.nn.functional import one_hot

import polopt


def make(cls=None, env="Pendulum-v1", **kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=2, num_envs=2, seed=0) | kwargs
    return (cls or polopt.SPO)("MlpPolicy", env, **kwargs)


@pytest.mark.parametrize("advantage", [1.7, -0.4])
@pytest.mark.parametrize("start", [0.01, 1.0, 7.0])
def test_a_single_sample_peaks_at_the_clip_boundary(advantage, start):
    epsilon, A = 0.2, torch.tensor(advantage, dtype=torch.float64)
    r = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(simple_objective(r, A, epsilon), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, r)
    assert curvature < 0
    r = (r - slope / curvature).detach()  # one Newton step is exact for a quadratic
    assert r.item() == pytest.approx(1 + epsilon * A.sign().item(), abs=1e-12)
    best = simple_objective(r, A, epsilon).item()
    assert best == pytest.approx(advantage + abs(advantage) * epsilon / 2, abs=1e-12)
    grid = simple_objective(torch.linspace(0, 4, 4001, dtype=torch.float64), A, epsilon)
    assert grid.max() <= best + 1e-12


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_the_first_gradient_is_ppos_is_a2cs(env, prepared):
    model = make(env=env)
    model.policy.double()
    b = model.evaluate(prepared(model))
    assert (b.ratio - 1).abs().max() < 1e-10
    actor = model.policy.actor_parameters()
    spo, ppo, a2c = (
        torch.autograd.grad(loss, actor, retain_graph=True)
        for loss in (
            model.policy_loss(b),
            -surrogate(b.ratio, b.advantage, 0.2).mean(),
            -(b.new_log_prob * b.advantage).mean(),
        )
    )
    for x, y, z in zip(spo, ppo, a2c, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-11)
        torch.testing.assert_close(x, z, rtol=1e-7, atol=1e-11)


def test_it_is_r2vpo_with_a_multiplier_per_sample():
    generator = torch.Generator().manual_seed(0)
    r = torch.rand(1000, generator=generator, dtype=torch.float64) * 4
    A = torch.randn(1000, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        simple_objective(r, A, 0.2), lagrangian(r, A, A.abs() / 0.4, 0.0), rtol=1e-14, atol=1e-14
    )


def test_a_ratio_that_would_overflow_stays_finite_and_is_pulled_back(prepared):
    model = make()
    b = prepared(model)
    b = b.plus(log_prob=b.log_prob - 60.0)  # log r = 60: r² is beyond float32
    b = model.evaluate(b)
    loss = model.policy_loss(b)
    (slope,) = torch.autograd.grad(loss, b.new_log_prob)
    assert torch.isfinite(loss) and torch.isfinite(slope).all()
    assert (slope[b.advantage != 0] > 0).all()


def test_ratios_stay_nearer_to_one_than_ppos():
    """CartPole, thirty epochs at a high learning rate: what PPO's clip lets through."""
    mean = {}
    for cls in (polopt.PPO, polopt.SPO):
        model = make(cls, "CartPole-v1", n_steps=128, num_envs=4, batch_size=64, n_epochs=30, learning_rate=1e-3)
        seen, update = [], model.update
        model.update = lambda batch, seen=seen, update=update: seen.append(update(batch)) or seen[-1]
        model.learn(512 * 3, log_interval=None)
        mean[cls] = sum(float(metrics["ratio_deviation"]) for metrics in seen) / len(seen)
    assert mean[polopt.SPO] < 0.1 and mean[polopt.SPO] < 0.6 * mean[polopt.PPO]


def test_learns_to_balance_a_pole():
    model = make(
        env="CartPole-v1", n_steps=32, num_envs=8, batch_size=256, n_epochs=20, learning_rate="lin_1e-3", gamma=0.98,
        gae_lambda=0.8,
    )  # fmt: skip
    model.learn(16_384, log_interval=None)
    assert sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer) > 100


def test_its_optimum_over_a_batch_is_a_regression_of_the_advantages_signs():
    """Linearised, r - 1 = J d, the objective is greatest at d = ε (Σ |A| J Jᵀ)⁻¹ Σ A J: short where A is mostly noise."""
    torch.manual_seed(0)
    states, actions, rows, epsilon = 4, 3, 3000, 1e-3
    logits = torch.randn(states, actions, dtype=torch.float64)
    s = torch.randint(states, (rows,))
    a = torch.multinomial(logits.softmax(-1)[s], 1).squeeze(-1)
    advantage = torch.randn(rows, dtype=torch.float64) + (a == 0).double()
    old = logits.log_softmax(-1)[s, a]
    moved = logits.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [moved], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        ratio = (moved.log_softmax(-1)[s, a] - old).exp()
        value = -simple_objective(ratio, advantage, epsilon).mean() / epsilon
        value.backward()
        return value

    solver.step(loss)
    # ∇ log π(a|s) of a tabular softmax: the action's unit vector less the policy, in the row of its state.
    score = (one_hot(a, actions) - logits.softmax(-1)[s])[:, None] * one_hot(s, states)[:, :, None]
    score = score.flatten(1)
    weighted = score * advantage.abs()[:, None]
    step = epsilon * torch.linalg.lstsq(weighted.T @ score, score.T @ advantage, driver="gelsd").solution
    reached = (moved.detach() - logits).flatten()
    torch.testing.assert_close(score @ reached, score @ step, rtol=0, atol=0.02 * epsilon)
    assert (score @ step).abs().mean() < 0.7 * epsilon
