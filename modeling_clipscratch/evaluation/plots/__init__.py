"""Draw figures as PNG files, readable in grey and by the colour-blind."""
