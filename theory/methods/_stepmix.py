"""StepMix and EpsMix: explore while every episode's policy is worth at least ``(1 - alpha) V^b``, b a known safe baseline.

Unknown P, known rewards, H steps from a fixed start. In episode k, from counts n_h(s, a) and the empirical P^:

1. widths      ``w_h(s, a) = scale (H - h) sqrt(log(10 k)/n_h(s, a))``, at most H - h
2. optimism    ``Q = min(r + P^ V + w, H - h)`` and its greedy policy pi_up
3. step mix    ``pi^(j)`` plays the baseline for j steps and pi_up after them, j = 0..H; lower values by
               ``Q = max(r + P^ V - w, 0)``, V^b itself for j = H
4. StepMix     the first j with ``Vlow(pi^(j)) >= (1 - alpha) V^b``; where j > 0, play ``pi^(j)`` with probability
               ``rho = ((1 - alpha) V^b - Vlow(pi^(j-1))) / (Vlow(pi^(j)) - Vlow(pi^(j-1)))``, else ``pi^(j-1)``
5. EpsMix      the same with the two ends pi_up and the baseline only

With probability 1 - delta no episode falls below the threshold; regret is UCBVI's ``O~(sqrt(H^3 S A K))`` plus a constant.

Source: D. Li, R. Huang, C. Shen, J. Yang, 2023, arXiv 2306.06265.
"""
