"""The search: plans, isolated trials, measurement, objectives, the front and the study (floor 2)."""
