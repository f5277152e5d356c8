"""Exact tabular answers: Markov decision processes as arrays, their solvers, and the theorems that can be seen on them.

Everything here is NumPy in float64 and imports without torch (:mod:`polopt.theory.env` apart). A problem is one of

* :class:`MDP`, discounted; :class:`ConstrainedMDP`, the same with cost limits;
* :class:`AverageRewardMDP`, undiscounted and unichain;
* :class:`FiniteHorizonMDP`, time-dependent.

:mod:`polopt.theory.methods` holds one file a paper; :func:`run` draws a paper's claim with its theorem's bound and
prints what was measured beside what the theorem says, :func:`list_experiments` names them.
"""

from .experiment import Curve, Experiment, Finding, Panel, list_experiments, load_experiment, run
from .gradients import (
    fisher_matrix,
    natural_gradient,
    natural_policy_gradient_step,
    objective,
    policy_gradient,
    softmax,
    trust_region_step,
)
from .mdp import MDP, AverageRewardMDP, ConstrainedMDP, FiniteHorizonMDP
from .solvers import (
    InfeasibleError,
    evaluate,
    greedy,
    linear_program,
    linear_program_dual,
    occupancy,
    optimal_action_set,
    policy_from_occupancy,
    policy_iteration,
    relative_value_iteration,
    soft_value_iteration,
    value_iteration,
)

__all__ = [
    "MDP",
    "AverageRewardMDP",
    "ConstrainedMDP",
    "Curve",
    "Experiment",
    "Finding",
    "FiniteHorizonMDP",
    "InfeasibleError",
    "Panel",
    "evaluate",
    "fisher_matrix",
    "greedy",
    "linear_program",
    "linear_program_dual",
    "list_experiments",
    "load_experiment",
    "natural_gradient",
    "natural_policy_gradient_step",
    "objective",
    "occupancy",
    "optimal_action_set",
    "policy_from_occupancy",
    "policy_gradient",
    "policy_iteration",
    "relative_value_iteration",
    "run",
    "soft_value_iteration",
    "softmax",
    "trust_region_step",
    "value_iteration",
]
