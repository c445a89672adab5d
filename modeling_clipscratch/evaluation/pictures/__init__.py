"""Logs, counts or a `Result` go in; one PNG each comes out, readable in grey and by the colour-blind."""
