"""PRDC: the spec's exact checks, and one where recorded states repeat with different actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.dataset import Dataset

NET = dict(net_arch=[16, 16])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path / "cache"))


def data(n=400, repeats=0, seed=0):
    """Random rows, the last ``repeats`` of which take the states of the first, with other actions."""
    rng = np.random.default_rng(seed)
    obs, action = rng.normal(size=(n, 3)), rng.uniform(-1, 1, (n, 2))
    if repeats:
        obs[-repeats:] = obs[:repeats]
    return Dataset(
        obs=obs, action=action, reward=rng.normal(size=n), terminated=np.zeros(n, bool), truncated=np.zeros(n, bool),
        next_obs=obs + 0.1, observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
    )  # fmt: skip


def make(name, dataset, **kwargs):
    model = getattr(polopt, name)(seed=0, **(dict(batch_size=64, policy_kwargs=NET) | kwargs))
    return model.learn_offline(dataset, 0)


def test_a_huge_beta_is_td3_bc():
    bc, prdc = make("TD3BC", data()), make("PRDC", data(), beta=1e6)
    z = prdc.memory.rows().obs
    apart = torch.cdist(z, z).fill_diagonal_(np.inf).min()
    assert prdc.config.beta * apart > 2 * np.sqrt(2)  # what the identity takes
    for _ in range(6):
        a, b = bc.train_steps(1), prdc.train_steps(1)
        assert a["critic_loss"] == b["critic_loss"] and a.get("actor_loss") == b.get("actor_loss")
    for x, y in zip(bc.policy.parameters(), prdc.policy.parameters(), strict=True):
        assert torch.equal(x, y)
    b = prdc.draw(("policy",))
    assert torch.equal(b.nearest, b.action)


def test_without_beta_the_nearest_action_of_all():
    model = make("PRDC", data(), beta=0.0)
    b = model.draw(("policy",))
    u = model.action(b.obs).detach()
    gap = lambda a: (u[:, None] - a).double().square().sum(-1)
    everywhere = gap(model.memory.rows().action).min(1).values
    torch.testing.assert_close(gap(b.nearest[:, None])[:, 0], everywhere, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("beta", [0.3, 2.0, 20.0])
def test_the_nearest_pair_is_that_of_brute_force(beta):
    model = make("PRDC", data(3000, repeats=200), beta=beta)
    rows = model.memory.rows()
    for _ in range(5):
        b = model.draw(("policy",))
        u = model.action(b.obs).detach()
        d = (
            beta**2 * torch.cdist(b.obs.double(), rows.obs.double()) ** 2
            + torch.cdist(u.double(), rows.action.double()) ** 2
        )
        row, _ = model.nearest(b)
        torch.testing.assert_close(d[torch.arange(64), row], d.min(1).values, rtol=1e-5, atol=1e-9)
        assert torch.equal(b.nearest, rows.action[row])


def test_an_action_recorded_in_the_same_state_costs_nothing():
    model = make("PRDC", data(repeats=200), alpha=0.0)
    rows = model.memory.rows()
    model.action = lambda obs: rows.action[-200:][:64]  # recorded a second time in the states of the first rows
    b = model.draw(("policy",)).plus(obs=rows.obs[:64], action=rows.action[:64], index=torch.arange(64))
    row, certified = model.nearest(b)
    assert torch.equal(row, torch.arange(200, 264)) and bool(certified.all())
    b = b.plus(nearest=rows.action[row])
    assert float(model.policy_loss(b)) == 0 < float((model.action(b.obs) - b.action).square().mean())


def test_online_the_whole_memory_is_the_data():
    model = polopt.PRDC("MlpPolicy", "Pendulum-v1", seed=0, learning_starts=30, batch_size=16, policy_kwargs=NET)
    model.learn(60)
    b = model.draw(("policy",))
    rows, u = model.memory.rows(), model.action(b.obs).detach()
    d = 4 * torch.cdist(b.obs, rows.obs) ** 2 + torch.cdist(u, rows.action) ** 2
    torch.testing.assert_close(d[torch.arange(16), model.nearest(b)[0]], d.min(1).values, rtol=1e-4, atol=1e-5)
