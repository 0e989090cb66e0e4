"""The documents of answers/ drawn for a person: tables, bars and curves, at most 100 columns wide, readable without colour.

One file per command, named as the one that makes its document. What several share: drawing.py (console, tables, numbers in
words; Rich draws, plotext plots), jobs.py, comparisons.py. Every screen ends with the next step, where there is one.
"""
