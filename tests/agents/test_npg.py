"""NPG: exact natural gradients of a tabular MDP, and TRPO's first candidate."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.theory.gradients import fisher_matrix, natural_policy_gradient_step, softmax, trust_region_step
from polopt.theory.mdp import MDP
from polopt.theory.solvers import evaluate, occupancy

import polopt
from polopt.batch import Batch
from polopt.natural import longest_step, natural_gradient

S, COUNTS = 4, (1, 2, 3)
A = len(COUNTS)


class Table(gym.Env):
    observation_space, action_space = spaces.Discrete(S), spaces.Discrete(A)

    def reset(self, *, seed=None, options=None):
        return 0, {}


def world():
    """An MDP whose occupancy is uniform under π(a|s) = COUNTS/6: each action permutes the states. A batch with COUNTS[a]
    rows of each (s, a) is then distributed exactly as the policy visits."""
    rng = np.random.default_rng(5)
    P = np.stack([np.eye(S)[rng.permutation(S)] for _ in range(A)], 1)
    mdp = MDP(P, rng.random((S, A)), 0.8)
    theta = np.tile(np.log(np.array(COUNTS) / sum(COUNTS)), (S, 1))
    np.testing.assert_allclose(occupancy(mdp, softmax(theta)), 1 / S)
    return mdp, theta


def tabular(name, **kwargs):
    """The algorithm with that policy and the batch of its exact advantages, float64."""
    mdp, theta = world()
    kwargs = dict(cg_damping=0.0, cg_max_steps=60, policy_kwargs=dict(net_arch=[]), batch_size=None) | kwargs
    model = getattr(polopt, name)(env=Table(), **kwargs)
    model.policy.double()
    with torch.no_grad():
        model.policy.head.linear.weight.copy_(torch.from_numpy(theta.T))
        model.policy.head.linear.bias.zero_()
    V, Q = evaluate(mdp, softmax(theta))
    s, a = (
        torch.arange(S).repeat_interleave(sum(COUNTS)),
        torch.arange(A).repeat_interleave(torch.tensor(COUNTS)).repeat(S),
    )
    params = model.policy(s).detach()
    zeros = torch.zeros(len(s), dtype=torch.float64)
    b = Batch(
        obs=s,
        action=a,
        reward=zeros,
        value=zeros,
        returns=zeros,
        params=params,
        log_prob=model.policy.distribution.log_prob(params, a),
        advantage=torch.from_numpy(Q - V[:, None])[s, a],
    )
    return model, b, mdp, theta


def probabilities(model):
    return model.policy(torch.arange(S)).softmax(-1).detach().numpy()


def test_step_of_size_alpha_is_the_exact_natural_gradient_step():
    """π_new ∝ π exp(α A): theory's step at η = α (1 - γ), g here lacking the factor 1/(1 - γ)."""
    model, b, mdp, theta = tabular("NPG", step_size=0.7, normalize_advantage=False)
    model.improve(b)
    expected = softmax(natural_policy_gradient_step(mdp, theta, 0.7 * (1 - mdp.gamma)))
    np.testing.assert_allclose(probabilities(model), expected, rtol=1e-8)
    V, Q = evaluate(mdp, softmax(theta))
    by_hand = softmax(theta) * np.exp(0.7 * (Q - V[:, None]))
    np.testing.assert_allclose(probabilities(model), by_hand / by_hand.sum(-1, keepdims=True), rtol=1e-8)


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_normalised_step_is_the_exact_trust_region_step(normalize_advantage):
    model, b, mdp, theta = tabular("NPG", target_kl=0.01, normalize_advantage=normalize_advantage)
    model.improve(b)
    np.testing.assert_allclose(probabilities(model), softmax(trust_region_step(mdp, theta, 0.01)), rtol=1e-8)


def test_trpos_first_candidate_is_that_step_too():
    model, b, mdp, theta = tabular("TRPO", target_kl=0.01)
    part = model.parts["policy"]
    part.assign(part.vector() + longest_step(*natural_gradient(model, b), 0.01))
    np.testing.assert_allclose(probabilities(model), softmax(trust_region_step(mdp, theta, 0.01)), rtol=1e-8)


def test_fisher_matrix_of_the_table_is_theorys():
    from polopt.natural import fisher_vector_product
    from polopt.part import Part

    model, b, mdp, theta = tabular("NPG")
    product = fisher_vector_product(
        model.policy.distribution, model.policy(b.obs), Part([model.policy.head.linear.weight])
    )
    F = torch.stack([product(e) for e in torch.eye(S * A, dtype=torch.float64)])
    ours = F.view(A, S, A, S).permute(1, 0, 3, 2).reshape(S * A, S * A)  # weights are [action, state]
    np.testing.assert_allclose(ours, fisher_matrix(mdp, theta), atol=1e-14)


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_it_is_trpos_first_candidate(env, prepared):
    kwargs = dict(n_steps=256, seed=0, sub_sampling_factor=2, target_kl=0.003)
    npg, trpo = polopt.NPG(env=env, **kwargs), polopt.TRPO(env=env, line_search_max_iter=1, **kwargs)
    for model in (npg, trpo):
        model.policy.double()
    b = prepared(npg)
    trpo.generator.set_state(npg.generator.get_state())  # the same minibatches for the critic
    npg.improve(b)
    assert trpo.improve(b)["is_line_search_success"] == 1.0
    torch.testing.assert_close(npg.parts["policy"].vector(), trpo.parts["policy"].vector(), rtol=1e-9, atol=1e-12)
    assert torch.equal(npg.parts["critic"].vector(), trpo.parts["critic"].vector())


def test_its_kl_may_exceed_delta():
    """The contrast with TRPO on the same seeds."""
    excess = {}
    for name in ("NPG", "TRPO"):
        model = getattr(polopt, name)(env="CartPole-v1", n_steps=256, cg_damping=1e-3, seed=0, n_critic_updates=2)
        update, kls = model.update, []
        model.update = lambda batch, update=update, kls=kls: (m := update(batch), kls.append(m["kl_mean"].item()))[0]
        model.learn(256 * 20)
        excess[name] = max(kls)
    assert excess["TRPO"] <= 0.01 < excess["NPG"]


@pytest.mark.parametrize("name", ["NPG", "TRPO"])
@pytest.mark.parametrize("target_kl", [0.0, -0.01])
def test_a_trust_region_without_extent_is_refused(name, target_kl):
    with pytest.raises(ValueError, match=r"target_kl=.* is outside \(0, inf\)"):
        getattr(polopt, name)(env="CartPole-v1", target_kl=target_kl)


@pytest.mark.parametrize("name", ["NPG", "TRPO", "VMPO"])
def test_a_distribution_without_a_kl_and_a_batch_beyond_the_rollout_are_refused(name, monkeypatch):
    from polopt.distributions import Categorical

    with pytest.raises(ValueError, match="batch_size=129 is larger than the rollout"):
        getattr(polopt, name)(env="CartPole-v1", n_steps=128, batch_size=129)
    monkeypatch.setattr(Categorical, "has_kl", False)
    with pytest.raises(ValueError, match=f"{name} needs an exact KL, which Categorical does not have"):
        getattr(polopt, name)(env="CartPole-v1")


def test_the_critic_is_fitted_and_the_policy_left_alone(prepared):
    model = polopt.NPG(env="Pendulum-v1", n_steps=256, num_envs=2, n_critic_updates=40, learning_rate=1e-2, seed=0)
    b = prepared(model)
    before = (b.value - b.returns).square().mean()
    policy = model.parts["policy"].vector()
    model.fit_critic(b, 40)
    assert torch.equal(policy, model.parts["policy"].vector())
    assert (model.policy.value(b.obs) - b.returns).square().mean() < 0.5 * before
