"""What is asked of the network: one file a task, found through `base.TASKS`."""
