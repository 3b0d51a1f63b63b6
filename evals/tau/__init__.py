"""τ-bench retail: its shop as one of ours, its tools over our operations, its tasks replayed."""
