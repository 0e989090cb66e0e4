"""What may run next, and why the rest waits: pure functions of a study and what is known of its jobs.

plan.py is the path: what each row starts from (starts.py), what stands between a job and its start (gates.py), its state
(states.py), what it costs (cost.py). freeze.py, stale.py and plan_diff.py tell what an edit or a turned decision changes.
"""
