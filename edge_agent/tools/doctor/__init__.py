"""`edge-agent doctor`: can this board serve this configuration?"""
