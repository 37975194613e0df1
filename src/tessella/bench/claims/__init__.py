"""Claims of papers, each with the rule that decides it, fixed in writing before the numbers are looked at.

A claim compares settings on the same questions. Its verdict is

- *needs a larger model* if a condition written in the claim fails, whatever the numbers say;
- *shown* if, for each of its comparisons, the interval of the difference lies wholly on the claimed side of the margin:
  95 %, two-sided, paired bootstrap over questions, with Holm's correction over the comparisons of the claim;
- *not shown* otherwise, and also where the opposite shows.

The questions are exactly those of the claim's types, seed and number, though a ledger may hold more: nobody can stop at
a favourable moment. If one of them was not answered under one of the settings, the claim is *not measured*.

    claim.py, conditions.py, evidence.py    what is claimed, under which conditions, and what it is decided on
    rule.py                                 the rule
    stated.py and stated_*.py               all claims
    missing.py, probing.py, judging.py      what is not measured yet, what a model itself is asked, all verdicts
    page.py                                 what is printed
"""
