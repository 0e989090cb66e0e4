"""From numbers to verdicts and decisions: pure functions, whose answers say what they rest on.

scores.py and noise.py hold what was measured, compare.py judges two runs (fairness.py: on equal terms?), decide.py takes the
first line of a tree that holds, lock.py puts the final config together. evidence.py, outside, fetches and records.
"""
