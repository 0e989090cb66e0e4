"""What each command answers, as a document of plain values: --json prints it as it is, screens/ draws it.

One file per command: what `ablate status` says is made in status.py, and drawn in screens/status.py. What several share:
document.py (plain values, commands to type next), books.py (what jobs cost), next_step.py (which command brings a study on).

Numbers that are not finite are null. Hours are wall hours of one job; GPU-hours are those times its GPUs. Money is in US dollars.
Statistics and the launch loop are imported by the answers that need them: `plan` and `status` must start at once.
"""
