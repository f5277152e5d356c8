"""DAPO: policy optimisation in an adversarial MDP whose bandit feedback arrives d_k episodes late.

Episodes of H steps with costs in [0, 1], known P; episode j's path and costs arrive at the end of episode j + d_j. With
the policy pi_k and the occupancy mu_k of the episode k at whose end it arrives, cost-to-go L and ``gamma = 2 eta H``:

1. ratio      ``r_j(s, a) = pi_j(a|s) / max(pi_j(a|s), pi_k(a|s))``
2. estimate   ``Qhat_j(s, a) = r_j(s, a) 1[(s, a) visited] L_j / (mu_j(s) pi_j(a|s) + gamma)``, at most Q in expectation
3. bonus      ``b_j(s) = sum_a 3 gamma H pi_k(a|s) r_j(s, a) / (mu_j(s) pi_j(a|s) + gamma)``,
              ``B_j(s, a) = b_j(s) + E_(s', a' ~ pi_k) B_j(s', a')``
4. policy     ``pi_(k+1) = pi_k exp(-eta sum_(j arriving) (Qhat_j - B_j)) / Z``

With ``D = sum_k d_k`` and ``eta = (H^2 S A K + H^4 (K + D))^(-1/2)`` the regret is ``O~(H^2 sqrt(SAK) + H^3 sqrt(K + D))``.

Source: T. Lancewicki, A. Rosenberg, D. Sotnikov, 2023, arXiv 2305.07911.
"""
