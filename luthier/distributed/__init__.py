"""Room `distributed`: how the work of one step is shared by devices."""
