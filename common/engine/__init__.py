"""mmengine glue: configs, train and test, safe checkpoints, hooks, seeding, the doctor."""
