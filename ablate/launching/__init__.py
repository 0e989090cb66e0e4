"""From a plan to trained jobs: launch.py says who may, crew.py is the loop, jobs.py the only place that knows Ray.

An attempt is a folder: claim.py makes it, gang.py runs its ranks, collect.py reads back what they wrote. Restarting anything
here at any moment is harmless.
"""
