"""The data model: what a bad MDP is told, and that good ones are held as given."""

import numpy as np
import pytest
from polopt.theory import MDP, AverageRewardMDP, ConstrainedMDP, FiniteHorizonMDP
from polopt.theory.generators import garnet, gridworld, layered
from scipy import sparse


@pytest.fixture
def arrays():
    mdp = garnet(4, 2, 3)
    return np.array(mdp.P), np.array(mdp.r)


def test_rows_that_do_not_sum_to_one_are_named(arrays):
    P, r = arrays
    P[2, 1] *= 0.9
    with pytest.raises(ValueError, match=r"P\[2, 1\] sums to 0.9 \(1 such rows\); every row must sum to 1"):
        MDP(P, r, 0.9)
    with pytest.raises(ValueError, match=r"P\[2, 1\] sums to 0.9"):
        MDP(sparse.csr_matrix(P.reshape(8, 4)), r, 0.9)
    with pytest.raises(ValueError, match=r"P\[2, 1\] sums to 0.9"):
        AverageRewardMDP(P, r)
    with pytest.raises(ValueError, match=r"P\[0, 2, 1\] sums to 0.9"):
        FiniteHorizonMDP.stationary(P, r, 3)


@pytest.mark.parametrize("gamma", [1.0, -0.1, 1.5, float("nan")])
def test_gamma_outside_the_unit_interval(arrays, gamma):
    with pytest.raises(ValueError, match=r"gamma=.* must be in \[0, 1\)"):
        MDP(*arrays, gamma)


def test_shapes_that_disagree(arrays):
    P, r = arrays
    with pytest.raises(ValueError, match=r"r has shape \(2, 4\); P \(4, 2, 4\) needs r \(4, 2\)"):
        MDP(P, r.T, 0.9)
    with pytest.raises(ValueError, match=r"P has shape \(4, 4\)"):
        MDP(P[:, 0], r, 0.9)
    with pytest.raises(ValueError, match=r"rho has shape \(3,\); 4 states"):
        MDP(P, r, 0.9, np.ones(3) / 3)
    with pytest.raises(ValueError, match=r"sparse P \(4, 4\)"):
        MDP(sparse.csr_matrix(P[:, 0]), r, 0.9)
    with pytest.raises(ValueError, match=r"limits has shape \(1,\); 2 costs need 2 limits"):
        ConstrainedMDP(P, r, 0.9, costs=np.zeros((2, 4, 2)), limits=[1.0])
    with pytest.raises(ValueError, match=r"costs has shape \(1, 2, 4\)"):
        ConstrainedMDP(P, r, 0.9, costs=np.zeros((2, 4)), limits=[1.0])


def test_negative_and_missing_numbers(arrays):
    P, r = arrays
    P[0, 0, :2] += 1.0, -1.0
    with pytest.raises(ValueError, match=r"P has an entry -"):
        MDP(P, r, 0.9)
    r[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"r\[3, 1\] is nan"):
        MDP(arrays[0], r, 0.9)
    with pytest.raises(ValueError, match="rho must be >= 0 and sum to 1"):
        MDP(garnet(4, 2, 3).P, garnet(4, 2, 3).r, 0.9, np.array([0.5, 0.5, 0.5, 0.0]))


def test_reward_of_the_transition_is_averaged(arrays):
    P, _ = arrays
    outcome = np.random.default_rng(0).normal(size=P.shape)
    np.testing.assert_allclose(MDP(P, outcome, 0.9).r, (P * outcome).sum(-1), atol=1e-15)


def test_arrays_are_read_only_and_the_callers_are_not(arrays):
    mdp = MDP(*arrays, 0.9)
    with pytest.raises(ValueError, match="read-only"):
        mdp.r[0, 0] = 1.0
    arrays[1][0, 0] = 0.25
    assert arrays[1].flags.writeable


def test_sparse_and_dense_are_the_same_mdp(arrays):
    P, r = arrays
    dense, thin = MDP(P, r, 0.9), MDP(sparse.csr_matrix(P.reshape(8, 4)), r, 0.9)
    V = np.random.default_rng(0).normal(size=(3, 4))
    pi = np.random.default_rng(1).dirichlet(np.ones(2), 4)
    np.testing.assert_allclose(thin.backup(V), dense.backup(V), atol=1e-14)
    np.testing.assert_allclose(thin.kernel(pi).toarray(), dense.kernel(pi), atol=1e-14)
    np.testing.assert_array_equal(thin.dense().P, dense.P)
    with pytest.raises(ValueError, match=r"pi has shape \(3, 4, 2\); with a sparse P it is one policy \(4, 2\)"):
        thin.kernel(np.broadcast_to(pi, (3, 4, 2)))


@pytest.mark.parametrize("rows", [["SG", "S"], ["S."], []])
def test_a_grid_that_is_none(rows):
    with pytest.raises(ValueError, match="strings of one length with at least one goal"):
        gridworld(rows)


def test_finite_horizon_shapes():
    mdp = layered(3, 4, 2)
    assert (mdp.horizon, mdp.num_states, mdp.num_actions) == (3, 4, 2)
    with pytest.raises(ValueError, match=r"r has shape \(3, 4\)"):
        FiniteHorizonMDP(mdp.P, mdp.r[..., 0])
