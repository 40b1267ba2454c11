"""The learner: meta-gradient steps, evaluation over episodes, and their scores."""
