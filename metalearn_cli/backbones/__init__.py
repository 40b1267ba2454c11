"""Networks that come with weights: what each wants to see, and features by it."""
