"""Room `system`: files, folders and facts about this machine."""
