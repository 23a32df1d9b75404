"""Cases that `test_triton.py` runs in processes of their own."""
