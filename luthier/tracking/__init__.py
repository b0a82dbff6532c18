"""Room `tracking`: what a run leaves behind: its folder, metrics, plot and report."""
