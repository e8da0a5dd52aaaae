"""From run folders to a report. Reads records only; imports no torch, MLflow or Optuna."""
