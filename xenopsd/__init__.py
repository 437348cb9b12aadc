"""The daemon: operations, planner, queues, workers, executor, recovery, updates, tasks, RPC."""
