"""What a model is judged by: batches, scores, and the metrics of classifiers and detectors."""
