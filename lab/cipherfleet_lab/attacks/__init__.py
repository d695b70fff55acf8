"""What adversaries make of what they see, attack by attack."""
