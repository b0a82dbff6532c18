"""Room `migrate`: configs of other tools as configs of this one, with an account of every key."""
