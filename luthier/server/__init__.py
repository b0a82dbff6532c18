"""Room `server`: answers over HTTP, as OpenAI's API gives them."""
