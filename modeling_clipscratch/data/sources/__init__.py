"""The forms that data come in: each module finds the splits of one form."""
