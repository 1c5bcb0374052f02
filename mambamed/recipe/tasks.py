"""The tasks that a recipe may name. Their only table: the schema and `tasks.base` read it."""

# Name -> `module:class`, imported at first use.
TASKS = {
    "segmentation": "mambamed.tasks.segmentation:Segmentation",
    "landmarks": "mambamed.tasks.landmarks:Landmarks",
    "classification": "mambamed.tasks.classification:Classification",
}
