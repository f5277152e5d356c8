"""The policy cliff: where actions tie, the map from a reward to its optimal policy jumps; entropy makes it Lipschitz.

With ``|r - r'| = max_(s,a) |r(s, a) - r'(s, a)|`` and ``gap(r) = min_s (best - second best Q*_r(s, .))``:

1. hard map      ``pi_r = argmax_a Q*_r(s, a)`` is constant while ``|r - r'| < gap(r) (1-gamma)/2``
2. cliff         where two copies of an optimal action tie, a bonus eps to one or the other gives policies at L1 distance
                 2 for every eps > 0, though their values differ by at most ``eps/(1-gamma)``
3. bad cliff     the loss under another, true reward jumps by O(1) where the training reward ties what that one tells apart
4. soft map      ``pi_(r,tau) = softmax(Q*_(r,tau)/tau)``:  ``|pi - pi'|_1 <= |Q - Q'|/tau <= |r - r'|/(tau (1-gamma))``
                 at the price ``V* - V^(pi_tau) <= tau log A/(1-gamma)``
5. many rewards  ``r_w = sum_j w_j r_j``: along a segment of w the hard policy is a staircase, V* is convex in w

Source: X. Xu, 2025, arXiv 2507.20150 (the discounted part; the constants are derived here: a random variable on [-1, 1]
has mean absolute deviation at most 1, so that softmax is 1-Lipschitz from the sup norm to L1).
"""
