"""The study played thousands of times on simulated results: `ablate rehearse` (rehearse.py tells the story)."""
