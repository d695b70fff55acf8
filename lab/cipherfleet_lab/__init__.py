"""What the encrypted fleet is held against: plain reference iterations."""
