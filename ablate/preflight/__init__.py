"""Before anything is launched: `ablate check` asks what trees, rows, seeds and this machine can do (check.py tells the order)."""
