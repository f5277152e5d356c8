"""Models as environments: branches from given states, and rows that end."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from polopt.agent import NonFiniteError
from polopt.ensemble import ProbabilisticEnsemble
from polopt.model import EnsembleModel, Model
from polopt.rollout import rollout

OBS, ACT = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2, 2, (1,))


class Counter(Model):
    """The first number falls by one a step, and a branch ends when it reaches zero."""

    def __init__(self):
        super().__init__(OBS, ACT, lambda obs, action, next_obs: next_obs[:, 0] <= 0, torch.Generator())
        self.asked = []

    def predict(self, obs, action):
        self.asked.append(len(obs))
        return action[:, 0] + obs[:, 0], obs - torch.tensor([1.0, 0.0])


class Push:
    """Acts 0.5 of the scaled box everywhere."""

    def noise(self, horizon, num_envs):
        return torch.zeros(horizon, num_envs, 1)

    def act(self, obs, noise):
        return torch.full((len(obs), 1), 0.5), {}

    def host_actor(self):
        raise AssertionError("a model has no array face")

    def env_action(self, action):
        return 2 * action


def test_ended_rows_have_no_children():
    model = Counter()
    starts = torch.tensor([[1.0, 7.0], [3.0, 8.0], [2.0, 9.0]])
    batch, obs = rollout(model, Push(), model.start(starts), 4)
    assert batch.valid.T.tolist() == [
        [True, False, False, False],
        [True, True, True, False],
        [True, True, False, False],
    ]
    assert batch.terminated.T.tolist() == [
        [True, False, False, False], [False, False, True, False], [False, True, False, False],
    ]  # fmt: skip
    assert model.asked == [3, 2, 1, 0], "rows that have ended are not predicted any more"
    rows = batch.flatten().take(batch.valid.flatten())
    assert len(rows) == 1 + 3 + 2 and not batch.truncated.any()
    torch.testing.assert_close(rows.next_obs, rows.obs - torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(rows.reward, rows.obs[:, 0] + 1.0)  # the action in the environment's units
    assert (rows.obs[:, 0] > 0).all()
    torch.testing.assert_close(obs, torch.tensor([[0.0, 7.0], [0.0, 8.0], [0.0, 9.0]]))


def test_reset_begins_again_at_the_same_states():
    model = Counter()
    with pytest.raises(RuntimeError, match="no start states of its own"):
        model.reset()
    starts = torch.tensor([[1.0, 7.0], [3.0, 8.0]])
    model.start(starts)
    model.step(torch.zeros(2, 1))
    assert model.alive.tolist() == [False, True]
    assert torch.equal(model.reset(seed=3), starts) and model.alive.all() and model.steps == 0
    assert model.pop_episodes() == [] and model.num_envs == 2


def learned(seed=0):
    torch.manual_seed(seed)
    ensemble = ProbabilisticEnsemble(3, 3, hidden=(8,), members=3, elites=2, lr=1e-2, patience=20, max_passes=100)
    never = lambda obs, action, next_obs: torch.zeros(len(obs), dtype=torch.bool)
    return EnsembleModel(ensemble, OBS, ACT, never, torch.Generator().manual_seed(seed))


def test_state_goes_on_bit_for_bit():
    model, other = learned(), learned()
    model.start(torch.randn(6, 2))
    model.step(torch.randn(6, 1))
    action = torch.randn(6, 1)
    obs = other.load_state_dict(model.state_dict())
    assert torch.equal(obs, model.obs)
    for a, b in zip(model.step(action), other.step(action), strict=True):
        assert torch.equal(a, b)


def test_the_ensemble_learns_the_reward_and_the_change():
    g = torch.Generator().manual_seed(0)
    obs, action = 5 + torch.randn(1000, 2, generator=g), torch.rand(1000, 1, generator=g)
    reward, next_obs = obs[:, 0] - action[:, 0], obs + 0.1 * torch.cat([action, -obs[:, :1]], -1)
    model = learned()
    log = model.fit(obs, action, reward, next_obs)
    assert log["model_holdout_mse"] < 0.02  # of a variance of about 0.4
    model.start(obs[:200])
    step = model.step(action[:200])
    assert (step.reward - reward[:200]).square().mean() < 0.05 * reward.var()
    assert (step.next_obs - next_obs[:200]).square().mean() < 0.05 * (next_obs - obs).square().mean()


def test_divergence_names_the_step_and_the_member():
    model = learned()
    model.start(torch.zeros(50, 2))
    model.step(torch.zeros(50, 1))
    with torch.no_grad():
        model.ensemble.net.biases[-1][1] = torch.inf
    with pytest.raises(NonFiniteError, match="step 2 of a branch: member 1 of the model predicted"):
        model.step(torch.zeros(50, 1))
