"""Containers through liblxc, which never runs in the daemon's process."""
