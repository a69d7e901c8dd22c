"""Deterministic simulation: one seed is one history of runs, crashes, full disks and bad replies.

The whole program runs, from `runner.run` down; what is simulated stands behind parameters that
have the real thing for a default: the disk, the clock, the dice, the network.
"""
