"""The agent under a factory's load for minutes or hours: are answers right, and do memory and files stay bounded?"""
