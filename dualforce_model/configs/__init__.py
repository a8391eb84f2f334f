"""Presets as YAML (models, trainings, ablations), and the settings of model and noise that they fill. Imports no torch."""
