"""Measurements of the daemon, side by side with what a user would pick instead.

`python -m bench` runs them; each scenario is a module of `bench.scenarios`. Nothing here is part
of the distribution, and nothing here decides whether a change is right: the tests do.
"""
