"""`seg_node demo`: the real node on real DDS against a played-back clip, and what came of it."""
