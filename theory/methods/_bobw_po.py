"""Best-of-both-worlds policy optimisation: one FTRL bandit a state, log T regret or sqrt T, whichever the losses allow.

Layered episodes of H steps with losses in [0, 1], bandit feedback, known P. In episode t, with occupancy mu_t(s) of pi_t
and ``M_t(s) = 1 + sum_(tau<t) 1/mu_tau(s)``:

1. policy          ``pi_t(s) = argmin_p <p, sum_(tau<t) (Qhat_tau - B_tau)(s, .)> + psi(p)/eta_t(s)``;  psi(p) is
                   ``-4 sum_a sqrt(p_a)`` (Tsallis-1/2), ``sum_a p_a log p_a`` (Shannon), ``-sum_a log p_a`` (log-barrier)
2. estimate        ``Qhat_t(s, a) = 1[(s, a) visited] L_t / (mu_t(s) pi_t(a|s))``, L_t the loss from there on: unbiased
3. learning rate   ``eta_t(s) = 2/(H sqrt(M_t(s)))``; with H = S = 1 this is Tsallis-INF's ``2/sqrt(t)``
4. bonus           ``b_t(s) = c (1/eta_(t+1)(s) - 1/eta_t(s)) sum_a sqrt(pi_a)(1 - sqrt(pi_a))``, propagated as
                   ``B_t(s, a) = b_t(s) + (1 + 1/H) E[B_t(s', a')]``

Source: C. Dann, C.-Y. Wei, J. Zimmert, 2023, arXiv 2302.09408; J. Zimmert, Y. Seldin, 2021, arXiv 1807.07623.
"""
