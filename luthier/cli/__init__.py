"""Room `cli`: one file per verb. Parses, shows, calls the factory; no maths, and no torch to print help."""
