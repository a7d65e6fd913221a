"""What stands between the workers and the server: masks, seconds and joules."""
