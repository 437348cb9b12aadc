"""The planner: an operation and a VM's present records become micro-ops. Pure.

A plan is a row of segments. A failure (or a cancel) in a segment undoes what that segment
did, in reverse; in a `finish` segment nothing is undone and nothing can be cancelled: every
remaining step is tried again and again, for a VM half torn down can only go on.
"""
