"""What `planner.py` starts in processes of its own."""
