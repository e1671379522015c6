"""Which units stay out: sets are proposed by a planner, judged, and narrowed to a plan."""
