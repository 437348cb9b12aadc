"""What must not happen in the daemon: entering namespaces, mounting, liblxc.

Run by `python -I -S`: the standard library alone.
"""
