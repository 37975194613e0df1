"""A ledger to read: what can be compared in it, its leaderboard, charts, findings, and one page of all of them."""
