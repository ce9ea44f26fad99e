"""Commands that measure; `python -m benchmarks` lists them. Their figures stand in RESULTS.md beside the command."""
