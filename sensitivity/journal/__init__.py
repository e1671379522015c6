"""What a run has measured, line by line, so that nothing is measured twice."""
