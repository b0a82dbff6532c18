"""Room `planner`: how a run is spread over many devices, from the shape of the model alone. Reads no weights."""
