"""Features, distances, retrieval scores, re-ranking and their reports."""
