"""TayPO: the spec's exact checks, on trajectories, on enumerable MDPs and on matrices."""

import itertools

import numpy as np
import pytest
import torch
from polopt.agents.on_policy.ppo import surrogate
from polopt.agents.on_policy.taypo import carry, higher_orders, pair_weights

import polopt


def make(**kwargs):
    kwargs = dict(n_steps=64, batch_size=32, segment=16, n_epochs=2, num_envs=2, seed=0) | kwargs
    return polopt.TayPO("MlpPolicy", "CartPole-v1", **kwargs)


def stream(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g, dtype=torch.float64)
    return x, torch.randn(n, generator=g, dtype=torch.float64), torch.rand(n, generator=g) < 0.15


@pytest.mark.parametrize(("n", "segment"), [(48, 16), (53, 16), (7, 16), (30, 30), (5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_carry_is_the_scan_is_the_double_loop(n, segment, seed):
    (x, _, done), gamma = stream(n, seed), 0.9
    c = carry(x, pair_weights(done, gamma, segment, segment).double())
    scan, loop = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for t in range(n):
        start = t // segment * segment
        if t > start:
            scan[t] = gamma * (1 - done[t - 1].double()) * (scan[t - 1] + x[t - 1])
        for u in range(start, t):
            if not done[u:t].any():
                loop[t] += gamma ** (t - u) * x[u]
    torch.testing.assert_close(c, scan, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(c, loop, rtol=1e-6, atol=1e-6)


def test_a_window_leaves_out_the_pairs_beyond_it():
    x, _, _ = stream(32, 0)
    w = pair_weights(torch.zeros(32, dtype=torch.bool), 0.9, 32, 3).double()
    for t in range(32):
        expected = sum(0.9 ** (t - u) * x[u].item() for u in range(max(0, t - 3), t))
        assert carry(x, w)[t].item() == pytest.approx(expected, abs=1e-6)


def test_every_order_is_the_sum_over_increasing_tuples():
    x, a, done = stream(8, 4)
    w = pair_weights(done, 0.9, 8, 8).double()
    for order in (1, 2, 3, 4):
        total = 0.0
        for k in range(2, order + 1):
            for times in itertools.combinations(range(8), k):
                weight = np.prod([w[t, u].item() for u, t in itertools.pairwise(times)])
                total += weight * np.prod([x[t].item() for t in times]) * a[times[-1]].item()
        assert higher_orders(x, a, w, order).sum().item() == pytest.approx(total, abs=1e-9)


class Enumerable:
    """A tree of ``horizon`` steps, two states, two actions, undiscounted: every trajectory can be listed."""

    def __init__(self, horizon, seed=0):
        rng = np.random.default_rng(seed)
        self.horizon, self.first = horizon, torch.tensor([0.3, 0.7], dtype=torch.float64)
        self.P = torch.as_tensor(rng.dirichlet([1, 1], size=(horizon, 2, 2)))
        self.R = torch.as_tensor(rng.normal(size=(horizon, 2, 2)))

    def q(self, pi):
        """Q_t(s, a) of a policy ``[2, 2]``, ``[T, 2, 2]``."""
        q, v = [], torch.zeros(2, dtype=torch.float64)
        for t in reversed(range(self.horizon)):
            q.insert(0, self.R[t] + self.P[t] @ v)
            v = (pi * q[0]).sum(-1)
        return torch.stack(q)

    def value(self, pi):
        return self.first @ (pi * self.q(pi)[0]).sum(-1)

    def terms(self, pi, mu, order, center=True):
        """V_K by the agent's own formulas, in expectation over every trajectory of μ."""
        T, q = self.horizon, self.q(mu)
        a = q - (mu * q).sum(-1, keepdim=True) if center else q
        weights = pair_weights(torch.tensor([False] * (T - 1) + [True]), 1.0, T, T).double()
        total = 0.0
        for states in itertools.product((0, 1), repeat=T):
            for actions in itertools.product((0, 1), repeat=T):
                p = self.first[states[0]]
                for t in range(T):
                    p = p * mu[states[t], actions[t]]
                    if t + 1 < T:
                        p = p * self.P[t, states[t], actions[t], states[t + 1]]
                s, act = torch.tensor(states), torch.tensor(actions)
                x = pi[s, act] / mu[s, act] - 1
                adv = a[torch.arange(T), s, act]
                total = total + p * (x * adv + higher_orders(x, adv, weights, order)).sum()
        return total


def policies():
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.9]], dtype=torch.float64)
    mu = logits.softmax(-1)
    return logits, mu, (logits + torch.tensor([[0.9, 0.0], [0.0, -0.7]], dtype=torch.float64)).softmax(-1)


@pytest.mark.parametrize("horizon", [2, 3])
@pytest.mark.parametrize("center", [True, False])
def test_the_expansion_of_a_finite_horizon_ends_without_remainder(horizon, center):
    mdp, (_, mu, pi) = Enumerable(horizon), policies()
    gain = mdp.value(pi) - mdp.value(mu)
    errors = [abs(mdp.terms(pi, mu, k, center) - gain) for k in range(1, horizon + 1)]
    assert errors[-1] < 1e-12 < errors[0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_at_the_data_policy_every_order_has_the_policy_gradient(order):
    mdp, (logits, mu, _) = Enumerable(3), policies()
    z = logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(mdp.value(z.softmax(-1)), z)
    (ours,) = torch.autograd.grad(mdp.terms(z.softmax(-1), mu, order), z)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)


def test_the_second_order_has_the_hessian():
    mdp, (logits, mu, _) = Enumerable(3), policies()
    exact, first, second = (
        torch.autograd.functional.hessian(f, logits)
        for f in (
            lambda z: mdp.value(z.softmax(-1)),
            lambda z: mdp.terms(z.softmax(-1), mu, 1),
            lambda z: mdp.terms(z.softmax(-1), mu, 2),
        )
    )
    torch.testing.assert_close(second, exact, rtol=1e-9, atol=1e-11)
    assert (first - exact).abs().max() > 1e-3


def test_the_tabular_series_converges_within_the_papers_bound():
    """Q^π = Σ_k M^k Q^μ with M = γ (I - γ P^μ)^{-1} (P^π - P^μ); what is left after K terms is bounded."""
    rng, S, A, gamma = np.random.default_rng(1), 6, 3, 0.9
    P, R = rng.dirichlet(np.ones(S), size=(S, A)), rng.normal(size=(S, A)).ravel()
    mu = np.full((S, A), 1 / A)
    pi = 0.97 * mu + 0.03 * np.eye(A)[rng.integers(A, size=S)]
    move = lambda policy: (P[..., None] * policy).reshape(S * A, S * A)
    q = lambda policy: np.linalg.solve(np.eye(S * A) - gamma * move(policy), R)
    M = gamma * np.linalg.solve(np.eye(S * A) - gamma * move(mu), move(pi) - move(mu))
    norm, q_mu, q_pi = np.linalg.norm(M, np.inf), q(mu), q(pi)
    assert norm < 1
    errors = [np.abs(sum(np.linalg.matrix_power(M, k) @ q_mu for k in range(K + 1)) - q_pi).max() for K in range(5)]
    for K, error in enumerate(errors):
        assert error <= norm ** (K + 1) / (1 - norm) * np.abs(q_mu).max()
    assert all(b < a / 5 for a, b in itertools.pairwise(errors[:4]))


@pytest.mark.parametrize("seed", range(3))
def test_the_second_order_comes_much_closer_to_the_discounted_return(seed):
    """J(μ) + U_1 against J(μ) + U_1 + U_2 for a policy near the data's, with the agent's carry over a long trajectory."""
    rng, S, A, gamma, T = np.random.default_rng(seed), 4, 3, 0.9, 200
    P, R = rng.dirichlet(np.ones(S), size=(S, A)), rng.normal(size=(S, A)).ravel()
    mu = rng.dirichlet(np.full(A, 5.0), size=S)
    pi = 0.98 * mu + 0.02 * np.eye(A)[rng.integers(A, size=S)]
    move = lambda policy: (P[..., None] * policy).reshape(S * A, S * A)
    q = lambda policy: np.linalg.solve(np.eye(S * A) - gamma * move(policy), R)
    first = lambda policy: (policy / S).ravel()
    gap = first(pi) @ q(pi) - first(mu) @ q(mu)
    # The expectation of a product over times u < t is a product of matrices: the trajectory enumerated, all at once.
    rho, weights = (pi / mu).ravel() - 1, pair_weights(torch.zeros(T, dtype=torch.bool), gamma, T, T).double().numpy()
    visits = [first(mu)]
    for _ in range(T - 1):
        visits.append(visits[-1] @ move(mu))
    q_mu, one, two = q(mu), 0.0, 0.0
    carried = np.zeros(S * A)  # E[ C_t 1{(s_t, a_t)} ]
    for t in range(T):
        one += gamma**t * (visits[t] * rho) @ q_mu
        two += gamma**t * (carried * rho) @ q_mu
        carried = (carried + visits[t] * rho) @ move(mu)
    # what the agent's weights give for the same pairs, of which U_2 is the discounted sum
    by_weights = sum(
        gamma**u * weights[t, u] * ((visits[u] * rho) @ np.linalg.matrix_power(move(mu), t - u) * rho) @ q_mu
        for t in range(60)
        for u in range(t)
    )
    assert by_weights == pytest.approx(two, rel=0.02)
    assert abs(gap - one) > 20 * abs(gap - one - two)


def test_rows_are_whole_stretches_of_one_world(prepared):
    model = make(n_steps=50)  # 100 rows: six segments of 16 and 4 rows
    b = prepared(model)
    number = torch.arange(len(b))
    minibatches = list(model.minibatches(b.plus(number=number)))
    assert [len(m) for m in minibatches] == [32, 32, 32, 4]
    assert torch.equal(torch.cat([m.number for m in minibatches]).sort().values, number)
    for m in minibatches:
        for part in m.number.split(16):
            assert torch.equal(part, part[0] + torch.arange(len(part))) and part[0] % 16 == 0
    assert b.done[49] and b.done[99], "the rollout's end cuts, and so does the next world"
    linked, inside = (b.weights[1:] > 0).any(1), number[1:] % 16 > 0
    assert torch.equal(linked, inside & ~b.done[:-1])


def test_order_one_is_ppo(prepared):
    for model in (make(order=1), make(coef=0.0)):
        b = next(model.minibatches(prepared(model)))
        model.minibatch_step(b)
        b = model.evaluate(b)
        assert model.policy_loss(b).item() == pytest.approx(
            -surrogate(b.ratio, b.advantage, 0.2).mean().item(), abs=1e-7
        )


def test_the_first_step_is_a2cs(prepared):
    model = make(order=3)
    b = model.evaluate(next(model.minibatches(prepared(model))))
    actor = model.policy.actor_parameters()
    g = torch.autograd.grad(model.policy_loss(b), actor, retain_graph=True)
    a2c = torch.autograd.grad(-(b.new_log_prob * b.advantage).mean(), actor)
    for x, y in zip(g, a2c, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


def test_later_steps_are_not(prepared):
    model = make()
    b = next(model.minibatches(prepared(model)))
    for _ in range(3):
        model.minibatch_step(b)
    b = model.evaluate(b)
    assert abs(model.policy_loss(b) + surrogate(b.ratio, b.advantage, 0.2).mean()) > 1e-6


def test_the_loss_as_written(prepared):
    """The objective by the recursion, row after row, where some factors are clipped and some carries bounded."""
    model = make(coef=0.7, carry_bound=0.1, learning_rate=1e-2)
    minibatch = next(model.minibatches(prepared(model)))
    for _ in range(6):
        model.minibatch_step(minibatch)
    b = model.evaluate(minibatch)
    ratio, advantage, done = (x.detach().double() for x in (b.ratio, b.advantage, b.done))
    clipped = ratio.clamp(0.8, 1.2)
    total, bounded = torch.min(ratio * advantage, clipped * advantage).sum().item(), 0
    for start in (0, 16):
        c = 0.0
        for t in range(start, start + 16):
            x = clipped[t].item() - 1
            bounded += abs(c) > 0.1
            total += 0.7 * max(-0.1, min(0.1, c)) * x * advantage[t].item()
            c = 0.99 * (1 - done[t].item()) * (c + x)
    assert bounded > 3 and (clipped != ratio).any()
    assert model.policy_loss(b).item() == pytest.approx(-total / 32, abs=1e-6)


def test_a_minibatch_that_splits_segments_is_refused():
    with pytest.raises(ValueError, match="batch_size=40 must be a multiple of segment=16"):
        make(batch_size=40)


def test_learns_to_balance_a_pole():
    model = make(
        n_steps=32, num_envs=8, batch_size=256, segment=128, n_epochs=20, learning_rate="lin_1e-3", gamma=0.98,
        gae_lambda=0.8,
    )  # fmt: skip
    model.learn(16_384, log_interval=None)
    assert sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer) > 100
