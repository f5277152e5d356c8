"""State-dependent exploration: what it does to actions, how long it lasts, and stable-baselines3's as oracle."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.distributions import DiagGaussian, GaussianMixture, SquashedGaussian
from polopt.files import FileError
from polopt.policy import ActorCritic
from polopt.sde import SDEHead, expln, held

BOX = spaces.Box(-1, 1, (2,))
OBS = spaces.Box(-1, 1, (3,))
KINDS = {
    "plain": (DiagGaussian(2), {}),
    "shared": (DiagGaussian(2), dict(full_std=False, use_expln=True, log_std_init=0.3)),
    "squashed": (SquashedGaussian(2), dict(log_std_init=-1.0, clip_mean=0.05, learn_features=True)),
}
SMALL = dict(seed=0, policy_kwargs=dict(net_arch=[8]))
PPO = dict(n_steps=32, batch_size=32, n_epochs=1, num_envs=2) | SMALL
SAC = dict(buffer_size=1000, learning_starts=100, batch_size=16) | SMALL
SHORT = dict(max_episode_steps=7)


def policy(kind):
    torch.manual_seed(0)
    distribution, options = KINDS[kind]
    head = lambda size, d: SDEHead(size, d, **options)
    return ActorCritic(OBS, BOX, distribution, net_arch=[5], critic=False, ortho_init=False, head=head)


# -- what it does to an action -----------------------------------------------------------------------------------------


def test_expln_by_hand():
    """exp below zero; above it 1 + log(1 + x), which goes on with the same value and slope."""
    x = torch.tensor([-1.0, 0.0, 1.0, 90.0], requires_grad=True)
    y = expln(x)
    torch.testing.assert_close(y, torch.tensor([np.exp(-1), 1.0, 1 + np.log(2), 1 + np.log(91)]).float())
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([np.exp(-1), 1.0, 1 / 2, 1 / 91]).float())


def test_the_standard_deviation_by_hand():
    head = SDEHead(2, DiagGaussian(1))
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([[2.0], [0.5]]).log())
        log_std = head(torch.tensor([[3.0, 4.0]]))[:, 1]
    assert log_std.exp().item() == pytest.approx((3**2 * 2**2 + 4**2 * 0.5**2) ** 0.5)
    push = head.row_noise(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -1.0]])) * log_std.exp()
    assert push.item() == pytest.approx(3 * 2 - 4 * 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_over_matrices_an_action_is_the_gaussian_that_the_losses_see(kind):
    """20,000 matrices at one state: mean and standard deviation within four standard errors, before any squashing."""
    p, n = policy(kind), 20_000
    with torch.no_grad():
        obs = torch.randn(1, 3).expand(n, 3)
        action = p.act(obs, p.noise((n,), torch.Generator().manual_seed(1), "cpu"))
        mean, log_std = p(obs[:1])[0].chunk(2)
    u = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6)) if kind == "squashed" else action
    std = log_std.exp()
    assert ((u.mean(0) - mean).abs() < 4 * std / n**0.5).all()
    assert ((u.std(0) - std).abs() < 4 * std / (2 * n) ** 0.5).all()


def test_one_matrix_pushes_alike_in_like_states():
    p = policy("plain")
    obs = torch.randn(1, 3)
    near, noise = obs + 1e-3, p.noise((2,), None, "cpu")
    push = lambda obs, noise: (p.act(obs, noise) - p.mode(obs)).detach()
    assert torch.allclose(push(obs, noise[:1]), push(near, noise[:1]), rtol=0.05, atol=5e-3)
    assert not torch.allclose(push(obs, noise[:1]), push(near, noise[1:]), rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_for_all_is_that_matrix_for_each(kind):
    p = policy(kind)
    obs, noise = torch.randn(4, 3), p.noise((1,), None, "cpu")
    torch.testing.assert_close(p.act(obs, noise), p.act(obs, noise.expand(4, -1)))


@pytest.mark.parametrize("kind", KINDS)
def test_acting_in_numpy_is_the_same_and_follows_the_weights(kind):
    p = policy(kind)
    act, obs, noise = p.host_act(), torch.randn(4, 3), p.noise((4,), None, "cpu")
    with torch.no_grad():
        p.head.log_std.add_(0.5)
        p.head.linear.bias.add_(0.3)
        np.testing.assert_allclose(act(obs.numpy(), noise.numpy()), p.act(obs, noise), rtol=1e-5, atol=1e-6)


def test_only_sac_s_features_learn_from_the_noise():
    for learn, reaches in ((False, False), (True, True)):
        x = torch.randn(3, 5, requires_grad=True)
        head = SDEHead(5, DiagGaussian(2), learn_features=learn)
        (grad,) = torch.autograd.grad(head(x)[:, 2:].sum(), x, allow_unused=True)
        assert (grad is not None and bool(grad.any())) is reaches


@pytest.mark.parametrize("options", [{}, dict(full_std=False, use_expln=True, log_std_init=0.2)])
def test_ppo_s_density_and_its_gradient_equal_stable_baselines3_s(options):
    """float64, every parameter of the actor."""
    import stable_baselines3 as sb3

    kwargs = dict(net_arch=[8], **options)
    mine = polopt.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, **PPO | {"policy_kwargs": kwargs})
    peer = sb3.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=kwargs, device="cpu")
    p, q = mine.policy.double(), peer.policy.double()
    q.extract_features = lambda obs, *_: obs  # the package's own casts to float32
    ours = [*p.trunk.parameters(), *p.head.linear.parameters(), p.head.log_std]
    theirs = [*q.mlp_extractor.policy_net.parameters(), *q.action_net.parameters(), q.log_std]
    with torch.no_grad():
        p.head.log_std.add_(0.1 * torch.randn_like(p.head.log_std))
        for x, y in zip(ours, theirs, strict=True):
            y.copy_(x)
    obs, action = torch.randn(9, 3).double(), torch.randn(9, 1).double()
    _, a, h = p.evaluate_actions(obs, action)
    _, b, g = q.evaluate_actions(obs, action)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(h, g, rtol=1e-5, atol=1e-9)
    weight = torch.randn(9).double()
    for x, y in zip(
        torch.autograd.grad((weight * a + h).sum(), ours), torch.autograd.grad((weight * b + g).sum(), theirs), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-9)


# -- how long it lasts -------------------------------------------------------------------------------------------------


def counter():
    drawn = iter(range(1000))
    return lambda n: torch.tensor([[float(next(drawn))] for _ in range(n)]).reshape(n, 1)


def test_held_by_hand():
    take = lambda *args: held(counter(), *args).flatten().tolist()
    kept = torch.tensor([[-1.0]])
    assert take(5, -1) == [0, 0, 0, 0, 0]
    assert take(5, 2) == [0, 0, 1, 1, 2]
    assert take(3, 1) == [0, 1, 2]
    assert take(4, 3, 2, kept) == [-1, 0, 0, 0]  # steps 2, 3, 4, 5
    assert take(4, 3, 3, kept) == [0, 0, 0, 1]  # step 3 begins a new one
    assert take(4, -1, 9, kept) == [-1, -1, -1, -1]
    assert take(4, 0, 0, kept) == [0, 0, 0, 0]
    assert take(2, -1, 9) == [0, 0]  # nothing to go on with
    assert held(counter(), 0, 2).shape == (0, 1)


@pytest.mark.parametrize("every", [-1, 1, 3, 8])
def test_steps_one_by_one_hold_what_a_rollout_holds(every):
    draw, kept, taken = counter(), None, []
    for t in range(20):
        kept = held(draw, 1, every, t, kept)
        taken.append(kept.item())
    assert taken == held(counter(), 20, every).flatten().tolist()


def test_a_rollout_holds_a_matrix_for_sde_sample_freq_steps():
    for freq, distinct in ((-1, 1), (4, 8)):
        model = polopt.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=freq, **PPO)
        noise = model.noise(32, 2)
        assert noise.shape == (32, 2, 8)
        assert len(noise.unique(dim=0)) == distinct and not torch.equal(noise[:, 0], noise[:, 1])
        assert not torch.equal(noise[0], model.noise(32, 2)[0])
        model.learn(128)


def test_an_episode_of_sac_is_one_rollout():
    model = polopt.SAC(
        "MlpPolicy", "Pendulum-v1", use_sde=True, train_freq=(1, "episode"), gradient_steps=-1, env_kwargs=SHORT,
        **SAC | {"learning_starts": 0},
    )  # fmt: skip
    seen, draw = [], model.noise
    model.noise = lambda *shape: seen.append(draw(*shape)) or seen[-1]
    model.learn(21)
    assert len(seen) == 21
    firsts = [x.flatten()[0].item() for x in seen]
    assert [len(set(firsts[i : i + 7])) for i in (0, 7, 14)] == [1, 1, 1] and len(set(firsts)) == 3


def test_the_next_rollout_has_a_matrix_of_its_own():
    """Also where a callback cut the last one short, or ``learn`` ended inside an episode and begins anew."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Three(BaseCallback):
        def _on_step(self):
            return self.n_calls < 3

    for train_freq, freq in ((8, -1), (8, 2), ((1, "episode"), -1)):
        model = polopt.SAC(
            "MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=freq, train_freq=train_freq,
            **SAC | {"learning_starts": 0},
        )  # fmt: skip
        seen, draw = [], model.noise
        model.noise = lambda *shape, seen=seen, draw=draw: seen.append(draw(*shape)) or seen[-1]
        model.learn(50, callback=Three())
        used = torch.cat(seen)[:3]
        seen.clear()
        model.learn(8)
        assert not (torch.cat(seen)[:, None] == used).all(-1).any()


def test_learning_starts_inside_a_rollout():
    """Random actions first, then blocks that are counted from the rollout's first step."""
    kwargs = SAC | {"learning_starts": 10, "num_envs": 2, "action_noise": 0.1}
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=4, train_freq=8, **kwargs)
    noise = model.noise(8, 2)
    assert model._warm == 5 and not noise[:5, :, 1:].any()
    own = noise[5:, :, :-1]
    assert torch.equal(own[0], own[1]) and torch.equal(own[1], own[2])  # steps 5, 6, 7 of the block that begins at 4
    assert not torch.equal(own[0, 0], own[0, 1]) and len(noise[5:, :, -1].unique()) == 6
    model.learn(64)


def test_sampled_predictions_need_no_matrices():
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, **SAC)
    model.policy.head.row_noise = None  # whoever asks for one fails
    obs = np.zeros((500, 3), np.float32)
    drawn, _ = model.predict(obs)
    with torch.no_grad():
        mean, log_std = model.policy(torch.from_numpy(obs[:1]))[0]
    u = np.arctanh(drawn / 2)
    assert u.std() == pytest.approx(log_std.exp().item(), rel=0.15)
    assert u.mean() == pytest.approx(mean.item(), abs=float(4 * u.std() / 500**0.5))


def test_what_is_logged_as_std_is_stable_baselines3_s():
    from stable_baselines3.common.logger import Logger

    for algorithm, kwargs in (("PPO", PPO), ("SAC", SAC)):
        seen = {}
        model = getattr(polopt, algorithm)("MlpPolicy", "Pendulum-v1", use_sde=True, **kwargs)
        logger = Logger(None, [])
        logger.record = lambda key, value, *_, seen=seen, **__: seen.update({key: value})
        model.set_logger(logger)
        model.learn(700, log_interval=1)
        assert 0.9 * 1.0 < seen["train/std"] < 1.1 if algorithm == "PPO" else 0.03 < seen["train/std"] < 0.07


def test_warm_up():
    for at_warmup in (False, True):
        model = polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, use_sde_at_warmup=at_warmup, **SAC)
        model.noise(1, 1)
        assert model._warm == (0 if at_warmup else 1)


LEARNERS = [(a, False) for a in ("PPO", "A2C", "TRPO", "SPO", "FixPO", "VMPO", "SAC", "RLPD")]


@pytest.mark.parametrize(("algorithm", "compile"), [*LEARNERS, ("PPO", True), ("SAC", True)])
def test_it_learns_by_it(algorithm, compile):
    kind = getattr(polopt, algorithm)
    taken = {f.name for f in fields(kind.Config)} | {"seed", "policy_kwargs"}
    kwargs = SAC | {"gradient_steps": 1, "policy_delay": 1} if algorithm in ("SAC", "RLPD") else PPO
    kwargs = {k: v for k, v in kwargs.items() if k in taken}
    model = kind("MlpPolicy", "Pendulum-v1", use_sde=True, compile=compile, **kwargs)
    before = model.policy.head.log_std.detach().clone()
    model.learn(128)
    assert not torch.equal(model.policy.head.log_std, before)
    action, _ = model.predict(np.zeros((4, 3), np.float32))
    assert action.shape == (4, 1)


@pytest.mark.parametrize("use_sde", [False, True])
def test_compiled_is_eager(use_sde):
    """The same gradient step of the same parameters, compiled and not."""
    models = [polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=use_sde, compile=c, **SAC) for c in (False, True)]
    for model in models:
        model.learn(105)
    for x, y in zip(*(m.policy.parameters() for m in models), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_saved_and_loaded(tmp_path):
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=4, **SAC)
    model.learn(105)
    model.save(tmp_path / "m")
    again = polopt.SAC.load(tmp_path / "m")
    assert again.config.use_sde and again.config.sde_sample_freq == 4
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, again)))


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_where_it_has_no_meaning():
    with pytest.raises(ValueError, match=r"PPO: use_sde=True is noise on continuous actions.*Discrete\(2\)"):
        polopt.PPO("MlpPolicy", "CartPole-v1", use_sde=True, **PPO)
    with pytest.raises(ValueError, match="FPO: use_sde=True needs a policy that is one Gaussian, not a FlowPolicy"):
        polopt.FPO("MlpPolicy", "Pendulum-v1", use_sde=True, **PPO)
    with pytest.raises(ValueError, match="one Gaussian, not a GaussianMixture"):
        SDEHead(3, GaussianMixture(2, 2))
    with pytest.raises(ValueError, match="one Gaussian, not a GaussianMixture"):
        polopt.PMOE("MlpPolicy", "Pendulum-v1", use_sde=True, **PPO)
    with pytest.raises(NotImplementedError, match="use_sde=True is not built for MBPO"):
        polopt.MBPO("MlpPolicy", "Pendulum-v1", use_sde=True)
    with pytest.raises(TypeError, match="use_sde"):
        polopt.TD3("MlpPolicy", "Pendulum-v1", use_sde=True)


def test_a_file_of_the_other_kind(tmp_path):
    for algorithm, kwargs in (("SAC", SAC), ("PPO", PPO)):
        for use_sde in (False, True):
            model = getattr(polopt, algorithm)("MlpPolicy", "Pendulum-v1", use_sde=use_sde, **kwargs)
            model.save(tmp_path / "m")
            with pytest.raises(FileError, match=r"other networks than .* make \(use_sde\): construct a new model"):
                type(model).load(tmp_path / "m", use_sde=not use_sde)
            with pytest.raises(AttributeError, match="where it shapes no network"):
                model.use_sde = not use_sde
            model.sde_sample_freq = 3
            assert model.config.sde_sample_freq == 3


def test_what_belongs_to_it_says_so():
    for kwargs in (dict(use_expln=True), dict(full_std=False)):
        with pytest.raises(ValueError, match="belong to use_sde=True"):
            polopt.PPO("MlpPolicy", "Pendulum-v1", **PPO | {"policy_kwargs": kwargs})
    with pytest.raises(ValueError, match=r"\['clip_mean', 'log_std_init'\] belong to use_sde=True"):
        polopt.SAC("MlpPolicy", "Pendulum-v1", **SAC | {"policy_kwargs": dict(log_std_init=-2, clip_mean=1.0)})
    with pytest.raises(ValueError, match="exclude each other"):
        polopt.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, **PPO | {"policy_kwargs": dict(state_dependent_std=True)})
    with pytest.raises(NotImplementedError, match="squash_output"):
        polopt.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, **PPO | {"policy_kwargs": dict(squash_output=True)})
    with pytest.raises(ValueError, match="clip_mean=-1"):
        polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, **SAC | {"policy_kwargs": dict(clip_mean=-1)})
    with pytest.raises(ValueError, match="clip_mean=None must be a number"):
        polopt.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, **SAC | {"policy_kwargs": dict(clip_mean=None)})
