"""The page that shows runs: tables, charts and pictures."""
