"""Python clients with retries."""
