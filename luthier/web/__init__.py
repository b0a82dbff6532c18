"""Room `web`: the board. It writes configs, gives commands to jobs and shows what they wrote; it works nothing out."""
