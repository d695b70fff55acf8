"""The MQTT broker between the nodes: started, checked and stopped by us."""
