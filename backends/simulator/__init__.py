"""The simulator: a hypervisor whose world is a directory."""
