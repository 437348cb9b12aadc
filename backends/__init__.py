"""What carries micro-ops out: the backend interface, its registry and the backends."""
