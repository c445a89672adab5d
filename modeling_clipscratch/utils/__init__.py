"""Files, names and the Hub: what every part of the package needs."""
