"""PPOPenalty: the paper's section 4."""

import pytest
import torch
from polopt.agents.on_policy.ppo_penalty import adapted

import polopt
from polopt.rollout import rollout


def make(env="Pendulum-v1", **kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=5, num_envs=2, seed=0) | kwargs
    return polopt.PPOPenalty("MlpPolicy", env, **kwargs)


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0066, 0.5), (0.0067, 1), (0.01, 1), (0.0149, 1), (0.0151, 2), (0.0, 0.5)]
)
def test_beta_halves_or_doubles_outside_a_factor_of_one_and_a_half(kl, factor):
    assert adapted(torch.tensor(3.0), torch.tensor(kl), 0.01).item() == 3.0 * factor


def test_the_loss_is_equation_8(prepared):
    model = make(beta=0.7)
    b = prepared(model)
    for _ in range(3):
        model.minibatch_step(b)
    b = model.evaluate(b)
    kl = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(p[:, 0], p[:, 1].exp()) for p in (b.params, b.new_params))
    )
    assert kl.mean() > 1e-4
    assert model.policy_loss(b).item() == pytest.approx((-b.ratio * b.advantage + 0.7 * kl).mean().item(), abs=1e-6)


def test_each_update_sets_beta_for_the_next():
    model = make(learning_rate=1e-2, d_targ=0.01)
    model._last_obs = model.env.reset_host(0)
    for _ in range(6):
        before = model.dual.beta.item()
        batch, model._last_obs = rollout(model.env, model, model._last_obs, model.horizon)
        metrics = model.update(batch)
        expected = adapted(torch.tensor(before), metrics["kl_mean"], 0.01).item()
        assert model.dual.beta.item() == metrics["beta"].item() == expected


def test_a_smaller_target_moves_less():
    moved = {}
    for d_targ in (0.001, 0.1):
        model = make("CartPole-v1", n_steps=128, learning_rate=1e-3, d_targ=d_targ)
        model.learn(256 * 8, log_interval=None)
        b, _ = rollout(model.env, model, model._last_obs, model.horizon)
        moved[d_targ] = model.update(b)["kl_mean"].item()
    assert moved[0.001] < 0.5 * moved[0.1]


def test_a_target_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"d_targ=0 is outside \(0, inf\)"):
        make(d_targ=0)


def test_learns_to_balance_a_pole():
    model = make(
        "CartPole-v1", n_steps=32, num_envs=8, batch_size=256, n_epochs=20, learning_rate="lin_1e-3", gamma=0.98,
        gae_lambda=0.8,
    )  # fmt: skip
    model.learn(16_384, log_interval=None)
    assert sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer) > 100
