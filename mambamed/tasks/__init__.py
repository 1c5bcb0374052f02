"""What a network is trained for: one file per task, found through `recipe.tasks.TASKS`."""
