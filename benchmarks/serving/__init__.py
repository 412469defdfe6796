"""Load tests of our server and its peers."""
