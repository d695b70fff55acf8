"""fleet.yaml: its types, its checks, and the fleet that it describes.

`fleet.load_fleet` reads and checks the file; `template.write_template` makes a first one.
"""
