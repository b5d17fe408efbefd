"""What runs on a Flower node or in a Ray actor."""
