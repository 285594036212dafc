"""Train: everything that a run is made of, and what begins, saves and publishes it."""
