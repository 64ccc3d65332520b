"""Runs in W&B's words: what MLflow's records become there, and are made of again.

- **Config**: each param under its own key; what MLflow knows beside params and metrics
  under ``mlflow`` (`mapping`); what mlmigrate must know of its copy under ``mlmigrate``
  (`own`). A run that bears the latter is read as the run that it was.
- **History**: one row for each step where the points allow it, and otherwise one for
  each time (`rows`).
- **Files** of a run: one W&B artifact for each model among them, and one for all others
  (`bundles`).
"""
