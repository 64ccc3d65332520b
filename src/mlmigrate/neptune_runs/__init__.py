"""What runs of Neptune's are in MLflow's words, and the other way round.

Below every adapter that reads or writes Neptune's data: archives of neptune-exporter,
folders of its clients, and its servers.
"""
