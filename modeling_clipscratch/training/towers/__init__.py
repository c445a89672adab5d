"""Build the two towers and change what is trained of them."""
