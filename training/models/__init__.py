"""Networks: generators and discriminators."""
