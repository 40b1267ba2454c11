"""Statistics over the results of several runs, and what they allow us to conclude."""
