"""The exact search of stage 3: branch and bound, projection bounds, or brute force."""
