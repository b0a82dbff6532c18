"""Room `rollout`: prompts, answers of the model in training, rewards: the rows of online objectives."""
